r"""What stands in a lock file: what operators have approved of what servers say about themselves (`[upstream.NAME] lock`).

    {"version": 1, "upstreams": {"files": {"tools": {"read_file": {"hash": "sha256:…", "is": {…}}}, "prompts": {}, "resourceTemplates": {}}}}

 1. An entry is the whole of what a server says of a tool, a prompt or a resource template: description, schemas, annotations, title. `hash` is that of its
    canonical JSON: the order of keys and the spaces between them never matter, every value does. The names are what is there, no more and no less.
 2. It is made to be read and committed: sorted, a value a line, and characters that nobody sees are written as \uXXXX.
 3. An entry whose hash is not its own makes the whole file unusable: what was approved must be what stands there.

gateway/warden compares servers with it, cli/lock shows the difference and writes it.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from mcpproxy.config.mistakes import Finding
from mcpproxy.config.model import Config

LARGEST = 64 << 20  # bytes of a file
KINDS = ("tools", "prompts", "resourceTemplates")
VERSION = 1
TWICE = "\0twice"  # stands for an object in which a key comes twice: readers differ about what that means

Kinds = Mapping[str, Mapping[str, Any]]  # kind → name → entry


class Broken(ValueError):
    """The file cannot be used; says what is wrong with it."""


def canonical(value: object) -> bytes:
    """The one way to write plain JSON: keys sorted, no spaces, ASCII. Raises ValueError for what JSON cannot hold."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def entry(raw: bytes) -> object:
    """Plain values of what a server said. What readers could understand in different ways is told apart from everything else."""
    try:
        found: object = json.loads(raw, object_pairs_hook=_object, parse_int=_int)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else {TWICE: [list(pair) for pair in pairs]}


def _int(digits: str) -> int:
    found = int(digits)
    if not -(2**63) <= found < 2**64:
        raise ValueError("no number of 64 bits")
    return found


def is_plain(value: object) -> bool:
    """Is it what a list may have, and no stand-in of ours?"""
    return isinstance(value, dict) and b'"\\u0000twice":' not in canonical(value)


def digest(value: object) -> str:
    """`sha256:…` of its canonical JSON."""
    return f"sha256:{sha256(canonical(value)).hexdigest()}"


def parse(text: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Upstream → kind → name → entry. Raises Broken."""
    if len(text) > LARGEST:
        raise Broken(f"is larger than {LARGEST >> 20} MiB")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken(f"is not JSON: {error}") from None
    if not isinstance(whole, dict) or whole.get("version") != VERSION or not isinstance(whole.get("upstreams"), dict):
        raise Broken(f"is no lock file of version {VERSION}; `mcpproxy lock` writes one")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for upstream, kinds in whole["upstreams"].items():
        if not isinstance(kinds, dict) or set(kinds) - set(KINDS):
            raise Broken(f"{upstream}: there are {', '.join(KINDS)}, and nothing else")
        found[upstream] = {kind: _entries(f"{upstream}: {kind}", kinds.get(kind, {})) for kind in KINDS}
    return found


def _entries(place: str, given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Broken(f"{place}: is no table of entries")
    found: dict[str, Any] = {}
    for name, each in given.items():
        if not isinstance(each, dict) or set(each) != {"hash", "is"}:
            raise Broken(f"{place}: {shown(name)}: an entry has `hash` and `is`")
        try:
            own = digest(each["is"])
        except (ValueError, RecursionError):
            own = ""
        if own != each["hash"]:
            raise Broken(f"{place}: {shown(name)}: the hash is not that of the entry: somebody has changed one of the two")
        found[name] = each["is"]
    return found


def render(upstreams: Mapping[str, Kinds]) -> str:
    """What parse() reads as `upstreams`."""
    whole = {
        "version": VERSION,
        "upstreams": {
            name: {kind: {own: {"hash": digest(each), "is": each} for own, each in kinds.get(kind, {}).items()} for kind in KINDS}
            for name, kinds in upstreams.items()
        },
    }
    return pretty(whole) + "\n"


def pretty(value: object) -> str:
    """JSON for people: sorted, and nothing in it that they cannot see."""
    return visible(json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=2))


def visible(text: str) -> str:
    r"""With characters that nobody sees, or that move others, as \uXXXX; line ends stay."""
    return text if text.isascii() and text.isprintable() else "".join(each if _is_seen(each) else _escaped(each) for each in text)


def shown(text: str) -> str:
    """A name in a message: on one line, not too long, nothing invisible."""
    return visible(text.replace("\n", "\\n"))[:200]


def _is_seen(character: str) -> bool:
    if character == "\n" or " " <= character < "\x7f":
        return True
    return unicodedata.category(character) not in UNSEEN and not is_variation(character) and character not in BLANK


# Controls, formats (zero width, direction, tags), surrogates, private and unassigned ones, separators other than the space.
UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"))
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that have no shape


def is_variation(character: str) -> bool:
    """A variation selector: it shows nothing, and 256 of them are enough to hide a text."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef" or "\u180b" <= character <= "\u180f"


def _escaped(character: str) -> str:
    return json.dumps(character, ensure_ascii=True)[1:-1] if character != "\x7f" else "\\u007f"


# -- differences --


def differences(locked: Kinds, there: Kinds) -> list[tuple[str, str, str]]:
    """(what happened, kind, name): `new`, `changed` or `gone`, in the order of kinds and names."""
    found = []
    for kind in KINDS:
        old, new = locked.get(kind, {}), there.get(kind, {})
        for name in sorted({*old, *new}):
            what = "new" if name not in old else "gone" if name not in new else "" if digest(old[name]) == digest(new[name]) else "changed"
            if what:
                found.append((what, kind, name))
    return found


def taken(locked: Kinds, there: Kinds, chosen: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """What is locked, with these entries (kind, name) as they are there now, or without those that are gone."""
    found = {kind: dict(locked.get(kind, {})) for kind in KINDS}
    for kind, name in chosen:
        now = there.get(kind, {})
        if name in now:
            found[kind][name] = now[name]
        else:
            found[kind].pop(name, None)
    return found


# -- the file --


def load(file: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What is in the file. Raises Broken, OSError."""
    with open(file, "rb") as stream:
        data = stream.read(LARGEST + 1)
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise Broken("is not UTF-8") from None


def write(file: str, upstreams: Mapping[str, Kinds]) -> None:
    """Whole, or not at all; who reads it never sees half of it. Raises OSError."""
    place = Path(os.path.realpath(file))
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    mode = place.stat().st_mode & 0o7777 if place.exists() else 0o644
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(render(upstreams))
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(beside, place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def broken(config: Config) -> Iterator[Finding]:
    """Files that cannot be used. One that is not there yet is no mistake: the running daemon is asked for what goes into it."""
    for name, upstream in config.upstream.items():
        try:
            if upstream.lock is not None:
                load(upstream.lock)
        except FileNotFoundError:
            continue
        except (OSError, Broken) as error:
            said = error.strerror if isinstance(error, OSError) else error
            yield Finding(("upstream", name, "lock"), f"{upstream.lock}: {said}")


def unwise(config: Config) -> Iterator[Finding]:
    """Servers of which nothing is approved."""
    for name, upstream in config.upstream.items():
        if upstream.lock is not None:
            with suppress(OSError, Broken):
                if os.path.exists(upstream.lock) and name in load(upstream.lock):
                    continue
                said = "nothing of it is callable" if upstream.drift != "log" else "all of it counts as new"
                yield Finding(("upstream", name, "lock"), f"{upstream.lock}: has nothing of {name} yet, so {said}: mcpproxy lock {name}")
