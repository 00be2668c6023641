"""What stands in a file of API keys: one JSON object per line.

    {"id":"7h3kq9x2ab","name":"agent-alpha","roles":["ops"],"created":"2026-11-21T16:40:00Z","expires":"2027-02-19T16:40:00Z","hash":"sha256:SALT:DIGEST"}

 1. A key itself is never here, only its salted hash (docs/decisions tell which and why); an id names a key in lists and logs.
 2. What is not understood makes the whole file unusable: a line that was left out could be the one that revokes.
 3. What is said about a bad line repeats nothing of it: somebody may have put a key there.

Bytes in, bytes out; the disk is the business of config/files (is it fit?), policy/apikey (who is it?) and policy/keyring (change it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

LARGEST = 8 << 20  # bytes: some thirty thousand keys, read in a tenth of a second; a mistaken path to a log is refused before it is read
WORD = r"(?!mcpp_)[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"  # of names and roles: what a log shows as it is and no rule takes for a pattern; and no key
ID = r"[0-9a-z]{10}"
is_word = re.compile(WORD).fullmatch

Moment = Annotated[datetime, Meta(tz=True)]


class Broken(ValueError):
    """The file cannot be used; says the line and what is wrong with it."""


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, as much of it as is kept."""

    id: Annotated[str, Meta(pattern=f"^{ID}\\Z")]
    name: Annotated[str, Meta(pattern=f"^{WORD}\\Z")]  # of the caller
    roles: tuple[Annotated[str, Meta(pattern=f"^{WORD}\\Z")], ...] = ()
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{32}:[0-9a-f]{64}\Z")]  # of salt and key

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`, at `now` (Unix seconds)."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires.timestamp() <= now else "active"


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


def parse(data: bytes) -> tuple[Entry, ...]:
    """Every key of a file, in its order. Raises Broken."""
    if len(data) > LARGEST:
        raise Broken(f"is larger than {LARGEST >> 20} MiB: no file of keys")
    found: dict[str, Entry] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Broken(f"line {number}: {_said(error)}") from None
        if entry.id in found:
            raise Broken(f"line {number}: the id of another line")
        found[entry.id] = entry
    return tuple(found.values())


def render(entries: Iterable[Entry]) -> bytes:
    """What parse() reads as `entries`."""
    return b"".join(_encode(entry) + b"\n" for entry in entries)


_path = re.compile(r" - at `\$\.(id|name|roles|created|expires|revoked|hash)\b").search


def _said(error: Exception) -> str:
    """Rule 3."""
    if not isinstance(error, msgspec.ValidationError):
        return "not a JSON object"
    where = _path(str(error))
    if where is not None:
        return f"`{where[1]}` is not as `mcpproxy key` writes it"
    missing = re.search(r"missing required field `(id|name|created|hash)`", str(error))
    return f"`{missing[1]}` is missing" if missing else "not a key as `mcpproxy key` writes it"
