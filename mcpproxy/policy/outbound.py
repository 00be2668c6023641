"""HOT. What an upstream is shown: our credential for it, and who calls. `[upstream.NAME.credential]`, `[upstream.NAME.identity]`.

    outbound = Outbound("files", upstream, secret=…, say=…, key=…)       at the start; it reads secrets
    outbound.renew()                                                    secrets have changed; true: `static` has, too
    outbound.static                                                     field lines for every request alike: part of a plan
    outbound.lines(principal, credentials, now, request)                field lines for this one, or what must be asked first, or why there are none
    outbound.due(now)                                                   every few seconds: a question to be asked beside everything else
    outbound.rejected(principal, credentials, now)                      the upstream answered 401

What the caller showed is never among these lines: `passthrough` means that its field is not taken out of the head (policy/present). Where our credential
cannot be had, nothing goes upstream at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from mcpproxy.clock import unix
from mcpproxy.config.model import Upstream
from mcpproxy.errors import ProxyError, Side, StartError
from mcpproxy.policy.grants import Grants, fetcher
from mcpproxy.policy.identity import IdentityKey, Statements
from mcpproxy.policy.issuer import Fetch
from mcpproxy.policy.jwks import Say
from mcpproxy.policy.sigv4 import Request, Signer
from mcpproxy.policy.verdict import Ask, Credential, Principal, Question


class Outbound:
    """One upstream's. `secret` reads a secret reference (config/secrets) and may raise StartError; `key` is needed where the upstream has `identity`."""

    __slots__ = ("_exchange", "_grants", "_read", "_signer", "_statements", "_upstream", "each", "name", "needs_body", "static")

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        secret: Callable[[str], str],
        say: Say,
        key: IdentityKey | None = None,
        *,
        fetch: Fetch | None = None,
        now: Callable[[], float] = unix,
    ) -> None:
        def read(key: str) -> str:
            reference = getattr(upstream.credential, key)
            value = secret(reference) if reference is not None else ""
            if not value.isascii():
                raise StartError(f"upstream.{name}.credential.{key}: {reference} holds letters beyond ASCII")
            return value

        self.name = name
        self._upstream, self._read = upstream, read
        self.static = b""
        self._grants: Grants | None = None
        self._signer: Signer | None = None
        self._statements: Statements | None = None
        credential = upstream.credential
        kind = credential.type if credential is not None else "passthrough"
        self._exchange = kind == "token-exchange"
        if credential is None or kind == "passthrough":
            pass
        elif kind == "header":
            self.renew()
        elif kind == "sigv4":
            if upstream.host == "upstream" and len({urlsplit(url).netloc for url in upstream.urls}) > 1:
                raise StartError(f"upstream.{name}: its servers have several names, and a signature is for one", "give host its name")
            self._signer = self._signing()
        else:
            self._grants = Grants(name, credential, read("client_secret"), fetch or fetcher(credential), say, now)
        if upstream.identity is not None:
            assert key is not None, "who assembles makes one"
            self._statements = Statements(name, upstream.identity, key)
        self.needs_body = self._signer is not None  # `request` must be given, with its whole body
        self.each = self._grants is not None or self.needs_body or self._statements is not None  # `lines` has something to say

    def lines(
        self, principal: Principal | None, credentials: Sequence[Credential], now: float, request: Request | None = None
    ) -> bytes | Ask | ProxyError:
        """Whole field lines, to be added to the head. `credentials` are what the caller showed, `principal` what that was accepted as; `now` is Unix
        seconds. The error is to be told, not raised by us: it costs less, and is no surprise."""
        said = b""
        grants = self._grants
        if grants is not None:
            subject = subject_of(principal, credentials) if self._exchange else b""
            if subject is None:
                return ProxyError("exchange-needs-token", Side.DOWNSTREAM, 403)
            found = grants.line(subject, now)
            if not isinstance(found, bytes):
                return found
            said = found
        elif self._signer is not None:
            assert request is not None, "needs_body says so"
            said = self._signer.lines(request, now)
        if self._statements is not None and principal is not None:
            said += self._statements.line(principal, now)
        return said

    def renew(self) -> bool:
        """Secrets may have other values now. Is `static` another one?"""
        before, credential = self.static, self._upstream.credential
        if credential is not None and credential.type == "header":
            self.static = f"{credential.header}: {self._read('value')}\r\n".encode()
        elif self._signer is not None:
            self._signer = self._signing()
        elif self._grants is not None:
            self._grants.renew(self._read("client_secret"))
        return self.static != before

    def _signing(self) -> Signer:
        credential = self._upstream.credential
        assert credential is not None, "who asks has looked"
        keys = (self._read(each) for each in ("access_key", "secret_key", "session_token"))
        return Signer(credential.region or "", credential.service or "", *keys)

    def due(self, now: float) -> Question | None:
        """What should be asked now, though nobody waits for it. `now` is Unix seconds."""
        return self._grants.due(now) if self._grants is not None else None

    def rejected(self, principal: Principal | None, credentials: Sequence[Credential], now: float) -> None:
        """The upstream did not take what it was shown (401): the next request shows a new token, if the old one is not just as new."""
        if self._grants is not None:
            subject = subject_of(principal, credentials) if self._exchange else b""
            if subject is not None:
                self._grants.rejected(subject, now)


def subject_of(principal: Principal | None, credentials: Sequence[Credential]) -> bytes | None:
    """The token that the caller was accepted for. Not a key of ours, and not a token nobody judged, beside a good certificate: whoever came without a
    token has none to exchange."""
    if principal is not None and principal.scoped:
        for credential in credentials:
            if credential.scheme == "bearer":
                return credential.value
    return None
