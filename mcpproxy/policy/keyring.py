"""Changing a file of API keys: what `mcpproxy key` does to it.

    with changing(file) as entries: key = add(entries, "agent-alpha", roles=("ops",), now=now, expires=None)

 1. One at a time: who changes the file holds a lock beside it. The kernel frees it if we die.
 2. The file is replaced whole or not at all: written beside its place, flushed to the disk, renamed. The daemon never reads half of one.
 3. A new file is for its owner only (0600) and belongs to whom its directory belongs to: root makes keys for the daemon's own user. One that
    exists keeps its owner, its group and its mode.
 4. A file that cannot be read is never written over.

`add`, `revoke` and `rotate` are pure but for the randomness of a new key: they change a list, and take the moment as an argument.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from mcpproxy.config import files, keyfile
from mcpproxy.config.keyfile import Entry
from mcpproxy.errors import StartError
from mcpproxy.policy.apikey import NewKey, new_key

MODE = 0o600
LATEST = 253402214400.0  # 9999-12-31: beyond it there are no dates


# -- what is changed ----------------------------------------------------------------------------------------------------------------------------


def add(entries: list[Entry], name: str, *, roles: tuple[str, ...], now: float, expires: float | None) -> NewKey:
    """A key for `name`, until `expires` (Unix seconds). Raises StartError where it has one that works."""
    for entry in entries:
        if entry.name == name and entry.state(now) == "active":
            raise StartError(f"{name} has a key already: {entry.id}", f"mcpproxy key rotate {name} replaces it")
    return _add(entries, name, roles, now, expires)


def revoke(entries: list[Entry], who: str, *, now: float) -> list[Entry]:
    """No key of this name or id works any more. The ones that worked until now."""
    gone = [number for number in _matching(entries, who) if entries[number].state(now) == "active"]
    for number in gone:
        entries[number] = structs.replace(entries[number], revoked=moment(now))
    return [entries[number] for number in gone]


def rotate(entries: list[Entry], who: str, *, now: float, grace: float, expires: float | None) -> tuple[NewKey, Entry]:
    """A new key with the name and roles of the present one, which works for `grace` seconds more.

    The new one lives as long as the present one was made for, unless `expires` (Unix seconds) says otherwise. Returns it, and its entry.
    """
    present = [number for number in _matching(entries, who) if entries[number].state(now) == "active"]
    if not present:
        raise StartError(f"{who} has no key that works", f"mcpproxy key add {who} makes one")
    newest = entries[present[-1]]
    if expires is None and newest.expires is not None:
        expires = now + (newest.expires - newest.created).total_seconds()
    for number in present:
        entry = entries[number]
        if grace == 0:
            entries[number] = structs.replace(entry, revoked=moment(now))
        elif entry.expires is None or entry.expires.timestamp() > now + grace:
            entries[number] = structs.replace(entry, expires=moment(now + grace))
    made = _add(entries, newest.name, newest.roles, now, expires)
    return made, entries[-1]


def moment(seconds: float) -> datetime:
    """As the file says it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(min(seconds, LATEST)), UTC)


def _add(entries: list[Entry], name: str, roles: tuple[str, ...], now: float, expires: float | None) -> NewKey:
    made = new_key(entry.id for entry in entries)
    until = None if expires is None else moment(expires)
    entries.append(Entry(id=made.id, name=name, roles=roles, created=moment(now), expires=until, hash=made.hash))
    return made


def _matching(entries: Sequence[Entry], who: str) -> list[int]:
    """The places of the keys with this name; else of the one with this id."""
    found = [number for number, entry in enumerate(entries) if entry.name == who]
    found = found or [number for number, entry in enumerate(entries) if entry.id == who]
    if not found:
        raise StartError(f"there is no key of the name or id {who!r}", "mcpproxy key list shows them")
    return found


# -- the file -----------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def changing(file: str) -> Iterator[list[Entry]]:
    """The keys in `file` (none when there is no such file), to be changed in place; written when the block ends well. Raises StartError."""
    place = Path(os.path.realpath(file))  # what a link leads to is replaced, not the link
    lock = _lock(place.with_name(f".{place.name}.lock"))
    try:
        before = read(str(place)) if place.exists() else ()
        entries = list(before)
        yield entries
        if tuple(entries) != before:
            _write(place, keyfile.render(entries))
    finally:
        os.close(lock)


def read(file: str) -> tuple[Entry, ...]:
    """The keys in `file`. Raises StartError."""
    found = files.keys(file)
    if found.said:
        raise StartError(f"{file}: {found.said}")
    return found.entries


def _write(place: Path, data: bytes) -> None:
    if len(data) > keyfile.LARGEST:
        raise StartError(f"{place}: has no room for another key", "take out lines of keys that were revoked or have expired long ago")
    beside = place.with_name(f".{place.name}.new")
    try:
        beside.unlink(missing_ok=True)  # left behind by a process that was killed: we hold the lock
        descriptor = _made(beside)
        with open(descriptor, "wb") as stream:
            if place.exists():
                _belongs_like(place, descriptor)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        beside.replace(place)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StartError(f"{place}: {error.strerror or error}", ELSEWHERE) from None
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _made(place: Path) -> int:
    """A new file, as rule 3 says; nobody else has made or linked anything there."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    if os.geteuid() == 0:
        around = os.stat(place.parent)
        os.fchown(descriptor, around.st_uid, around.st_gid)
    return descriptor


def _belongs_like(place: Path, descriptor: int) -> None:
    """Rule 3: the owner, group and mode of the file that is replaced."""
    found, made = os.stat(place), os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
        try:
            os.fchown(descriptor, found.st_uid, found.st_gid)
        except PermissionError:
            raise PermissionError(1, "belongs to another user or group: run this as that user, or as root") from None
    os.fchmod(descriptor, found.st_mode & 0o777)


def _lock(place: Path) -> int:
    """Rule 1. The lock stays, empty."""
    try:
        try:
            lock = _made(place)
        except FileExistsError:
            lock = os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        raise StartError(f"there is no directory {place.parent}" if absent else f"{place}: {error.strerror}", ELSEWHERE) from None
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


ELSEWHERE = "the file must be in a directory that whoever runs this may write to"
