"""HTTP+SSE (2024-11-05): the first event of its stream says where messages are to be posted, and that URL is the session.

    event: endpoint
    data: /messages/?session_id=8f3a…

Here that one event is found in a stream, however it was cut, and its URL is written anew; everything else passes as it came. And the target of a POST is
taken apart and put together again. Nothing is known here of seals.

 1. Bytes wait only while they may belong to the first event: whole comments and empty lines before it pass at once, a first event of another name passes
    as soon as its name is known, and behind the first event nothing is looked at.
 2. What is larger than LARGEST is no endpoint event, and passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LARGEST = 16 * 1024  # bytes of a first event that are kept; one with a URL has a few hundred
BOM = b"\xef\xbb\xbf"
NAME = b"session_id"  # of the parameter, where the server's URL has none
a_line = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)").match
sessions = re.compile(rb"(?:\A|(?<=&))(session_?id)=([^&]+)", re.IGNORECASE).finditer  # `session_id` (Python), `sessionId` (TypeScript)
a_url = re.compile(rb"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL).fullmatch


class FirstEvent:
    """Looks at an event stream until its first event has passed. `rewrite` is given the URL and returns the one that goes on."""

    __slots__ = ("_after_cr", "_at", "_begun", "_held", "_name", "_rewrite", "_start", "_values", "done")

    def __init__(self, rewrite: Callable[[bytes], bytes]) -> None:
        self._rewrite = rewrite
        self._held = b""
        self._at = 0  # bytes of it that were read as lines
        self._begun = False  # a field of the first event is among them
        self._name: bytes | None = None
        self._values: list[tuple[int, int]] = []  # where the values of its data lines are
        self._after_cr = False  # the last line ended with a CR that was the last byte: an LF that comes now belongs to it
        self._start = True
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """What may go on, in order."""
        if self.done:
            return data
        self._held += data
        passed = self._read() if b"\n" in data or b"\r" in data or self._after_cr else 0
        if self.done or len(self._held) - passed > LARGEST:
            return self.end()
        if not passed:
            return b""
        out, self._held = self._held[:passed], self._held[passed:]
        self._at -= passed
        self._values = [(begin - passed, end - passed) for begin, end in self._values]
        return out

    def end(self) -> bytes:
        """Nothing is looked at any more: what was kept."""
        held, self._held, self.done = self._held, b"", True
        return held

    def _read(self) -> int:
        """Line by line. How many bytes are certainly not the first event's."""
        held, at, passed = self._held, self._at, 0
        while True:
            if self._after_cr and at < len(held):
                self._after_cr = False
                if held[at] == 10:
                    at += 1
                    if not self._begun:
                        passed = at
            found = a_line(held, at)
            if found is None:
                self._at = at
                return passed
            line, at = found[1], found.end()
            self._after_cr = found[2] == b"\r" and at == len(held)
            if self._start:
                line, self._start = line.removeprefix(BOM), False
            if line and line[:1] != b":":
                self._begun = True
                self._field(line, found.end(1))
                if self._name not in (None, b"endpoint"):
                    self.done = True
                    return 0
            elif not line and self._begun:
                self._rewritten()
                self.done = True
                return 0
            if not self._begun:
                passed = at

    def _field(self, line: bytes, end: int) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._values.append((end - len(value), end))

    def _rewritten(self) -> None:
        if self._name == b"endpoint" and len(self._values) == 1:
            (begin, end), held = self._values[0], self._held
            self._held = held[:begin] + self._rewrite(held[begin:end]) + held[end:]


def with_sealed(url: bytes, seal: Callable[[bytes], bytes], own: bytes) -> bytes:
    """The URL of an endpoint event, its session id sealed; one without gets a parameter of ours.

    `own`: the authority by which the server knows itself; a URL with that origin, which clients must not follow elsewhere, becomes a path.
    """
    parts = a_url(url)
    assert parts is not None, "anything is a URL"
    origin, authority, path, query, fragment = (part or b"" for part in parts.groups())
    if authority.lower() == own.lower() and path.startswith(b"/"):
        origin = b""
    found = list(sessions(query))
    if len(found) > 1:
        return url  # nobody knows which; what is posted there is refused
    if found:
        begin, end = found[0].span(2)
        query = query[:begin] + seal(query[begin:end]) + query[end:]
    else:
        query += b"%b%b=%b" % (b"&" if query else b"", NAME, seal(b""))
    return b"%b%b?%b%b" % (origin, path, query, fragment)


def sealed_in(target: bytes) -> bytes | None:
    """The session id in the query of a target; None: there is none; b"": there are several."""
    found = list(sessions(target.partition(b"?")[2]))
    return None if not found else found[0][2] if len(found) == 1 else b""


def restored(target: bytes, id: bytes) -> bytes:
    """The target as the server knows it, with its own id; without the parameter where that was ours (b"")."""
    path, _, query = target.partition(b"?")
    found = next(sessions(query))
    if id:
        begin, end = found.span(2)
        return b"%b?%b%b%b" % (path, query[:begin], id, query[end:])
    rest = (query[: found.start()] + query[found.end() + 1 :]).rstrip(b"&")
    return b"%b?%b" % (path, rest) if rest else path
