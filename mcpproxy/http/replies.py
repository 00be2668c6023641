"""What we answer ourselves: small JSON bodies that a program can read and a person can understand.

On MCP routes the body is a JSON-RPC error object, because clients parse it as one (and choose their protocol era by it). Its `code` is the HTTP status:
outside the range JSON-RPC reserves (-32768…-32000), where the MCP specification forbids new codes. The slug in `reason` is also in the access log.
"""

from __future__ import annotations

import json

STATUS = {
    200: "OK",
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
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

MESSAGES = {
    "bad-character": "the request head contains a control character, a bare CR or LF, or a folded line",
    "bad-request-line": "the request line is not `METHOD target HTTP/1.1` with single spaces",
    "bad-version": "the request line does not end in an HTTP version",
    "version-not-supported": "this listener speaks HTTP/1.1 and HTTP/1.0",
    "tls-on-plain-port": "this is a plain HTTP port and the client spoke TLS: use http://",
    "bad-head": "the request head is not well-formed",
    "bad-host": "exactly one well-formed Host field is needed",
    "host-mismatch": "the authority of the target and the Host field differ",
    "bad-target": "the request target is not a well-formed path",
    "dot-segment": "the path contains `.` or `..` segments: send the resolved path",
    "bad-connection-field": "the Connection field names a field that must not be removed, or is not a list of tokens",
    "bad-content-length": "Content-Length must be given once, as a number",
    "bad-transfer-encoding": "the only transfer coding understood is `chunked`, given once, in HTTP/1.1",
    "length-and-chunked": "Content-Length and Transfer-Encoding must not come together",
    "bad-chunk-size": "a chunk size is not a plain hexadecimal number",
    "bad-chunk-end": "chunk data is not followed by CRLF",
    "bad-line-end": "a line of the chunked body does not end in CRLF",
    "bad-trailer": "a trailer is not well-formed or names a field that does not belong in trailers",
    "unknown-expectation": "the only expectation understood is `100-continue`",
    "method-not-allowed": "this method is not served here",
    "target-too-long": "the request target is too long",
    "head-too-large": "the request head is too large",
    "too-many-fields": "the request has too many header fields",
    "body-too-large": "the request body is larger than this route allows",
    "head-timeout": "the request head did not arrive in time",
    "body-timeout": "the request body stopped arriving",
    "unknown-host": "no site with this name is served here",
    "no-route": "nothing is served at this path",
    "too-many-connections": "all connections are in use, try again soon",
    "queue-full": "the upstream is busy and its queue is full, try again soon",
    "queue-timeout": "the upstream was busy for too long, try again soon",
    "out-of-descriptors": "the proxy is out of descriptors, try again soon",
    "connect-refused": "the upstream server refused the connection: is it running?",
    "connect-failed": "the upstream server could not be reached",
    "connect-timeout": "the upstream server did not accept the connection in time",
    "name-unknown": "the name of the upstream server is not known",
    "upstream-tls": "the TLS handshake with the upstream server failed",
    "upstream-closed": "the upstream server closed the connection before it answered",
    "upstream-cut-head": "the upstream server closed the connection in the middle of its response head",
    "bad-response-head": "the upstream server's response head is not well-formed",
    "bad-response-framing": "the upstream server's response says ambiguously where its body ends",
    "response-head-too-large": "the upstream server's response head is too large",
    "too-many-response-fields": "the upstream server's response has too many header fields",
    "too-many-interim-responses": "the upstream server sent too many interim responses",
    "unasked-101": "the upstream server switched protocols without being asked",
    "response-timeout": "the upstream server did not answer in time",
}

EXTRA = {"method-not-allowed": (b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",)}


def reply(
    status: int,
    kind: str,
    *,
    jsonrpc: bool,
    close: bool,
    retry_after: int | None = None,
    extra: tuple[bytes, ...] = (),
    head_only: bool = False,
) -> bytes:
    """A whole HTTP/1.1 answer. `extra`: further field lines without CRLF; `head_only`: for HEAD, the body is left out but its length is told."""
    message = MESSAGES.get(kind, STATUS[status])
    if jsonrpc:
        document: object = {"jsonrpc": "2.0", "id": None, "error": {"code": status, "message": message, "data": {"reason": kind}}}
    else:
        document = {"error": {"status": status, "reason": kind, "message": message}}
    lines = [*extra, *EXTRA.get(kind, ())]
    if retry_after is not None:
        lines.append(b"Retry-After: %d" % retry_after)
    return _answer(status, document, lines, close, head_only)


def health(*, close: bool) -> bytes:
    """The local health answer."""
    return _answer(200, {"status": "ok"}, [b"Cache-Control: no-store"], close, False)


def redirect(location: bytes, *, close: bool) -> bytes:
    """308 keeps method and body (RFC 9110 §15.4.9): MCP clients follow nothing else on POST."""
    return _answer(308, {"location": location.decode("ascii")}, [b"Location: %b" % location], close, False)


def _answer(status: int, document: object, lines: list[bytes], close: bool, head_only: bool) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    head = [
        b"HTTP/1.1 %d %b" % (status, STATUS[status].encode()),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    if close:
        head.append(b"Connection: close")
    return b"\r\n".join([*head, b"", b"" if head_only else body])
