"""Config → Staffs: who knows callers, what is limited, what is written down. The policies' half of `assemble`, made once per process.

What can change while the daemon runs (key files, key sets, files with secrets) is asked about by `Offices.tick`; when a key was added or revoked, or what
a server is shown is another, every judgement that was made before is forgotten (`forget`), so that it counts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mcpproxy.clock import monotonic, unix
from mcpproxy.config.model import Config, Route, Upstream
from mcpproxy.config.policies import Auth
from mcpproxy.config.renewal import Secrets
from mcpproxy.config.secrets import references
from mcpproxy.edge.admission import Staff
from mcpproxy.edge.questions import Questions
from mcpproxy.edge.tracing import Tracer
from mcpproxy.errors import ProxyError
from mcpproxy.observe.audit import AuditLog
from mcpproxy.observe.messages import Messages
from mcpproxy.pki.store import Store
from mcpproxy.policy.apikey import ApiKeys
from mcpproxy.policy.buckets import Buckets
from mcpproxy.policy.certificate import Certificates
from mcpproxy.policy.failures import Failures
from mcpproxy.policy.hints import Hints
from mcpproxy.policy.identity import IdentityKey
from mcpproxy.policy.limits import compile_gates
from mcpproxy.policy.oauth import Tokens
from mcpproxy.policy.outbound import Outbound
from mcpproxy.policy.present import Look
from mcpproxy.policy.resource import public_urls
from mcpproxy.policy.seal import SealKeys
from mcpproxy.policy.tools import Rules
from mcpproxy.policy.verdict import Authenticator

COSTLY = ("jwt", "introspection")  # types of [auth.NAME] that must work, or ask, to refuse a credential
LOOK_S = 2.0  # seconds between two looks at what should be asked for ahead


@dataclass(slots=True)
class Offices:
    """What routes share."""

    config: Config
    questions: Questions
    messages: Messages
    audit: AuditLog | None = None
    forget: Callable[[], None] = lambda: None  # every judgement made so far
    keys: dict[str, ApiKeys] = field(default_factory=dict)
    certificates: dict[str, Certificates] = field(default_factory=dict)
    tokens: Tokens | None = None
    identity: IdentityKey | None = None
    seals: SealKeys | None = None  # of session ids
    tracer: Tracer | None = None
    hints: dict[str, Hints] = field(default_factory=dict)
    outbounds: dict[str, Outbound] = field(default_factory=dict)
    failures: Failures | None = None
    secrets: Secrets = field(default_factory=Secrets)
    buckets: Buckets = field(default_factory=Buckets)
    looked: float = 0.0

    def open(self, before: Offices | None = None) -> None:
        """Everything that reads files or the environment. Raises StartError. What is configured as it was `before` stays the very same: with its keys,
        the tokens it knows, what it has learned."""
        was = before.config if before is not None else None
        if before is not None:
            self.secrets, self.buckets = before.secrets, before.buckets
        for name, auth in self.config.auth.items():
            same = before if was is not None and was.auth.get(name) == auth else None
            if auth.type == "api-key":
                self.keys[name] = same.keys[name] if same is not None else ApiKeys(name, auth)
            elif auth.type == "mtls":
                self.certificates[name] = same.certificates[name] if same is not None else Certificates(name, auth)
        self.tokens = Tokens(self.config.auth, self.secrets, self.messages.say, before.tokens if before is not None else None)
        if self.config.otel is not None:
            known_tracer = before.tracer if before is not None else None
            self.tracer = known_tracer or Tracer(0.0)
            self.tracer.sample = self.config.otel.sample
        upstreams = self.config.upstream
        if any(upstream.identity is not None for upstream in upstreams.values()):
            known = before.identity if before is not None else None
            self.identity = known or IdentityKey.kept(Store(Path(self.config.state_dir)))
        if any(has_affinity(upstream) for upstream in upstreams.values()):
            given, state = self.config.affinity.key_file, self.config.state_dir
            if before is not None and was is not None and was.affinity.key_file == given and was.state_dir == state:
                self.seals = before.seals
            if self.seals is None:
                self.seals = SealKeys.given(given) if given is not None else SealKeys.kept(store := Store(Path(state)), str(store.path))
        for name, upstream in upstreams.items():
            same = before if was is not None and name in was.upstream and _same_server(was.upstream[name], upstream) else None
            self.hints[name] = same.hints[name] if same is not None else Hints()
            if upstream.credential is not None or upstream.identity is not None:
                made = same.outbounds[name] if same is not None else None
                self.outbounds[name] = made or Outbound(name, upstream, self.secrets, self.messages.say, self.identity)
        if any(auth.type in COSTLY for auth in self.config.auth.values()):
            rate = self.config.limits.failed_credentials
            if before is not None and was is not None and before.failures is not None and was.limits.failed_credentials == rate:
                self.failures = before.failures
            else:
                self.failures = Failures(rate, self.buckets)

    def authenticator(self, name: str, auth: Auth, route: Route) -> Authenticator:
        """One way to know callers, for tokens that are meant for this route."""
        if auth.type == "api-key":
            return self.keys[name]
        if auth.type == "mtls":
            return self.certificates[name]
        assert self.tokens is not None, "open comes first"
        found = self.tokens.authenticator(name, public_urls(route, self.config.listen))
        assert found is not None, "the rest knows tokens"
        return found

    def staff(self) -> list[Staff]:
        """For each route, in their order."""
        config = self.config
        buckets = self.buckets
        gates = compile_gates(config, buckets)
        staffs = []
        for number, route in enumerate(config.route):
            auths = {name: config.auth[name] for name in route.auth}
            hints = self.hints[route.upstream]
            staffs.append(
                Staff(
                    authenticators=tuple(self.authenticator(name, auth, route) for name, auth in auths.items()),
                    auths=tuple(auths.values()),
                    look=Look(auths.values()) if auths else None,
                    failures=self.failures if any(auth.type in COSTLY for auth in auths.values()) else None,
                    gate=gates[number],
                    rules=Rules(route.tools, f"route[{number}]", hints) if route.tools is not None else None,
                    hints=hints if route.tools is not None and route.tools.read_only else None,
                    outbound=self.outbounds.get(route.upstream),
                    tracer=self.tracer,
                    audit=self.audit if route.audit and route.mcp else None,
                )
            )
        return staffs

    def ask_ahead(self) -> None:
        """What will be needed soon is asked for before somebody waits for it."""
        due = list(self.tokens.due(unix())) if self.tokens is not None else []
        for question in (*due, *(outbound.due(unix()) for outbound in self.outbounds.values())):
            if question is not None:
                with suppress(ProxyError):  # too much is being asked already: at the next look
                    self.questions.ask(question, _nothing)

    def _renew(self) -> bool:
        """Secrets are in their files again. Do they change what is remembered?"""
        renewed, said = self.secrets.reload()
        for each in said:
            self.messages.say("error", f"{each}; the secret read before goes on")
        if not renewed:
            return False
        if self.tokens is not None:
            self.tokens.renew()
        changed = [outbound.renew() for outbound in self.outbounds.values()]
        self.messages.say("info", f"secrets were read again: {', '.join(renewed)}")
        return any(changed)

    def look_now(self) -> None:
        """What the files of keys and secrets say counts at once."""
        self.secrets.keep(reference for _, reference in references(self.config))
        self.secrets.look()
        if self._renew():
            self.forget()
        self.tick(monotonic())

    def tick(self, now: float) -> None:
        """Once a tick: has a file changed, is a key set getting old?"""
        changed = False
        for name, keys in self.keys.items():
            if keys.changed():
                said = keys.reload()
                if said:
                    self.messages.say("error", f"auth.{name}: {said}; the keys read before go on")
                else:
                    changed = True
                    self.messages.say("info", f"auth.{name}: the keys were read again")
        if self.seals is not None:
            if self.seals.changed() and (said := self.seals.reload()):
                self.messages.say("error", f"{said}; the keys of sessions read before go on")
            if self.seals.renewed:
                self.seals.renewed, changed = False, True
                self.messages.say("info", "the keys of sessions were read again")
        looks = now - self.looked >= LOOK_S
        if looks and self.secrets.changed():
            changed = self._renew() or changed
        if changed:
            self.forget()
        if looks:
            self.looked = now
            self.ask_ahead()
        if self.failures is not None and (said := self.failures.tick(now)):
            self.messages.say("warning", said)
        if self.audit is not None:
            self.audit.tick(now)


def _same_server(one: Upstream, other: Upstream) -> bool:
    """Is it asked for the same things in the same words?"""
    return (one.urls, one.host, one.credential, one.identity) == (other.urls, other.host, other.credential, other.identity)


def has_affinity(upstream: Upstream) -> bool:
    """Do its sessions stay with the address that opened them?"""
    return upstream.affinity == "on" or (upstream.affinity == "auto" and len(upstream.urls) > 1)


def _nothing() -> None:
    """Nobody waits for it."""
