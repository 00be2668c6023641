"""The PROXY protocol, versions 1 and 2: a proxy before us says who the client is, in the first bytes of a connection.

(https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt.) Only from proxies that are trusted, and then always: a connection of theirs that begins with
anything else is closed, because nobody would know whose it is. `read` looks at the bytes that are there, takes none, and says how many the header has.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LONGEST = 107  # bytes, CRLF included
V2_LONGEST = 4096  # bytes; addresses have 36, the rest are extensions that nobody here reads
TCP4, TCP6 = 0x11, 0x21
FAMILIES, PROTOCOLS = 3, 2  # the largest numbers that mean something: unix, datagram
MAPPED = bytes(10) + b"\xff\xff"  # how an IPv4 address inside an IPv6 one begins


class Said(NamedTuple):
    """A whole header: its size in bytes, and the client's address (None: the proxy speaks for itself, a health check)."""

    size: int
    client: tuple[str, int] | None


def read(data: bytes) -> Said | None:
    """None: more bytes are needed. Raises ValueError for what is no PROXY header."""
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if data.startswith(b"PROXY "):
        return _read_v1(data)
    if data and not SIGNATURE.startswith(data) and not b"PROXY ".startswith(data):
        raise ValueError("no PROXY header")
    return None


def _read_v1(data: bytes) -> Said | None:
    line, end, _ = data[:V1_LONGEST].partition(b"\r\n")
    if not end:
        if len(data) >= V1_LONGEST:
            raise ValueError("PROXY header too long")
        return None
    words = line.split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return Said(len(line) + 2, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ValueError("bad PROXY header")
    family = socket.AF_INET if words[1] == b"TCP4" else socket.AF_INET6
    for port in words[4:]:
        if not port.isdigit() or len(port) > 5 or int(port) > 65535 or (port.startswith(b"0") and port != b"0"):
            raise ValueError("bad port in PROXY header")
    try:
        client, _ = (socket.inet_pton(family, word.decode("ascii")) for word in words[2:4])
    except (OSError, ValueError):
        raise ValueError("bad address in PROXY header") from None
    return Said(len(line) + 2, (_address(client), int(words[4])))


def _read_v2(data: bytes) -> Said | None:
    if len(data) < 16:
        return None
    version, command, family = data[12] >> 4, data[12] & 15, data[13]
    size = 16 + int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or family >> 4 > FAMILIES or family & 15 > PROTOCOLS or size > V2_LONGEST:
        raise ValueError("bad PROXY header")
    if len(data) < size:
        return None
    if command == 0 or family not in (TCP4, TCP6):
        return Said(size, None)
    width = 4 if family == TCP4 else 16
    if size < 16 + 2 * width + 4:
        raise ValueError("short PROXY header")
    return Said(size, (_address(data[16 : 16 + width]), int.from_bytes(data[16 + 2 * width : 18 + 2 * width], "big")))


def _address(packed: bytes) -> str:
    """As the system would tell it of a client that came by itself."""
    packed = packed.removeprefix(MAPPED)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
