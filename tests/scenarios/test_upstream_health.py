"""Servers on bad days: who is passed over, who is tried again and when, what clients are told meanwhile; and nothing is ever sent twice."""

import os
import signal
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.scenarios.conftest import Run
from tests.scenarios.test_metrics import scrape, started, total
from tests.support.certs import Authority, make_certificate
from tests.support.client import post
from tests.support.daemon import Daemon, simple_config
from tests.support.h2 import speak
from tests.support.message import Message
from tests.support.ports import black_hole, refusing_port
from tests.support.upstream import Link, Script, ScriptedUpstream, answer, response
from tests.support.waiting import until

SICK = response(b"sick", status="500 Internal Server Error")
SOON: dict[str, Any] = {"keepalive": 0, "connect_timeout": "1s", "retry_after": "1s", "slow_start": "0s"}


def named(name: str) -> Script:
    return answer(response(name.encode()))


def ask(daemon: Daemon, body: bytes = b"{}") -> tuple[int, bytes]:
    with daemon.client() as client:
        got = client.exchange(post(body))
        return got.status, got.body


def calls(daemon: Daemon, count: int) -> list[int]:
    return [ask(daemon, b"%d" % number)[0] for number in range(count)]


class Moody:
    """Answers 200 with its name, or whatever is put into `reply`; `/health` as `well` says."""

    def __init__(self, name: str) -> None:
        self.name, self.reply, self.well, self.asked = name, b"", True, 0

    def __call__(self, request: Message) -> bytes:
        if request.target == b"/health":
            self.asked += 1
            return response(b"", status="200 OK" if self.well else "503 Service Unavailable")
        return self.reply or response(self.name.encode())


# -- nobody there --------------------------------------------------------------------------------------------------------------------------


def test_all_down_is_503_at_once_with_retry_after_and_the_first_that_is_back_is_found(run: Run) -> None:
    with ExitStack() as dead, ScriptedUpstream(named("other")) as other:
        ports = [dead.enter_context(refusing_port()) for _ in range(2)]
        daemon = run(*[f"http://127.0.0.1:{port}" for port in ports], upstream=SOON)
        assert ask(daemon)[0] == 502, "it was tried"
        with daemon.client() as client:
            got = client.exchange(post())
        assert (got.status, got.first("retry-after")) == (503, b"1")
        assert b"upstream-down" in got.body
        assert set(calls(daemon, 20)) <= {502, 503}
        dead.close()
        with ScriptedUpstream(named("back"), port=ports[1]):
            until(lambda: ask(daemon) == (200, b"back"), "it is found", deadline_s=5)
        assert other.requests() == []


def test_nobody_waits_for_a_black_hole_that_somebody_looks_into(run: Run) -> None:
    with black_hole() as port:
        daemon = run(f"http://127.0.0.1:{port}", upstream=SOON)
        assert ask(daemon)[0] == 504
        began = time.monotonic()
        found = calls(daemon, 10)
        assert found.count(503) >= 8
        assert time.monotonic() - began < 5, "one looks at a time, the others are told at once"


def test_a_black_hole_beside_others_costs_one_call_its_time(run: Run) -> None:
    with black_hole() as port, ScriptedUpstream(answer()) as alive:
        daemon = run(f"http://127.0.0.1:{port}", alive.url, upstream=SOON | {"retry_after": "60s"})
        assert calls(daemon, 12) == [200] * 12
        slow = [record for record in daemon.wait_records(12) if record["ms"] > 500]
        assert len(slow) == 1
        assert len(alive.requests()) == 12


# -- answers badly -------------------------------------------------------------------------------------------------------------------------


def reset(link: Link) -> None:
    link.read_request()
    link.reset()


def half(head: bytes) -> Script:
    """The beginning of an answer, and no end."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\n" + head)
        link.reset()

    return script


HALF = {
    "half": half(b"Content-Length: 100\r\n\r\n{"),
    "head only": half(b"Content-Length: 2\r\n\r\n"),
    "half a chunk": half(b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
    "half a stream": half(b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n: one\n\n\r\n"),
    "broken chunks": half(b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"),
}


def ask_all(daemon: Daemon, count: int) -> int:
    """How many of so many calls had a whole answer."""
    whole = 0
    for number in range(count):
        with daemon.client() as client:
            client.send(post(b"%d" % number))
            got = client.response()
            whole += got.ended and got.status == 200
    return whole


@pytest.mark.parametrize("bad", HALF.values(), ids=HALF)
def test_who_cuts_its_answers_is_passed_over_as_who_answers_500(bad: Script, run: Run) -> None:
    """And a head alone is no proof that it is well again: each try costs one call, not five."""
    with ScriptedUpstream(bad) as sick, ScriptedUpstream(answer()) as well:
        daemon = run(sick.url, well.url, upstream=SOON)
        assert ask_all(daemon, 60) == 55, "five were cut, and then it was out"
        until(lambda: (ask_all(daemon, 1), len(sick.requests()))[1] >= 7, "it was tried twice", deadline_s=10)
        assert ask_all(daemon, 20) == 20
        assert len(sick.requests()) == 7


def test_event_streams_that_end_speak_against_nobody(run: Run) -> None:
    """GET: whoever listens there is not waiting for an answer, and proxies before the server cut it when it is silent."""
    with ScriptedUpstream(HALF["half a stream"]) as one, ScriptedUpstream(HALF["half a stream"]) as two:
        daemon = run(one.url, two.url, upstream=SOON)
        for _ in range(20):
            with daemon.client() as client:
                client.send(b"GET /mcp HTTP/1.1\r\nHost: mcp.example\r\nAccept: text/event-stream\r\n\r\n")
                client.read_to_end()
        assert len(one.requests()) == len(two.requests()) == 10


@pytest.mark.parametrize("stream", [False, True], ids=["closes", "streams"])
def test_a_half_open_one_comes_back_however_its_answers_end(stream: bool, run: Run) -> None:
    """Each on a connection of its own; or one that streams and does not end."""
    bad = True

    def script(link: Link) -> None:
        link.read_request()
        if bad:
            link.send(SICK)
        elif stream:
            link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n: one\n\n\r\n")
            link.read_until_closed()
        else:
            link.send(response(b"a", extra="Connection: close\r\n"))

    with ScriptedUpstream(script) as one, ScriptedUpstream(named("b")) as two, ExitStack() as stack:
        daemon = run(one.url, two.url, upstream=SOON)
        calls(daemon, 20)
        bad = False

        def back() -> bool:
            client = stack.enter_context(daemon.client())
            client.send(post())
            client.read_until(b"\r\n\r\n")
            return any("is back" in line for line in daemon.messages)

        until(back, "it is back", deadline_s=10)


# -- over HTTP/2 ---------------------------------------------------------------------------------------------------------------------------


def test_over_http2_each_replica_has_its_share_of_cold_calls(run: Run) -> None:
    with ScriptedUpstream(named("a")) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON)
        with speak(daemon) as client:
            bodies = [client.call("POST", "/mcp", b"{}").wait().body for _ in range(20)]
        assert (bodies.count(b"a"), bodies.count(b"b")) == (10, 10)


def test_over_http2_who_is_back_is_found(run: Run) -> None:
    with ExitStack() as dead:
        ports = [dead.enter_context(refusing_port()) for _ in range(2)]
        daemon = run(*[f"http://127.0.0.1:{port}" for port in ports], upstream=SOON)
        with speak(daemon) as client:
            assert [client.call("POST", "/mcp", b"{}").wait().status for _ in range(20)].count(503) >= 15
            dead.close()
            with ScriptedUpstream(named("back"), port=ports[1]):
                until(lambda: client.call("POST", "/mcp", b"{}").wait().body == b"back", "it is found", deadline_s=5)


def test_over_http2_who_is_well_again_comes_back(run: Run) -> None:
    moody = Moody("a")
    with ScriptedUpstream(answer(moody)) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON)
        with speak(daemon) as client:
            moody.reply = SICK
            for _ in range(20):
                client.call("POST", "/mcp", b"{}").wait()
            moody.reply = b""
            until(lambda: client.call("POST", "/mcp", b"{}").wait().body == b"a", "it is tried again", deadline_s=10)


@pytest.mark.parametrize("bad", [answer(SICK), reset, answer(b"no HTTP at all\r\n\r\n")], ids=["500", "resets", "nonsense"])
def test_who_answers_badly_is_passed_over_and_no_call_is_sent_twice(bad: Script, run: Run) -> None:
    with ScriptedUpstream(bad) as sick, ScriptedUpstream(answer()) as well:
        daemon = run(sick.url, well.url, upstream=SOON)
        found = calls(daemon, 60)
        assert found.count(200) == 55, "five were bad, and then it was out"
        until(lambda: any("answers badly" in line for line in daemon.messages), "the operator hears")
        sent = [request.body for request in (*sick.requests(), *well.requests())]
        assert len(sent) == len(set(sent)) == 60


def test_who_is_well_again_comes_back(run: Run) -> None:
    moody = Moody("a")
    with ScriptedUpstream(answer(moody)) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON)
        moody.reply = SICK
        calls(daemon, 20)
        assert {ask(daemon) for _ in range(4)} == {(200, b"b")}
        moody.reply = b""
        until(lambda: ask(daemon) == (200, b"a"), "it is tried again", deadline_s=10)
        assert {ask(daemon)[1] for _ in range(4)} == {b"a", b"b"}
        assert any("is back" in line for line in daemon.messages)


def test_who_flaps_costs_fewer_and_fewer_calls(run: Run) -> None:
    """It answers badly whenever it has calls, and is well as soon as one finds out."""
    turn = iter(range(1_000_000))

    def flapping(request: Message) -> bytes:
        return response(b"a") if next(turn) % 6 == 0 else SICK

    with ScriptedUpstream(answer(flapping)) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON | {"retry_after": "500ms"})
        end = time.monotonic() + 4
        found: list[int] = []
        while time.monotonic() < end:
            found.append(ask(daemon)[0])
        assert found.count(500) <= 30, "of four times that it was in, half a second, a second and two seconds apart, and tries"
        assert found.count(200) > found.count(500)


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "405 Method Not Allowed", "429 Too Many Requests"]
)
def test_what_is_normal_for_mcp_speaks_against_nobody(status: str, run: Run) -> None:
    with ScriptedUpstream(answer(response(b"no", status=status))) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON)
        calls(daemon, 40)
        assert len(one.requests()) == len(two.requests()) == 20


def test_the_only_one_is_asked_however_it_answers(run: Run) -> None:
    with ScriptedUpstream(answer(SICK)) as only:
        daemon = run(only.url, upstream=SOON)
        assert calls(daemon, 20) == [500] * 20


def test_who_is_silent_past_its_time_is_passed_over_and_who_left_speaks_against_nobody(run: Run) -> None:
    def silent(link: Link) -> None:
        link.read_request()
        link.read_until_closed()

    with ScriptedUpstream(silent) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream=SOON | {"response_timeout": "1s", "breaker": {"failures": 2}})
        for _ in range(6):
            with daemon.client() as client:
                client.send(post())
                until(lambda: one.links or two.links, "it is asked")
        found = calls(daemon, 12)
        assert found.count(504) == 2
        assert found[-4:] == [200] * 4


# -- weights and bounds -----------------------------------------------------------------------------------------------------------------------


def test_weights_are_kept(run: Run) -> None:
    with ScriptedUpstream(named("a")) as one, ScriptedUpstream(named("b")) as two:
        daemon = run(one.url, two.url, upstream={"endpoints": {one.url: {"weight": 3}}})
        with daemon.client() as client:
            bodies = [client.exchange(post()).body for _ in range(40)]
        assert (bodies.count(b"a"), bodies.count(b"b")) == (30, 10)


def test_the_less_busy_of_two_gets_the_calls(run: Run) -> None:
    with ExitStack() as stack:
        entered = threading.Semaphore(0)

        def slow(link: Link) -> None:
            link.read_request()
            entered.release()
            link.read_until_closed()

        one, two = stack.enter_context(ScriptedUpstream(slow)), stack.enter_context(ScriptedUpstream(named("b")))
        daemon = run(one.url, two.url, upstream={"balance": "least-busy"})
        clients = []
        while not one.links:
            clients.append(stack.enter_context(daemon.client()))
            clients[-1].send(post())
            until(lambda: len(one.links) + len(two.requests()) >= len(clients), "it was asked")
        assert entered.acquire(timeout=10)
        assert {ask(daemon) for _ in range(20)} == {(200, b"b")}, "nobody is put behind the call that hangs"


def test_a_slow_upstream_starves_nobody_else(tmp_path: Path) -> None:
    """Bulkhead: its connections and its queue are full, and only its own callers hear of that."""

    def slow(link: Link) -> None:
        link.read_request()
        link.read_until_closed()

    with ScriptedUpstream(slow) as bad, ScriptedUpstream(named("good")) as good, ExitStack() as stack:
        slow_one = {"urls": [bad.url], "max_connections": 8, "queue": 4, "queue_timeout": "30s"}
        config = simple_config(good.url, more=[{"path": "/slow", "upstream": "slow"}])
        config["upstream"]["slow"] = slow_one
        daemon = stack.enter_context(Daemon(config, tmp_path))
        hung = [stack.enter_context(daemon.client()) for _ in range(12)]
        for client in hung:
            client.send(post(path="/slow"))
        until(lambda: len(bad.links) == 8, "it is full")
        with daemon.client() as client:
            until(lambda: client.exchange(post(path="/slow")).status == 503, "so is its queue")
            began = time.monotonic()
            assert {client.exchange(post(path="/good")).body for _ in range(200)} == {b"good"}
            assert time.monotonic() - began < 5
        assert len(bad.links) == 8


def test_an_endpoint_has_a_bound_of_its_own(run: Run) -> None:
    def slow(link: Link) -> None:
        link.read_request()
        link.read_until_closed()

    with ScriptedUpstream(slow) as one, ScriptedUpstream(named("b")) as two, ExitStack() as stack:
        daemon = run(one.url, two.url, upstream={"endpoints": {one.url: {"max_connections": 1}}})
        client = stack.enter_context(daemon.client())
        client.send(post())
        until(lambda: len(one.links) == 1, "it is full")
        assert {ask(daemon) for _ in range(20)} == {(200, b"b")}
        assert len(one.links) == 1


def test_a_disabled_endpoint_gets_nothing_and_a_drained_one_neither(run: Run) -> None:
    with ExitStack() as stack:
        a, b, c = (stack.enter_context(ScriptedUpstream(named(name))) for name in "abc")
        daemon = run(a.url, b.url, c.url, upstream={"endpoints": {a.url: {"state": "drain"}, b.url: {"state": "disabled"}}})
        assert {ask(daemon) for _ in range(12)} == {(200, b"c")}


def test_whom_one_worker_passes_over_no_other_worker_finds_out_about(run: Run, tmp_path: Path) -> None:
    """One connection has one worker: that one pays for what all know then."""
    moody = Moody("a")
    moody.reply = SICK
    with ScriptedUpstream(answer(moody)) as one, ScriptedUpstream(named("b")) as two:
        never = {"keepalive": 0, "retry_after": "1m"}
        daemon, admin = started(run, tmp_path, one.url, two.url, upstream=never, workers=2)
        with daemon.client() as client:
            until(lambda: client.exchange(post(b"{}")).status == 200 and len(one.requests()) >= 5, "it is passed over")
        states = "mcpproxy_endpoint_breakers"
        until(lambda: total(scrape(admin), states, endpoint=one.url.removeprefix("http://"), state="open") == 2, "both workers know")
        paid = len(one.requests())
        assert {ask(daemon) for _ in range(40)} == {(200, b"b")}, "each worker has some of forty connections"
        assert len(one.requests()) == paid == 5


# -- active checks ---------------------------------------------------------------------------------------------------------------------------


CHECKED = {"health": {"every": "200ms", "timeout": "200ms", "fall": 2}, "slow_start": "0s"}


def test_who_fails_its_checks_gets_no_calls_from_any_worker_until_it_passes(run: Run) -> None:
    a, b = Moody("a"), Moody("b")
    with ScriptedUpstream(answer(a)) as one, ScriptedUpstream(answer(b)) as two:
        daemon = run(one.url, two.url, upstream=CHECKED, workers=2)
        a.well = False
        until(lambda: any("fails its health check" in line for line in daemon.messages), "it is found")
        until(lambda: {ask(daemon)[1] for _ in range(16)} == {b"b"}, "no worker asks it")
        b.well = False
        until(lambda: set(calls(daemon, 8)) == {503}, "nobody is well")
        a.well = True
        until(lambda: set(calls(daemon, 8)) == {200}, "the first one back is used", deadline_s=5)
        assert {ask(daemon)[1] for _ in range(8)} == {b"a"}


def test_a_new_control_process_flips_nothing(run: Run) -> None:
    a, b = Moody("a"), Moody("b")
    with ScriptedUpstream(answer(a)) as one, ScriptedUpstream(answer(b)) as two:
        daemon = run(one.url, two.url, upstream=CHECKED)
        a.well = False
        until(lambda: {ask(daemon)[1] for _ in range(8)} == {b"b"}, "it is out")
        control = daemon.processes()["mcpproxy:ctl"]
        asked = a.asked
        os.kill(control, signal.SIGKILL)
        bodies = set()
        until(lambda: bodies.add(ask(daemon)[1]) or a.asked > asked + 3, "it is asked again")
        assert bodies == {b"b"}
        a.well = True
        until(lambda: {ask(daemon)[1] for _ in range(8)} == {b"a", b"b"}, "and heard")


# -- TLS -------------------------------------------------------------------------------------------------------------------------------------


def test_a_server_that_asks_for_a_certificate_is_shown_ours_under_the_name_we_say(run: Run, tmp_path: Path) -> None:
    clients = Authority.make(tmp_path / "ca")
    ours = clients.issue(tmp_path / "ours", x509.DNSName("proxy.example"))
    inside = make_certificate(tmp_path / "inside", "inside.example")
    context = inside.server()
    context.load_verify_locations(clients.files.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    with ScriptedUpstream(named("secret"), tls=context) as upstream:
        more = {"ca": str(inside.cert), "server_name": "inside.example", "cert": str(ours.cert), "key": str(ours.key)}
        daemon = run(upstream.url, upstream=more | {"health": {"check": "tcp", "every": "200ms", "timeout": "200ms"}})
        assert ask(daemon) == (200, b"secret")
        assert set(names) == {"inside.example"}
