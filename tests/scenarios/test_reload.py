"""The configuration changes while everything runs: nobody who is connected notices but by what changed."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate, make_certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon, simple_config
from tests.support.h2 import speak
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.toml import write_toml
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Streams:
    """A server all of whose answers are event streams that never end; it tells all of them the same."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.gone = 0
        self._thread = threading.Thread(target=self._run)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            self._writers.add(writer)
            await reader.read(1)
        self._writers.discard(writer)
        self.gone += 1
        writer.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._sock))
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def tell(self, event: bytes) -> None:
        def write() -> None:
            for writer in self._writers:
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))

        self._loop.call_soon_threadsafe(write)

    def __len__(self) -> int:
        return len(self._writers)

    def __enter__(self) -> "Streams":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def said(daemon: Daemon, text: str) -> int:
    return sum(text in message for message in list(daemon.messages))


def reload(daemon: Daemon, config: dict[str, Any] | None = None, *, outcome: str = "configuration reloaded") -> None:
    """Until it is decided."""
    if config is not None:
        daemon.file.write_text(write_toml({"workers": 1, **config}))
    before = said(daemon, outcome)
    daemon.signal(signal.SIGHUP)
    until(lambda: said(daemon, outcome) > before, lambda: f"{outcome}: {daemon.messages[-5:]}")


def started(run: Run, config: dict[str, Any], **more: Any) -> Daemon:
    daemon = run(**config, **more)
    until(lambda: said(daemon, "serving"), "all serve")
    return daemon


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Daemon]]:
    with contextlib.ExitStack() as stack:

        def make(config: dict[str, Any]) -> Daemon:
            daemon = stack.enter_context(Daemon(config, tmp_path))
            until(lambda: said(daemon, "serving"), "all serve")
            return daemon

        yield make


Begin = Callable[[dict[str, Any]], Daemon]


def processes(daemon: Daemon) -> dict[int, str]:
    """Its children, and what they call themselves."""
    pid = daemon.process.pid
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return {each: Path(f"/proc/{each}/comm").read_text().strip() for each in found if Path(f"/proc/{each}").exists()}


def workers(daemon: Daemon) -> list[int]:
    return [pid for pid, name in processes(daemon).items() if name.startswith("mcpproxy:") and name[9:].isdigit()]


def resident(pids: list[int]) -> int:
    """Bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


# -- streams ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_ten_reloads_with_two_thousand_streams_lose_none(count: int, begin: Begin) -> None:
    with Streams() as server, contextlib.ExitStack() as stack:
        config = simple_config(server.url, workers=count, limits={"streams": 250})
        daemon = begin(config)
        plain = [stack.enter_context(daemon.client()) for _ in range(200)]
        for client in plain:
            client.send(get())
        connections = [stack.enter_context(speak(daemon)) for _ in range(8)]
        calls = [connection.call(method="GET") for connection in connections for _ in range(225)]
        until(lambda: len(server) == 2000, lambda: f"all are open, not {len(server)}")
        for number in range(10):
            config["route"][0]["max_body"] = f"{number + 1}KiB"
            reload(daemon, config)
            if number == 1:
                before = resident(workers(daemon))
        assert resident(workers(daemon)) - before < 12 << 20
        server.tell(b"data: still here\n\n")
        for client in plain:
            client.read_until(b"still here\n\n\r\n")
        for call in calls:
            call.read_until(b"still here\n\n")
        assert (len(server), server.gone) == (2000, 0)
        assert said(daemon, "(generation 11)") == 1
        assert len(workers(daemon)) == count


def test_a_stream_goes_on_at_the_server_it_began_with(begin: Begin) -> None:
    with Streams() as old, ScriptedUpstream(answer()) as new:
        config = simple_config(old.url)
        daemon = begin(config)
        with daemon.client() as stream, daemon.client() as other:
            stream.send(get()).read_until(b"\r\n\r\n")
            reload(daemon, config | {"upstream": {"u": {"urls": [new.url]}}})
            assert other.exchange(post(b"new")).body == b"new"
            old.tell(b"data: old\n\n")
            stream.read_until(b"old\n\n")


# -- calls ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_under_load_no_call_fails(count: int, begin: Begin) -> None:
    """Old connections and new ones, while routes and pools change."""
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=count)
        daemon = begin(config)
        enough, wrong, done = threading.Event(), list[BaseException | int](), [0] * 4

        def calls(index: int) -> None:
            try:
                while not enough.is_set():
                    with daemon.client() as client:
                        for _ in range(1 if index < 2 else 500):
                            status = client.exchange(post(b"x")).status
                            if status != 200:
                                wrong.append(status)
                            done[index] += 1
                            if enough.is_set():
                                break
            except (OSError, AssertionError) as error:
                wrong.append(error)

        threads = [threading.Thread(target=calls, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for number in range(10):
            config["route"][0]["max_body"] = f"{number + 1}KiB"
            config["upstream"]["u"]["keepalive"] = number + 2
            before = sum(done)
            reload(daemon, config)
            until(lambda before=before: sum(done) > before + 20 or wrong, "some calls")
        enough.set()
        for thread in threads:
            thread.join(20)
        assert not wrong


def test_a_key_that_was_deleted_stops_at_once(begin: Begin, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.add("agent")
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, auth={"keys": keys.auth()}, route={"auth": "keys"})
        daemon = begin(config)
        request = post(b"x", extra=f"X-API-Key: {key}\r\n")
        with daemon.client() as client:
            assert client.exchange(request).status == 200
            keys.revoke("agent")
            reload(daemon)
            assert client.exchange(request).status == 401


def test_limits_change_for_connections_that_are_open(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url)
        daemon = begin(config)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200
            config["route"][0]["rate"] = "1/h"
            reload(daemon, config)
            assert [client.exchange(post(b"x")).status for _ in range(2)] == [200, 429]


def test_another_certificate_is_shown_and_sessions_are_resumed(begin: Begin, certificate: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other")
    listen = {"address": f"127.0.0.1:{free_port()}"}

    def connect(context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes | None, ssl.SSLSession | None, bool]:
        raw = socket.create_connection(("127.0.0.1", daemon.port()), timeout=20)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as link:
            link.sendall(post(b"!", extra="Connection: close\r\n"))
            while link.recv(65536):
                pass
            return link.getpeercert(True), link.session, bool(link.session_reused)

    with ScriptedUpstream(answer()) as upstream:

        def config(pair: Certificate) -> dict[str, Any]:
            return simple_config(upstream.url, workers=2, listen=listen | {"tls": {"cert": str(pair.cert), "key": str(pair.key)}})

        daemon = begin(config(certificate))
        context = certificate.client()
        first, session, _ = connect(context)
        reload(daemon, config(other))
        assert all(connect(context, session)[2] for _ in range(8))
        assert connect(other.client())[0] != first
        (pid, _) = workers(daemon)
        os.kill(pid, signal.SIGKILL)
        until(lambda: len(set(workers(daemon)) - {pid}) == 2, "another took its place")
        assert all(connect(context, session)[2] for _ in range(8)), "who was made afterwards knows the tickets, too"
        assert all(connect(other.client())[0] != first for _ in range(8))


# -- addresses --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_addresses_come_and_go(count: int, begin: Begin, tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "edge.sock"
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=count)
        more = config | {"listen": [*config["listen"], {"address": f"127.0.0.1:{port}"}, {"address": f"unix:{path}"}]}
        daemon = begin(config)
        before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (daemon.process.pid, *workers(daemon))]
        for _ in range(3):
            reload(daemon, more)
            for address in (port, str(path)):
                for _ in range(4):
                    with RawClient(address) as client:
                        assert client.exchange(post(b"x")).status == 200
            reload(daemon, config)
            assert not path.exists()
            with pytest.raises(ConnectionRefusedError):
                RawClient(port)
        after = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (daemon.process.pid, *workers(daemon))]
        assert all(now <= then + 4 for now, then in zip(after, before, strict=True)), (before, after)


def test_who_is_made_afterwards_has_the_new_configuration(begin: Begin) -> None:
    port = free_port()
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=2)
        daemon = begin(config)
        config["listen"].append({"address": f"127.0.0.1:{port}"})
        config["route"][0]["path"] = "/here"
        reload(daemon, config)
        for pid in workers(daemon):
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: len(set(workers(daemon)) - {pid}) == 2, "another took its place")
        for where in (daemon.port(), port):
            for _ in range(8):
                with RawClient(where) as client:
                    assert client.exchange(post(b"x")).status == 404
                    assert client.exchange(post(b"x", path="/here")).status == 200


# -- what is refused --------------------------------------------------------------------------------------------------------------------


def refused(daemon: Daemon, config: dict[str, Any] | None, *reasons: str) -> None:
    reload(daemon, config, outcome="configuration not reloaded")
    for reason in reasons:
        until(lambda reason=reason: said(daemon, reason), lambda reason=reason: f"{reason}: {daemon.messages[-5:]}")


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_had_is_said_and_changes_nothing(count: int, begin: Begin, tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream, socket.create_server(("127.0.0.1", 0)) as taken:
        config = simple_config(upstream.url, workers=count)
        daemon = begin(config)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200
            refused(daemon, config | {"route": [{"upstream": "nobody"}], "drain": "soon"}, "2 mistakes", "nobody", "drain")
            port = taken.getsockname()[1]
            refused(daemon, config | {"listen": [*config["listen"], {"address": f"127.0.0.1:{port}"}]}, "is in use by another process")
            refused(daemon, config | {"workers": 3}, "workers: another number of processes")
            refused(daemon, config | {"log": {"access": str(tmp_path / "nowhere" / "log")}}, "nowhere")
            daemon.file.unlink()
            refused(daemon, None, "No such file")
            assert client.exchange(post(b"x")).status == 200
            config["route"][0]["path"] = "/here"
            reload(daemon, config)
            assert client.exchange(post(b"x")).status == 404
        assert said(daemon, "(generation 2)") == 1


def test_a_worker_that_refuses_is_named_and_none_has_it(begin: Begin, tmp_path: Path) -> None:
    """What only a worker can find out: its log cannot be opened."""
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=2)
        daemon = begin(config)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        refused(daemon, config | {"log": {"access": str(pipe)}, "route": [{"upstream": "u", "path": "/x"}]}, "nobody reads")
        for _ in range(8):
            with daemon.client() as client:
                assert client.exchange(post(b"x")).status == 200


def test_a_worker_that_dies_meanwhile_holds_nobody_up(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=2)
        daemon = begin(config)
        pid = workers(daemon)[0]
        os.kill(pid, signal.SIGSTOP)
        config["route"][0]["path"] = "/here"
        daemon.file.write_text(write_toml({"workers": 1, **config}))
        daemon.signal(signal.SIGHUP)
        until(lambda: len(upstream.links) >= 0 and not said(daemon, "reloaded"), "it waits for an answer")
        os.kill(pid, signal.SIGKILL)
        until(lambda: said(daemon, "(generation 2)"), "decided without it")
        until(lambda: len(set(workers(daemon)) - {pid}) == 2, "another took its place")
        for _ in range(8):
            with daemon.client() as client:
                assert client.exchange(post(b"x")).status == 404


def test_signals_in_a_row_are_obeyed_one_after_the_other(begin: Begin) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = simple_config(upstream.url, workers=2)
        daemon = begin(config)
        for _ in range(20):
            daemon.signal(signal.SIGHUP)
        reload(daemon)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    """(mcpproxy serve URL)"""
    import subprocess
    import sys

    port = free_port()
    command = [sys.executable, "-m", "mcpproxy", "serve", "http://127.0.0.1:9", "--no-tls", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        assert "serving" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        assert any("there is no configuration file" in process.stderr.readline() for _ in range(3))
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.communicate()


def test_a_slow_answer_is_still_an_answer(begin: Begin) -> None:
    """A call that was with its server when the configuration changed gets what the server said."""
    asked, go = threading.Event(), threading.Event()

    def slow(link: Link) -> None:
        link.read_request()
        asked.set()
        link.wait(go)
        link.send(response(body=b"at last"))
        link.read_until_closed()

    with ScriptedUpstream(slow) as upstream:
        config = simple_config(upstream.url)
        daemon = begin(config)
        with daemon.client() as client:
            client.send(post(b"x"))
            assert asked.wait(20)
            reload(daemon, config | {"upstream": {"v": {"urls": [upstream.url]}}, "route": [{"upstream": "v", "path": "/gone"}]})
            go.set()
            assert client.response(b"POST").body == b"at last"
            assert client.exchange(post(b"x")).status == 404
