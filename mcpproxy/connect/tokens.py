"""What a login brought, kept between runs: one file for each (URL, client), which only its owner may read.

1. A file is replaced as a whole (rename), so nobody reads half of one, and there is no moment in which others may read it.
2. Who logs in or renews holds a lock (flock) beside it: of several instances one does it, and the others take what it brought.
3. The lock says when a login failed: who waited for it does not open a browser right after.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from mcpproxy.clock import unix
from mcpproxy.errors import StartError

ASKS_S = 0.2  # how often a lock that somebody has is tried


class Client(msgspec.Struct):
    """Who we are to an authorization server (RFC 7591 §3.2.1)."""

    client_id: str
    client_secret: str = ""
    token_endpoint_auth_method: str = ""
    redirect_uri: str = ""  # with which it was registered
    expires: float = 0.0  # of the secret, Unix seconds; 0: never
    registered: bool = False  # by us, at that authorization server


class Kept(msgspec.Struct):
    """All that is kept."""

    url: str
    issuer: str = ""
    token_endpoint: str = ""
    revocation_endpoint: str = ""
    resource: str = ""
    scope: str = ""
    client: Client | None = None
    access_token: str = ""
    refresh_token: str = ""
    renew: float = 0.0  # from when on, Unix seconds; 0: nobody said


class Store:
    """The file of one server and client."""

    def __init__(self, directory: Path, url: str, client: str = "") -> None:
        self.url = url
        self._directory = directory
        name = sha256(f"{url}\n{client}".encode()).hexdigest()[:32]
        self._file, self._lock = directory / f"{name}.json", directory / f"{name}.lock"

    def read(self) -> Kept | None:
        """None where nothing (of use) is kept."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.url == self.url else None

    def write(self, kept: Kept) -> None:
        """Rule 1. Raises StartError."""
        try:
            self._prepare()
            descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=".new-")  # 0600
            try:
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
                os.replace(name, self._file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise StartError(
                f"{self._directory}: the tokens could not be kept: {error.strerror}", "--state-dir names another place"
            ) from None

    def forget(self) -> bool:
        """Was there something?"""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        return True

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Turn]:
        """Rule 2."""
        try:
            self._prepare()
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"{self._lock}: {error.strerror}", "--state-dir names another place") from None
        try:
            waited = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waited = True
                    await asyncio.sleep(ASKS_S)
            yield Turn(descriptor, waited)
        finally:
            os.close(descriptor)


class Turn:
    """The lock is ours. `waited`: it was somebody else's."""

    def __init__(self, descriptor: int, waited: bool) -> None:
        self._descriptor, self.waited = descriptor, waited

    def failed_ago(self) -> float:
        """Seconds since a login failed; many, if none did."""
        with suppress(ValueError, OSError):
            return abs(unix() - float(os.pread(self._descriptor, 64, 0) or b"0"))
        return float("inf")

    def failed(self, *, now: float) -> None:
        """Rule 3. 0: it did not."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(now).encode(), 0)
