"""Where certificates by ACME lie: these files are all that those who ask for them (control) and those who show them (workers) have between them.

    acme/accounts/NAME/{key.pem,account.json}   the key that an authority knows us by; one for each directory
    acme/certs/HOSTS/pair.pem                   chain and key that are shown: one file, so that they always fit; `cert.pem` is the chain for others to read,
                                                `meanwhile.pem` is shown until then (pki/selfmade), `story.json` tells what was tried (pki/acme_plan),
                                                `order.json` is there from before something is signed until it is in pair.pem: where to get it, and its key
    acme/challenges/TOKEN                       what is answered to who asks for it by HTTP-01
    acme/tls-alpn/HOST.pem                      the certificate and key that only a validator sees by TLS-ALPN-01

The writer replaces files whole (pki/store), directories are 0700, secrets 0600. Readers follow no symbolic link, read a bounded number of bytes, and take
names from the wire only when they are made of the letters that tokens and hosts have.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from mcpproxy.clock import unix
from mcpproxy.pki.store import Store

TOKEN = re.compile(rb"[A-Za-z0-9_-]{16,128}")  # RFC 8555 §8.3: base64url, at least 128 bits
HOST = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}")
LARGEST_PROOF = 512  # bytes; a token, a dot and a SHA-256
PAIR, CHAIN, STORY, ORDER = "pair.pem", "cert.pem", "story.json", "order.json"
YOUNG_S = 2.0  # a directory that changed this short a while ago may have changed again within the same tick of the kernel's clock


class Place(NamedTuple):
    """The directory of one certificate."""

    directory: str

    @classmethod
    def of(cls, state_dir: str, hosts: Sequence[str]) -> Self:
        """That of the certificate for these names, in whatever order."""
        return cls(os.path.join(root(state_dir), "certs", set_name(hosts)))

    @property
    def pair(self) -> str:
        """Chain and key."""
        return os.path.join(self.directory, PAIR)

    def store(self) -> Store:
        """To write there, or to read what others may not. Raises StartError."""
        return within(os.path.dirname(os.path.dirname(os.path.dirname(self.directory))), "acme", "certs", os.path.basename(self.directory))


def root(state_dir: str) -> str:
    """Of everything about ACME."""
    return os.path.join(os.path.abspath(os.path.expanduser(state_dir)), "acme")


def within(state_dir: str, *names: str) -> Store:
    """A directory below the state directory, each on the way made and checked as that one is. Raises StartError."""
    store = Store(state_dir)
    for name in names:
        store = Store(store.path / name)
    return store


def set_name(hosts: Sequence[str]) -> str:
    """One set of names, one directory: `mcp.example.com`, `a.example.com+2-9f86d081`."""
    names = sorted(set(hosts))
    if len(names) == 1:
        return names[0]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    return f"{names[0]}+{len(names) - 1}-{digest}"


def key_authorization(state_dir: str, token: bytes) -> bytes | None:
    """What is answered to a validator that asks for `token` (from the wire), or None."""
    if not TOKEN.fullmatch(token):
        return None
    with suppress(OSError):
        path = os.path.join(root(state_dir), "challenges", token.decode("ascii"))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                proof = file.read(LARGEST_PROOF + 1)
                if len(proof) <= LARGEST_PROOF and proof.startswith(token + b"."):
                    return proof
    return None


class Pending:
    """The names for which a validator may come by TLS-ALPN-01, as of the last `look`."""

    __slots__ = ("_directory", "_stamp", "hosts")

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(root(state_dir), "tls-alpn")
        self._stamp = -1
        self.hosts: dict[str, str] = {}  # host → file

    def look(self) -> None:
        """One stat, as long as nothing changes."""
        try:
            stamp = os.stat(self._directory).st_mtime_ns
            if stamp == self._stamp:
                return
            names = [name.removesuffix(".pem") for name in os.listdir(self._directory) if name.endswith(".pem")]
        except OSError:
            self._stamp, self.hosts = -1, {}
            return
        self._stamp = stamp if unix() - stamp / 1e9 > YOUNG_S else -1
        self.hosts = {name: str(Path(self._directory, f"{name}.pem")) for name in names if HOST.fullmatch(name)}


class Challenges:
    """What the control process puts there for workers to show."""

    def __init__(self, state_dir: str) -> None:
        self._http = within(state_dir, "acme", "challenges")
        self._alpn = within(state_dir, "acme", "tls-alpn")

    def answer_http(self, token: str, proof: bytes) -> None:
        """Workers answer it from now on."""
        if not TOKEN.fullmatch(token.encode()):
            raise ValueError("the authority's token is none")
        self._http.write_secret(token, proof)

    def answer_alpn(self, host: str, pem: bytes) -> None:
        """Workers show it once they have looked (Pending)."""
        if not HOST.fullmatch(host):
            raise ValueError("the authority's identifier is none of ours")
        self._alpn.write_secret(f"{host}.pem", pem)

    def clear(self) -> None:
        """Nothing is pending any more; also what somebody who was killed left behind."""
        for store in (self._http, self._alpn):
            for name in os.listdir(store.path):
                with suppress(OSError):
                    os.unlink(store.path / name)
