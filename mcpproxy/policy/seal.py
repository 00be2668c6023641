"""Session ids as clients see them: the server's own id, and where it is valid, under a seal that only we can make and open.

   sealed = base64url( mark of the key · AES-SIV( kind, caller ; issued · endpoint · the server's id ) )

1. Whoever has the key file opens it: every worker and every node, without a table and without asking anybody.
2. It opens for the caller it was made for and nobody else, and only as the kind it was made as (a header field, a query). What does not open says
   nothing about why: tampered, made with a key we do not have, or somebody else's.
3. AES-SIV (RFC 5297) needs no nonce, so nothing goes wrong when one comes twice; equal sessions sealed in the same second are equal text.
4. One text for one seal: base64url is taken only as it would be written (docs/decisions/0018).
"""

from __future__ import annotations

import os
import re
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from mcpproxy.clock import clock
from mcpproxy.config import files, sealfile
from mcpproxy.errors import StartError

FIELD, QUERY = b"mcpproxy session 1 field", b"mcpproxy session 1 query"  # kinds
MARK = b"mcpproxy session 1 mark"
PLAIN, HEX, UUID = b"\0", b"\1", b"\2"  # how the server's id is written down; the usual ones take half the room
STAMP, PLACE = 4, 8  # bytes of the time of issue (Unix seconds) and of an endpoint's mark
LOOK_S = 1.0  # seconds between two looks at the file for a key that we do not have
is_sealed = re.compile(rb"[A-Za-z0-9_-]{40,8192}").fullmatch
is_hex = re.compile(rb"(?:[0-9a-f]{2}){1,255}").fullmatch
is_uuid = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class Safe(Protocol):
    """The state directory (pki/store)."""

    def read_secret(self, name: str) -> bytes | None: ...
    def write_secret(self, name: str, data: bytes) -> object: ...
    def locked(self) -> AbstractContextManager[None]: ...


class Opened(NamedTuple):
    """What was under a seal."""

    place: bytes  # the endpoint's mark
    id: bytes  # the server's own
    issued: int  # Unix seconds


class Seal:
    """Keys, ready to use: the first seals, all open."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [(mark_of(key), AESSIV(key)) for key in keys]

    def seal(self, kind: bytes, caller: bytes, place: bytes, id: bytes, now: float) -> bytes:
        """The text for the client. `place`: PLACE bytes."""
        mark, key = self._keys[0]
        told = int(now).to_bytes(STAMP, "big") + place + packed(id)
        return urlsafe_b64encode(mark + key.encrypt(told, [kind, caller])).rstrip(b"=")

    def open(self, kind: bytes, caller: bytes, text: bytes) -> Opened | None:
        """None: we did not make it, or not for this caller."""
        raw = decoded(text)
        for mark, key in self._keys:
            if mark == raw[:1]:
                try:
                    told = key.decrypt(raw[1:], [kind, caller])
                except InvalidTag:
                    continue
                return Opened(told[STAMP : STAMP + PLACE], unpacked(told[STAMP + PLACE :]), int.from_bytes(told[:STAMP], "big"))
        return None

    def knows(self, text: bytes) -> bool:
        """Would another key help to open it? Not if it bears the mark of one we have, or is no seal at all."""
        raw = decoded(text)
        return not raw or any(mark == raw[:1] for mark, _ in self._keys)


class SealKeys:
    """The key file in use."""

    __slots__ = ("_file", "_looked", "_read", "_stamp", "renewed", "seal")

    def __init__(self, file: str, read: Callable[[], bytes]) -> None:
        """Raises StartError."""
        self._file, self._read, self._looked = file, read, clock.now
        self._stamp: files.Stamp | None = None
        self.seal = Seal(self._load())
        self.renewed = False  # other keys than before are in use: what was opened with those may not open any more

    @classmethod
    def kept(cls, store: Safe, directory: str) -> SealKeys:
        """The file in the state directory, made if there is none: all processes that share the directory have the same keys. Raises StartError."""
        with store.locked():
            if store.read_secret(sealfile.NAME) is None:
                store.write_secret(sealfile.NAME, sealfile.new_file())
        return cls(os.path.join(directory, sealfile.NAME), lambda: store.read_secret(sealfile.NAME) or b"")

    @classmethod
    def given(cls, file: str) -> SealKeys:
        """A file that somebody else made, for several nodes. Raises StartError."""
        return cls(file, lambda: secret_file(file))

    def open(self, kind: bytes, caller: bytes, text: bytes) -> Opened | None:
        """As Seal.open. A key that another process began to seal with a moment ago is looked for first."""
        if not self.seal.knows(text) and clock.now - self._looked >= LOOK_S:
            self._looked = clock.now
            if self.changed():
                self.reload()
        return self.seal.open(kind, caller, text)

    def changed(self) -> bool:
        """Is the file another one than was read last? One stat."""
        return files.stamp(self._file) != self._stamp

    def reload(self) -> str:
        """Read it again. Why it cannot be used, in words, or nothing; then the keys read before go on."""
        try:
            self.seal = Seal(self._load())
        except StartError as error:
            return error.message
        self.renewed = True
        return ""

    def _load(self) -> list[bytes]:
        self._stamp = files.stamp(self._file)
        try:
            return sealfile.parse(self._read())
        except sealfile.Broken as broken:
            raise StartError(f"{self._file}: {broken}") from None


def secret_file(file: str) -> bytes:
    """What is in it. Raises StartError where others could read or change it."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise StartError(f"{file}: is no file")
            if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise StartError(
                    f"{file}: others may read or change these keys (mode {stat.S_IMODE(found.st_mode):04o})", f"chmod 600 {file}"
                )
            return stream.read(sealfile.LARGEST + 1)
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}", f"(umask 077; {sealfile.HOW} > {file}), the same on every node") from None


def decoded(text: bytes) -> bytes:
    """The bytes behind base64url as it would be written; nothing for anything else."""
    if not is_sealed(text) or len(text) % 4 == 1:
        return b""
    raw = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    return raw if urlsafe_b64encode(raw).rstrip(b"=") == text else b""


def packed(id: bytes) -> bytes:
    """The server's id in few bytes."""
    if is_uuid(id):
        return UUID + bytes.fromhex(id.replace(b"-", b"").decode())
    return HEX + bytes.fromhex(id.decode()) if is_hex(id) else PLAIN + id


def unpacked(data: bytes) -> bytes:
    """And back."""
    form, rest = data[:1], data[1:]
    if form == PLAIN:
        return rest
    text = rest.hex().encode()
    return text if form == HEX else b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def place_of(url: str) -> bytes:
    """An endpoint's mark: where it is, so that replicas can be reordered, added and removed."""
    return sha256(url.encode()).digest()[:PLACE]


def mark_of(key: bytes) -> bytes:
    """Tells keys apart, so that mostly one is tried."""
    return sha256(MARK + key).digest()[:1]


def rotate(file: str, keep: int) -> int:
    """Put a new key in front of those in `file` and keep `keep` of these. How many are there now. Raises StartError.

    The file is replaced whole, with the owner and the mode it had, so that a running daemon reads it as before.
    """
    try:
        data = sealfile.rotated(secret_file(file), keep)
        found, beside = os.stat(file), f"{file}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
                os.fsync(descriptor)
            os.replace(beside, os.path.realpath(file))
        except BaseException:
            os.unlink(beside)
            raise
    except sealfile.Broken as broken:
        raise StartError(f"{file}: {broken}") from None
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}") from None
    return len(sealfile.parse(data))
