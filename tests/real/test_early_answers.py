"""An answer that comes while the client is still sending: refused by the server (which then reads on, or hangs up), or by the proxy itself.

The client must see the answer. What eats it is a reset: of the connection while the answer lies unread in the client's kernel, or of the stream
before the client's library has told of the head.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.install_real import node
from tests.support.ports import free_port
from tests.support.software import REAL, trusting
from tests.support.upstream import Link, Script, ScriptedUpstream, response

SIZE = 20 * 1024 * 1024  # bytes: more than all kernels between keep
DEADLINE_S = 30.0
REFUSAL = response(b"no", status="401 Unauthorized")
LAST_WORDS = response(b"no", status="401 Unauthorized", extra="Connection: close\r\n")

HTTPX = """
import httpx, ssl, sys
url, size, h2, ca = sys.argv[1:]
with httpx.Client(verify=ssl.create_default_context(cafile=ca), http2=h2 == "2", timeout=20, trust_env=False) as client:
    answer = client.post(url, content=(bytes(65536) for _ in range(int(size) // 65536)))
print(answer.status_code, answer.text)
"""


def reads_on(link: Link) -> None:
    if b" /small " not in link.read_head():
        link.send(REFUSAL)
    link.read_until_closed()


def hangs_up(link: Link) -> None:
    if b" /small " not in link.read_head():
        link.send(LAST_WORDS)
        with contextlib.suppress(OSError):  # the proxy was faster
            link.half_close()
    link.read_until_closed()


def curl(version: str, url: str, file: Path, ca: Path) -> list[str | Path]:
    if version == "--http2" and url.startswith("http:"):
        version = "--http2-prior-knowledge"
    words = ["curl", "-sS", version, "--noproxy", "*", "--cacert", ca, "-H", "Expect:", "-w", " %{http_code}", "--data-binary", f"@{file}"]
    return [*words, url]


CLIENTS: dict[str, Callable[[str, Path, Path], list[str | Path]]] = {
    "curl-h1": lambda url, file, ca: curl("--http1.1", url, file, ca),
    "curl-h1-chunked": lambda url, file, ca: [*curl("--http1.1", url, file, ca), "-H", "Transfer-Encoding: chunked"],
    "curl-h2": lambda url, file, ca: curl("--http2", url, file, ca),
    "httpx-h1": lambda url, file, ca: [sys.executable, "-c", HTTPX, url, str(SIZE), "1", ca],
    "httpx-h2": lambda url, file, ca: [sys.executable, "-c", HTTPX, url, str(SIZE), "2", ca],
    "fetch": lambda url, file, ca: [node(), REAL / "clients" / "upload.mjs", url, str(SIZE)],
}
NEEDS = {"curl": pytest.mark.needs("curl"), "fetch": pytest.mark.software("node")}
EACH = [pytest.param(name, marks=[NEEDS[kind] for kind in NEEDS if name.startswith(kind)]) for name in CLIENTS]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("early") / "upload"
    made.write_bytes(bytes(SIZE))
    return made


@pytest.fixture(scope="module", params=[reads_on, hangs_up])
def refusing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Daemon]:
    script: Script = request.param
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}, {"address": f"127.0.0.1:{free_port()}"}],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u", "path": "/mcp", "max_body": "1GiB"}, {"upstream": "u", "path": "/small", "max_body": "1MiB"}],
            "drain": "1s",
        }
        with Daemon(config, tmp_path_factory.mktemp("refusing")) as daemon:
            yield daemon


@pytest.mark.parametrize(("path", "status"), [("/mcp", 401), ("/small", 413), ("/nowhere", 404)])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("client", EACH)
def test_a_client_that_is_still_sending_sees_the_answer(
    client: str, tls: bool, path: str, status: int, refusing: Daemon, file: Path, certificate: Certificate
) -> None:
    if client == "httpx-h2" and not tls:
        client = "httpx-h1"  # it has no prior knowledge
    url = f"{'https' if tls else 'http'}://localhost:{refusing.port(0 if tls else 1)}{path}"
    words = CLIENTS[client](url, file, certificate.cert)
    env = {**os.environ, "NO_PROXY": "*", **trusting(certificate.cert)}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)
    assert str(status) in ended.stdout.split(), ended.stdout + ended.stderr
