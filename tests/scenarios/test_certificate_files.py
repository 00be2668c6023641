"""Certificate files are watched: a new one is shown to who comes, nobody who is there notices, and garbage changes nothing."""

import os
import signal
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate, make_certificate
from tests.support.client import get, post
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer
from tests.support.waiting import stays, until


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path / "served", "localhost")


def start(run: Run, url: str, files: Certificate, **more: Any) -> Daemon:
    tls = {"cert": str(files.cert), "key": str(files.key)}
    return run(url, listen={"address": f"127.0.0.1:{free_port()}", "tls": tls}, **more)


def shown(daemon: Daemon) -> bytes:
    """The certificate that a new client sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with daemon.client(tls=context) as client:
        found = client.link.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        assert isinstance(found, bytes)
        return found


def der(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_swap_under_an_open_stream(workers: int, run: Run, files: Certificate, tmp_path: Path) -> None:
    """The stream goes on over the old certificate; every new client sees the new one; kept connections serve on."""
    after = make_certificate(tmp_path / "renewed", "localhost")

    def streams(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata:1\n\n\r\n")
        link.wait(renewed)
        link.send(b"8\r\ndata:2\n\n\r\n0\r\n\r\n")
        answer()(link)

    renewed = threading.Event()
    with ScriptedUpstream(streams, answer()) as upstream:
        daemon = start(run, upstream.url, files, workers=workers)
        before = files.client()
        with daemon.client(tls=before) as stream, daemon.client(tls=before) as kept:
            stream.send(get())
            stream.read_until(b"data:1")
            assert kept.exchange(post(b"x")).body == b"x"
            old = der(files)
            assert shown(daemon) == old
            files.key.write_bytes(after.key.read_bytes())
            files.cert.write_bytes(after.cert.read_bytes())
            new = der(after)
            seen: list[bytes] = []

            def all_new() -> bool:
                seen.append(shown(daemon))
                return seen[-12:] == [new] * 12

            until(all_new, "every worker shows the new certificate")
            assert set(seen) <= {old, new}
            renewed.set()
            stream.read_until(b"data:2")
            stream.read_until(b"0\r\n\r\n")
            assert kept.exchange(post(b"y")).body == b"y"
        until(lambda: [m for m in daemon.messages if "clients see this certificate from now on" in m], "it is told")
        assert len([m for m in daemon.messages if "clients see this certificate" in m]) == 1


def test_garbage_is_refused_and_the_old_one_serves(run: Run, files: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, files)
        old, kept = der(files), files.cert.read_bytes()
        files.cert.write_bytes(b"-----BEGIN CERTIFICATE-----\ngarbage\n-----END CERTIFICATE-----\n")
        stays(lambda: shown(daemon) == old, 3.0, "the old one")
        until(lambda: [m for m in daemon.messages if "error" in m and str(files.cert) in m], "somebody is told")
        assert shown(daemon) == old
        files.cert.write_bytes(kept)
        until(lambda: [m for m in daemon.messages if "clients see this certificate" in m], "all is well again")


def test_a_worker_made_later_shows_the_newest(run: Run, files: Certificate, tmp_path: Path) -> None:
    """The contexts of the supervisor are as old as its start."""
    after = make_certificate(tmp_path / "renewed", "localhost")
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, files, workers=2)
        until(lambda: any("serving" in message for message in daemon.messages), "all serve")
        files.key.write_bytes(after.key.read_bytes())
        files.cert.write_bytes(after.cert.read_bytes())
        until(lambda: [shown(daemon) for _ in range(8)] == [der(after)] * 8, "all show the new one")
        first = daemon.workers
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(daemon.workers) == 2 and first[0] not in daemon.workers, "another took its place")
        for _ in range(60):
            assert shown(daemon) == der(after)
