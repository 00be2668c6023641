"""Clients that speak HTTP/2 by themselves: curl, nghttp and h2load, httpx, Node's http2 and fetch. What they do over HTTP/1.1 works the same."""

import asyncio
import hashlib
import json
import re
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.real.conftest import Proxies
from tests.real.test_curl import Curl
from tests.support.certs import Certificate
from tests.support.install_real import HOME, node
from tests.support.software import REAL, Program, Server, trusting
from tests.support.waiting import until

DEADLINE_S = 20.0
BIG = hashlib.sha256(b"seed").digest() * 100_000  # 3.2 MB


@pytest.fixture(params=["tls", "plain"])
def origin(request: pytest.FixtureRequest, plain_uvicorn: Server, proxies: Proxies) -> str:
    return proxies.url(plain_uvicorn.origin, tls=request.param == "tls")


@pytest.fixture
def tls_origin(plain_uvicorn: Server, proxies: Proxies) -> str:
    return proxies.url(plain_uvicorn.origin)


# --- curl


@pytest.fixture
def curl(certificate: Certificate, request: pytest.FixtureRequest) -> Curl:
    """curl over HTTP/2: by ALPN, or on a plain origin with prior knowledge."""
    made = Curl(certificate)
    plain = "origin" in request.fixturenames and request.getfixturevalue("origin").startswith("http:")
    made.words.append("--http2-prior-knowledge" if plain else "--http2")
    return made


@pytest.mark.needs("curl")
def test_curl_says_2(origin: str, curl: Curl) -> None:
    assert curl(origin + "/echo", "--data-binary", "grüße\r\n", "-w", " %{http_version} %{http_code}") == "grüße\r\n 2 200".encode()


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    "words", [[], ["-H", "Expect: 100-continue"], ["-H", "Content-Type: x", "-H", "TE: trailers"]], ids=["length", "expect", "te"]
)
def test_curl_uploads(words: list[str], origin: str, curl: Curl, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(BIG)
    assert curl("-X", "POST", "-T", str(file), *words, origin + "/echo") == BIG


@pytest.mark.needs("curl")
def test_curl_uploads_what_it_does_not_know_the_length_of(origin: str, curl: Curl) -> None:
    running = subprocess.Popen(
        [*curl.words, "-X", "POST", "-T", "-", origin + "/echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = running.communicate(BIG, timeout=DEADLINE_S)
    assert (hashlib.sha256(out).digest(), err) == (hashlib.sha256(BIG).digest(), b"")


@pytest.mark.needs("curl")
def test_curl_sends_many_at_once_on_one_connection(tls_origin: str, curl: Curl) -> None:
    """The first opens the connection, the others find it. (With prior knowledge curl 7.88 fails at this before any server.)"""
    words = ["-o", "/dev/null", "-w", "%{http_version} %{http_code} %{num_connects}\n"]
    said = (
        curl("--parallel", "--no-progress-meter", *[word for i in range(50) for word in (*words, f"{tls_origin}/echo?{i}")])
        .decode()
        .split("\n")[:-1]
    )
    assert len(said) == 50
    assert {line.rpartition(" ")[0] for line in said} == {"2 200"}
    assert sum(int(line.rpartition(" ")[2]) for line in said) == 1


@pytest.mark.needs("curl")
def test_curl_sees_events_as_they_come(origin: str, curl: Curl) -> None:
    running = curl.start("--no-buffer", origin + "/events")
    assert running.stdout is not None
    first = running.stdout.readline()
    seen_at = time.monotonic()
    rest = running.stdout.read()
    took = time.monotonic() - seen_at
    assert running.wait(DEADLINE_S) == 0
    assert first.strip() == b"id: 1"
    assert rest.count(b"data: event ") == 5
    assert took > 0.1


@pytest.mark.needs("curl")
def test_curl_that_asks_for_an_upgrade_to_h2c_is_served_over_1_1(plain_uvicorn: Server, proxies: Proxies, certificate: Certificate) -> None:
    origin = proxies.url(plain_uvicorn.origin, tls=False)
    assert Curl(certificate)("--http2", origin + "/echo", "-d", "x", "-w", " %{http_version}") == b"x 1.1"


# --- nghttp2's own


def run(*words: str) -> str:
    ended = subprocess.run(words, capture_output=True, timeout=DEADLINE_S, check=True)
    return (ended.stdout + ended.stderr).decode("utf-8", "backslashreplace")


@pytest.mark.needs("nghttp")
@pytest.mark.parametrize(
    "words",
    [
        ["--no-dep", "-m", "50"],
        ["--continuation"],
        ["-b", "255"],
        ["-c", "0"],
        ["-c", "100", "-c", "4096"],
        ["-w", "12", "-W", "14"],
        ["-p", "3"],
        ["--expect-continue"],
        ["--trailer", "x-sum: 7"],
        ["-M", "1"],
    ],
    ids=" ".join,
)
def test_nghttp(words: list[str], origin: str, tmp_path: Path) -> None:
    """Padding, CONTINUATION, tables of several sizes, small windows, priorities, trailers."""
    file = tmp_path / "upload"
    file.write_bytes(BIG[:300_000])
    said = run("nghttp", "--null-out", "--stat", *words, "--data", str(file), origin + "/echo", origin + "/echo?2")
    assert len(re.findall(r" 200 +(292K|293K|300000)", said)) == (100 if "50" in words else 2), said


@pytest.mark.needs("nghttp")
def test_nghttp_with_tiny_windows(origin: str, tmp_path: Path) -> None:
    """255 bytes: some 16 000 windows for an honest answer of 2 MB."""
    file = tmp_path / "upload"
    file.write_bytes(BIG[:2_000_000])
    said = run("nghttp", "--null-out", "--stat", "-w", "8", "-W", "8", "--data", str(file), origin + "/echo")
    assert re.search(r" 200 +1M ", said), said


@pytest.mark.needs("h2load")
@pytest.mark.parametrize("clients", [(1, 100), (16, 8), (64, 1)], ids=str)
def test_h2load_loses_nothing(clients: tuple[int, int], origin: str, tmp_path: Path) -> None:
    body = tmp_path / "call.json"
    body.write_bytes(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
    said = run(
        "h2load",
        "-n",
        "1000",
        "-c",
        str(clients[0]),
        "-m",
        str(clients[1]),
        "-d",
        str(body),
        "-H",
        "content-type: application/json",
        origin + "/echo",
    )
    assert "1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert "status codes: 1000 2xx" in said


# --- httpx


def client(certificate: Certificate, origin: str) -> httpx.AsyncClient:
    context: ssl.SSLContext = certificate.client(alpn=("h2", "http/1.1"))
    return httpx.AsyncClient(
        http1=origin.startswith("https"), http2=True, verify=context, timeout=DEADLINE_S, base_url=origin, trust_env=False
    )


async def test_httpx(origin: str, certificate: Certificate) -> None:
    """Echoes side by side, an upload in pieces, a stream beside them, all on one connection."""

    async def pieces() -> object:
        for at in range(0, len(BIG), 100_000):
            yield BIG[at : at + 100_000]

    async with client(certificate, origin) as http:
        answers = await asyncio.gather(*[http.post("/echo", content=b"%d" % i) for i in range(60)])
        assert [each.content for each in answers] == [b"%d" % i for i in range(60)]
        assert {each.http_version for each in answers} == {"HTTP/2"}
        async with http.stream("POST", "/endless") as stream:
            chunks = stream.aiter_bytes()
            assert (await anext(chunks)).startswith(b"id: 1")
            assert (await http.post("/echo", content=pieces())).content == BIG  # type: ignore[arg-type]
            assert b"data: event" in await anext(chunks)
        connections = http._transport._pool.connections  # type: ignore[attr-defined]
        assert len(connections) == 1


# --- Node


@pytest.mark.software("node", "npm")
@pytest.mark.parametrize(("kind", "tls"), [("http2", True), ("http2", False), ("fetch", True)])  # fetch has no prior knowledge
def test_node(kind: str, tls: bool, plain_node: Server, proxies: Proxies, certificate: Certificate) -> None:
    origin = proxies.url(plain_node.origin, tls=tls)
    with Program(node(), REAL / "clients" / "h2.mjs", kind, origin, cwd=HOME / "npm", env=trusting(certificate.cert)) as program:
        program.process.wait(DEADLINE_S)
        until(lambda: program.said, "its report")
    seen = json.loads(program.said[-1])
    assert seen == {"protocol": "h2", "echoes": 50, "big": 3_200_000, "first": "id: 1", "events": 5, "left": 1, "status": 200}
