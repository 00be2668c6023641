"""Answers of our own: whole HTTP/1.1 messages, JSON inside, in the shape of a JSON-RPC error where an MCP client is listening.

The `kind` that an error carries is told as `reason`, with a sentence for people; both are stable, neither repeats anything the peer sent.
The JSON-RPC code is the HTTP status: the range from -32768 to -32000 is not ours (MCP basic, error codes). Clients that do not know the reason
still have the status. Answers are never cached, but for the redirect, whose cause will not go away.

An answer is made without Date, so that it can be kept; `dated` adds it when the answer is sent (RFC 9110 §6.6.1: whoever has a clock must).
"""

from __future__ import annotations

import json

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_TEXT = {
    200: "OK",
    204: "No Content",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"  # what a 405 must tell (RFC 9110 §15.5.6): CONNECT and TRACE are refused

MESSAGES = {
    # the client's head
    "bad-request-line": "The request line is not HTTP/1.1.",
    "bad-line-end": "A line of the head does not end with CRLF.",
    "control-character": "The head contains a control character.",
    "folded-field": "A field is folded over several lines.",
    "upgrade-off": "WebSocket is switched off for this route.",
    "bad-field": "A field line is malformed.",
    "bad-content-length": "Content-Length is malformed or there is more than one.",
    "bad-transfer-encoding": "Transfer-Encoding must be exactly 'chunked', once, and needs HTTP/1.1.",
    "length-and-coding": "Content-Length and Transfer-Encoding exclude each other.",
    "missing-host": "The Host field is missing.",
    "bad-host": "The Host field is malformed or there is more than one.",
    "bad-target": "The request target is malformed or does not agree with Host.",
    "bad-connection": "Connection is too long or names a field that belongs to the whole message.",
    "method-not-allowed": "This method is not served here.",
    "target-too-long": "The request target is too long.",
    "head-too-large": "The request head is too large.",
    "too-many-fields": "The request head has too many fields.",
    "unknown-expectation": "Only 'Expect: 100-continue' can be met.",
    "unsupported-version": "Only HTTP/1.1 and HTTP/1.0 are spoken on this connection.",
    "tls-on-plain-port": "This port does not speak TLS.",
    "plain-on-tls-port": "This port speaks TLS only: the address begins with https.",
    "head-timeout": "The request head did not arrive in time.",
    # where it wants to go
    "unknown-host": "This host name is not served here.",
    "no-route": "Nothing is served at this path.",
    # who asks (policy/)
    "several-credentials": "More than one credential is shown.",
    "bad-credential": "The credential is malformed: 'Authorization: Bearer' and one token, or a key alone in its field.",
    "credential-in-url": "Credentials are not taken from the URL, where they would stand in logs: send them in a header field.",
    "no-credential": "A credential is needed here.",
    "credential-unknown": "This kind of credential is not known here.",
    "key-unknown": "The API key is not known.",
    "key-expired": "The API key has expired.",
    "key-revoked": "The API key was revoked.",
    "certificate-unreadable": "The client certificate does not name anybody in the way that is wanted here.",
    "certificate-expired": "The client certificate is not valid now.",
    "token-too-large": "The access token is too large.",
    "token-malformed": "The access token is malformed.",
    "token-algorithm": "The access token is signed with an algorithm that is not accepted here, or not with that key.",
    "token-type": "This is not an access token.",
    "token-issuer": "The access token was issued by somebody else.",
    "token-audience": "The access token was issued for somebody else.",
    "token-expired": "The access token has expired.",
    "token-not-yet-valid": "The access token is not valid yet.",
    "token-claims": "The access token lacks a claim that is needed here.",
    "token-bound": "The access token is bound to a key that was not shown.",
    "token-key-unknown": "The access token is signed with a key that its issuer does not publish.",
    "token-signature": "The signature of the access token is wrong.",
    "token-inactive": "The issuer says that the access token is not active.",
    "too-many-failed-credentials": "Too many credentials from this address were wrong: those not known to be good are not looked at for now.",
    "issuer-unreachable": "The issuer of the access token cannot be asked at the moment.",
    # a body
    "bad-chunk-size": "A chunk size is malformed.",
    "bad-chunk-end": "A chunk does not end where its size said.",
    "bad-trailer": "A trailer field is malformed or not allowed in trailers.",
    "trailers-too-large": "The trailers are too large.",
    "body-too-large": "The request body is too large.",
    "body-timeout": "The request body did not arrive in time.",
    # the call in it
    "bad-json": "The request body is not JSON in UTF-8.",
    "bad-call": "The request body is not a JSON-RPC message that can be judged here.",
    "ambiguous-call": "The request body can be read in two ways: a key is there twice, or in another spelling.",
    "batch-too-large": "The batch has too many messages.",
    "unreadable-body": "The request body has a charset or content coding that cannot be read here.",
    "header-mismatch": "An Mcp- or MCP- header field is there twice, cannot be decoded, or does not say what the body says.",
    "odd-name": "The method or name is written in a form that could be taken for another one.",
    "call-denied": "A rule of this route denies this call.",
    "call-not-allowed": "No rule of this route allows this call.",
    "tool-not-listed": "Only tools that change nothing may be called here, and this one is in no tools/list yet.",
    "tool-not-read-only": "Only tools that change nothing may be called here, and this one does not say so of itself.",
    # how often it may be asked
    "rate-limited": "Too many requests.",
    "quota-used-up": "The quota of the day is used up.",
    "too-many-at-once": "Too many requests are in progress.",
    "too-many-probes": "Too many requests that are not counted.",
    "limits-full": "Too many callers are in progress.",
    # what the server is shown (policy/outbound)
    "upstream-credential-unavailable": "Our credential for the server cannot be had at the moment.",
    "upstream-credential-refused": "The authorization server gives us no credential for the server.",
    "exchange-refused": "The authorization server exchanges no token of this caller for one for the server.",
    "exchange-needs-token": "An access token is needed here: it is exchanged for one for the server.",
    # the server behind us
    "connect-refused": "The server refused the connection.",
    "connect-failed": "The server could not be reached.",
    "connect-timeout": "The server could not be reached in time.",
    "name-unknown": "The server's name could not be resolved.",
    "upstream-tls": "TLS with the server failed.",
    "queue-full": "The server is busy and too many requests are waiting.",
    "upstream-down": "None of the servers behind this can be asked at the moment.",
    "endpoint-disabled": "The server that this must go to was taken out of service.",
    "queue-timeout": "The server is busy and this request waited too long.",
    "bad-status-line": "The server's status line is not HTTP/1.1.",
    "response-head-too-large": "The server's response head is too large.",
    "too-many-interim-responses": "The server sent too many interim responses.",
    "unasked-101": "The server switched protocols without being asked to.",
    "not-switched": "The server answered a WebSocket handshake without switching protocols.",
    "upstream-cut-head": "The server closed its connection within the response head.",
    "upstream-cut-document": "The server closed its connection within its OAuth document.",
    "upstream-closed": "The server closed its connection without an answer.",
    "upstream-cut-answer": "The server closed its connection within its answer.",
    "answer-too-large": "The server's answer is too large.",
    "compressed-answer": "The server's answer is compressed, which was not asked for.",
    "response-timeout": "The server did not answer in time.",
    "body-too-large-to-judge": "The request body is larger than what the rules of this route look at.",
    "address-denied": "Requests from this address are not allowed here.",
    "host-denied": "Requests for this host are not allowed here.",
    "origin-denied": "Web pages of this origin may not call here.",
    "bad-origin": "The request names more than one origin.",
    "too-much-to-judge": "Too many large requests are waiting to be judged.",
    "document-too-large": "The server's metadata document is too large.",
    "audit-unavailable": "The call cannot be written into the audit log, so it was not made.",
    "no-answer-to-a-question": "Who is calling could not be found out in time.",
    "too-many-questions": "Too much has to be asked of others just now.",
    "insufficient-scope": "The access token lacks a scope.",
    # a session (edge/affinity)
    "session-unknown": "There is no such session here: begin a new one.",
    "session-expired": "The session has expired: begin a new one.",
    "session-lost": "The server that had the session is gone: begin a new one.",
    # ourselves
    "too-many-connections": "Too many connections are open.",
    "out-of-descriptors": "Too many connections are open.",
}


def reply(
    status: int,
    kind: str,
    *,
    jsonrpc: bool,
    close: bool,
    retry_after: int | None = None,
    extra: tuple[tuple[bytes, bytes], ...] = (),
    head_only: bool = False,
    date: bytes = b"",
) -> bytes:
    """An error answer. `extra` are more fields; `head_only` answers HEAD; `date` is given by those who send it at once."""
    message = MESSAGES.get(kind) or STATUS_TEXT[status] + "."
    told: dict[str, object]
    if jsonrpc:
        told = {"jsonrpc": "2.0", "id": None, "error": {"code": status, "message": message, "data": {"reason": kind}}}
    else:
        told = {"error": {"status": status, "reason": kind, "message": message}}
    fields = [(b"Cache-Control", b"no-store"), *extra]
    if status == 405 and not any(name == b"Allow" for name, _ in extra):
        fields.append((b"Allow", ALLOWED))
    if retry_after is not None:
        fields.append((b"Retry-After", b"%d" % retry_after))
    answer = _message(status, fields, told, close=close, head_only=head_only)
    return dated(answer, date) if date else answer


def rpc_error(
    status: int,
    code: int,
    message: str,
    id: bytes | tuple[bytes, ...],
    kind: str,
    fields: tuple[tuple[bytes, bytes], ...] = (),
    *,
    close: bool = False,
    date: bytes = b"",
) -> bytes:
    """A JSON-RPC error that answers the call with this `id`: the very bytes of JSON that the client sent (`0`, `"x"`), or nothing: null.

    A batch is answered by the errors of all its ids; with none it was all notifications, and one error without an id tells why it went nowhere.
    `code`: JSON-RPC's or MCP's own where one fits, else the status. `message`: the sentence of `kind` in MESSAGES where it is empty.
    """
    text = json.dumps(message or MESSAGES.get(kind) or STATUS_TEXT[status] + ".").encode()
    told = b'"error":{"code":%d,"message":%b,"data":{"reason":%b}}' % (code, text, json.dumps(kind).encode())
    ids = id if isinstance(id, tuple) else (id,)
    errors = [b'{"jsonrpc":"2.0","id":%b,%b}' % (each or b"null", told) for each in ids or (b"",)]
    body = b"[%b]\n" % b",".join(errors) if ids is id and ids else errors[0] + b"\n"
    answer = _whole(status, [(b"Cache-Control", b"no-store"), *fields], body, close=close)
    return dated(answer, date) if date else answer


def dated(answer: bytes, date: bytes) -> bytes:
    """A kept answer, as it is sent."""
    end = answer.index(b"\r\n") + 2
    return b"%bDate: %b\r\n%b" % (answer[:end], date, answer[end:])


def health(*, close: bool) -> bytes:
    """We are alive."""
    return _message(200, [(b"Cache-Control", b"no-store")], {"status": "ok"}, close=close)


def document(body: bytes, fields: tuple[tuple[bytes, bytes], ...], *, close: bool, head_only: bool = False) -> bytes:
    """JSON of our own for somebody to read; OPTIONS is answered with an empty one."""
    return _whole(200, [*fields], body, close=close, head_only=head_only)


def text(body: bytes, *, close: bool) -> bytes:
    """Bytes for somebody who knows what they are."""
    return _whole(200, [(b"Cache-Control", b"no-store"), (b"Content-Type", b"application/octet-stream")], body, close=close)


def empty(status: int, fields: tuple[tuple[bytes, bytes], ...], *, close: bool) -> bytes:
    """An answer without a body."""
    return _message(status, list(fields), None, close=close)


def redirect(location: bytes, close: bool) -> bytes:
    """308: the same request, method and body, to another place."""
    return _message(308, [(b"Location", location)], None, close=close)


def _message(status: int, fields: list[tuple[bytes, bytes]], told: object, *, close: bool, head_only: bool = False) -> bytes:
    body = b"" if told is None else json.dumps(told, separators=(",", ":")).encode() + b"\n"
    return _whole(status, fields, body, close=close, head_only=head_only)


def _whole(status: int, fields: list[tuple[bytes, bytes]], body: bytes, *, close: bool, head_only: bool = False) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (status, STATUS_TEXT[status].encode())]
    lines += [b"%b: %b" % field for field in fields]
    if body and not any(name == b"Content-Type" for name, _ in fields):
        lines.append(b"Content-Type: application/json")
    if status != 204:  # RFC 9110 §8.6
        lines.append(b"Content-Length: %d" % len(body))
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", b"" if head_only else body])
