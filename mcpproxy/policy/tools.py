"""HOT. May this caller make this call? The rules of a route ([route.tools]), compiled.

    Rules ──seen by a caller──▶ View ──judge(call)──▶ Verdict

`deny` goes before `allow`, and what no `allow` fits is denied. What only keeps the conversation going (PLUMBING, notifications, the client's answers)
is allowed unless a `deny` names it; a method nobody here knows is a call like any other, so it is denied unless it is allowed.

A View is made once per caller: it holds the rules that fit who it is. For a method and a name it works out once which of them are left, so that a call
costs one look-up; only rules about arguments are asked each time. Names that careless servers may take for others (another Unicode form, control
characters, spaces around, `..` in a URI) are refused before any rule is asked, and a URI is judged as it is written and as it is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from unicodedata import category, combining, normalize
from urllib.parse import unquote

from mcpproxy.config.policies import Rule, Tools
from mcpproxy.mcp.call import NAMED_BY, Call
from mcpproxy.mcp.jsonrpc import Words, fold
from mcpproxy.policy.arguments import Constraints
from mcpproxy.policy.globs import Matcher, glob, globs
from mcpproxy.policy.hints import Hints
from mcpproxy.policy.verdict import Principal

PLUMBING = frozenset(
    {
        "",  # the client's answers
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/unsubscribe",
        "subscriptions/listen",  # the resources and tasks it names are calls of their own
        "logging/setLevel",
    }
)
CALLS = frozenset({*NAMED_BY, "completion/complete", "tasks/list"}) - PLUMBING
METHODS = {fold(method): method for method in PLUMBING | CALLS}
VIEWS = 1024  # callers remembered; then they are worked out again
NAMES = 1024  # methods and names remembered for each caller
Who = Callable[[Principal | None], bool]
LONGEST = 4096  # characters of a name; a longer one is refused
MARKS = 30  # combining characters in a row (UAX #15 §13); ordering more of them takes the square of their number
LONG = 256  # characters of a name; a longer one is not remembered
is_steering = re.compile(r"[\x00-\x1f\x7f]").search
scheme_and_host = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://[^/?#]*)?").match


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rule` names what decided: `route[0].tools.deny[1]`, or `route[0].tools` where no rule did. `reason` is a slug of http/replies; empty: allowed."""

    allowed: bool
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Miss:
    """An `allow` that nearly fits a call: what of it does not, by its keys: `who`, `methods`, `tools`, `args.path`, `args.path.inside`."""

    rule: str
    keys: tuple[str, ...]


class Needs(Enum):
    """What of a request a View must see."""

    NOTHING = "nothing"
    HEADERS = "headers"  # of requests whose head mirrors the call (mcp/mirror); of others the body
    BODY = "body"


class _Rule:
    """One rule, compiled."""

    __slots__ = ("_methods", "_names", "_who", "arguments", "everything", "place", "verdict")

    def __init__(self, rule: Rule, verdict: Verdict) -> None:
        self.verdict = verdict
        self._who = [_who(each) for each in rule.who]
        self._methods: Matcher = globs(rule.methods)
        self._names: Matcher | None = None if "*" in rule.tools else globs(rule.tools)
        self.arguments = Constraints(rule.args) if rule.args else None
        self.everything = "*" in rule.methods and self._names is None and self.arguments is None

    def concerns(self, principal: Principal | None) -> bool:
        return any(fits(principal) for fits in self._who)

    def fits(self, method: str, name: str | None) -> bool:
        """All but the arguments."""
        return self._methods(method) and (self._names is None or (name is not None and self._names(name)))

    def misses(self, principal: Principal | None, call: Call, forms: Sequence[str | None]) -> tuple[str, ...]:
        """The keys of this rule that do not fit the call. Raises CallError."""
        keys: tuple[str, ...] = () if self.concerns(principal) else ("who",)
        if not self._methods(call.method):
            keys += ("methods",)
        if self._names is not None and not all(name is not None and self._names(name) for name in forms):
            keys += ("tools",)
        found = self.arguments.failing(call.arguments(Words(*self.arguments.names))) if self.arguments is not None else ""
        return (*keys, f"args.{found}") if found else keys


class _Case:
    """What is left to ask about one method and name: rules about arguments, in their order, and what holds if none of them fits."""

    __slots__ = ("_allow", "_deny", "_otherwise", "_words")

    def __init__(self, deny: list[_Rule], allow: list[_Rule], otherwise: Verdict) -> None:
        self._deny, self._allow, self._otherwise = deny, allow, otherwise
        self._words = Words(*{name for rule in (*deny, *allow) if rule.arguments for name in rule.arguments.names})

    def settled(self) -> Verdict | None:
        """The verdict, if it does not depend on arguments."""
        return None if self._deny or self._allow else self._otherwise

    @property
    def open(self) -> bool:
        """Are there arguments that are allowed?"""
        return self._otherwise.allowed or bool(self._allow)

    def judge(self, call: Call) -> Verdict:
        arguments = call.arguments(self._words)
        for rule in self._deny:
            if rule.arguments is None or rule.arguments.hold(arguments) is not False:
                return rule.verdict
        for rule in self._allow:
            if rule.arguments is None or rule.arguments.hold(arguments) is True:
                return rule.verdict
        return self._otherwise


class View:
    """The rules as one caller meets them."""

    __slots__ = ("_allow", "_cases", "_deny", "_hints", "_place", "needs", "shadow")

    def __init__(self, tools: Tools, place: str, deny: list[_Rule], allow: list[_Rule], hints: Hints | None) -> None:
        self._deny, self._allow, self._place, self._hints = deny, allow, place, hints
        self._cases: dict[tuple[str, str | None], Verdict | tuple[_Case, ...]] = {}
        self.shadow = tools.shadow
        if not deny and hints is None and any(rule.everything for rule in allow):
            self.needs = Needs.NOTHING
        elif tools.trust_headers and not any(rule.arguments for rule in (*deny, *allow)):
            self.needs = Needs.HEADERS
        else:
            self.needs = Needs.BODY

    def judge(self, call: Call) -> Verdict:
        """May the caller make this call? Raises CallError where a rule asks for arguments that two parsers may read differently."""
        found = self._cases.get((call.method, call.name))
        if found is None:
            found = self._learn(call.method, call.name)
        if isinstance(found, Verdict):
            verdict = found
        else:
            for case in found:
                verdict = case.judge(call)
                if not verdict.allowed:
                    return verdict
        if self._hints is not None and verdict.allowed and call.method == "tools/call":
            return self._read_only(call, verdict)
        return verdict

    def shows(self, method: str, name: str) -> bool:
        """Is there anything to call by this name, with some arguments? What is said of itself (`read_only`) is not asked."""
        found = self._cases.get((method, name)) or self._learn(method, name)
        return found.allowed if isinstance(found, Verdict) else all(case.open for case in found)

    def judge_all(self, calls: tuple[Call, ...]) -> Verdict:
        """Of a body: the first call that is denied, or the last one."""
        for call in calls:
            verdict = self.judge(call)
            if not verdict.allowed:
                return verdict
        return verdict

    def _read_only(self, call: Call, verdict: Verdict) -> Verdict:
        assert self._hints is not None
        says = self._hints.read_only(call.name or "")
        if says:
            return verdict
        return Verdict(False, f"{self._place}.read_only", "tool-not-listed" if says is None else "tool-not-read-only")

    def _learn(self, method: str, name: str | None) -> Verdict | tuple[_Case, ...]:
        """Work out what is left to ask, and remember it."""
        found: Verdict | tuple[_Case, ...]
        meant = None if name is None or is_odd(name) else _meant(method, name)
        if _is_odd_method(method) or (meant is None and name is not None):
            found = Verdict(False, self._place, "odd-name")
        else:
            cases = [self._case(method, form) for form in ((name,) if meant == name else (name, meant))]
            settled = [verdict for case in cases if (verdict := case.settled()) is not None]
            denied = next((verdict for verdict in settled if not verdict.allowed), None)
            found = denied or (settled[0] if len(settled) == len(cases) else tuple(cases))
        if name is None or len(name) <= LONG:
            if len(self._cases) >= NAMES:
                self._cases.clear()
            self._cases[method, name] = found
        return found

    def _case(self, method: str, name: str | None) -> _Case:
        deny = _until_certain([rule for rule in self._deny if rule.fits(method, name)])
        if deny and deny[-1].arguments is None and len(deny) == 1:
            return _Case([], [], deny[0].verdict)
        if method in PLUMBING or method.startswith("notifications/"):
            return _Case(deny, [], Verdict(True, self._place))
        allow = _until_certain([rule for rule in self._allow if rule.fits(method, name)])
        if allow and len(allow) == 1 and allow[0].arguments is None:
            return _Case(deny, [], allow[0].verdict)
        return _Case(deny, allow, Verdict(False, self._place, "call-not-allowed"))


class Rules:
    """Of one route. `place` is its name in the configuration (`route[0]`); `hints` are those of its upstream."""

    __slots__ = ("_allow", "_deny", "_hints", "_place", "_tools", "_views", "shadow")

    def __init__(self, tools: Tools, place: str, hints: Hints | None = None) -> None:
        self._tools, self.shadow = tools, tools.shadow
        self._place = f"{place}.tools"
        self._hints = (hints or Hints()) if tools.read_only else None
        self._deny = [_Rule(rule, Verdict(False, f"{self._place}.deny[{n}]", "call-denied")) for n, rule in enumerate(tools.deny)]
        self._allow = [_Rule(rule, Verdict(True, f"{self._place}.allow[{n}]")) for n, rule in enumerate(tools.allow)]
        self._views: dict[Principal | None, View] = {}

    def seen_by(self, principal: Principal | None) -> View:
        """For a caller, or for those who are nobody."""
        view = self._views.get(principal)
        if view is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
            deny, allow = ([rule for rule in rules if rule.concerns(principal)] for rules in (self._deny, self._allow))
            view = self._views[principal] = View(self._tools, self._place, deny, allow, self._hints)
        return view

    def concerning(self, principal: Principal | None) -> int:
        """Which rules concern a caller, as the bits of a number: those of `deny`, then those of `allow`. For who must see as it sees, and does not know it."""
        return sum(1 << bit for bit, rule in enumerate((*self._deny, *self._allow)) if rule.concerns(principal))

    def seen_through(self, bits: int) -> View:
        """The reverse of `concerning`."""
        deny = [rule for bit, rule in enumerate(self._deny) if bits >> bit & 1]
        allow = [rule for bit, rule in enumerate(self._allow, len(self._deny)) if bits >> bit & 1]
        return View(self._tools, self._place, deny, allow, None)

    def judge(self, principal: Principal | None, call: Call) -> Verdict:
        """May `principal` make this call?"""
        return self.seen_by(principal).judge(call)

    def nearest(self, principal: Principal | None, call: Call) -> Miss | None:
        """The `allow` that comes nearest to a call that none of them allows; the first of several. For people. Raises CallError."""
        forms = (call.name,) if call.name is None else (call.name, _meant(call.method, call.name))
        found = [Miss(rule.verdict.rule, rule.misses(principal, call, forms)) for rule in self._allow]
        return min(found, key=lambda miss: len(miss.keys), default=None)


def is_odd(name: str) -> bool:
    """May a careless server take this name for another one, or a log for several lines?"""
    if len(name) > LONGEST:
        return True
    if name.isascii():
        return not name.isprintable() or name != name.strip()
    marks = 0
    for each in name:
        marks = marks + 1 if combining(each) else 0
        if marks > MARKS:
            return True
    return name != normalize("NFKC", name) or name != name.strip() or any(category(each) in ("Cc", "Cf", "Co", "Cs", "Cn") for each in name)


def _is_odd_method(method: str) -> bool:
    """Methods are plain words, and those known are written in one way."""
    return not method.isascii() or is_odd(method) or METHODS.get(fold(method), method) != method


def _meant(method: str, name: str) -> str | None:
    """A name as it is meant: of a URI scheme and host in lower case, nothing encoded. None: it leads elsewhere (`..`), or holds control characters."""
    if (NAMED_BY.get(method) != "uri" and method != "completion/complete") or (scheme := scheme_and_host(name)) is None:
        return name
    rest = name[scheme.end() :]
    for _ in range(3):  # encoded once, or again by a client that means well
        rest = unquote(rest)
    uri = scheme[0].lower() + rest
    segments = uri.replace("\\", "/").split("/")
    return None if "." in segments or ".." in segments or is_steering(uri) else uri


def _until_certain(rules: list[_Rule]) -> list[_Rule]:
    """Up to the first that fits whatever the arguments are."""
    for number, rule in enumerate(rules):
        if rule.arguments is None:
            return rules[: number + 1]
    return rules


def _who(entry: str) -> Who:
    """One word of `who`."""
    kind, colon, rest = entry.partition(":")
    if colon and kind in ("role", "scope"):
        fits = glob(rest)
        if kind == "role":
            return lambda principal: principal is not None and any(fits(role) for role in principal.roles)
        return lambda principal: principal is not None and any(fits(scope) for scope in principal.scopes)
    if entry == "*":
        return lambda principal: True
    fits = glob(entry)
    return lambda principal: principal is not None and fits(principal.name)
