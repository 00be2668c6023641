"""Every message an SDK client sends is understood, nothing it says about itself contradicts it, and how each call ended is known.

The tour of test_tours through a tap that keeps the bytes of both sides; what rules, limits and the audit log will read is read from them afterwards.
"""

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mcpproxy.config.policies import Rule, Tools
from mcpproxy.mcp.call import calls_of
from mcpproxy.mcp.mirror import read
from mcpproxy.mcp.outcome import Watch
from mcpproxy.policy.hints import Hints
from mcpproxy.policy.tools import Rules
from tests.real.test_tours import BIG, CLIENTS, check, pairs
from tests.support.message import Message, read_requests, read_response
from tests.support.software import Driver


def hang_up(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Tap:
    """Passes bytes between a client and a server, and keeps them: what one side sent and the other answered, connection by connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: list[tuple[bytearray, bytearray]] = []
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            heard = bytearray(), bytearray()
            self.heard.append(heard)
            self.open += [client, server]
            for ends in ((client, server, heard[0]), (server, client, heard[1])):
                self.threads.append(threading.Thread(target=self._pass, args=ends))
                self.threads[-1].start()

    def _pass(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        try:
            while piece := source.recv(65536):
                kept += piece
                target.sendall(piece)
        except OSError:
            pass
        for each in (source, target):
            hang_up(each)

    def close(self) -> None:
        """Also what clients keep open for their next tour."""
        hang_up(self.listener)
        self.threads[0].join(10)
        for each in (self.listener, *self.open):
            hang_up(each)
        for thread in self.threads:
            thread.join(10)
        for each in (self.listener, *self.open):
            each.close()

    def exchanges(self) -> list[tuple[Message, Message | None]]:
        """Requests with their responses, as far as they came."""
        found: list[tuple[Message, Message | None]] = []
        for sent, answered in self.heard:
            rest = bytes(answered)
            for request in read_requests(bytes(sent))[0]:
                response, rest = read_response(rest, method=request.method, eof=True) if rest else (None, b"")
                found.append((request, response))
        return found


@pytest.fixture
def tap(request: pytest.FixtureRequest) -> Any:
    made = []

    def before(port: int) -> Tap:
        made.append(Tap(port))
        return made[0]

    yield before
    for each in made:
        each.close()


@pytest.mark.parametrize(("kind", "era", "server"), pairs(CLIENTS, ["sdk2", "everything"]))
def test_every_message_of_a_tour_is_understood(
    kind: str, era: str, server: str, tap: Callable[[int], Tap], clients: Callable[[str], Driver], request: pytest.FixtureRequest
) -> None:
    origin = request.getfixturevalue(server).origin
    tapped = tap(int(origin.rpartition(":")[2]))
    check(clients(kind).ask({"url": tapped.origin + "/mcp", "era": era, "transport": "http", "big": BIG}), kind)
    outcomes: Counter[str] = Counter()
    named: set[tuple[str, str | None]] = set()
    hints = Hints()
    view = Rules(Tools(allow=(Rule(methods=("*",)),)), "route[0]").seen_by(None)
    for asked, answered in tapped.exchanges():
        if asked.method != b"POST" or not asked.ended:
            continue
        mirror = read([(name, name.lower(), value) for name, value in asked.fields])
        calls = calls_of(asked.body)
        mirror.check(calls)
        named |= {(call.method, call.name) for call in calls}
        assert view.judge_all(calls).allowed
        if mirror.call is not None:
            assert (mirror.call.method, mirror.call.name) == (calls[0].method, calls[0].name)
        if answered is None or calls[0].notification or calls[0].response or calls[0].method == "subscriptions/listen":
            continue
        stream = (answered.first("content-type") or b"").startswith(b"text/event-stream")
        watch = Watch(stream=stream, wanted=calls[0].method == "tools/list")
        for place in range(0, len(answered.body), 1000):
            watch.feed(answered.body[place : place + 1000])
        outcomes[watch.end().kind] += 1
        for id, outcome in watch.answers:
            assert id == calls[0].id or (id in (b"", b"null", b'"server-error"') and outcome.kind == "error")
        if watch.result is not None:
            assert hints.learn(watch.result)
    assert {method for method, _ in named} >= {"tools/list", "tools/call"}
    assert hints.read_only("echo") is not None
    assert outcomes["ok"] >= 4
    assert outcomes["unknown"] <= 1, "but for the large one"
