"""SDK clients start `mcpproxy connect URL` as their stdio server, and take their tour through servers far away: of every kind, and behind the daemon."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Proxies
from tests.real.test_tours import BIG, CLIENTS, MODERN_SERVERS, check, pairs
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.software import Driver, Server

STDIO = [each for each in CLIENTS if each[0] != "fast"]


def job(url: str, era: str, *more: str) -> dict[str, Any]:
    return {"url": url, "era": era, "transport": "stdio", "big": BIG, "command": [sys.executable, "-m", "mcpproxy", "connect", url, *more]}


@pytest.mark.parametrize(("kind", "era", "server"), pairs(STDIO, ["sdk2", "sdk1", "fast", "everything"]))
def test_streamable_http(kind: str, era: str, server: str, clients: Callable[[str], Driver], request: pytest.FixtureRequest) -> None:
    seen = clients(kind).ask(job(request.getfixturevalue(server).origin + "/mcp", era))
    check(seen, kind)
    expected = "2026-07-28" if era == "auto" and server in MODERN_SERVERS else "2025-11-25"
    assert (seen.get("protocol") or expected) == expected


@pytest.mark.parametrize(("kind", "era", "server"), pairs(STDIO, ["sdk2", "sdk1", "everything_sse"]))
def test_http_and_sse(kind: str, era: str, server: str, clients: Callable[[str], Driver], request: pytest.FixtureRequest) -> None:
    """Found out by asking: nobody says that the URL is of the older transport. A client that asks for the newest era is told that it is not spoken."""
    seen = clients(kind).ask(job(request.getfixturevalue(server).origin + "/sse", era))
    check(seen, kind)


@pytest.mark.parametrize(("kind", "era"), [("sdk2", "auto"), ("sdk2", "legacy")])
def test_behind_the_daemon_with_tls_and_an_api_key(
    kind: str, era: str, sdk2: Server, tmp_path: Path, certificate: Certificate, clients: Callable[[str], Driver], proxies: Proxies
) -> None:
    from mcpproxy.policy import keyring

    file = tmp_path / "keys.jsonl"
    with keyring.changing(str(file)) as entries:
        key = keyring.add(entries, "desk", roles=(), now=0.0, expires=None).text
    (tmp_path / "key").write_text(key + "\n")
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}],
        "auth": {"keys": {"type": "api-key", "file": str(file)}},
        "upstream": {"u": {"urls": [sdk2.origin]}},
        "route": [{"upstream": "u", "path": "/mcp", "auth": "keys"}],
        "drain": "5s",
    }
    with Daemon(config, tmp_path) as daemon:
        url = f"https://localhost:{daemon.port()}/mcp"
        seen = clients(kind).ask(job(url, era, "--cacert", str(certificate.cert), "-H", f"Authorization: Bearer file:{tmp_path / 'key'}"))
        check(seen, kind)
        assert {record["principal"] for record in daemon.wait_records(4, path="/mcp", status=200)} == {"desk"}
