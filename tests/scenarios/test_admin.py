"""An operator and the real daemon: what is seen, what is closed, what is taken out; over HTTP/1.1 and HTTP/2, with one worker and two."""

import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli.adminclient import AdminClient, Unsaid
from mcpproxy.errors import StartError
from tests.support.client import RawClient
from tests.support.daemon import Daemon, simple_config
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

GET = b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n: hi\n\n\n\r\n"


def play(link: Link) -> None:
    """Streams stay open, everything else is answered."""
    while True:
        request: Message = link.read_request()
        if b"/stream" in request.target:
            link.send(STREAM)
            link.read_until_closed()
            return
        link.send(response(b"{}"))


def operator(daemon: Daemon) -> AdminClient:
    """Once it is there."""
    client = AdminClient(f"unix:{daemon.file.parent}/state/admin.sock")

    def answers() -> bool:
        try:
            return client.get("status")["health"] == "ok"
        except StartError:
            return False

    until(answers, "the admin listener")
    return client


def look_until(client: AdminClient, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    seen: list[dict[str, Any]] = [{}]

    def found() -> bool:
        try:
            seen[0] = client.get("status")
        except StartError:  # one control process has gone, the next one is not there yet
            return False
        return bool(true(seen[0]))

    until(found, lambda: f"the look; the last was {seen[0]}")
    return seen[0]


def open_stream(daemon: Daemon) -> RawClient:
    client = daemon.client()
    client.send(GET.replace(b"/mcp", b"/stream"))
    client.read_until(b": hi")
    return client


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_open_is_seen_and_can_be_ended(workers: int, tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url, workers=workers), tmp_path) as daemon:
        client = operator(daemon)
        streams = [open_stream(daemon) for _ in range(5)]
        idle = daemon.client()
        idle.exchange(GET)
        look = look_until(client, lambda look: look["open"]["kinds"].get("stream") == 5)
        assert look["open"]["upstreams"] == [{"name": "u", "streams": 5}]
        assert look["connections"]["open"] == 6
        found = list(client.pages("exchanges"))
        assert len(found) == 5
        assert {(each["kind"], each["upstream"], each["method"], each["path"]) for each in found} == {("stream", "u", "GET", "/stream")}
        assert all(each["endpoint"] and each["bytes_out"] > 50 and each["client"] == "127.0.0.1" for each in found)
        connections = list(client.pages("connections"))
        assert len(connections) == 6
        assert sorted(each["open"] for each in connections) == [0, 1, 1, 1, 1, 1]
        client.post("close", {"id": found[0]["id"]})
        record = daemon.record(end="stopped")
        assert record["path"] == "/stream"
        look_until(client, lambda look: look["open"]["kinds"].get("stream") == 4)
        (resting,) = [each for each in connections if not each["open"]]
        client.post("close", {"id": resting["id"]})
        assert idle.is_closed()
        with pytest.raises(Unsaid) as caught:
            client.post("close", {"id": found[0]["id"]})
        assert caught.value.status == 404
        for each in streams:
            each.close()


def test_refusals_are_shown_with_their_reason(tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url, route={"path": "/only"}), tmp_path) as daemon:
        client = operator(daemon)
        with daemon.client() as browser:
            browser.exchange(GET.replace(b"/mcp", b"/%3Cscript%3E"))
        look = look_until(client, lambda look: look["refusals"])
        assert (look["refusals"][0]["reason"], look["refusals"][0]["status"]) == ("no-route", 404)
        assert look["refusals"][0]["path"] == "/%3Cscript%3E"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drained_endpoint_gets_no_calls_until_it_is_enabled(workers: int, tmp_path: Path) -> None:
    with ScriptedUpstream(play) as one, ScriptedUpstream(play) as other:
        with Daemon(simple_config(one.url, other.url, workers=workers), tmp_path) as daemon:
            client = operator(daemon)
            order = {"upstream": "u", "endpoint": one.url.removeprefix("http://"), "state": "drain"}
            client.post("endpoint", order)
            states = {each["label"]: each["state"] for each in client.get("upstreams")["u"]["endpoints"]}
            assert states == {one.url.removeprefix("http://"): "draining", other.url.removeprefix("http://"): "up"}
            for _ in range(10):
                with daemon.client() as caller:
                    caller.exchange(GET)
            assert {record["upstream"] for record in daemon.wait_records(10, path="/mcp")} == {other.url.removeprefix("http://")}
            client.post("endpoint", order | {"state": "enable"})
            assert {each["state"] for each in client.get("upstreams")["u"]["endpoints"]} == {"up"}


def test_a_worker_that_comes_later_knows_what_operators_said(tmp_path: Path) -> None:
    with ScriptedUpstream(play) as one, ScriptedUpstream(play) as other:
        with Daemon(simple_config(one.url, other.url, workers=2), tmp_path) as daemon:
            client = operator(daemon)
            client.post("endpoint", {"upstream": "u", "endpoint": one.url.removeprefix("http://"), "state": "disable"})
            victim = client.get("workers")[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            look = look_until(client, lambda look: look["health"] == "ok" and victim not in [each["pid"] for each in look["workers"]])
            assert len(look["workers"]) == 2
            for _ in range(12):
                with daemon.client() as caller:
                    caller.exchange(GET)
            assert {record["upstream"] for record in daemon.wait_records(12, path="/mcp")} == {other.url.removeprefix("http://")}


def test_the_control_process_dies_and_another_one_answers(tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url), tmp_path) as daemon:
        client = operator(daemon)
        stream = open_stream(daemon)
        os.kill(answers_there(client.address[5:]), signal.SIGKILL)
        look = look_until_back(client)
        assert [each["state"] for each in look["workers"]] == ["serving"], "the first answer is right"
        look_until(client, lambda look: look["open"]["kinds"] == {"stream": 1})
        stream.close()


def answers_there(path: str) -> int:
    """The process that has the socket."""
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(path)
        return int(struct.unpack("3i", ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def look_until_back(client: AdminClient) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def back() -> bool:
        try:
            found.append(client.get("status"))
        except StartError:
            return False
        return True

    until(back, "another control process")
    return found[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_that_was_refused_is_told_until_one_is_taken(workers: int, tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream:
        config = simple_config(upstream.url, workers=workers, route={"path": "/one"})
        with Daemon(config, tmp_path) as daemon:
            client = operator(daemon)
            good = daemon.file.read_text()
            daemon.file.write_text(good.replace("/one", "one"))
            with pytest.raises(Unsaid) as caught:
                client.post("reload", {})
            assert caught.value.status == 409
            look = client.get("status")
            until_when = "(generation 1 goes on until one is taken)"
            assert (look["health"], look["problems"]) == (
                "degraded",
                [f"the last reload was refused: {daemon.file}: 1 mistake {until_when}"],
            )
            assert look["pid"] == daemon.process.pid
            daemon.file.write_text(good.replace("/one", "/two"))
            assert client.post("reload", {})["ok"]
            look = client.get("status")
            assert (look["health"], look["problems"], look["generation"]) == ("ok", [], 2)


def test_metrics_and_the_socket_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url), tmp_path) as daemon:
        client = operator(daemon)
        path = client.address[5:]
        assert os.stat(path).st_mode & 0o777 == 0o600
        with daemon.client() as caller:
            caller.exchange(GET)
        with socket.socket(socket.AF_UNIX) as scraper:
            scraper.connect(path)
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            page = b"".join(iter(lambda: scraper.recv(65536), b""))
        assert b"mcpproxy_requests_total{" in page
        assert daemon.stop() == 0
        assert not os.path.exists(path)


def test_over_tcp_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-secret\n")
    (tmp_path / "token").chmod(0o600)
    with ScriptedUpstream(play) as upstream:
        address = f"127.0.0.1:{free_port()}"
        config = simple_config(upstream.url, admin={"address": address, "token": f"file:{tmp_path / 'token'}"})
        with Daemon(config, tmp_path) as daemon:
            right, wrong = AdminClient(address, "a-secret"), AdminClient(address, "another")
            assert look_until_back(right)["health"] == "ok"
            with pytest.raises(Unsaid) as caught:
                wrong.get("status")
            assert caught.value.status == 401
            assert not any("a-secret" in line for line in daemon.messages)


def test_off_is_off(tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url, admin={"address": "off"}), tmp_path) as daemon:
        with daemon.client() as caller:
            assert caller.exchange(GET).status == 200
        assert not (tmp_path / "state" / "admin.sock").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_is_answered_also_when_the_process_that_answers_is_replaced(workers: int, tmp_path: Path) -> None:
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url, workers=workers), tmp_path) as daemon:
        client = operator(daemon)
        assert client.post("reload", {})["ok"]
        assert client.get("status")["generation"] == 2
        daemon.file.write_text(daemon.text + "\nnonsense = 3\n")
        with pytest.raises(Unsaid, match="there is no such key"):
            client.post("reload", {})
        daemon.file.write_text(daemon.text.replace('"5s"', '"6s"'))
        assert client.post("reload", {})["ok"]
        look_until(client, lambda look: look["generation"] == 3 and configured(client) == 6.0)


def configured(client: AdminClient) -> float:
    """The drain time in force."""
    try:
        return float(client.get("config")["drain"])
    except StartError:
        return 0.0
