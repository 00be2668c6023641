"""Who shows this API key? `[auth.NAME]` of type `api-key`.

    mcpp_7h3kq9x2ab_dIq0mWn3Yc8VtRz5LxPfJk2Hs7BgUoEa4RtQ9Z
    ^^^^ ^^^^^^^^^^ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ours id         32 characters of secret (190 bits), then 6 of checksum: CRC-32 of everything before, in base 62

The prefix and the checksum are for scanners that look for leaked secrets; `KEY` is the pattern they need. The id is no secret: logs and lists show it.

 1. Kept is the SHA-256 of a salt and the whole key. Nobody can try 2^190 secrets, so a slow hash would protect nothing and cost every caller.
 2. Every judgement hashes once and compares in constant time, also for an id nobody has.
 3. Why a key is refused (expired, revoked) is told only to who has it; the log names its caller and its id.
 4. A file that has become unusable changes nothing: the keys read before go on, until it can be read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from math import inf
from secrets import choice, token_bytes
from zlib import crc32

from mcpproxy.config import files
from mcpproxy.config.keyfile import Entry
from mcpproxy.config.policies import Auth
from mcpproxy.errors import StartError
from mcpproxy.policy.verdict import Accepted, Credential, Judgement, Payer, Principal, Refused

KEY_BEGINS = "mcpp_"
PREFIX = KEY_BEGINS.encode()
ID, SECRET, CHECK, SALT = 10, 32, 6, 16  # characters; of the salt bytes
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = r"mcpp_([0-9a-z]{10})_[0-9A-Za-z]{38}"
_key = re.compile(KEY.encode()).fullmatch

UNKNOWN = Refused("key-unknown", description="The API key is not known.")
EXPIRED = Refused("key-expired", description="The API key has expired.")
REVOKED = Refused("key-revoked", description="The API key was revoked.")


# -- keys ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is shown once and kept nowhere."""

    id: str
    text: str
    hash: str

    def __repr__(self) -> str:
        return f"NewKey({self.id})"


def new_key(taken: Iterable[str] = ()) -> NewKey:
    """A key nobody has, with an id that is not `taken`."""
    used = set(taken)
    while (identity := "".join(choice(BASE36) for _ in range(ID))) in used:
        pass
    body = f"mcpp_{identity}_" + "".join(choice(BASE62) for _ in range(SECRET))
    text = body + checksum(body)
    salt = token_bytes(SALT)
    return NewKey(identity, text, f"sha256:{salt.hex()}:{digest(salt, text.encode()).hex()}")


def digest(salt: bytes, key: bytes) -> bytes:
    """Rule 1."""
    return sha256(salt + key).digest()


def checksum(body: str) -> str:
    """Of a key without its last six characters."""
    value, digits = crc32(body.encode()), ""
    for _ in range(CHECK):
        value, digit = divmod(value, len(BASE62))
        digits = BASE62[digit] + digits
    return digits


def id_of(text: str) -> str | None:
    """The id in a key that `mcpproxy key` may have made, None for any other text. A scanner asks the same: words that only look like keys are no alarm."""
    found = re.fullmatch(KEY, text)
    return found[1] if found is not None and checksum(text[:-CHECK]) == text[-CHECK:] else None


# -- who has them -------------------------------------------------------------------------------------------------------------------------------


class Known:
    """One key of the file, ready to be asked for."""

    __slots__ = ("accepted", "digest", "expires", "refused", "revoked", "salt")

    def __init__(self, entry: Entry, auth: str, roles: frozenset[str]) -> None:
        _, salt, digest = entry.hash.split(":")
        self.salt, self.digest = bytes.fromhex(salt), bytes.fromhex(digest)
        self.expires = inf if entry.expires is None else entry.expires.timestamp()
        self.revoked = entry.revoked is not None
        self.accepted = Accepted(Principal(entry.name, auth, roles.union(entry.roles), key=entry.id), self.expires)
        self.refused = replace(REVOKED if self.revoked else EXPIRED, principal=self.accepted.principal)  # the log says whose it was


class ApiKeys:
    """The keys of one file. Raises StartError where the file cannot be used at the start."""

    __slots__ = ("_fields", "_file", "_known", "_roles", "_stamp", "name")

    def __init__(self, name: str, auth: Auth) -> None:
        assert auth.file is not None, "config/check refuses it"
        self.name = name
        self._file = auth.file
        self._fields = frozenset(header.lower().encode() for header in auth.headers)
        self._roles = frozenset(auth.roles)
        self._known: dict[bytes, Known] = {}
        self._stamp: files.Stamp | None = None
        if said := self.reload():
            raise StartError(said)

    def judge(self, credential: Credential, now: float, payer: Payer | None = None) -> Judgement:
        """Whose key is this? Costs 1 to 2 µs, once per distinct head."""
        if credential.field not in self._fields:
            return None
        value = credential.value
        if credential.scheme == "bearer" and not value.startswith(PREFIX):
            return None  # a token of somebody else
        found = _key(value)
        known = self._known.get(found[1], NOBODY) if found is not None else NOBODY
        if not compare_digest(sha256(known.salt + value).digest(), known.digest) or known is NOBODY:
            return UNKNOWN
        return known.accepted if now < known.expires and not known.revoked else known.refused

    def changed(self) -> bool:
        """Is the file another one than was read last? One stat: cheap enough for every second."""
        return files.stamp(self._file) != self._stamp

    def reload(self) -> str:
        """Read the file (again). Why it cannot be used, in words, or nothing: rule 4. It is said once per change, see `changed`.

        Ten thousand keys take 0.1 s. A thread may do it: who judges meanwhile has all the old keys, afterwards all the new ones.
        """
        read = files.keys(self._file)
        self._stamp = read.stamp
        if read.said:
            return f"{self._file}: {read.said}"
        self._known = {entry.id.encode(): Known(entry, self.name, self._roles) for entry in read.entries}
        return ""


NOBODY = Known(
    Entry(id="0" * ID, name="nobody", created=datetime.fromtimestamp(0, UTC), hash=f"sha256:{'0' * 2 * SALT}:{'0' * 64}"),
    "",
    frozenset(),
)  # whose secret nobody knows: rule 2
