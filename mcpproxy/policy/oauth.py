"""All [auth.NAME] of one configuration that know access tokens, as authenticators for routes, and what keeps them fresh.

    tokens = Tokens(config.auth, secret=…, say=messages.say)
    tokens.authenticator("corp", public_urls(route, config.listen))       one per route (those for the same audience are the same)
    for question in tokens.due(now): …                                     at the start and every few seconds: ask it beside everything else

What is learned from an issuer (keys, answers) is learned once per [auth.NAME], for all routes and audiences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from mcpproxy.config.policies import Auth
from mcpproxy.policy.bearer import Bearer
from mcpproxy.policy.introspect import Introspected, Introspection
from mcpproxy.policy.issuer import fetcher
from mcpproxy.policy.jwks import KeySource, Say, key_source
from mcpproxy.policy.verdict import Authenticator, Question


class Tokens:
    """`secret` reads a secret reference (`env:…`, `file:…`); it may raise StartError."""

    __slots__ = ("_answers", "_auths", "_keys", "_known", "_made", "_secret")

    def __init__(self, auths: Mapping[str, Auth], secret: Callable[[str], str], say: Say, before: Tokens | None = None) -> None:
        """What `before` has learned goes on where the configuration is the same."""
        self._auths, self._secret = auths, secret
        self._keys: dict[str, KeySource] = {}
        self._answers: dict[str, Introspection] = {}
        self._made: dict[tuple[str, tuple[str, ...]], Authenticator] = {}
        self._known: dict[tuple[str, tuple[str, ...]], Authenticator] = {}  # made before
        for name, auth in auths.items():
            if before is not None and before._auths.get(name) == auth:
                self._take(name, before)
            elif auth.type == "jwt":
                self._keys[name] = key_source(name, auth, fetcher(auth), say)
            elif auth.type == "introspection":
                self._answers[name] = Introspection(name, auth, self._ours(auth), fetcher(auth), say)

    def _take(self, name: str, before: Tokens) -> None:
        if name in before._keys:
            self._keys[name] = before._keys[name]
        elif name in before._answers:
            self._answers[name] = before._answers[name]
        self._known.update((asked, made) for asked, made in before._made.items() if asked[0] == name)

    def _ours(self, auth: Auth) -> str | None:
        return self._secret(auth.client_secret) if auth.client_secret is not None else None

    def renew(self) -> None:
        """Secrets may have other values now."""
        for name, source in self._answers.items():
            source.renew(self._ours(self._auths[name]))

    def authenticator(self, name: str, audience: tuple[str, ...]) -> Authenticator | None:
        """For tokens that are for one of these URLs (unless the configuration names an audience). None: this one is not about tokens."""
        auth = self._auths[name]
        asked = name, auth.audience or audience
        if asked in self._known:
            self._made[asked] = self._known[asked]
        elif asked not in self._made:
            if name in self._keys:
                self._made[asked] = Bearer(name, auth, audience, self._keys[name])
            elif name in self._answers:
                self._made[asked] = Introspected(name, auth, audience, self._answers[name])
        return self._made.get(asked)

    def due(self, now: float) -> Iterator[Question]:
        """Keys that should be asked for now. `now` is Unix seconds."""
        for source in self._keys.values():
            question = source.due(now)
            if question is not None:
                yield question
