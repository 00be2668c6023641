"""HOT. How did the call end? Read from the response as it passes, without holding it up.

A Watch is shown the payload in the pieces in which it comes, JSON or an event stream (WHATWG HTML §9.2.6: lines end with CR, LF or CRLF, `data` may be
several lines, comments and other fields are passed over), cut anywhere. It keeps what of one message has come so far, at most ANSWER bytes (LIST where the
list itself is wanted), and forgets it with the message's end. What is larger is not known, and it says so; nothing is guessed.

Only answers count: messages with `result` or `error`. What else passes on a stream (progress, requests of the server) is looked at and let go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

ANSWER = 256 << 10  # bytes of one answer; larger ones are rare, and their outcome is not worth the memory
LIST = 2 << 20  # bytes of one answer whose result is wanted: a tools/list with thousands of tools
ANSWERS = 100  # of one response; a batch has no more (mcp/call)
BOM = b"\xef\xbb\xbf"
BEFORE_DATA = (b"", b"event: message\n", b"event: message\r\n")  # how the SDKs begin an event


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kind`: ok, tool-error (`isError`), error (JSON-RPC, with its code), unknown (too large, or no JSON), none (no answer in it)."""

    kind: str
    code: int | None = None


OK, TOOL_ERROR, UNKNOWN, NONE = Outcome("ok"), Outcome("tool-error"), Outcome("unknown"), Outcome("none")


class _Result(Struct, gc=False):
    is_error: bool | None = field(default=None, name="isError")


class _Error(Struct, gc=False):
    code: Annotated[int, Meta(ge=-(2**53), le=2**53)] | None = None  # what every parser holds; a longer one would fill our lines


class _Answer(Struct, gc=False):
    id: Raw = Raw(b"")
    result: _Result | UnsetType = UNSET
    error: _Error | UnsetType | None = UNSET


class _Whole(Struct, gc=False):
    id: Raw = Raw(b"")
    result: Raw = Raw(b"")
    error: Raw = Raw(b"")


_answer = msgspec.json.Decoder(_Answer, strict=True).decode
_whole = msgspec.json.Decoder(_Whole, strict=True).decode
_error = msgspec.json.Decoder(_Error, strict=True).decode
_items = msgspec.json.Decoder(list[Raw], strict=True).decode


def outcome_of(body: bytes) -> Outcome:
    """Of a whole JSON body, without a Watch."""
    if len(body) <= ANSWER:
        try:
            answer = _answer(body)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            if answer.error is UNSET and isinstance(answer.result, _Result):
                return TOOL_ERROR if answer.result.is_error else OK
    watch = Watch(stream=False)
    watch.feed(body)
    return watch.end()


class Watch:
    """Of one response. `answers`: what each answer said, with its raw id; `result`: the raw result of the last, where it was asked for."""

    __slots__ = (
        "_cut",
        "_data",
        "_held",
        "_limit",
        "_line",
        "_lost",
        "_missed",
        "_size",
        "_skip",
        "_started",
        "_stream",
        "_wanted",
        "answers",
        "result",
    )

    def __init__(self, *, stream: bool, wanted: bool = False) -> None:
        """`stream`: text/event-stream. `wanted`: keep the result."""
        self.answers: list[tuple[bytes, Outcome]] = []
        self.result: bytes | None = None
        self._stream = stream
        self._wanted = wanted
        self._limit = LIST if wanted else ANSWER
        self._line: list[bytes] = []  # of the line (or the body) that has not ended yet
        self._held = 0  # bytes in it
        self._cut = False  # it is too large, and forgotten
        self._data: list[bytes] = []  # of the event that has not ended yet
        self._size = 0  # bytes in it
        self._lost = False  # it is too large, and forgotten
        self._missed = False  # something was too large, or no JSON
        self._skip = False  # the last piece ended with CR: a LF belongs to it
        self._started = False  # a byte order mark may stand at the start only

    def feed(self, payload: bytes) -> None:
        """The next piece of the payload."""
        if not self._stream:
            self._hold(payload)
        elif self._line or self._data or self._cut or self._lost or not self._is_event(payload):
            self._lines(payload)

    def end(self) -> Outcome:
        """The response is over. Of a batch it is the outcome of the first answer."""
        if not self._stream and self._line:
            self._read(b"".join(self._line))
        if self.answers:
            return self.answers[0][1]
        return UNKNOWN if self._missed or self._cut or self._lost else NONE

    def _is_event(self, payload: bytes) -> bool:
        """The short way: the piece is exactly one event with one line of data."""
        start = payload.find(b"data:", 0, 32)
        if start < 0 or payload[:start] not in BEFORE_DATA:
            return False
        if payload.endswith(b"\r\n\r\n"):
            data = payload[start + 5 : -4]
        elif payload.endswith(b"\n\n"):
            data = payload[start + 5 : -2]
        else:
            return False
        if b"\n" in data or b"\r" in data or len(data) > self._limit:
            return False
        self._skip = False
        self._started = True
        self._read(data)
        return True

    def _lines(self, payload: bytes) -> None:
        """The long way: line by line."""
        if self._skip and payload.startswith(b"\n"):
            payload = payload[1:]
        self._skip = payload.endswith(b"\r")
        for piece in payload.splitlines(keepends=True):
            if not piece.endswith((b"\n", b"\r")):
                self._hold(piece)
                return
            line = piece[:-2] if piece.endswith(b"\r\n") else piece[:-1]
            if self._cut:
                self._cut = False
                self._lost = True
                continue
            if self._line:
                line = b"".join(self._line) + line
                self._line = []
                self._held = 0
            self._ended(line)

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of a line (or body) until its end has come."""
        if self._cut:
            return
        self._held += len(piece)
        if self._held + self._size > self._limit:
            self._cut = True
            self._line = []
            self._held = 0
        else:
            self._line.append(piece)

    def _ended(self, line: bytes) -> None:
        """A line is whole."""
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM)
        if not line:
            if self._lost:
                self._missed = True
            elif self._data:
                self._read(b"\n".join(self._data))
            self._lost = False
            self._data = []
            self._size = 0
        elif line.startswith(b"data:") or line == b"data":
            value = line[5:].removeprefix(b" ")
            self._size += len(value) + 1
            if self._lost or self._size > self._limit + 1:
                self._lost = True
                self._data = []
                self._size = 0
            else:
                self._data.append(value)

    def _read(self, message: bytes) -> None:
        """A message is whole."""
        try:
            answer = _answer(message)
        except (msgspec.DecodeError, RecursionError):
            self._read_carefully(message)
            return
        if answer.result is UNSET and answer.error is UNSET:
            return
        if isinstance(answer.error, _Error):
            self._answered(answer.id, Outcome("error", answer.error.code))
        elif isinstance(answer.result, _Result):
            self._answered(answer.id, TOOL_ERROR if answer.result.is_error else OK)
            if self._wanted:
                self.result = bytes(_whole(message).result)

    def _read_carefully(self, message: bytes) -> None:
        """A batch, or an answer of an odd shape."""
        try:
            if message.lstrip()[:1] == b"[":
                for item in _items(message)[:ANSWERS]:
                    self._read(bytes(item))
                return
            answer = _whole(message)
        except (msgspec.DecodeError, RecursionError):
            self._missed = self._missed or bool(message.strip())
            return
        if answer.error and bytes(answer.error) != b"null":
            self._answered(answer.id, Outcome("error", _code(answer.error)))
        elif answer.result:
            self._answered(answer.id, OK)

    def _answered(self, id: Raw, outcome: Outcome) -> None:
        if len(self.answers) < ANSWERS:
            self.answers.append((bytes(id), outcome))


def _code(error: Raw) -> int | None:
    try:
        return _error(error).code
    except (msgspec.DecodeError, RecursionError):
        return None
