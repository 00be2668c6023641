"""What the audit log keeps in the state directory: its signing key, the salt of its digests, and how far its chain has come.

   audit-key.pem   Ed25519, for us only        audit-key.pub.pem   for whoever verifies
   audit-salt      32 random bytes, for us only
   audit-head      two slots, written in turn: number and hash of the newest line
   audit-head.1    the same of the second chain, and so on: each process that writes has a chain, and so a file, of its own

1. The head is written before the lines (`meant`) and after them (`sure`): whoever finds them different knows that the daemon was killed while it wrote, and
   how much may be missing. `closed` says that it ended in order.
2. A slot is 512 bytes with a checksum; a write that the end of the machine cut in half spoils one slot, never both.
3. One writer per chain: it holds a lock on its head, which the kernel frees with it. A process takes the first chain that is free, so the successor of one
   that was killed goes on with its chain; the first process of a daemon takes none but the first (`alone`), so two daemons with one state find each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from msgspec import Struct

from mcpproxy.errors import StartError

KEY, PUBLIC, SALT, HEAD = "audit-key.pem", "audit-key.pub.pem", "audit-salt", "audit-head"
CHAINS = 4096  # written at once, at most: workers, and those before them that still drain
SALT_SIZE = 32
SLOT = 512
NO_HASH = "0" * 64
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Head(Struct, frozen=True, gc=False):
    """How far the chain has come."""

    turn: int = 0  # counts the writes
    sure: int = 0  # number of the newest line that is in the file
    sure_hash: str = NO_HASH
    meant: int = 0  # number of the newest line that was about to be written
    meant_hash: str = NO_HASH
    lost: int = 0  # entries no line tells of yet
    closed: bool = False
    boot: str = ""  # of the machine


class Keeper:
    """The state directory of the daemon, as far as one chain of the audit log goes."""

    def __init__(self, directory: Path, *, alone: bool = True) -> None:
        """`alone`: no process of ours can have a chain. Raises StartError, or OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.chain, self._fd = _free_head(directory, 1 if alone else CHAINS)
        try:
            self.found = _newest(os.pread(self._fd, 2 * SLOT, 0))  # None: there was none
            if os.fstat(self._fd).st_size < 2 * SLOT:
                os.pwrite(self._fd, b" " * 2 * SLOT, 0)
            self.key = _signing_key(directory)
            self.salt = _secret(directory / SALT, lambda: os.urandom(SALT_SIZE))
            if len(self.salt) != SALT_SIZE:
                raise StartError(
                    f"{directory / SALT}: not a salt", "delete it, and a new one is made: digests before and after it then differ"
                )
            self.boot = boot_id()
            self._turn = self.found.turn if self.found is not None else 0
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, sure: tuple[int, str], meant: tuple[int, str], lost: int, *, closed: bool = False) -> None:
        """Remember it. One write into blocks the file has already: it does not fail on a full disk."""
        self._turn += 1
        head = Head(self._turn, *sure, *meant, lost, closed, self.boot)
        text = msgspec.json.encode(head)
        slot = b"%08x %b" % (crc32(text), text)
        os.pwrite(self._fd, slot.ljust(SLOT - 1) + b"\n", SLOT * (self._turn % 2))

    def sync(self) -> None:
        """Force it to the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def boot_id() -> str:
    """Another after each start of the machine."""
    try:
        return Path(BOOT_ID).read_text().strip()
    except OSError:
        return ""


def head_file(directory: Path, chain: int) -> Path:
    """Where the head of a chain is kept."""
    return directory / (f"{HEAD}.{chain}" if chain else HEAD)


def read_head(directory: Path, chain: int = 0) -> Head | None:
    """The newest head kept there. Raises OSError."""
    try:
        data = head_file(directory, chain).read_bytes()
    except FileNotFoundError:
        return None
    return _newest(data)


def read_heads(directory: Path) -> dict[int, Head]:
    """Of all chains that were ever written with this state. Raises OSError."""
    numbers = [0, *(int(each.name[len(HEAD) + 1 :]) for each in directory.glob(f"{HEAD}.*") if each.name[len(HEAD) + 1 :].isdecimal())]
    return {number: head for number in sorted(numbers) if (head := read_head(directory, number)) is not None}


def _free_head(directory: Path, most: int) -> tuple[int, int]:
    """The first of `most` chains that nobody writes, and its head's descriptor. Raises StartError, or OSError."""
    for chain in range(most):
        fd = os.open(head_file(directory, chain), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
        else:
            return chain, fd
    raise StartError(f"{directory / HEAD}: another mcpproxy writes an audit log with this state", "give each a state_dir")


def public_key(pem: bytes, where: str) -> Ed25519PublicKey:
    """Raises StartError."""
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise StartError(f"{where}: not the public key of an audit log (Ed25519, PEM)", "mcpproxy audit key prints it")
    return key


def _newest(data: bytes) -> Head | None:
    found: list[Head] = []
    for start in (0, SLOT):
        check, _, text = data[start : start + SLOT].rstrip(b" \n").partition(b" ")
        if text and check == b"%08x" % crc32(text):
            try:
                found.append(msgspec.json.decode(text, type=Head))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return max(found, key=lambda head: head.turn, default=None)


def _signing_key(directory: Path) -> Ed25519PrivateKey:
    """The key kept there; made if there is none."""
    place = directory / KEY

    def fresh() -> bytes:
        return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    try:
        key = load_pem_private_key(_secret(place, fresh), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(
            f"{place}: not an Ed25519 key in PEM", "move it away, and a new one is made; keep the public key for the old lines"
        )
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = directory / PUBLIC
    if not beside.exists() or beside.read_bytes() != public:
        _write(beside, public, 0o644)
    return key


def _secret(place: Path, fresh: Callable[[], bytes]) -> bytes:
    """A secret file; made if there is none. Of several processes that make it at once one does, and the others take that."""
    if not place.exists():
        _write(place, fresh(), 0o600, first=True)
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StartError(
                f"{place}: others may read this secret (mode {mode:04o})", f"chmod 600 {place}; if others could have read it, delete it"
            )
        return file.read()


def _write(place: Path, data: bytes, mode: int, *, first: bool = False) -> None:
    """Whole or not at all. `first`: not where there is one already."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        if first:
            with suppress(FileExistsError):
                os.link(beside, place)
            beside.unlink()
        else:
            beside.replace(place)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno or errno.EIO, error.strerror, str(place)) from None
