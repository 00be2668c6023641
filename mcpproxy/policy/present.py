"""What does a request show to say who it is?

`Look` is made once per route that has `auth`; it looks at a head and finds one credential, none, or more than it may hold.

 1. At most one: two `Authorization` lines, two lines of one key field, or two fields with different values are refused (400). Who reads the first and who
    reads the last would see different callers. The same value in two fields is one credential.
 2. In `Authorization` only `Bearer` is looked at, in any case (RFC 9110 §11.1), and then it must be well formed (RFC 6750 §2.1). Other schemes
    (Basic, DPoP, …) are nobody's here: such a request shows nothing.
 3. Never in the URL: it would stand in logs, histories and Referer fields (RFC 6750 §5.3). A parameter with the name of a credential, or one of our keys
    anywhere in the target, is refused (400). `key` is an ordinary word and passes, unless one of our keys is its value.
 4. What was looked at ends here, whether it was good or not: `ends_here` names the fields that do not go to the upstream.
 5. Never behind the body: a trailer with one of these names is refused (`Admission.untrailed`), as some servers merge trailers into the head.

The connection's own credential, a client certificate, is not in the head: it counts where the head shows none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from mcpproxy.config.model import Upstream
from mcpproxy.config.policies import Auth
from mcpproxy.http.fields import TOKEN
from mcpproxy.http.head import HeadError, RequestHead
from mcpproxy.policy.sigv4 import FIELDS as SIGNED
from mcpproxy.policy.verdict import Credential, Refused

AUTHORIZATION, COOKIE, KEY_FIELD = b"authorization", b"cookie", b"x-api-key"
LONGEST = 16 * 1024  # bytes of a credential: tokens with many claims have 4 KiB, and every byte is hashed by somebody
IN_URL = frozenset(
    {
        *(b"access_token", b"token", b"auth_token", b"bearer_token", b"id_token", b"bearer", b"authorization"),
        *(b"api_key", b"apikey", b"api-key", b"x-api-key", b"x_api_key"),
    }
)

NOTHING_SHOWN = Refused("no-credential", error="")  # no word of OAuth: nothing was wrong with what was shown (RFC 6750 §3.1)
NOT_KNOWN = Refused(
    "credential-unknown", description="No credential of this kind is known here."
)  # every authenticator of the route said None

_bearer = re.compile(rb"bearer(?![%b])(.*)" % TOKEN, re.IGNORECASE | re.DOTALL).fullmatch
_token = re.compile(rb"[A-Za-z0-9._~+/-]+=*").fullmatch  # b64token (RFC 6750 §2.1): what every kind of token and key consists of
_our_key = re.compile(rb"mcpp_[0-9a-z]{10}_").search
_pairs = re.compile(rb"[&;]").split


class Look:
    """Where credentials may stand on a route with these ways to know a caller."""

    __slots__ = ("_bearer", "fields")

    def __init__(self, auths: Iterable[Auth]) -> None:
        fields: set[bytes] = set()
        for auth in auths:
            if auth.type == "api-key":
                fields.update(header.lower().encode() for header in auth.headers)
            elif auth.type != "mtls":
                fields.add(AUTHORIZATION)
        self._bearer = AUTHORIZATION in fields
        self.fields = frozenset(fields | {AUTHORIZATION})  # lower-case names

    def credential(self, head: RequestHead) -> Credential | None:
        """The one credential of this head, or None when it shows none. Raises HeadError 400, 431."""
        if b"?" in head.target or b"mcpp_" in head.target or b"%" in head.target:
            refuse_in_url(head.target)
        found: Credential | None = None
        seen: set[bytes] = set()
        for _, lower, value in head.fields:
            if lower not in self.fields:
                continue
            if lower in seen:
                raise HeadError(400, "several-credentials")
            seen.add(lower)
            credential = self._read(lower, value)
            if credential is None:
                continue
            if found is not None and found.value != credential.value:
                raise HeadError(400, "several-credentials")
            if found is None or lower == AUTHORIZATION:
                found = credential
        return found

    def _read(self, lower: bytes, value: bytes) -> Credential | None:
        scheme = "key"
        if lower == AUTHORIZATION:
            bearer = _bearer(value)
            if bearer is None or not self._bearer:
                return None
            scheme, value = "bearer", bearer[1]
            if value[:1] != b" ":
                raise HeadError(400, "bad-credential")  # "Bearer:", "Bearer" alone
            value = value.lstrip(b" ")
        if len(value) > LONGEST:
            raise HeadError(431, "head-too-large")
        if not _token(value):
            raise HeadError(400, "bad-credential")
        return Credential(scheme, value, lower)

    def ends_here(self, upstream: Upstream) -> frozenset[bytes]:
        """Lower-case names of the fields of a request that do not go on to `upstream`: rule 4, and cookies, unless it is told otherwise."""
        gone = ours(upstream)
        if upstream.credential is None or upstream.credential.type != "passthrough":
            gone |= self.fields | {KEY_FIELD}
        return gone if upstream.cookies else gone | {COOKIE}


def ours(upstream: Upstream) -> frozenset[bytes]:
    """Lower-case names of the fields that only we say to `upstream`, where a route has no `auth` too: who calls, and our own credential."""
    names = {upstream.principal_header, None if upstream.identity is None else upstream.identity.header}
    if upstream.credential is not None and upstream.credential.type != "passthrough":
        names.add(upstream.credential.header if upstream.credential.type == "header" else "Authorization")
    signed = upstream.credential is not None and upstream.credential.type == "sigv4"
    return frozenset(name.lower().encode() for name in names if name) | (SIGNED if signed else frozenset())


def refuse_in_url(target: bytes) -> None:
    """Rule 3. Names are compared as servers read them: decoded, in any case, before `&` and `;`, with `[…]` cut off."""
    plain = unquote_to_bytes(target)
    if _our_key(plain):
        raise HeadError(400, "credential-in-url")
    for pair in _pairs(target.partition(b"?")[2]):
        name = unquote_to_bytes(pair.partition(b"=")[0]).lower().partition(b"[")[0]
        if name in IN_URL:
            raise HeadError(400, "credential-in-url")
