"""Is what a server says about itself what was approved? What is not is not believed, and looked at for what people do not see (suspicion).

    list ──▶ guarded ──each entry──▶ Warden.judge ──▶ as it is, as it was approved, or not at all
    call ──▶ guarded ──not approved──▶ Warden.refusal

Entries are judged by the server's own names and whole (config/lockfile), before hubs rename or describe them: one judgement for bridges, hubs and searches.
It reads the file again when it changes, and hears what the server says before hubs do: what changed has to be looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mcpproxy.clock import monotonic
from mcpproxy.config import files, lockfile
from mcpproxy.config.gateway import Watched
from mcpproxy.gateway.catalog import Say
from mcpproxy.gateway.parts import NOT_APPROVED, Answer, Client, Hearer
from mcpproxy.gateway.suspicion import findings, skeleton
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.merge import PROMPTS, TEMPLATES, TOOLS, Item, Kind
from mcpproxy.mcp.message import Params

DRIFT, SUSPICIOUS = "drift", "suspicious"
LOCKED = (TOOLS, PROMPTS, TEMPLATES)
JUDGED = 8192  # entries whose judgement is remembered
SAID = 10_000  # messages that are not said again
LOOK_S = 1.0  # seconds between two looks whether the file is another one


@dataclass(slots=True)
class Judgement:
    """What is wrong with an entry, for a message and for who calls it; nothing: "". `shown`: the entry as clients see it; None: they do not."""

    why: str = ""
    shown: bytes | None = None
    reason: str = DRIFT


class Warden(Hearer):
    """Of one member. Hears what the member says before hubs do (`hearer`): what changed has to be looked at again."""

    def __init__(self, name: str, hearer: Hearer, say: Say) -> None:
        self.name, self._hearer, self._say = name, hearer, say
        self._file, self.drift, self.suspicious = "", "log", "off"
        self._locked: Mapping[str, Mapping[str, str]] | None = None  # kind → name → hash; None: nothing is compared
        self._entries: lockfile.Kinds = {}
        self._stamp: files.Stamp | None = None
        self._look = 0.0
        self._said: set[tuple[str, ...]] = set()
        self._judged: dict[tuple[str, bytes, str], Judgement] = {}
        self._wrong: dict[tuple[str, str], Judgement] = {}  # (kind, name) → what is wrong with it, of those seen last
        self.turn = 0
        self.most: int | None = None  # bytes of a result
        self.refused: Counter[str] = Counter()  # calls, by reason

    # -- the lock file --

    def become(self, settings: Watched) -> None:
        """What the configuration says."""
        self.most = settings.max_result
        given = settings.lock or "", settings.drift, settings.suspicious
        if given == (self._file, self.drift, self.suspicious):
            return
        self._file, self.drift, self.suspicious = given
        self._again()

    def tick(self) -> None:
        """Has somebody approved anything?"""
        now = monotonic()
        if self._file and now - self._look >= LOOK_S:
            self._look = now
            if files.stamp(self._file) != self._stamp:
                self._again()

    def _again(self) -> None:
        """Clients' lists may be others now."""
        self._read()
        for kind in LOCKED:
            self._hearer.heard(self.name, None, kind.changed, {})

    def _read(self) -> None:
        self._stamp = files.stamp(self._file) if self._file else None
        self._judged.clear()
        self._wrong.clear()
        self.turn += 1
        if not self._file:
            self._locked, self._entries = None, {}
            return
        try:
            self._entries = lockfile.load(self._file).get(self.name, {})
        except FileNotFoundError:
            self._entries = {}
            self._say("warning", f"{self.name}: there is no lock file {self._file} yet: mcpproxy lock {self.name}")
        except (OSError, lockfile.Broken) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            known = "what was read before is in force" if self._locked is not None else "nothing is approved"
            self._say("error", f"{self.name}: {self._file}: {said}; {known}")
            if self._locked is not None:
                return
        self._locked = {kind: {name: lockfile.digest(each) for name, each in found.items()} for kind, found in self._entries.items()}

    @property
    def looks(self) -> bool:
        """Is there anything to be held against what the server says?"""
        return self._locked is not None or self.suspicious != "off"

    @property
    def refuses(self) -> bool:
        """May a call be refused?"""
        return self.suspicious == "hide" or (self._locked is not None and self.drift != "log")

    # -- judgements --

    def judge(self, kind: Kind, item: Item, near: Mapping[str, str]) -> Judgement:
        """One entry of a list. `near`: the other names of that list (suspicion.neighbours)."""
        twin = near.get(skeleton(item.own), item.own)
        key = kind.member, item.raw, twin
        found = self._judged.get(key)
        if found is None:
            if len(self._judged) >= JUDGED:
                self._judged.clear()
            found = self._judged[key] = self._judgement(kind, item, twin)
        if found.why:
            self._wrong[kind.member, item.own] = found
        else:
            self._wrong.pop((kind.member, item.own), None)
        return found

    def _judgement(self, kind: Kind, item: Item, twin: str) -> Judgement:
        entry = lockfile.entry(item.raw)
        if self._locked is None:
            return self._suspected(kind, item, entry, twin) or Judgement("", item.raw)
        locked = self._locked.get(kind.member, {}).get(item.own)
        there = lockfile.digest(entry)
        if locked == there:
            return Judgement("", item.raw)
        suspected = self._suspected(kind, item, entry, twin)
        why = self.unlocked() if locked is None else "is not as it was approved"
        hint = {"log": "", "hide": ": it is hidden", "block": ": calls are refused"}[self.drift]
        self._warn(kind, item.own, why, f"{hint} (mcpproxy lock {self.name} shows the difference)", there)
        if self.drift == "log":
            return suspected if suspected is not None and suspected.shown is None else Judgement(why, item.raw)
        known = self._entries.get(kind.member, {}).get(item.own)
        return Judgement(why, message.encode(known) if self.drift == "block" and lockfile.is_plain(known) else None)

    def _suspected(self, kind: Kind, item: Item, entry: object, twin: str) -> Judgement | None:
        if self.suspicious == "off":
            return None
        found = findings(item.own, entry, twin)
        if not found:
            return None
        why = "; ".join(f"{each.place} {each.what}" for each in found[:5])
        hidden = self.suspicious == "hide"
        self._warn(kind, item.own, f"is suspicious: {why}", ": it is hidden" if hidden else "", lockfile.digest(entry))
        return Judgement(f"is suspicious: {why}", None if hidden else item.raw, SUSPICIOUS)

    def unlocked(self) -> str:
        """Why what is not in the file is none of ours."""
        return "is not in the lock file"

    def gone(self, kind: Kind, names: set[str]) -> None:
        """A whole list was seen: what was approved and is not there any more?"""
        for name in (self._locked or {}).get(kind.member, {}):
            if name not in names:
                self._warn(
                    kind, name, "is in the lock file, but not offered any more", f" (mcpproxy lock {self.name} shows the difference)", ""
                )

    def _warn(self, kind: Kind, own: str, why: str, hint: str, which: str) -> None:
        said = (kind.member, own, why, which)
        if said not in self._said and len(self._said) < SAID:
            self._said.add(said)
            self._say("warning", f"{self.name}: {_word(kind)} {lockfile.shown(own)} {why}{hint}")

    def locked(self, kind: Kind, own: str) -> bool:
        """Is there anything of this name in the file?"""
        return self._locked is None or own in self._locked.get(kind.member, {})

    def refusal(self, kind: Kind, own: str, bad: Judgement) -> Answer | None:
        """What a call is answered; None: it may be made."""
        if bad.reason == SUSPICIOUS and self.suspicious != "hide":
            return None
        if bad.reason == DRIFT and self.drift == "log":
            return None
        self.refused[bad.reason] += 1
        if bad.reason == SUSPICIOUS or self.drift == "hide":
            return Answer.failure(INVALID_PARAMS, f"Unknown {_word(kind)}: {own[:200]}")
        said = f"{_word(kind)} {own[:200]} of {self.name} {bad.why}: calls are refused until an operator approves it"
        return Answer.failure(NOT_APPROVED, said, {"reason": bad.reason})

    def state(self) -> dict[str, object]:
        """For operators."""
        wrong = {
            f"{kind}/{lockfile.shown(name)}": bad.why for (kind, name), bad in sorted(self._wrong.items(), key=lambda each: each[0])[:100]
        }
        counted = Counter(bad.reason for bad in self._wrong.values())
        return {DRIFT: counted[DRIFT], SUSPICIOUS: counted[SUSPICIOUS], "not_approved": wrong, "refused": dict(self.refused)}

    # -- Hearer --

    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        """See Hearer."""
        if any(method == kind.changed for kind in LOCKED):
            self.turn += 1
        self._hearer.heard(member, client, method, params)

    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        """See Hearer."""
        return await self._hearer.asked(member, client, method, params)

    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        """See Hearer."""
        self.turn += 1
        self._hearer.changed(member, available=available, client=client)


def _word(kind: Kind) -> str:
    return {TOOLS: "tool", PROMPTS: "prompt", TEMPLATES: "resource template"}[kind]
