"""SDK clients start `mcpproxy connect URL` as their stdio server, and take their tour through servers far away: of every kind, and behind the daemon."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Proxies
from tests.real.test_oauth import callers, opened
from tests.real.test_tours import BIG, CLIENTS, MODERN_SERVERS, check, pairs, some
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.software import REAL, REPOSITORY, Driver, Server

STDIO = [each for each in CLIENTS if each[0] != "fast"]


US = f"PYTHONPATH={REPOSITORY}"  # clients are started wherever their modules are


def job(url: str, era: str, *more: str) -> dict[str, Any]:
    command = ["/usr/bin/env", US, sys.executable, "-m", "mcpproxy", "connect", url, *more]
    return {"url": url, "era": era, "transport": "stdio", "big": BIG, "command": command}


@pytest.mark.parametrize(("kind", "era", "server"), some(pairs(STDIO, ["sdk2", "sdk1", "fast", "everything"]), 3))
def test_streamable_http(kind: str, era: str, server: str, clients: Callable[[str], Driver], request: pytest.FixtureRequest) -> None:
    seen = clients(kind).ask(job(request.getfixturevalue(server).origin + "/mcp", era))
    check(seen, kind)
    expected = "2026-07-28" if era == "auto" and server in MODERN_SERVERS else "2025-11-25"
    assert (seen.get("protocol") or expected) == expected


@pytest.mark.parametrize(("kind", "era", "server"), some(pairs(STDIO, ["sdk2", "sdk1", "everything_sse"]), 4))
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


# -- logins ----------------------------------------------------------------------------------------------------------------------------------


def browser(log: Path) -> str:
    """What $BROWSER is: a person who says yes, and writes down which page it was."""
    return f"{sys.executable} {REAL / 'clients' / 'browser.py'} {log} %s"


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_person_logs_in_once_for_all_runs(
    era: str, sdk2: Server, tmp_path: Path, certificate: Certificate, clients: Callable[[str], Driver]
) -> None:
    """The daemon wants tokens of an authorization server; the browser is asked in the first run, and not in the second."""
    with opened(sdk2.origin, tmp_path, certificate) as door:
        made = job(door.url, era, "--oauth", "--cacert", str(certificate.cert), "--state-dir", str(tmp_path / "desk"))
        made["command"] = ["/usr/bin/env", f"BROWSER={browser(tmp_path / 'pages')}", *made["command"]]
        for _ in range(2):
            check(clients("sdk2").ask(made), "sdk2")
        assert callers(door) == {"alice"}
        assert len((tmp_path / "pages").read_text().splitlines()) == 1
        assert {token.claims["aud"] for token in door.authority.tokens.values()} == {door.url}


def test_three_instances_at_once_ask_the_person_once_and_short_lives_are_renewed(
    sdk2: Server, tmp_path: Path, certificate: Certificate
) -> None:
    with opened(sdk2.origin, tmp_path, certificate) as door:
        door.authority.lifetime = 2
        more = ["--oauth", "--cacert", str(certificate.cert), "--state-dir", str(tmp_path / "desk")]
        command = ["/usr/bin/env", f"BROWSER={browser(tmp_path / 'pages')}", sys.executable, "-m", "mcpproxy", "connect", door.url, *more]
        programs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        try:
            for program in programs:
                write(program, id=0, method="initialize", params={"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": ABOUT})
            assert all("result" in answer(program, 0) for program in programs)
            assert len((tmp_path / "pages").read_text().splitlines()) == 1
            for program in programs:
                write(program, method="notifications/initialized")
            first = set(door.authority.tokens)
            for number in range(1, 1000):
                for program in programs:
                    write(program, id=number, method="ping")
                assert all("result" in answer(program, number) for program in programs)
                if len(set(door.authority.tokens) - first) >= 2:
                    break
            assert len((tmp_path / "pages").read_text().splitlines()) == 1
        finally:
            for program in programs:
                program.stdin.close()  # type: ignore[union-attr]
                assert program.wait(30) == 0
                program.stdout.close()  # type: ignore[union-attr]
        said = subprocess.run([*command, "--logout"], capture_output=True, text=True, timeout=60)
        assert (said.returncode, said.stdout) == (0, "") and "logged out" in said.stderr
        assert not [*(tmp_path / "desk").rglob("*.json")]


ABOUT = {"name": "desk", "version": "1"}


def write(program: "subprocess.Popen[str]", **message: Any) -> None:
    assert program.stdin is not None
    program.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    program.stdin.flush()


def answer(program: "subprocess.Popen[str]", id: int) -> dict[str, Any]:
    """The next message that is the answer to this request."""
    assert program.stdout is not None
    while line := program.stdout.readline():
        found: dict[str, Any] = json.loads(line)
        if found.get("id") == id and "method" not in found:
            return found
    raise AssertionError("it ended without an answer")


# -- bad days --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "sdk2",
        pytest.param("sdk1", marks=pytest.mark.software("mcp1")),
        pytest.param("everything", marks=pytest.mark.software("node", "npm")),
    ],
)
def test_a_server_that_was_started_anew(kind: str, tmp_path: Path) -> None:
    """Its sessions are gone; the client does not notice."""
    from tests.support import software

    start: Callable[[], Server] = getattr(software, f"{kind}_server")
    with start() as server:
        url = server.origin + "/mcp"
        program = subprocess.Popen(
            [sys.executable, "-m", "mcpproxy", "connect", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        write(program, id=0, method="initialize", params={"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": ABOUT})
        assert "result" in answer(program, 0)
        write(program, method="notifications/initialized")
        write(program, id=1, method="tools/call", params={"name": "echo", "arguments": {"message": "one"}})
        assert "one" in str(answer(program, 1)["result"])
        port = server.port
    argv = {
        "sdk2": [sys.executable, REAL / "servers" / "sdk2.py", "{port}"],
        "sdk1": [software.python("mcp1"), REAL / "servers" / "sdk1.py", "{port}"],
        "everything": [software.node(), software.npm_package("server-everything") / "dist" / "index.js", "streamableHttp"],
    }[kind]
    with Server(*argv, port=port):  # type: ignore[arg-type]
        write(program, id=2, method="tools/call", params={"name": "echo", "arguments": {"message": "two"}})
        assert "two" in str(answer(program, 2)["result"])
        program.terminate()
        assert program.wait(30) == 0
    program.stdin.close()  # type: ignore[union-attr]
    program.stdout.close()  # type: ignore[union-attr]
