"""Three real SDK servers with sessions of their own, side by side: behind the daemon every client's tour succeeds, behind nginx that hashes
`Mcp-Session-Id` sessions break on the first request after `initialize`, for their id was chosen after that one was balanced without it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.real.test_tours import BIG, check
from tests.support.certs import Certificate
from tests.support.daemon import Daemon, dial
from tests.support.ports import free_port
from tests.support.software import Driver, Program, Server, sdk1_server
from tests.support.waiting import until

pytestmark = pytest.mark.software("mcp1")
SESSIONS = 20  # behind nginx each goes to the right one of three by chance: 3**-20 that all do
NGINX = """\
daemon off;
pid {place}/pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    upstream replicas {{ hash $http_mcp_session_id consistent; {servers} }}
    server {{
        listen 127.0.0.1:{port};
        client_body_buffer_size 1m;
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_set_header Connection "";
        proxy_set_header Host 127.0.0.1:{first};
        location / {{ proxy_pass http://replicas; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(sdk1_server()) for _ in range(3)]


@pytest.fixture(scope="module")
def daemon(replicas: list[Server], certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    config: dict[str, Any] = {
        "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}],
        "upstream": {"u": {"urls": [replica.origin for replica in replicas]}},
        "route": [{"upstream": "u"}],
        "workers": 2,
        "drain": "5s",
    }
    with Daemon(config, tmp_path_factory.mktemp("replicas")) as started:
        until(lambda: any("serving" in message for message in started.messages), "all serve")
        yield started


@pytest.fixture(scope="module")
def nginx(replicas: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place, port = tmp_path_factory.mktemp("nginx"), free_port()
    origins = [replica.origin.removeprefix("http://") for replica in replicas]
    text = NGINX.format(
        place=place, port=port, servers=" ".join(f"server {each};" for each in origins), first=origins[0].rpartition(":")[2]
    )
    (place / "nginx.conf").write_text(text)
    with Program("nginx", "-e", "stderr", "-p", place, "-c", place / "nginx.conf") as program:
        until(lambda: accepts(port, program), "nginx accepts")
        yield f"http://127.0.0.1:{port}"


def accepts(port: int, program: Program) -> bool:
    assert program.process.poll() is None, program.said
    try:
        dial(f"127.0.0.1:{port}").close()
    except OSError:
        return False
    return True


def job(origin: str, transport: str) -> dict[str, Any]:
    return {"url": origin + ("/sse" if transport == "sse" else "/mcp"), "era": "legacy", "transport": transport, "big": BIG}


CLIENTS = [
    pytest.param(kind, transport, marks=pytest.mark.software(*software))
    for kind, software in (("sdk1", ["mcp1"]), ("sdk2", []), ("ts1", ["node", "npm"]), ("ts2", ["node", "npm"]))
    for transport in ("http", "sse")
]


@pytest.mark.parametrize(("kind", "transport"), CLIENTS)
def test_every_client_stays_with_its_replica(kind: str, transport: str, daemon: Daemon, clients: Callable[[str], Driver]) -> None:
    client = clients(kind)
    for _ in range(2):
        check(client.ask(job(f"https://localhost:{daemon.port()}", transport)), kind)


@pytest.mark.needs("nginx")
def test_hashing_the_session_id_breaks_sessions_and_sealing_it_does_not(
    daemon: Daemon, nginx: str, clients: Callable[[str], Driver]
) -> None:
    client = clients("sdk1")
    before = len(daemon.records)
    seen = [client.ask(job(f"https://localhost:{daemon.port()}", "http")) for _ in range(SESSIONS)]
    for each in seen:
        check(each, "sdk1")
    opened = until(
        lambda: found if len(found := sessions(daemon, before)) >= SESSIONS else {},
        lambda: f"all are logged; {len(sessions(daemon, before))} are, of {len(daemon.records) - before} records",
    )
    assert len(set(opened.values())) == 3, "every replica had some of them"
    for record in daemon.records[before:]:
        if record.get("session") in opened:
            assert record["upstream"] == opened[record["session"]], "and all that came after went there"
    broken = [each for each in (client.ask(job(nginx, "http")) for _ in range(SESSIONS)) if "error" in each]
    assert broken
    assert all("Session terminated" in each["error"] for each in broken), [each["error"][-400:] for each in broken]


def sessions(daemon: Daemon, since: int) -> dict[str, str]:
    """Where each was opened."""
    return {record["new_session"]: record["upstream"] for record in daemon.records[since:] if "new_session" in record}


def test_the_key_is_kept(daemon: Daemon) -> None:
    assert (Path(daemon.file).parent / "state" / "session.keys").stat().st_mode & 0o777 == 0o600
