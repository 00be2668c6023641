"""curl, as people use it in front of an MCP server: the lines of the README, and what curl does by itself."""

import hashlib
import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.real.conftest import Origin, Proxies
from tests.support.certs import Certificate
from tests.support.software import Server, trusting

pytestmark = pytest.mark.needs("curl")
DEADLINE_S = 20.0
KINDS = ["plain_uvicorn", pytest.param("plain_node", marks=pytest.mark.software("node"))]


@pytest.fixture(params=KINDS)
def origin(request: pytest.FixtureRequest, through: Origin) -> str:
    server: Server = request.getfixturevalue(request.param)
    return through(server.origin)


@pytest.fixture
def curl(certificate: Certificate) -> "Curl":
    return Curl(certificate)


class Curl:
    def __init__(self, certificate: Certificate) -> None:
        self.words = ["curl", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--cacert", str(certificate.cert)]
        self.env = trusting(certificate.cert)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*self.words, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)

    def __call__(self, *words: str) -> bytes:
        out, err = self.start(*words).communicate(timeout=DEADLINE_S)
        assert err == b"", err
        return out


def test_a_call_by_hand(sdk2: Server, through: Origin, curl: Curl) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    fields = ["-H", "Content-Type: application/json", "-H", "Accept: application/json, text/event-stream"]
    assert b'"protocolVersion":"2025-11-25"' in curl(through(sdk2.origin) + "/mcp", *fields, "-d", body)


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_an_echo(origin: str, version: str, curl: Curl) -> None:
    assert curl(version, origin + "/echo", "--data-binary", "grüße\r\n") == "grüße\r\n".encode()


@pytest.mark.parametrize("how", ["expect", "chunked", "expect-chunked"])
def test_an_upload(origin: str, how: str, curl: Curl, tmp_path: Path) -> None:
    """Over 1 MiB curl asks first (Expect: 100-continue), and waits a second for the answer."""
    file = tmp_path / "upload"
    file.write_bytes(hashlib.sha256(b"seed").digest() * 100_000)
    words = {
        "expect": ["-H", "Expect: 100-continue"],
        "chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
        "expect-chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"],
    }[how]
    assert curl("-X", "POST", "-T", str(file), *words, origin + "/echo") == file.read_bytes()


def test_two_calls_on_one_connection(origin: str, curl: Curl) -> None:
    count = ["-o", "/dev/null", "-w", "%{num_connects} "]
    assert curl(*count, origin + "/gone", *count, origin + "/gone").split() == [b"1", b"0"]


def test_events_are_seen_as_they_come(origin: str, curl: Curl) -> None:
    running = curl.start("--no-buffer", origin + "/events")
    assert running.stdout is not None
    first = running.stdout.readline()
    seen_at = time.monotonic()
    rest = running.stdout.read()
    took = time.monotonic() - seen_at
    assert running.wait(DEADLINE_S) == 0
    assert first.strip() == b"id: 1"
    assert rest.count(b"data: event ") == 5
    assert took > 0.1  # four intervals of 50 ms follow the first event; had it waited for the others, none would


def test_a_foreign_name_is_refused_before_any_server_hears_of_it(plain_uvicorn: Server, proxies: Proxies, curl: Curl) -> None:
    url = proxies.url(plain_uvicorn.origin, tls=False)
    port = url.rpartition(":")[2]
    words = ["-o", "/dev/null", "-w", "%{http_code}", "--resolve", f"evil.example.com:{port}:127.0.0.1"]
    out, _ = curl.start(*words, f"http://evil.example.com:{port}/echo").communicate(timeout=DEADLINE_S)
    assert out == b"421"
