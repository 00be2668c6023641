"""Requests over HTTP/2 that must not become HTTP/1.1 requests: every way to smuggle a line, a length, a host or a second request (RFC 9113 §8, §10.3).

Each row is a request that is refused: its stream is reset with PROTOCOL_ERROR (§8.1.1) or answered with a status of 400 and above; its connection
goes on. What HTTP/1.1 allows over HTTP/2 is in the second table: it is served. The server behind is a strict judge, and sees nothing of the first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import h2
from tests.support.certs import Certificate
from tests.support.daemon import Daemon, simple_config
from tests.support.h2 import Code, H2Client, frame, literals, speak
from tests.support.recorder import Recorder

Fields = list[tuple[bytes, bytes]]
METHOD, SCHEME, AUTHORITY, PATH = (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/refused")
START: Fields = [METHOD, SCHEME, AUTHORITY, PATH]
POST: Fields = [(b":method", b"POST"), SCHEME, AUTHORITY, PATH]
SMUGGLED = b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def but(name: bytes, value: bytes) -> Fields:
    """A request with another value of a pseudo-field."""
    return [(key, value if key == name else old) for key, old in START]


def without(name: bytes) -> Fields:
    return [pair for pair in START if pair[0] != name]


def rows() -> Iterator[tuple[str, Fields]]:
    for at in (bytes([i]) for i in [*range(0x20), 0x7F]):  # §8.2.1, §10.3
        if at != b"\t":
            yield f"value with {at!r}", [*START, (b"x", b"a" + at + b"b")]
        yield f"path with {at!r}", but(b":path", b"/refused" + at + b"b")
        yield f"method with {at!r}", but(b":method", b"GE" + at + b"T")
        yield f"authority with {at!r}", but(b":authority", b"local" + at + b"host")
        yield f"name with {at!r}", [*START, (b"x" + at + b"y", b"a")]
    for at in (b" ", b"\t"):
        yield f"value begins with {at!r}", [*START, (b"x", at + b"a")]
        yield f"value ends with {at!r}", [*START, (b"x", b"a" + at)]
    for name in (b"", b"X", b"Content-Type", b"x y", b"x:", b"x\xe4", b'x"y', b"x(", b"x,y", b"x/y", b"x@y", b"x[y", b"x{y"):
        yield f"name {name!r}", [*START, (name, b"a")]
    for value in (SMUGGLED, b"a\r\nTransfer-Encoding: chunked", b"a\nb: c", b"a\rb: c", b"a\0b"):
        yield f"value {value!r}", [*START, (b"x", value)]
        yield f"path {value!r}", but(b":path", b"/refused" + value)
        yield f"method {value!r}", but(b":method", b"GET" + value)
        yield f"authority {value!r}", but(b":authority", b"localhost" + value)
        yield f"name {value!r}", [*START, (b"x" + value, b"a")]
    # §8.2.2
    for name, value in (
        (b"connection", b"close"),
        (b"connection", b"x"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, deflate"),
        (b"te", b"chunked"),
    ):
        yield f"{name!r}: {value!r}", [*POST, (name, value)]
    # §8.3, §8.3.1
    for name in (b":method", b":scheme", b":path"):
        yield f"no {name!r}", without(name)
        yield f"empty {name!r}", but(name, b"")
    for name, value in START:
        yield f"two {name!r}", [*START, (name, value)]
        yield f"late {name!r}", [*without(name), (b"x", b"y"), (name, value)]
    yield "two paths that differ", [*START, (b":path", b"/other")]
    yield "no authority and no host", without(b":authority")
    yield "empty authority", but(b":authority", b"")
    yield "response pseudo-field", [*START, (b":status", b"200")]
    yield "unknown pseudo-field", [*START, (b":protokoll", b"x")]
    yield "pseudo-field without a name", [*START, (b":", b"x")]
    yield ":protocol without CONNECT (RFC 8441 §4)", [*START, (b":protocol", b"websocket")]
    yield "authority and another host", [*START, (b"host", b"evil.example")]
    yield "authority and an empty host", [*START, (b"host", b"")]
    yield "two hosts", [*without(b":authority"), (b"host", b"localhost"), (b"host", b"evil.example")]
    yield "two equal hosts", [*START, (b"host", b"localhost"), (b"host", b"localhost")]
    for value in (
        b"user@localhost",
        b"localhost/x",
        b"localhost:",
        b"localhost:x",
        b"localhost:99999",
        b"a b",
        b"[::1",
        b"::1",
        b"localhost#",
        b"a,b",
    ):
        yield f"authority {value!r}", but(b":authority", value)
        yield f"host {value!r}", [*without(b":authority"), (b"host", value)]
    for value in (
        b"refused",
        b"http://localhost/refused",
        b"//",
        b"*",
        b"?x",
        b"localhost:80",
        b"/refused b",
        b"/refused#x",
        b"/\xe4",
        b"/refused\x7f",
    ):
        if value != b"//":
            yield f"path {value!r}", but(b":path", value)
    for value in (b"ftp", b"http ", b"HTTP/1.1", b"https://localhost", b"h\r\ntp"):
        yield f"scheme {value!r}", but(b":scheme", value)
    for value in (b"CONNECT", b"TRACE", b"PRI", b"GET /x HTTP/1.1", b"G\xc4T", b"GET:", b"G@T", b"(GET)"):
        if value != b"PRI":
            yield f"method {value!r}", but(b":method", value)
    yield "CONNECT as it is (§8.5)", [(b":method", b"CONNECT"), (b":authority", b"localhost:443")]
    # §8.1.1
    for value in (b"+1", b"-1", b"1_0", b"0x1", b"1, 1", b"1.0", b"", b"\xd9\xa1", b"1 ", b"9" * 30, b"1\r\nx: y"):
        yield f"content-length {value!r}", [*POST, (b"content-length", value)]
    yield "two lengths", [*POST, (b"content-length", b"0"), (b"content-length", b"1")]
    yield "two equal lengths", [*POST, (b"content-length", b"0"), (b"content-length", b"0")]
    yield "a length and no body", [*POST, (b"content-length", b"5")]
    yield "cookie with a line break", [*START, (b"cookie", b"a=b"), (b"cookie", b"c\r\nd: e")]


ROWS = list(rows())
Body = list[bytes]


def data(payload: bytes, *, ended: bool = False) -> bytes:
    return frame(h2.DATA, h2.END_STREAM if ended else 0, 1, payload)


def trailers(*fields: tuple[bytes, bytes], ended: bool = True) -> bytes:
    return frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if ended else 0), 1, literals(fields))


LENGTH_5: Fields = [*POST, (b"content-length", b"5")]
BODIES: dict[str, tuple[Fields, list[bytes]]] = {
    "less than promised": (LENGTH_5, [data(b"four", ended=True)]),
    "less than promised, then an empty end": (LENGTH_5, [data(b"four"), data(b"", ended=True)]),
    "nothing of what was promised": (LENGTH_5, [data(b"", ended=True)]),
    "more than promised": (LENGTH_5, [data(b"sixsix", ended=True)]),
    "more than promised, in pieces": (LENGTH_5, [data(b"five5"), data(b"x"), data(b"", ended=True)]),
    "more than promised, and it goes on": (LENGTH_5, [data(b"five5" + SMUGGLED)]),
    "less than promised, then trailers": (LENGTH_5, [data(b"four"), trailers((b"x-sum", b"7"))]),
    "trailers with a pseudo-field": (POST, [data(b"x"), trailers((b":path", b"/smuggled"))]),
    "trailers with a line break": (POST, [data(b"x"), trailers((b"x-sum", b"7" + SMUGGLED))]),
    "trailers in capitals": (POST, [data(b"x"), trailers((b"X-Sum", b"7"))]),
    "trailers of the connection": (POST, [data(b"x"), trailers((b"transfer-encoding", b"chunked"))]),
    "trailers that do not end it": (POST, [data(b"x"), trailers((b"x-sum", b"7"), ended=False)]),
}
SERVED: dict[str, Fields] = {
    "fields that look odd": [*START, (b"x!#$%&'*+-.^_`|~9", b'\xe4\xff \t!"')],
    "an empty value": [*START, (b"x", b"")],
    "a tab inside": [*START, (b"x", b"a\tb")],
    "te: trailers": [*START, (b"te", b"trailers")],
    "priority": [*START, (b"priority", b"u=0, i")],
    "the other scheme": but(b":scheme", b"http"),
    "a port": but(b":authority", b"localhost:8443"),
    "a name in capitals": but(b":authority", b"LocalHost"),
    "a query": but(b":path", b"/refused?a=b&c=%00%0d%0a"),
    "a method of its own": but(b":method", b"M-SEARCH"),
    "pseudo-fields in another order": list(reversed(START)),
    "host in place of the authority": [*without(b":authority"), (b"host", b"localhost")],
    "a length of zero": [*POST, (b"content-length", b"0")],
    "a forgotten underscore": [*START, (b"content_length", b"5")],
    "a proxy's field": [*START, (b"proxy", b"evil"), (b"x-forwarded-for", b"1.2.3.4")],
}


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as upstream:
        yield upstream
    assert upstream.bad == []
    assert not [request for request in upstream.complete if b"smuggled" in request.target]


@pytest.fixture(scope="module", params=["plain", "tls"])
def daemon(
    request: pytest.FixtureRequest, recorder: Recorder, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    tls: dict[str, Any] = {"tls": {"cert": str(certificate.cert), "key": str(certificate.key)}} if request.param == "tls" else {}
    directory: Path = tmp_path_factory.mktemp("corpus")
    config = simple_config(recorder.url, listen=tls, route={"host": ["localhost"]}, limits={"head_timeout": "5s"})
    with Daemon(config, directory) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon, certificate: Certificate) -> Iterator[H2Client]:
    with speak(daemon, certificate if "tls" in daemon.text else None) as made:
        yield made


def check_refused(client: H2Client, call: h2.Call, recorder: Recorder, before: int) -> None:
    client.until(lambda: call.over, "a judgement")
    assert call.reset == Code.PROTOCOL_ERROR or 400 <= call.status < 500, repr(call)
    assert client.call("GET", "/sentinel").wait().status == 200, "the connection goes on"
    assert client.goaway is None
    assert [request.target for request in recorder.complete[before:]] == [b"/sentinel"]


@pytest.mark.parametrize(("name", "fields"), ROWS, ids=[name for name, _ in ROWS])
def test_a_request_that_is_none_reaches_nobody(name: str, fields: Fields, client: H2Client, recorder: Recorder) -> None:
    before = len(recorder.complete)
    call = client.stream()
    client.send_block(call.number, literals(fields), h2.END_STREAM)
    check_refused(client, call, recorder, before)


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_breaks_its_promise_never_ends_upstream(name: str, client: H2Client, recorder: Recorder) -> None:
    """§8.1.1: also when half of it is on its way already."""
    fields, frames = BODIES[name]
    before = len(recorder.complete)
    call = client.stream()
    client.send_block(call.number, literals(fields), 0)
    for each in frames:
        client.ping()  # what was sent so far has been read and goes on
        client.send(each)
    check_refused(client, call, recorder, before)


def test_more_than_nothing_goes_nowhere(client: H2Client, recorder: Recorder) -> None:
    """A length of zero is whole at once, and is served; what follows all the same is not."""
    before = len(recorder.complete)
    call = client.stream()
    client.send_block(call.number, literals([*POST, (b"content-length", b"0")]), 0)
    client.ping()
    client.send(data(SMUGGLED, ended=True))
    client.until(lambda: call.over, "an answer, or a reset")
    assert client.call("GET", "/sentinel").wait().status == 200
    assert {(request.target, request.body) for request in recorder.complete[before:]} <= {(b"/refused", b""), (b"/sentinel", b"")}


@pytest.mark.parametrize("name", SERVED)
def test_what_is_allowed_is_served(name: str, client: H2Client, recorder: Recorder) -> None:
    before = len(recorder.complete)
    call = client.stream()
    client.send_block(call.number, literals(SERVED[name]), h2.END_STREAM)
    assert call.wait().status == 200, repr(call)
    (request,) = recorder.complete[before:]
    assert request.target.startswith(b"/refused")
    assert not [field for field, _ in request.fields if b"_" in field or field.lower() in (b"proxy", b"te")]


def test_the_daemon_is_as_it_was(client: H2Client, recorder: Recorder) -> None:
    assert client.call("GET", "/sentinel").wait().status == 200
    assert recorder.bad == []
