"""Where keys live on disk, and who may read them.

 1. The directory is made with mode 0700. One that exists must belong to us, to root, or to whom root is about to become (`trust`), and nobody else
    may write to it.
 2. A secret is written with mode 0600 and is not read back if others could have read or written it.
 3. A file is replaced whole or not at all: written beside its place, flushed to the disk, renamed. A reader never sees half of one.
 4. Whoever looks and then writes does both under `locked()`, so processes that start together agree.

It chmods nothing it did not make: a user may name any directory, and tightening /tmp or a home directory would break others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcpproxy.errors import StartError

DIRECTORY_MODE = 0o700
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
LOCK = ".lock"
ELSEWHERE = "name another one with --state-dir or state_dir"
_trusted = {0}


class Busy(StartError):
    """Somebody else has the lock."""


class Store:
    """The state directory at `path`, made if it is not there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.expanduser(path)).absolute()
        try:
            self.path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            found = self.path.stat()
        except OSError as error:
            raise StartError(f"state directory {self.path}: {error.strerror}", ELSEWHERE) from None
        check_directory(self.path, found)

    def read(self, name: str) -> bytes | None:
        """A public file, or None if there is none."""
        return self._read(name, secret=False)

    def read_secret(self, name: str) -> bytes | None:
        """A secret file, or None if there is none; raises StartError if others could have read it."""
        return self._read(name, secret=True)

    def write(self, name: str, data: bytes) -> Path:
        """Replace a public file."""
        return self._write(name, data, PUBLIC_MODE)

    def write_secret(self, name: str, data: bytes) -> Path:
        """Replace a secret file."""
        return self._write(name, data, SECRET_MODE)

    def remove(self, name: str) -> None:
        """A file, if it is there."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StartError(f"{self.path / name}: {error.strerror}") from None

    @contextmanager
    def locked(self, *, patient: bool = True) -> Iterator[None]:
        """Alone with the directory; other processes wait, or get a Busy. The kernel frees the lock if we die."""
        descriptor = self._opened(LOCK, os.O_RDWR | os.O_CREAT, SECRET_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Busy(f"state directory {self.path}: another process is at work there") from None
            yield
        finally:
            os.close(descriptor)

    def _read(self, name: str, *, secret: bool) -> bytes | None:
        if not (self.path / name).exists():
            return None
        descriptor = self._opened(name, os.O_RDONLY)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            os.close(descriptor)
            raise StartError(f"{self.path / name}: {os.strerror(errno.EISDIR)}")
        with open(descriptor, "rb") as file:
            if secret:
                check_owner(self.path / name, found)
                if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise StartError(
                        f"{self.path / name}: others may read this key (mode {stat.S_IMODE(found.st_mode):04o})",
                        f"chmod 600 {self.path / name}; if others could have read it, delete it and a new one is made",
                    )
            return file.read()

    def _write(self, name: str, data: bytes, mode: int) -> Path:
        place, beside = self.path / name, self.path / f".{name}.{os.getpid()}"
        descriptor = self._opened(beside.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET_MODE)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            beside.replace(place)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise StartError(f"{place}: {error.strerror}") from None
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return place

    def _opened(self, name: str, flags: int, mode: int = 0) -> int:
        try:
            return os.open(self.path / name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise StartError(f"{self.path / name}: {error.strerror}", "name another directory with --state-dir or state_dir") from None


def check_place(path: str | os.PathLike[str]) -> None:
    """What Store(path) would refuse, without making anything. A directory that is not there yet is fine when it can be made."""
    place = Path(os.path.expanduser(path)).absolute()
    try:
        check_directory(place, place.stat())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"state directory {place}: {error.strerror}", ELSEWHERE) from None


def check_directory(path: Path, found: os.stat_result) -> None:
    """Rule 1: a directory that holds our keys."""
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(f"state directory {path}: is not a directory", ELSEWHERE)
    check_owner(path, found)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartError(f"state directory {path}: others may write to it", f"chmod go-w {path}, or name another directory")


def trust(uid: int) -> None:
    """Root serves as this user: what is theirs is ours."""
    _trusted.add(uid)


def check_owner(path: Path, found: os.stat_result) -> None:
    """Rule 1: what belongs to a stranger cannot hold our keys."""
    if found.st_uid not in (os.geteuid(), *_trusted):
        raise StartError(f"{path}: it belongs to user {found.st_uid}, not to user {os.geteuid()} who runs mcpproxy")
