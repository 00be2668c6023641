"""What Prometheus reads from the real daemon: every exchange, at once, and still there when its worker was killed."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse

from tests.scenarios.conftest import Run
from tests.support.client import get, post
from tests.support.daemon import Daemon
from tests.support.upstream import Link, ScriptedUpstream, answer
from tests.support.waiting import until

Found = dict[tuple[Any, ...], float]
COUNTERS = ("_total", "_bucket", "_count", "_sum")


def asked(path: Path, accept: str = "") -> tuple[str, str]:
    """Content type and page of GET /metrics."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode())
        whole = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return fields["content-type"], body.decode()


def scrape(path: Path) -> Found:
    """By name and labels."""
    page = asked(path)[1]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in parse(page) for sample in family.samples}


def total(found: Found, name: str, **labels: str) -> float:
    """Over all other labels."""
    return sum(value for key, value in found.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


def started(run: Run, tmp_path: Path, *urls: str, **changes: Any) -> tuple[Daemon, Path]:
    """A daemon all of whose workers are there, and its admin socket."""
    path = tmp_path / "admin.sock"
    daemon = run(*urls, admin={"address": f"unix:{path}"}, **changes)
    until(path.exists, "its admin socket is there")
    until(lambda: scrape(path)["mcpproxy_workers",] == changes.get("workers", 1), "all workers are there")
    return daemon, path


def test_an_exchange_is_seen_at_once(run: Run, tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon, path = started(run, tmp_path, upstream.url, workers=2, route={"name": "echo"}, log={"access": "off"})
        before = total(scrape(path), "mcpproxy_connections_accepted_total")  # who asked whether it is there
        for number in range(1, 6):
            with daemon.client() as client:
                assert client.exchange(post(b"x")).status == 200
            assert total(scrape(path), "mcpproxy_requests_total", route="echo", upstream="u", status="200", end="done") == number
        with daemon.client() as client:
            assert client.exchange(get("/x", host="a b")).status == 400
        found = scrape(path)
        assert total(found, "mcpproxy_refusals_total", route="") == 1
        assert total(found, "mcpproxy_request_duration_seconds_count") == 6
        assert total(found, "mcpproxy_connections_accepted_total") == before + 6
        assert total(found, "mcpproxy_endpoint_up", upstream="u") == 1
        content_type, page = asked(path, "application/openmetrics-text;version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert page.endswith("# EOF\n")


def test_what_is_under_way_is_seen(run: Run, tmp_path: Path) -> None:
    def streaming(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(streaming) as upstream:
        daemon, path = started(run, tmp_path, upstream.url, workers=2)
        with daemon.client() as client:
            client.send(get())
            until(lambda: total(scrape(path), "mcpproxy_event_streams") == 1, "the stream is seen")
            assert total(scrape(path), "mcpproxy_exchanges", protocol="http1") == 1
            assert total(scrape(path), "mcpproxy_upstream_links", state="in_use") == 1
        until(lambda: total(scrape(path), "mcpproxy_event_streams") == 0, "it is over")


def test_nothing_falls_when_workers_are_killed(run: Run, tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon, path = started(run, tmp_path, upstream.url, workers=3)
        counted, before = 0, scrape(path)
        for life in range(1, 4):
            for _ in range(20):
                with daemon.client() as client:
                    assert client.exchange(post(b"x")).status == 200
            counted += 20
            found = scrape(path)
            assert total(found, "mcpproxy_requests_total", status="200") == counted
            os.kill(daemon.workers[life % 3], signal.SIGKILL)
            until(lambda life=life: scrape(path)["mcpproxy_worker_deaths_total",] == life, "its death is seen")
            until(lambda: scrape(path)["mcpproxy_workers",] == 3, "another took its place")
            after = scrape(path)
            for key, value in before.items():
                if key[0].endswith(COUNTERS):
                    assert after[key] >= value, key
            before = after
        assert total(before, "mcpproxy_requests_total", status="200") == counted


def test_when_the_control_process_dies_metrics_come_back(run: Run, tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon, path = started(run, tmp_path, upstream.url, workers=2)
        control = daemon.processes()["mcpproxy:ctl"]
        os.kill(control, signal.SIGKILL)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200

        def back() -> bool:
            try:
                return scrape(path)["mcpproxy_workers",] == 2
            except OSError:
                return False

        until(back, "it is there again, and so are its workers")
        assert total(scrape(path), "mcpproxy_requests_total", status="200") == 1


def test_a_reload_lets_no_counter_fall_and_begins_what_is_new(run: Run, tmp_path: Path) -> None:
    """Also what the control process does is another thing then: the same process, with what it counted."""

    def ask(daemon: Daemon) -> None:
        with daemon.client() as client:
            assert client.exchange(post(b"x")).body == b"x"

    with ScriptedUpstream(answer()) as upstream:
        daemon, path = started(run, tmp_path, upstream.url)
        for _ in range(3):
            ask(daemon)
        control = daemon.processes()["mcpproxy:ctl"]
        before = scrape(path)
        assert total(before, "mcpproxy_requests_total") == 3
        assert before["mcpproxy_generation",] == 1
        text = daemon.file.read_text()
        daemon.file.write_text(text.replace('[upstream."u"]\n', '[upstream."u"]\nhealth = { every = "2s", path = "/well" }\n'))
        assert daemon.file.read_text() != text
        daemon.signal(signal.SIGHUP)
        until(lambda: any(request.target == b"/well" for request in upstream.requests()), "the new health check asks")
        ask(daemon)
        after = scrape(path)
        assert total(after, "mcpproxy_requests_total") == 4
        assert after["mcpproxy_generation",] == 2
        assert after["mcpproxy_workers",] == 1
        daemon.file.write_text(text)
        daemon.signal(signal.SIGHUP)
        until(lambda: scrape(path)["mcpproxy_generation",] == 3, "and back")
        asked_so_far = len(upstream.requests())
        ask(daemon)
        assert total(scrape(path), "mcpproxy_requests_total") == 5
        assert len(upstream.requests()) <= asked_so_far + 2
        assert daemon.processes()["mcpproxy:ctl"] == control
