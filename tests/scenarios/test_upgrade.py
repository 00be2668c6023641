"""Another program takes the place of this one: no connection is refused, no stream is lost; one that cannot start changes nothing."""

import contextlib
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli.adminclient import AdminClient
from mcpproxy.cli.main import status_of
from tests.scenarios.test_bad_days import ticking
from tests.scenarios.test_reload import Streams, said
from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon, simple_config
from tests.support.h2 import speak
from tests.support.ports import free_port
from tests.support.toml import write_toml
from tests.support.upstream import ScriptedUpstream, answer, response
from tests.support.waiting import until

Begin = Callable[[dict[str, Any]], Daemon]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pid: int) -> None:
    """One of ours that is nobody's child here."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid), "it ends")


def heirs(daemon: Daemon) -> list[int]:
    """Who has taken over, so far."""
    return [int(found[1]) for message in list(daemon.messages) if (found := re.search(r"process ([0-9]+) serves from now on", message))]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """A daemon with a command line of its own: it is executed again."""
    made: list[Daemon] = []

    def make(config: dict[str, Any]) -> Daemon:
        made.append(Daemon(config, tmp_path, prefix=("env",)))
        until(lambda: said(made[-1], "serving"), "all serve")
        return made[-1]

    yield make
    for daemon in made:
        for pid in heirs(daemon):
            ended(pid)
        with daemon:
            pass


def upgrade(daemon: Daemon, pid: int = 0) -> int:
    """Who serves afterwards."""
    before = len(heirs(daemon))
    os.kill(pid or daemon.process.pid, signal.SIGUSR2)
    daemon._told_to_end = True
    until(lambda: len(heirs(daemon)) > before, lambda: f"another takes over: {daemon.messages[-5:]}")
    return heirs(daemon)[-1]


@pytest.mark.parametrize("count", [1, 2])
def test_no_connection_is_refused_while_programs_change(count: int, begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=count)
        config["listen"].append({"address": f"unix:{path}"})
        daemon = begin(config)
        enough, wrong, done = threading.Event(), list[BaseException | int](), [0, 0, 0]

        def calls(index: int) -> None:
            try:
                while not enough.is_set():
                    with daemon.client(index % 2) as client:
                        status = client.exchange(post(b"x")).status
                        if status != 200:
                            wrong.append(status)
                        done[index] += 1
            except (OSError, AssertionError) as error:
                wrong.append(error)

        threads = [threading.Thread(target=calls, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        first, pid = daemon.process.pid, 0
        for _ in range(3):
            old = pid or first
            pid = upgrade(daemon, pid)
            assert pid != old
            until(lambda old=old: not lives(old), "the old one is empty, and ends")
            before = sum(done)
            until(lambda before=before: sum(done) > before + 50 or wrong, "some calls")
        enough.set()
        for thread in threads:
            thread.join(20)
        assert not wrong
        ended(pid)
        assert not path.exists()
        assert daemon.wait() == 0


def test_streams_end_where_they_began(begin: Begin) -> None:
    with Streams() as server:
        daemon = begin(simple_config(server.url, drain="60s"))
        with daemon.client() as plain, speak(daemon) as connection:
            plain.send(get()).read_until(b"\r\n\r\n")
            call = connection.call(method="GET")
            until(lambda: len(server) == 2, "both are open")
            heir = upgrade(daemon)
            with daemon.client() as other:
                other.send(get()).read_until(b"\r\n\r\n")
                until(lambda: len(server) == 3, "the new one serves")
                server.tell(b"data: all of you\n\n")
                for client in (plain, other):
                    client.read_until(b"all of you\n\n")
                call.read_until(b"all of you\n\n")
                assert lives(daemon.process.pid)
                assert lives(heir)
        until(lambda: not lives(daemon.process.pid), "the old one ends with its last stream")
        assert lives(heir)


def test_what_a_reload_cannot_change_is_changed(begin: Begin) -> None:
    port = free_port()
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=2)
        config["listen"].append({"address": f"127.0.0.1:{port}"})
        daemon = begin(config)
        for count in (3, 1):
            config["workers"] = count
            daemon.file.write_text(write_toml({"workers": 1, **config}))
            heir = upgrade(daemon, heirs(daemon)[-1] if heirs(daemon) else 0)
            names = [
                Path(f"/proc/{each}/comm").read_text().strip() for each in Path(f"/proc/{heir}/task/{heir}/children").read_text().split()
            ]
            assert sum(name[9:].isdigit() for name in names) == count
            for _ in range(12):
                with daemon.client() as client:
                    assert client.exchange(post(b"x")).status == 200
        config["listen"].pop()
        daemon.file.write_text(write_toml({"workers": 1, **config}))
        upgrade(daemon, heir)
        until(lambda: not lives(heir), "the old one ends")
        with pytest.raises(ConnectionRefusedError):
            RawClient(port)


def test_what_is_known_goes_on(begin: Begin, tls_listen: dict[str, Any], certificate: Certificate, tmp_path: Path) -> None:
    """Tickets of TLS sessions, what was used up of limits, and what operators made of endpoints."""
    context = certificate.client()
    with ScriptedUpstream(answer(response(b"one"))) as one, ScriptedUpstream(answer(response(b"two"))) as two:
        config = simple_config(one.url, two.url, listen=tls_listen, more=[{"upstream": "u", "path": "/few", "rate": "2/h burst 1"}])
        config["admin"] = {"address": f"unix:{tmp_path}/admin.sock"}
        daemon = begin(config)

        def call(path: str, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession | None, bool, bytes]:
            raw = socket.create_connection(("127.0.0.1", daemon.port()), timeout=20)
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as link:
                link.sendall(post(b"{}", path=path, extra="Connection: close\r\n"))
                said = b"".join(iter(lambda: link.recv(65536), b""))
                return link.session, bool(link.session_reused), said

        admin = AdminClient(f"unix:{tmp_path}/admin.sock")
        until(Path(tmp_path / "admin.sock").exists, "the admin listener")
        admin.post("endpoint", {"upstream": "u", "endpoint": two.url.removeprefix("http://"), "state": "drain"})
        assert [b"200 OK" in call("/few")[2] for _ in range(3)] == [True, True, False]
        session = call("/")[0]
        pid = 0
        for _ in range(2):
            old = pid or daemon.process.pid
            pid = upgrade(daemon, pid)
            until(lambda old=old: not lives(old), "the old one ends")
            assert call("/", session)[1], "resumed"
            assert b" 429 " in call("/few")[2]
            assert all(call("/")[2].endswith(b"one") for _ in range(4))


def test_a_path_that_is_not_wanted_any_more_stays_until_the_new_one_serves(begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url)
        daemon = begin(config | {"listen": [*config["listen"], {"address": f"unix:{path}"}]})
        broken = config | {"log": {"access": f"{tmp_path}/none/there/access.log"}, "state_dir": str(tmp_path / "state")}
        daemon.file.write_text(write_toml({"workers": 1, **broken}))
        daemon.signal(signal.SIGUSR2)
        until(lambda: said(daemon, "this one goes on"), lambda: f"it cannot start: {daemon.messages}")
        with daemon.client(1) as client:
            assert client.exchange(post()).status == 200
        daemon.file.write_text(write_toml({"workers": 1, **config}))
        upgrade(daemon)
        until(lambda: not path.exists(), "nobody needs it any more")


def test_one_that_cannot_start_changes_nothing(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url)
        daemon = begin(config)
        daemon.file.write_text("nonsense = 1\n")
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200
            daemon.signal(signal.SIGUSR2)
            until(lambda: said(daemon, "ended with 1; this one goes on"), "it is said")
            assert said(daemon, "nonsense"), "and why"
            assert client.exchange(post(b"x")).status == 200
        daemon.file.write_text(write_toml({"workers": 1, **config}))
        upgrade(daemon)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200


def test_the_new_one_is_reloaded_and_stopped_like_any_other(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url)
        daemon = begin(config)
        heir = upgrade(daemon)
        until(lambda: not lives(daemon.process.pid), "the old one ends")
        config["route"][0]["path"] = "/here"
        daemon.file.write_text(write_toml({"workers": 1, **config}))
        os.kill(heir, signal.SIGHUP)
        until(lambda: said(daemon, "configuration reloaded"), "reloaded")
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 404
        ended(heir)
        with pytest.raises(ConnectionRefusedError):
            daemon.client()


def test_the_audit_log_goes_on_in_a_chain_that_is_free(begin: Begin, tmp_path: Path) -> None:
    """While the old one still has a stream, its chain is its own."""
    audit = tmp_path / "audit.log"
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{}}}'
    with ScriptedUpstream(ticking) as upstream:
        config = simple_config(upstream.url, audit={"file": str(audit)}, state_dir=str(tmp_path / "state"))
        daemon = begin(config)
        with daemon.client() as stream:
            stream.send(get("/events"))
            stream.read_until(b"data: x")
            for turn in range(2):
                with daemon.client() as client:
                    assert client.exchange(post(call)).status == 200
                if not turn:
                    heir = upgrade(daemon)
            stream.read_until(b"data: x")
        until(lambda: not lives(daemon.process.pid), "the old one ends")
        ended(heir)
    assert {file.name for file in tmp_path.glob("audit*")} == {"audit.log", "audit.chain1.log"}
    assert status_of(["audit", "verify", "-c", str(daemon.file)]) == 0


def test_the_old_one_is_killed_before_the_new_one_has_read_what_was_left_to_it(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = begin(simple_config(upstream.url))
        os.kill(daemon.process.pid, signal.SIGUSR2)
        until(lambda: said(daemon, "is to take over"), "it begins")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        heir = next(int(found[1]) for message in daemon.messages if (found := re.search(r"process ([0-9]+) is to take over", message)))
        try:
            until(lambda: sum("serving" in message for message in daemon.messages) == 2, "it serves")
            with daemon.client() as client:
                assert client.exchange(post()).status == 200
        finally:
            ended(heir)


def test_a_new_one_that_is_told_to_end_before_it_serves_takes_no_path_away(begin: Begin, tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = begin(simple_config(upstream.url) | {"listen": [{"address": f"unix:{tmp_path}/edge.sock"}]})
        os.kill(daemon.process.pid, signal.SIGUSR2)
        until(lambda: said(daemon, "is to take over"), "it begins")
        heir = next(int(found[1]) for message in daemon.messages if (found := re.search(r"process ([0-9]+) is to take over", message)))
        os.kill(heir, signal.SIGTERM)  # it has them blocked until it hears them
        until(lambda: said(daemon, "this one goes on") or heirs(daemon), "it ended")
        assert not heirs(daemon), "it was told before it served"
        with daemon.client() as client:
            assert client.exchange(post()).status == 200
