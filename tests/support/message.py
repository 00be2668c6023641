"""An independent judge of HTTP/1.1 bytes: what did one side really send?

Deliberately not built from mcpproxy or h11. Strict where a proxy must be strict: whatever an upstream or a client receives from mcpproxy
has to pass here, so a smuggled byte shows as MessageError, a cut body as `ended == False`.
"""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?\Z|\Z")
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.[01]\Z")
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [\t\x20-\x7e\x80-\xff]*\Z")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)\r\n")


class MessageError(Exception):
    """These bytes are no well-formed HTTP/1.1 message."""


@dataclass
class Message:
    """One request or response as read; `wire` is its body with framing, `body` without; `ended` False: cut."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    wire: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False
    informational: "list[Message]" = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def all(self, name: str | bytes) -> list[bytes]:
        wanted = name.encode() if isinstance(name, str) else name
        return [value for key, value in self.fields if key.lower() == wanted.lower()]

    def first(self, name: str | bytes) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


def read_requests(data: bytes) -> tuple[list[Message], bytes]:
    """All requests in `data`, the last one perhaps not ended, and the bytes of an unfinished head that remain."""
    found: list[Message] = []
    while data:
        message, data = read_request(data)
        if message is None:
            break
        found.append(message)
        if not message.ended:
            break
    return found, data


def read_request(data: bytes) -> tuple[Message | None, bytes]:
    """The first request in `data` (None while its head is unfinished) and what follows it."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None, data
    message, rest = _head(data[: head_end + 4], REQUEST_LINE), data[head_end + 4 :]
    coding = _framing(message)
    if coding == "chunked":
        return message, _chunked(message, rest)
    if isinstance(coding, int):
        return message, _length(message, rest, coding)
    message.ended = True
    return message, rest


def read_response(data: bytes, *, method: bytes = b"GET", eof: bool = False) -> tuple[Message | None, bytes]:
    """The first final response in `data` (None while its head is unfinished) and what follows it; `eof` says no more will come."""
    informational: list[Message] = []
    while True:
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return None, data
        message = _head(data[: head_end + 4], STATUS_LINE)
        rest = data[head_end + 4 :]
        if 100 <= message.status < 200 and message.status != 101:
            informational.append(message)
            data = rest
            continue
        message.informational = informational
        break
    coding = _framing(message)
    if message.status in (101, 204, 304) or method == b"HEAD":
        message.ended = True
        return message, rest
    if coding == "chunked":
        return message, _chunked(message, rest)
    if isinstance(coding, int):
        return message, _length(message, rest, coding)
    message.body = message.wire = rest  # until close
    message.ended = eof
    return message, b""


def _head(head: bytes, start_line: re.Pattern[bytes]) -> Message:
    lines = head[:-4].split(b"\r\n")
    if not start_line.match(lines[0]):
        raise MessageError(f"start line {lines[0]!r}")
    return Message(lines[0], _fields(lines[1:]))


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not TOKEN.match(name) or not VALUE.match(value):
            raise MessageError(f"field line {line!r}")
        fields.append((name, value))
    return fields


def _framing(message: Message) -> int | str | None:
    lengths, codings = message.all(b"content-length"), message.all(b"transfer-encoding")
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise MessageError(f"ambiguous framing {lengths} {codings}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise MessageError(f"transfer coding {codings[0]!r}")
        return "chunked"
    if lengths:
        if not re.fullmatch(rb"[0-9]+", lengths[0]):
            raise MessageError(f"content-length {lengths[0]!r}")
        return int(lengths[0])
    return None


def _length(message: Message, data: bytes, length: int) -> bytes:
    message.body = message.wire = data[:length]
    message.ended = len(data) >= length
    return data[length:]


def _chunked(message: Message, data: bytes) -> bytes:
    at = 0
    body: list[bytes] = []
    while True:
        line = CHUNK.match(data, at)
        if line is None:
            tail = data[at:]
            if b"\n" in tail[:300] or len(tail) > 300 or not re.match(rb"[0-9A-Fa-f]{0,16}[ \t]*(;[^\r\n]*)?\r?\Z", tail):
                raise MessageError(f"chunk line {tail[:60]!r}")
            break
        size = int(line[1], 16)
        at = line.end()
        if size == 0:
            return _trailers(message, data, at, b"".join(body))
        body.append(data[at : at + size])
        end = data[at + size : at + size + 2]
        if not b"\r\n".startswith(end):
            raise MessageError(f"chunk of {size} ends with {end!r}")
        at += size + 2
        if at > len(data) or len(end) < 2:
            break
    message.body, message.wire = b"".join(body), data
    return b""


def _trailers(message: Message, data: bytes, at: int, body: bytes) -> bytes:
    message.body = body
    end = at + 2 if data.startswith(b"\r\n", at) else data.find(b"\r\n\r\n", at) + 4
    if end < 4:
        message.wire = data
        return b""
    message.trailers = _fields(data[at : end - 2].split(b"\r\n")[:-1])
    message.wire, message.ended = data[:end], True
    return data[end:]
