"""What a reader found: listeners, upstreams and routes in the words of our configuration, variables to set, and notes about what has no equivalent.

A reader takes a text and returns one Found; it asks no disk and no network. Keys of a table are those of docs/config.md, values are what TOML has. Names become
valid and unique when they are added, so readers can use them at once. No secret is put into any part of it: `migrate/hidden` gives the references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mcpproxy.config import names
from mcpproxy.config.mistakes import Wrong

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]
Keys = dict[str, Value]
SHOWN = 120  # characters of a name of theirs that are repeated in a note
FALLBACK = "127.0.0.1:8443"


class Unusable(Exception):
    """The text is not of its format at all. The message is a sentence for the operator, without anything of the text that may be a secret."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something without equivalent: where in the source, and what about it."""

    place: str
    text: str


@dataclass(slots=True)
class Part:
    """An upstream or a route: its keys, and remarks that stand above it."""

    keys: Keys = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    name: str = ""
    alone: bool = False  # cannot be a member of another one


@dataclass(slots=True)
class Listener:
    """An address, and what several sites of the source may say about it together."""

    address: str
    certificates: list[Keys] = field(default_factory=list)  # cert and key, or hosts
    tls: Keys = field(default_factory=dict)
    keys: Keys = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    dev: bool = False
    redirect: bool = False
    used: bool = False  # something is served there, so it cannot only redirect

    def rendered(self) -> Keys:
        """Its keys in our configuration."""
        keys: Keys = {"address": self.address, **self.keys}
        files = [each for each in self.certificates if "cert" in each]
        hosts = [each for each in self.certificates if "hosts" in each]
        if not self.certificates:
            if self.dev:
                keys["tls"] = self.tls or "dev"
            elif self.redirect and not self.used:
                keys["redirect"] = "https"
            return keys
        ordered = files + hosts if self.tls.get("acme") else files
        tls: Keys = dict(ordered[0]) if len(ordered) == 1 else {"certificates": ordered}
        keys["tls"] = {**tls, **self.tls}
        return keys


class Found:
    """The whole of it. `source` is what the text was taken for."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.top: Keys = {}
        self.listeners: dict[str, Listener] = {}
        self.upstreams: list[Part] = []
        self.routes: list[Part] = []
        self.auth: dict[str, Keys] = {}
        self.notes: list[Note] = []
        self.variables: dict[str, str] = {}  # name: what it is for
        self._noted: set[Note] = set()
        self._called: dict[str, int] = {}  # names of upstreams, and the last number that was put behind each
        self._at: dict[tuple[str, bytes], Part] = {}  # routes by host and path

    def note(self, place: str, text: str) -> None:
        """Once for each place and text."""
        note = Note(shown(place), printable(text))
        if note not in self._noted:
            self._noted.add(note)
            self.notes.append(note)

    def listener(self, address: str) -> Listener:
        """The one at this address; made when it is not there."""
        return self.listeners.setdefault(address, Listener(address))

    def upstream(self, wanted: str, place: str, keys: Keys) -> Part:
        """A new one, called as it was, or as nearly as our syntax and the others allow."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:60].rstrip("-._") or "server"
        name = plain
        while name in self._called:
            number = self._called[plain] = self._called[plain] + 1
            name = f"{plain[:50]}-{number}"
        self._called[name] = 1
        if name != wanted:
            self.note(place, f'called "{name}" here: ' + ("the name is taken" if plain == wanted else "names have letters, digits, . _ -"))
        part = Part(keys, [], name)
        self.upstreams.append(part)
        return part

    def shared(self, wanted: str, place: str, keys: Keys) -> Part:
        """One that says just this, if it is there already under such a name; else a new one. Differences of one group of servers are other upstreams."""
        for part in self.upstreams:
            if part.keys == keys and re.fullmatch(re.escape(wanted) + r"(-\d+)?", part.name):
                return part
        name, number = wanted, 2
        while name in self._called:
            name, number = f"{wanted}-{number}", number + 1
        return self.upstream(name, place, keys)

    def route(self, place: str, keys: Keys) -> Part | None:
        """A route, unless its host and path have one: then a note, where that one says something else."""
        path = str(keys.get("path", "/"))
        given = keys.get("host", [])
        hosts = [given] if isinstance(given, str) else [str(each) for each in given] if isinstance(given, list | tuple) else []
        key = names.generous_path(path.encode())
        free = [host for host in hosts or [""] if (host, key) not in self._at]
        if not free:
            if self._at[(hosts or [""])[0], key].keys != keys:
                self.note(place, f"{path} has a route already, which is kept; this one is left out")
            return None
        if hosts:
            keys["host"] = free if len(free) > 1 else free[0]
        part = Part(keys)
        self.routes.append(part)
        self._at |= {(host, key): part for host in free}
        return part

    def ask_for_key(self, place: str) -> str:
        """The name of our API keys, for a route whose source asked for a credential: nobody comes in until a key is added."""
        self.auth.setdefault("keys", {"type": "api-key", "file": "keys.jsonl"})
        self.note(place, 'who may come in is told by keys of ours: mcpproxy key add NAME -c FILE, and auth = "keys" stands in the route')
        return "keys"

    def variable(self, owner: str, key: str, about: str) -> str:
        """A reference for a secret of `owner`, to be set by the operator."""
        first, rest = _upper(owner), _upper(key)
        base = rest if rest.startswith(f"{first}_") and first else f"{first}_{rest}".strip("_")
        base = (base if base[:1].isalpha() else f"V_{base}")[:100]
        name, number = base, 2
        while self.variables.get(name, about) != about:
            name, number = f"{base}_{number}", number + 1
        self.variables[name] = about
        return f"env:{name}"

    def expansion(self, name: str, about: str) -> str:
        """A reference for what was a variable in the source, too; the same name wherever that is one."""
        name = name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name) else _upper(name)[:100] or "VALUE"
        name = name if not name[:1].isdigit() else f"V_{name}"
        told = self.variables.get(name)
        self.variables[name] = about if told is None or told == about else f"{told}; {about}" if about not in told else told
        return f"env:{name}"

    def settle(self) -> None:
        """What a file must have and the source did not say."""
        if self.routes and not any(not listener.redirect or listener.used for listener in self.listeners.values()):
            listener = self.listener(FALLBACK if FALLBACK not in self.listeners else "127.0.0.1:9443")
            listener.dev = listener.used = True
            listener.remarks.append("The source says no address: this machine only, with a development certificate (mcpproxy cert dev).")
        self._mixed()

    def _mixed(self) -> None:
        """What several sites say that one listener, or all of them, cannot."""
        serving = [listener for listener in self.listeners.values() if not listener.redirect or listener.used]
        doors = {(listener.address.rpartition(":")[2], listener.address.startswith(("127.", "[::1]", "unix:"))) for listener in serving}
        if len(doors) > 1:
            listed = ", ".join(listener.address for listener in serving)
            self.note(
                "", f"every route is served at every address ({listed}): give routes a host, or run two daemons, where that is not meant"
            )
        for listener in serving:
            if listener.redirect:
                self.note("", f"{listener.address} does not redirect to https: another site is served there in the clear")
            if listener.dev and listener.certificates:
                self.note("", f"{listener.address}: the names without a certificate of their own are answered with the first one")


def _upper(text: str) -> str:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^A-Za-z0-9]+", "_", apart).strip("_").upper()


def valid(syntax: Callable[[str], str], text: str) -> str | None:
    """The normal form, or nothing."""
    try:
        return syntax(text)
    except (Wrong, ValueError):
        return None


def shown(text: str) -> str:
    """Something of theirs, where a person reads it: one line of printable characters."""
    return printable(text[:SHOWN]) + "…" * (len(text) > SHOWN)


def printable(text: str) -> str:
    """With a sign for whatever could steer a terminal or end a line."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
