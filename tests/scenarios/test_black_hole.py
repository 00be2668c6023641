"""A server whose packets are dropped: in a network of its own, which then answers nothing any more, not even that nobody is there."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import post
from tests.support.daemon import Daemon
from tests.support.upstream import ScriptedUpstream, answer, response
from tests.support.waiting import until

pytestmark = [pytest.mark.needs("ip"), pytest.mark.root]
SERVER = """
import http.server, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"far")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], 8000), Echo).serve_forever()
"""
MADE = count()


class Far:
    """A machine at the other end of a cable."""

    def __init__(self, stack: ExitStack) -> None:
        number = (4 * os.getpid() + next(MADE)) % 16384  # a network that is deleted stays for a moment
        self.name, cable = f"mcpproxy-{number}", f"mp{number}"
        net = f"10.{64 + number // 256}.{number % 256}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        ip("netns", "add", self.name)
        stack.callback(ip, "netns", "delete", self.name)
        ip("link", "add", f"{cable}a", "type", "veth", "peer", "name", f"{cable}b", "netns", self.name)
        stack.callback(ip, "link", "delete", f"{cable}a")
        ip("addr", "add", f"{self.here}/24", "dev", f"{cable}a")
        ip("link", "set", f"{cable}a", "up")
        ip("-n", self.name, "addr", "add", f"{self.there}/24", "dev", f"{cable}b")
        ip("-n", self.name, "link", "set", f"{cable}b", "up")
        self.url = f"http://{self.there}:8000"
        server = subprocess.Popen(["ip", "netns", "exec", self.name, sys.executable, "-c", SERVER, self.there])
        stack.callback(server.wait)
        stack.callback(server.kill)
        until(self._answers, "it listens")

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.there, 8000), timeout=0.5).close()
        except OSError:
            return False
        return True

    def swallow(self, on: bool) -> None:
        """Whatever it wants to say to us is dropped."""
        ip("-n", self.name, "route", "add" if on else "delete", "blackhole", f"{self.here}/32")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def far() -> Iterator[Far]:
    with ExitStack() as stack:
        yield Far(stack)


def call(daemon: Daemon) -> tuple[int, bytes, float]:
    began = time.monotonic()
    with daemon.client() as client:
        answer = client.exchange(post())
    return answer.status, answer.body, time.monotonic() - began


WAITS = {"connect_timeout": "1s", "response_timeout": "2s", "retry_after": "1s"}


def test_its_neighbour_serves_and_it_comes_back(far: Far, run: Run) -> None:
    with ScriptedUpstream(answer(response(b"near"))) as near:
        daemon = run(near.url, far.url, upstream=WAITS)
        until(lambda: {call(daemon)[1] for _ in range(4)} == {b"near", b"far"}, "both serve")
        far.swallow(True)
        seen = [call(daemon) for _ in range(12)]  # a call that was sent on a warm link is lost, and is not repeated
        assert {status for status, _, _ in seen} <= {200, 504}
        assert all(took < 10 for _, _, took in seen)
        until(lambda: all(call(daemon)[:2] == (200, b"near") for _ in range(20)), "it is passed over")
        far.swallow(False)
        until(lambda: call(daemon)[1] == b"far", "it is back")
        daemon.stop()
        assert len(near.requests()) == len(daemon.select(status=200, upstream=near.url.removeprefix("http://")))


def test_alone_it_is_told_and_not_waited_for_for_ever(far: Far, run: Run) -> None:
    daemon = run(far.url, upstream=WAITS)
    assert call(daemon)[:2] == (200, b"far")
    far.swallow(True)
    seen = [call(daemon) for _ in range(4)]
    assert {status for status, _, _ in seen} <= {503, 504}
    until(lambda: call(daemon)[0] == 503, "nobody is there, which is said at once")
    far.swallow(False)
    until(lambda: call(daemon)[0] == 200, "it is back")
