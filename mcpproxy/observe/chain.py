"""A file of lines, each with the hash of everything before it.

    {"seq":7,"time":"…","type":"call", … ,"hash":"<hash 7>"}        hash n = SHA-256(hash n-1, 32 bytes, and line n up to its own `,"hash"`)


A daemon of several processes writes a chain for each of them, in a file of its own; the lines of all but the first say which, after their number
(`"chain":1`).

 1. `begin` is the first line after every start and every rotation: it names the hash before it, so the chain goes on from file to file, and says how the last
    run ended (`start`): first, stop, kill, crash (of the machine), rotation, unknown (the state directory had no head).
 2. `checkpoint` carries an Ed25519 signature over the hash before it and itself: who can write the file and has not the key cannot make true lines before it.
 3. A line that is in the chain is never taken back: what a full disk did not take is kept (at most CHUNK bytes) and written first, once there is room.
 4. Nothing in the file is ever changed, so it may be append-only. Half a line that a kill left is ended, and `begin` says its length and hash (`torn`), how
    many lines are missing that were about to be written (`missing`), and how many came after the last head kept when the machine went down (`adopted`).
    Where the head (observe/keeping) proves more than that, `begin` says so: `cut`, the file ended too early; `foreign`, bytes at its end that nobody wrote
    here.

The chain is only touched by the thread of the audit log. Unix time comes in.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from time import gmtime, strftime
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mcpproxy.config.files import audit_file
from mcpproxy.config.policies import Audit
from mcpproxy.observe.keeping import NO_HASH, Head, Keeper

SEAL = b',"hash":"'
SEAL_SIZE = len(SEAL) + 64 + 2  # …"}
HEX = b"0123456789abcdef"
SIGNATURE = b',"signature":"'
SIGNED = b"mcpproxy audit checkpoint\n"  # so that no other use of the key gives a signature that is good here
CHUNK = 1 << 20  # bytes of lines written at once: what a kill can tear, and what waits for room on the disk
TAIL = 8 << 20  # bytes at the end of the file that are looked at after a kill
_chain = re.compile(rb'\{"seq":[0-9]+,"chain":([0-9]{1,9}),').match
_LOST = re.compile(rb'"type":"lost","count":(\d+)')
SYNC_EVERY = 1.0  # seconds, with fsync = "second"


class Line(NamedTuple):
    """One line, taken apart."""

    seq: int
    body: bytes  # what is hashed
    hash: str

    @property
    def chain(self) -> int:
        """Which one it says that it is in."""
        found = _chain(self.body)
        return int(found[1]) if found is not None else 0

    def follows(self, previous: str) -> bool:
        """Is its hash right, when `previous` is the hash before it?"""
        return sha256(bytes.fromhex(previous) + self.body).hexdigest() == self.hash


def taken_apart(line: bytes) -> Line | None:
    """A line without its end; None: it is not one of ours."""
    if not line.startswith(b'{"seq":') or not line.endswith(b'"}') or line[-SEAL_SIZE:-66] != SEAL:
        return None
    number, comma, _ = line[7:27].partition(b",")
    digits = line[-66:-2]
    if not comma or not number.isdigit() or digits.strip(HEX):
        return None
    return Line(int(number), line[:-SEAL_SIZE], digits.decode())


def key_id(key: Ed25519PublicKey) -> str:
    """Which key signed: the first 16 digits of its SHA-256."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def signed(previous: str, text: bytes) -> bytes:
    """What a signature is for: the hash before a checkpoint, and the checkpoint up to its signature."""
    return b"%b%b\n%b" % (SIGNED, previous.encode(), text)


class Chain:
    """The file and its newest hash."""

    def __init__(self, settings: Audit, keeper: Keeper, now: float) -> None:
        """Raises OSError. A begin line waits to be written then (`flush`)."""
        self.file = audit_file(settings.file, keeper.chain)
        self._mark = b'"chain":%d,' % keeper.chain if keeper.chain else b""  # of each line
        self.lost = 0  # entries that no line tells of yet
        self._fsync, self._every = settings.fsync, settings.checkpoint
        self._keeper = keeper
        self._key_id = key_id(keeper.key.public_key()).encode()
        self._fd = opened(self.file)
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, TAIL, max(0, size - TAIL))
        found = resume(tail, keeper.found, keeper.boot, synced=settings.fsync == "batch")
        self.seq, self.hash = self._sure = found.seq, found.hash
        if keeper.found is not None:
            self.lost = keeper.found.lost
        self._batch = self._rest = memoryview(b"")
        self._sync_at = self._sign_at = 0.0  # 0: nothing to do
        self._begin(found.start, now, found.members(), ended=tail[-1:] in (b"", b"\n"))

    # -- lines -----------------------------------------------------------------------------------------------------------------------------

    def append(self, bodies: Sequence[bytes], now: float) -> int:
        """Lines at the end; how many are in the chain now. Raises OSError when none is, because earlier ones still wait for room."""
        self.flush()
        chunk: list[bytes] = []
        size = 0
        for body in bodies:
            size += len(body)
            if chunk and size > CHUNK:
                break
            chunk.append(body)
        self._seal(chunk)
        self._sealed(now)
        return len(chunk)

    def flush(self) -> None:
        """Write what waits for room. Raises OSError."""
        if self._rest:
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            self._batch = self._rest
            self._sure = self.seq, self.hash
            self._keeper.write(self._sure, self._sure, self.lost)

    def tell_lost(self, now: float) -> None:
        """A line that says how many are missing. Raises OSError; then they are still to be told."""
        self.flush()
        self._seal([b'%b,"type":"lost","count":%d' % (_time(now), self.lost)])
        self.lost = 0  # from the moment it is in the file: the head before it still has the count
        self._sealed(now)

    def sign(self, now: float) -> None:
        """A checkpoint. Raises OSError."""
        self.flush()
        text = b'%b,"type":"checkpoint","key":"%b"' % (_time(now), self._key_id)
        signature = self._keeper.key.sign(signed(self.hash, b'{"seq":%d,%b%b' % (self.seq + 1, self._mark, text)))
        self._seal([b'%b%b%b"' % (text, SIGNATURE, signature.hex().encode())])
        self._sign_at = 0.0
        self.flush()
        if self._fsync != "never":
            self._sync()

    def rest(self, now: float) -> bool:
        """What is due; was it a checkpoint? Raises OSError."""
        self.flush()
        if self._sign_at and now >= self._sign_at:
            self.sign(now)
            return True
        if self._sync_at and now >= self._sync_at:
            if self._fsync != "never":
                self._sync()
            self._sync_at = 0.0
        return False

    def wait(self, now: float) -> float | None:
        """Seconds until something is due."""
        moments = [moment for moment in (self._sync_at, self._sign_at) if moment]
        if self._rest:
            moments.append(now + SYNC_EVERY)
        return max(0.0, min(moments) - now) if moments else None

    # -- files -----------------------------------------------------------------------------------------------------------------------------

    def keep_lost(self) -> None:
        """Remember how many entries are lost, for whoever comes after a kill. Raises OSError, but not because the disk is full."""
        self._keeper.write(self._sure, (self.seq, self.hash), self.lost)

    def reopen(self, now: float, waiting: list[bytes]) -> None:
        """Go on in a new file of the same name, unless it is still the same one. What the old one will never take comes before what waits. Raises OSError."""
        fresh = opened(self.file)
        found, ours = os.fstat(fresh), os.fstat(self._fd)
        same = (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
        torn = b""
        try:
            self.sign(now)
            if self._fsync == "never":
                os.fsync(self._fd)
        except OSError:
            if same:
                os.close(fresh)
                raise
            torn = self._give_up(waiting=waiting)  # the old file will never take the rest
        if same:
            os.close(fresh)
            return
        os.close(self._fd)
        self._fd = fresh
        ended = not found.st_size or os.pread(fresh, 1, found.st_size - 1) == b"\n"
        self._begin("rotation", now, _torn(torn), ended=ended)
        self.flush()

    def close(self, now: float) -> None:
        """The last words. Raises OSError."""
        try:
            if self.lost:
                self.tell_lost(now)
            self.sign(now)
        except OSError:
            torn = self._give_up(ended_later=True)
            meant = (self.seq + 1, self.hash) if torn else self._sure  # the next start may find half a line, as after a kill
            self._keeper.write(self._sure, meant, self.lost)
            raise
        else:
            self._keeper.write(self._sure, self._sure, 0, closed=True)
            self._keeper.sync()
        finally:
            os.close(self._fd)
            self._keeper.close()

    # -- within ----------------------------------------------------------------------------------------------------------------------------

    def _begin(self, start: str, now: float, members: bytes, *, ended: bool) -> None:
        body = b'%b,"type":"begin","start":"%b","prev":"%b","key":"%b"%b' % (
            *(_time(now), start.encode(), self.hash.encode(), self._key_id),
            members,
        )
        self._seal([body], b"" if ended else b"\n")
        self._sign_at = self._sign_at or now + self._every

    def _seal(self, bodies: Sequence[bytes], before: bytes = b"") -> None:
        """Lines of the chain; they wait to be written."""
        seq, previous, mark = self.seq, bytes.fromhex(self.hash), self._mark
        pieces = [before]
        for body in bodies:
            seq += 1
            text = b'{"seq":%d,%b%b' % (seq, mark, body)
            previous = sha256(previous + text).digest()
            pieces += (text, SEAL, previous.hex().encode(), b'"}\n')
        self._keeper.write(self._sure, (seq, previous.hex()), self.lost)
        self.seq, self.hash = seq, previous.hex()
        self._batch = self._rest = memoryview(b"".join(pieces))

    def _sealed(self, now: float) -> None:
        """Lines are in the chain."""
        self._sync_at = self._sync_at or now + SYNC_EVERY
        self._sign_at = self._sign_at or now + self._every
        with suppress(OSError):  # they wait; who comes next hears of it
            self.flush()
            if self._fsync == "batch":
                self._sync_at = now
                self._sync()

    def _give_up(self, *, ended_later: bool = False, waiting: list[bytes] | None = None) -> bytes:
        """Back to the newest line that is whole in the file; what follows it there. `ended_later`: a line that lacks its end only will get it.
        `waiting`: calls and warnings that are given up come before these; without it they are lost."""
        written = bytes(self._batch[: len(self._batch) - len(self._rest)])
        self.seq, self.hash = self._sure
        *lines, torn = written.split(b"\n")
        if ended_later and taken_apart(torn):
            lines.append(torn)
            torn = b""
        gone = torn + bytes(self._rest)
        self.lost += sum(map(int, _LOST.findall(gone)))
        if waiting is None:
            self.lost += gone.count(b'"type":"call"')
        else:
            waiting[:0] = [body.removeprefix(self._mark) for each in gone.split(b"\n") if (body := _said_again(each))]
        for each in lines:
            if line := taken_apart(each):
                self.seq, self.hash = line.seq, line.hash
        self._sure = self.seq, self.hash
        self._batch = self._rest = memoryview(b"")
        return torn

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._keeper.sync()
        self._sync_at = 0.0


# -- how the last run ended --------------------------------------------------------------------------------------------------------------------


class Resumed(NamedTuple):
    """Where the chain goes on, and what is to be said about what was found."""

    start: str
    seq: int
    hash: str
    torn: bytes = b""
    missing: int = 0
    adopted: int = 0
    cut: bool = False
    foreign: int = 0

    def members(self) -> bytes:
        """Of the begin line."""
        text = _torn(self.torn)
        for name in "missing", "adopted", "foreign":
            if count := getattr(self, name):
                text += b',"%b":%d' % (name.encode(), count)
        return text + b',"cut":true' if self.cut else text


def resume(tail: bytes, head: Head | None, boot: str, *, synced: bool = False) -> Resumed:
    """`tail`: the end of the file, `head`: the newest one kept, `boot`: of the machine now. The head is believed before the file.

    Unless every line was forced to the disk (`synced`), the end of the machine may have taken lines that the head knows of.
    """
    pieces = tail.split(b"\n")
    lines = [taken_apart(piece) for piece in pieces]
    if head is None:
        return _without_head(pieces, lines)
    crashed = not head.closed and head.boot != boot
    start = "stop" if head.closed else "crash" if crashed else "kill"
    reached, at = (head.sure, head.sure_hash), 0
    if head.sure:
        at = next((place + 1 for place in range(len(lines) - 1, -1, -1) if (line := lines[place]) and (line.seq, line.hash) == reached), 0)
        if not at and crashed and not synced:
            at = next((place + 1 for place in range(len(lines) - 1, -1, -1) if (line := lines[place]) and line.seq < head.sure), 0)
            if at and (line := lines[at - 1]):
                reached = line.seq, line.hash
        if not at:  # another file, by rotation or by somebody's hand: verify sees which
            return Resumed(start, *reached, missing=head.meant - head.sure, cut=bool(tail))
    first = at
    while at < len(lines) and not head.closed and (line := lines[at]) is not None and (crashed or line.seq <= head.meant):
        if line.seq != reached[0] + 1 or not line.follows(reached[1]):
            break
        reached, at = (line.seq, line.hash), at + 1
    if not crashed and reached[0] == head.meant and reached[1] != head.meant_hash:
        reached, at = (head.sure, head.sure_hash), first  # good hashes, but not what we were about to write
    left = b"\n".join(pieces[at:])
    torn = b"" if head.closed or any(lines[at:]) or (not crashed and head.sure == head.meant) else left
    return Resumed(
        start,
        *reached,
        torn=torn,
        missing=max(0, head.meant - reached[0]),
        adopted=max(0, reached[0] - head.meant),
        foreign=len(left) - len(torn),
    )


def _without_head(pieces: Sequence[bytes], lines: Sequence[Line | None]) -> Resumed:
    if pieces == [b""]:
        return Resumed("first", 0, NO_HASH)
    for place in range(len(lines) - 1, -1, -1):
        if line := lines[place]:
            left = b"\n".join(pieces[place + 1 :])
            torn = b"" if b"\n" in left else left  # lines nobody can vouch for, or half a one
            return Resumed("unknown", line.seq, line.hash, torn=torn, foreign=len(left) - len(torn))
    return Resumed("unknown", 0, NO_HASH, foreign=len(b"\n".join(pieces)))


def _said_again(line: bytes) -> bytes:
    """The body of a line that shall stand elsewhere; nothing for what only made sense where it stood."""
    found = taken_apart(line)
    body = found.body.partition(b",")[2] if found is not None else b""
    return body if b'"type":"call"' in body or b'"type":"warning"' in body else b""


def _torn(fragment: bytes) -> bytes:
    return b',"torn":{"bytes":%d,"sha256":"%b"}' % (len(fragment), sha256(fragment).hexdigest().encode()) if fragment else b""


def _time(now: float) -> bytes:
    return b'"time":"%b.%03dZ"' % (strftime("%Y-%m-%dT%H:%M:%S", gmtime(int(now))).encode(), (now % 1) * 1000)


def opened(file: str) -> int:
    """To append to. Raises OSError, also for what is no file: a chain cannot go on in a pipe."""
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "not a regular file", file)
    return fd
