"""May this request be sent a second time? (DESIGN: the retry rule.)

A link that was idle may be closed by its server at the very moment we lease it. Then, and only then, a second attempt is right: the link was a
reused one, it died before any byte of a response, and either the kernel took no byte of the request or the method is one that does no harm twice.
A failed connect sent nothing, so it is tried elsewhere by `dial`. POST is never repeated once its bytes may have arrived.
"""

from __future__ import annotations

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})  # idempotent by RFC 9110 §9.2.2 and sent by MCP clients (PUT is not)
ATTEMPTS = 2  # the second goes over a fresh link, which cannot be stale


def may_retry(*, reused: bool, attempts: int, accepted: bool, method: bytes, whole: bool) -> bool:
    """`accepted`: the kernel took request bytes; `whole`: we still hold every byte of the request."""
    if not reused or attempts >= ATTEMPTS or not whole:
        return False
    return not accepted or method in REPEATABLE
