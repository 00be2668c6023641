"""Heads that differ only in a value nobody judges.

Agents send the same head again and again, but for `Content-Length`, a trace id, a parameter mirror; servers but for `Date`. Those values are cut out
of the key, so one compiled plan (a template) serves them all. What makes it exact:

 1. Only whole, well-formed field lines are cut, by a pattern that knows the value's syntax; anything odd stays in the key and is judged anew.
 2. A cut value is replaced by NUL, which no accepted head contains, so a key can never be mistaken for a head or another key.
 3. Each name may occur once. Where a value does matter (a length, a request id), the template applies it again, every time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REQUEST_CUTS = re.compile(
    rb"\r\n(?:(content-length):[ ]?(0|[1-9][0-9]{0,14})"
    rb"|(traceparent):[ ]?([0-9a-f-]{55})"
    rb"|(x-request-id):[ ]?([A-Za-z0-9._:/+=@-]{1,128})"
    rb"|(tracestate|baggage|last-event-id|mcp-param-[a-z0-9_-]{1,64}):[ ]?([!-~]{1,512}))(?=\r\n)",
    re.IGNORECASE,
)
RESPONSE_CUTS = re.compile(
    rb"\r\n(?:(content-length):[ ]?(0|[1-9][0-9]{0,14})"
    rb"|(date):[ ]?([A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT)"
    rb"|(mcp-session-id|x-request-id|etag|traceparent):[ ]?([!-~]{1,256}))(?=\r\n)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Cut:
    """A head without its varying values: the key, and the values with their names as sent and in lower case."""

    key: bytes
    names: list[bytes]
    values: list[bytes]


def cut(pattern: re.Pattern[bytes], head: bytes) -> Cut | None:
    """Cut `head`, or None when nothing was cut, a name came twice, or the head contains a NUL."""
    if b"\0" in head:
        return None
    names: list[bytes] = []
    values: list[bytes] = []

    def take(match: re.Match[bytes]) -> bytes:
        at = match.lastindex or 2  # the value's group; its name is the group before
        name = match.group(at - 1)
        names.append(name)
        values.append(match.group(at))
        return b"\r\n%b:\0" % name

    key = pattern.sub(take, head)
    if not names or len({name.lower() for name in names}) != len(names):
        return None
    return Cut(key, names, values)


@dataclass(slots=True)
class Template:
    """A rendered head with holes where cut values stood; `order[i]` is the value that fills the i-th hole."""

    parts: list[bytes]
    order: list[int]

    def fill(self, values: list[bytes]) -> bytes:
        """The rendered head for these values."""
        parts = self.parts
        pieces = [parts[0]]
        for hole, at in enumerate(self.order, 1):
            pieces.append(values[at])
            pieces.append(parts[hole])
        return b"".join(pieces)


def template(rendered: bytes, found: Cut) -> Template | None:
    """Find each cut value's line in the rendered head. A line that was not forwarded leaves no hole; one that came twice, cut or not, means: no template."""
    key = found.key.lower()
    if any(key.count(b"\r\n%b:" % name.lower()) != 1 for name in found.names):
        return None
    spots: list[tuple[int, int, int]] = []
    for at, (name, value) in enumerate(zip(found.names, found.values, strict=True)):
        line = b"\r\n%b: %b\r\n" % (name, value)
        start = rendered.find(line)
        if start < 0:
            if b"\r\n%b:" % name.lower() in rendered.lower():
                return None
            continue
        if rendered.find(line, start + 1) >= 0:
            return None
        start += 4 + len(name)
        spots.append((start, start + len(value), at))
    spots.sort()
    parts: list[bytes] = []
    last = 0
    for start, end, _ in spots:
        parts.append(rendered[last:start])
        last = end
    parts.append(rendered[last:])
    return Template(parts, [at for _, _, at in spots])
