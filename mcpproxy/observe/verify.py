"""Has anybody changed the audit log?

    verify(files, keys, head) → Report: problems (something was changed, or may be missing), notes (what the daemon itself tells), and what was read

Every line is hashed again, every signature checked, every file must go on where the one before it ended. After a problem the lines are believed to go on as
they say themselves, so that one change is one problem, told with the line it is in.

 1. Whoever changes a line must change all hashes after it. Then the next checkpoint's signature does not fit.
 2. Whoever does that and takes all later checkpoints away leaves a chain whose newest hash is not the one kept in the state directory (`head`).
 3. Without head, whatever comes after the last checkpoint is only chained: the report says up to where it is signed.

Lines are read one by one; files of any size need no memory.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import BinaryIO, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from mcpproxy.observe.chain import SIGNATURE, Line, key_id, signed, taken_apart
from mcpproxy.observe.keeping import NO_HASH, Head
from mcpproxy.units import many

LONGEST = 16 << 20  # bytes of a line; ours are shorter than 1 MiB
PROBLEMS = 100  # that are told apart; of more there is a count
CRASHES = ("kill", "crash")


@dataclass(frozen=True, slots=True)
class Finding:
    """Where (`line` 0: the whole file) and what."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@dataclass(slots=True)
class Report:
    """What verify found."""

    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    more_problems: int = 0  # that are not in the list
    lines: int = 0
    calls: int = 0
    lost: int = 0  # calls that a full disk took
    first: int = 0  # numbers of the first and the newest line
    newest: int = 0
    newest_hash: str = NO_HASH
    signed: int = 0  # the newest line that a good signature covers


class _Torn(Struct, frozen=True):
    bytes: int = 0
    sha256: str = ""


class _Told(Struct, frozen=True):
    """What matters here of a line that the daemon writes about itself."""

    type: str
    start: str = ""
    prev: str = ""
    key: str = ""
    torn: _Torn = _Torn()
    missing: int = 0
    adopted: int = 0
    foreign: int = 0
    cut: bool = False
    count: int = 0


TOLD = ("begin", "checkpoint", "lost")
_told = msgspec.json.Decoder(_Told).decode
_type = re.compile(rb'\{"seq":\d+,(?:"chain":\d+,)?"time":"[^"]*","type":"([a-z]+)"').match
_is_hash = re.compile("[0-9a-f]{64}").fullmatch


def verify(
    files: Sequence[str],
    keys: Sequence[Ed25519PublicKey],
    head: Head | None = None,
    *,
    chain: int = 0,
    part: bool = False,
    ends: bool = True,
    moved: Callable[[], bool] = lambda: False,
) -> Report:
    """`files` are sorted by their first lines. `part`: the chain may begin before them. `ends`: it may not go on after them.
    `moved`: is the head another one now? `chain`: the number of the one they are all of.

    Raises OSError.
    """
    reading = _Reading({key_id(key): key for key in keys}, head, chain, part=part, ends=ends)
    for file in sorted(files, key=first_number):
        reading.read(file)
    return reading.end(moved)


def first_number(file: str) -> int:
    """The number of the first good line in `file`; of none 0."""
    line = _first_line(file)
    return line.seq if line is not None else 0


def by_chain(files: Sequence[str], named: Callable[[str], int] = lambda file: 0) -> dict[int, list[str]]:
    """The files of each chain, as their first good lines say; `named` knows where one without any belongs. Raises OSError."""
    found: dict[int, list[str]] = {}
    for file in files:
        line = _first_line(file)
        found.setdefault(line.chain if line is not None else named(file), []).append(file)
    return dict(sorted(found.items()))


def _first_line(file: str) -> Line | None:
    return next((line for text in _lines(file) if (line := taken_apart(text.rstrip(b"\n")))), None)


class _Odd:
    """Pieces that are no lines, one after the other: what they are together, without keeping them."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []  # the first of them
        self.count = self.size = 0
        self.hash = sha256()
        self.open = False  # the last one has no end
        self._ended = False

    def add(self, finding: Finding, text: bytes) -> None:
        if len(self.findings) < PROBLEMS:
            self.findings.append(finding)
        self.count += 1
        self.open = not text.endswith(b"\n")
        piece = (b"\n" if self._ended else b"") + text.removesuffix(b"\n")  # the end of the last one is not of it
        self._ended = not self.open
        self.size += len(piece)
        self.hash.update(piece)

    def drop_last(self) -> None:
        """It is explained."""
        self.count -= 1
        del self.findings[self.count :]
        self.open = False
        self.size = -1  # what is left is not explained by any begin line


class _Reading:
    def __init__(self, keys: Mapping[str, Ed25519PublicKey], head: Head | None, chain: int, *, part: bool, ends: bool) -> None:
        self.report = Report()
        self._chain = chain
        self._keys, self._head, self._part, self._ends = keys, head, part, ends
        self._at: tuple[int, str] | None = None  # number and hash of the line before, as it says itself
        self._good: tuple[int, str] = (0, NO_HASH)  # of the newest line of an unbroken chain
        self._head_hashes: set[str] = set()  # of the line that has the head's number
        self._odd = _Odd()  # what is no line; a begin line may explain it
        self._file, self._number = "", 0
        self._half = b""  # what the last file ended with, where that is no whole line

    def read(self, file: str) -> None:
        self._file, self._number = file, 0
        for text in _lines(file):
            self._number += 1
            ended = text.endswith(b"\n")
            line = taken_apart(text[:-1]) if ended else None
            if line is None and ended and self._half and self._number == 1 and (line := taken_apart(self._half + text[:-1])) is not None:
                self._odd.drop_last()  # copytruncate cut a line in two
            if line is None:
                self._odd.add(self._finding("not a whole line of this log: changed, cut or torn"), text)
            else:
                self._line(line)
            self._half = b"" if ended else text

    def end(self, moved: Callable[[], bool]) -> Report:
        """All files are read."""
        report, head = self.report, self._head
        if self._odd.open and head is not None and (head.sure != head.meant or moved()):
            self.report.notes.append(
                Finding(self._file, self._number, "half a line: it is being written, or the daemon was killed while it wrote")
            )
            self._odd.drop_last()
        self._tell_odd()
        report.newest, report.newest_hash = self._at or (0, NO_HASH)
        if not report.lines:
            self._problem("there is no line of an audit log in it")
        elif head is not None and head.sure and head.sure_hash not in self._head_hashes:
            if self._head_hashes or (self._ends and head.sure < report.newest):
                self._problem(f"this is not the chain that was written: line {head.sure} had another hash")
            elif self._ends:
                self._problem(f"the end is missing: the newest line written was {head.sure}, the last one here is {report.newest}")
        return report

    def _line(self, line: Line) -> None:
        report, at = self.report, self._at
        report.lines += 1
        kind = _kind(line.body)
        told = _read(line.body) if kind in TOLD else None
        begin = told if told is not None and told.type == "begin" else None
        if at is None:
            self._first(line, begin)
        elif begin is None or not self._explains(line, begin):
            self._tell_odd()
            self._compare(line, at)
        self._tell_odd()
        if line.chain != self._chain:
            self._problem(f"line {line.seq} belongs to chain {line.chain}, and this is chain {self._chain}")
        self._at = line.seq, line.hash
        if self._head is not None and line.seq == self._head.sure:
            self._head_hashes.add(line.hash)
        if kind == "call":
            report.calls += 1
        elif told is not None:
            self._self_told(line, told, at[1] if at is not None else "")

    def _first(self, line: Line, begin: _Told | None) -> None:
        """The first of all lines."""
        self.report.first = line.seq
        self._good = line.seq, line.hash
        if begin is not None:
            if not line.follows(_hash(begin.prev)):
                self._problem(f"line {line.seq} was changed: its hash does not fit")
            elif (line.seq == 1) != (begin.prev == NO_HASH):
                self._problem("this is not the beginning of a chain: its number and the hash it names do not go together")
            elif begin.torn.bytes:
                self._odd_is(begin)
        if not self._part and (line.seq != 1 or begin is None):
            self._problem(f"the beginning is missing: this is line {line.seq}. Name the older files too, or say --part if they are gone")
        elif begin is None:
            self._note("no line before it: whether this one was changed, nobody can tell")

    def _compare(self, line: Line, at: tuple[int, str]) -> None:
        """With the line before it."""
        number, previous = at
        if line.seq == number + 1 and line.follows(previous):
            if self._good == at:
                self._good = line.seq, line.hash
            return
        if line.seq == number + 1:
            self._problem(f"line {line.seq} was changed: its hash does not fit to it and the line before")
        elif line.seq > number + 1:
            missing = line.seq - number - 1
            told = f"{many(missing, 'line')} before this one {_are(missing)} missing"
            self._problem(f"{told} ({number + 1} to {line.seq - 1})")
        else:
            self._problem(f"line {line.seq} comes again, or at the wrong place (after line {number})")

    def _explains(self, line: Line, begin: _Told) -> bool:
        """Is this begin line the one that follows the good ones? Then it knows what stands between."""
        if (line.seq - 1, begin.prev) != self._good or not line.follows(_hash(begin.prev)):
            return False
        self._odd_is(begin)
        self._good = line.seq, line.hash
        return True

    def _odd_is(self, begin: _Told) -> None:
        """Does it stand there as this begin line says?"""
        odd = self._odd
        if odd.count and (odd.size, odd.hash.hexdigest()) == (begin.torn.bytes, begin.torn.sha256):
            found = odd.findings[0]
            self.report.notes.append(Finding(found.file, found.line, "half a line, as the daemon found it at its next start"))
            self._odd = _Odd()
        elif not odd.count and begin.torn.bytes and self._at is not None:
            self._problem(f"{many(begin.torn.bytes, 'byte')} of half a line before it {_are(begin.torn.bytes)} gone")

    def _self_told(self, line: Line, told: _Told, previous: str) -> None:
        """What the daemon says about itself."""
        if told.type == "checkpoint":
            self._checkpoint(line, told, previous)
        elif told.type == "lost":
            self.report.lost += told.count
            self._note(f"{many(told.count, 'call')} {_are(told.count)} not in the log: writing failed")
        elif told.type == "begin":
            ended = f"the last run ended by {told.start}" if told.start in CRASHES else f"begin ({told.start})"
            if told.cut:
                self._problem(
                    "at this start the daemon found the file without the newest lines it had written: somebody cut or replaced it"
                )
            if told.foreign:
                self._problem(f"at this start the daemon found {many(told.foreign, 'byte')} at the end that it had not written")
            if told.start == "unknown":
                self._problem("at this start the state directory had no head: whether lines were missing then, nobody knows")
            if told.missing:
                say = self._note if told.start in CRASHES else self._problem
                say(f"{ended}: up to {many(told.missing, 'line')} that had not reached the disk {_are(told.missing)} missing")
            if told.adopted:
                self._note(f"{ended}: {many(told.adopted, 'line')} before it {_are(told.adopted)} newer than the last head on the disk")

    def _checkpoint(self, line: Line, told: _Told, previous: str) -> None:
        """Its signature. `previous`: the hash before it, as that line says."""
        if not self._keys or not previous:
            return
        key = self._keys.get(told.key)
        text, _, signature = line.body.rpartition(SIGNATURE)
        if key is None:
            self._problem(f"signed by another key ({told.key})")
            return
        try:
            key.verify(bytes.fromhex(signature[:-1].decode()), signed(previous, text))
        except (InvalidSignature, ValueError):
            self._problem(f"the signature does not fit: lines since line {self.report.signed} were written by somebody else")
        else:
            self.report.signed = line.seq

    def _tell_odd(self) -> None:
        if self._odd.count:
            for finding in self._odd.findings:
                self._add(finding)
            self.report.more_problems += self._odd.count - len(self._odd.findings)
            self._odd = _Odd()

    def _problem(self, text: str) -> None:
        self._add(self._finding(text))

    def _add(self, finding: Finding) -> None:
        if len(self.report.problems) < PROBLEMS:
            self.report.problems.append(finding)
        else:
            self.report.more_problems += 1

    def _note(self, text: str) -> None:
        self.report.notes.append(self._finding(text))

    def _finding(self, text: str) -> Finding:
        return Finding(self._file, self._number, text)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _lines(file: str) -> Iterator[bytes]:
    """The lines of a file, compressed or not, each with its end. Raises OSError."""
    with cast(BinaryIO, gzip.open(file) if file.endswith(".gz") else open(file, "rb")) as stream:
        while line := stream.readline(LONGEST):
            yield line


def _kind(body: bytes) -> str:
    found = _type(body)
    return found[1].decode() if found is not None else ""


def _read(body: bytes) -> _Told | None:
    try:
        return _told(body + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _hash(text: str) -> str:
    return text if _is_hash(text) else ""
