"""Take chunk framing off a body and keep only its length and checksum: what both ends of a bulk transfer compare."""

from __future__ import annotations

import zlib


class Dechunker:
    """feed() bytes as they come; done once the last chunk and its empty trailer were seen."""

    __slots__ = ("_ended", "_left", "_line", "count", "crc", "done")

    def __init__(self) -> None:
        self.count = self.crc = 0
        self.done = False
        self._left = 0  # bytes of the open chunk still to come
        self._line = b""  # an unfinished line of framing
        self._ended = False  # the zero chunk was seen

    def feed(self, data: memoryview) -> None:
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                self.crc = zlib.crc32(piece, self.crc)
                self.count += len(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            stretch = bytes(data[at : at + 32])
            newline = stretch.find(b"\n")
            if newline < 0:
                self._line += stretch
                at += len(stretch)
                continue
            line, self._line = (self._line + stretch[:newline]).strip(b"\r"), b""
            at += newline + 1
            if self._ended:
                self.done = not line
            elif line:  # empty: the line end after a chunk's data
                self._left = int(line, 16)
                self._ended = self._left == 0
