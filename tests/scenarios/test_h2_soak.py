"""After many mixed exchanges over HTTP/2, many at a time on few connections, everything is back where it was: descriptors, leases, memory.

5 000 exchanges in a normal run, as in test_soak.py, whose server this one shares; MCPPROXY_SOAK makes it more.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_soak import ALLOWED_GROWTH, BIG, CLIENTS, TOTAL, WARM_UP, upstream_script
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.h2 import Call, Code, H2Client, RuleBroken, literals, request_fields, speak
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream
from tests.support.waiting import until

AT_ONCE = 12  # calls of one connection that run side by side
Check = Callable[[], None]
Act = Callable[[H2Client], Check]


def asks(method: str, path: str, body: bytes | None = None, *, status: int = 200, whole: bool = True) -> Act:
    def act(client: H2Client) -> Check:
        call = client.call(method, path, body)

        def check() -> None:
            call.wait()
            assert (call.status, call.ended) == (status, whole), f"{path}: {call}"
            assert body is None or path not in ("/echo", "/chunked") or not whole or call.body == body

        return check

    return act


def uploads(client: H2Client) -> Check:
    """Of unknown length, in pieces, with trailers."""
    call = client.call("POST", "/echo", b"one", ended=False).send(b"two").end([("x-sum", "7")])

    def check() -> None:
        assert call.wait().body == b"onetwo"

    return check


def cancels(path: str, *, after_head: bool) -> Act:
    def act(client: H2Client) -> Check:
        call = client.call("GET", path)

        def check() -> None:
            if after_head:
                call.wait_head()
            call.cancel()

        return check

    return act


def abandons(client: H2Client) -> Check:
    """Half an upload."""
    client.open(request_fields(path="/echo", length=100), ended=False).send(b"x" * 50).cancel(Code.CANCEL)
    return lambda: None


def malformed(client: H2Client) -> Check:
    call = client.stream(b"GET")
    client.send_block(call.number, literals([*request_fields("GET"), ("transfer-encoding", "chunked")]), h2.END_STREAM)

    def check() -> None:
        assert call.wait().reset == Code.PROTOCOL_ERROR or call.status == 400

    return check


ACTS: dict[str, tuple[int, Act]] = {
    "echo": (30, asks("POST", "/echo", b'{"id":1}')),
    "echo big": (2, asks("POST", "/echo", BIG)),
    "chunked": (10, asks("POST", "/chunked", b"abc")),
    "stream": (10, asks("GET", "/stream")),
    "until close": (3, asks("GET", "/until-close")),
    "upload": (5, uploads),
    "cut": (3, asks("GET", "/cut", whole=False)),
    "upstream resets": (3, asks("POST", "/reset", b"{}", status=502)),
    "upstream closes": (3, asks("POST", "/close", b"{}", status=502)),
    "garbage": (3, asks("GET", "/garbage", status=502)),
    "two answers": (3, asks("GET", "/two")),
    "empty": (2, asks("POST", "/echo", b"")),
    "leaves while waiting": (2, cancels("/never", after_head=False)),
    "leaves a stream": (2, cancels("/stream", after_head=True)),
    "half an upload": (2, abandons),
    "malformed": (1, malformed),
}


class Crowd:
    """Clients in threads; each opens a connection, makes AT_ONCE calls at a time on it, and now and then leaves it, politely or not."""

    def __init__(self, daemon: Daemon, certificate: Certificate) -> None:
        self.daemon, self.certificate = daemon, certificate
        self.failures: list[str] = []

    def run(self, total: int, seed: int) -> None:
        threads = [threading.Thread(target=self._client, args=(total // CLIENTS, seed * 100 + i), daemon=True) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.failures == []

    def _client(self, count: int, seed: int) -> None:
        dice = random.Random(seed)
        names, weights = list(ACTS), [weight for weight, _ in ACTS.values()]
        rest = dice.choices(names, weights, k=count)
        while rest:
            tls = self.certificate.client(alpn=("h2",)) if dice.random() < 0.5 else None
            client = H2Client(self.daemon.client(1 if tls else 0, tls=tls))
            for _ in range(dice.randrange(1, 8)):
                names, rest = rest[:AT_ONCE], rest[AT_ONCE:]
                try:
                    for check in [ACTS[name][1](client) for name in names]:
                        check()
                except (AssertionError, OSError, RuleBroken) as error:
                    self.failures.append(f"{names}: {error!r}")
                    return
            if dice.random() < 0.3:
                client.call("GET", "/never")
                client.raw.reset()
            client.close()


def test_everything_is_back_after_many_mixed_exchanges(tmp_path: Path, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(upstream_script, keep_bytes=False) as upstream:
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}"}, tls_listen],
            "upstream": {"u": {"urls": [upstream.url], "max_connections": 16, "keepalive": 4, "retry_after": "0s", "queue": 1000}},
            "route": [{"host": "localhost", "upstream": "u"}],
            "log": {"access": str(tmp_path / "access.log")},
        }
        with Daemon(config, tmp_path) as daemon:
            baseline = daemon.resting()

            def rests() -> None:
                until(lambda: daemon.descriptors() <= baseline + 4, lambda: f"{baseline} and 4 idle links, have {daemon.descriptors()}")

            crowd = Crowd(daemon, certificate)
            crowd.run(WARM_UP, 1)
            rests()
            before = daemon.rss()
            crowd.run(TOTAL, 2)
            rests()
            assert daemon.rss() - before < ALLOWED_GROWTH, f"{before} bytes grew by {daemon.rss() - before}"
            with speak(daemon) as client:  # all sixteen leases are free
                calls: list[Call] = [client.call("POST", "/echo", b"x") for _ in range(16)]
                assert [call.wait().body for call in calls] == [b"x"] * 16
            assert daemon.stop() == 0


@pytest.mark.parametrize("part", ["field", "path", "response"])
def test_heads_that_are_all_different_do_not_grow_anything(part: str, tmp_path: Path) -> None:
    """Not the store of plans, not the remembered field blocks of either direction, not the dynamic tables."""
    with ScriptedUpstream(upstream_script, keep_bytes=False) as upstream:
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}"}],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u"}],
            "limits": {"plans": 64, "plan_bytes": "256KiB"},
            "log": {"access": "off"},
        }
        with Daemon(config, tmp_path) as daemon, speak(daemon) as client:

            def different(count: int, seed: int) -> None:
                for i in range(count):
                    path = f"/echo?{seed}-{i}" if part != "field" else "/echo"
                    fields = [(f"x-{seed}-{i}", "y" * 1500)] if part == "field" else []
                    body = b"x" * i if part == "response" else b""
                    assert client.call("POST", path, body, fields=fields).wait().status == 200

            different(800, 1)  # every memory is full by then
            before = daemon.rss()
            different(1600, 2)
            assert daemon.rss() - before < 2 * 1024 * 1024
