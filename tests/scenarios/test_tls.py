"""TLS as a client meets it: versions, ciphers, ALPN, SNI, tickets, close_notify, records in any slices."""

import itertools
import random
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_cuts import client_hello
from tests.support.certs import Certificate, make_certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response
from tests.support.waiting import until


def shake(daemon: Daemon, context: ssl.SSLContext) -> RawClient:
    return daemon.client(tls=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_good_versions(version: ssl.TLSVersion, run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    context = certificate.client()
    context.minimum_version = context.maximum_version = version
    with ScriptedUpstream(answer()) as upstream, shake(run(upstream.url, listen=tls_listen), context) as client:
        assert client.exchange(post(b"x")).body == b"x"
        name, _, bits = client.link.cipher()  # type: ignore[attr-defined]
        assert bits >= 128
        assert "CBC" not in name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(version: ssl.TLSVersion, run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    context = certificate.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake(daemon, context)
        with shake(daemon, certificate.client()) as client:
            assert client.exchange(post()).status == 200


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-SHA256", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256", "AES128-GCM-SHA256"])
def test_ciphers_without_forward_secrecy_or_aead_are_refused(
    ciphers: str, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    context = certificate.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    with ScriptedUpstream(answer()) as upstream, pytest.raises((ssl.SSLError, ConnectionError)):
        shake(run(upstream.url, listen=tls_listen), context)


def test_min_version_can_be_raised(tmp_path: Path, certificate: Certificate) -> None:
    context = certificate.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    tls = {"cert": str(certificate.cert), "key": str(certificate.key), "min_version": "1.3"}
    config = {"listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}], "upstream": {"u": {"urls": ["http://127.0.0.1:9"]}}}
    with Daemon({**config, "route": [{"upstream": "u"}]}, tmp_path) as daemon, pytest.raises((ssl.SSLError, ConnectionError)):
        shake(daemon, context)


def test_alpn_chooses_http_1_1(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        for offered in (("http/1.1",), ("spdy/3", "http/1.1"), ()):
            with shake(daemon, certificate.client(alpn=offered)) as client:
                assert client.link.selected_alpn_protocol() == ("http/1.1" if offered else None)  # type: ignore[attr-defined]
                assert client.exchange(post()).status == 200


def test_sni_chooses_the_certificate(tmp_path: Path) -> None:
    one, two, wild = (
        make_certificate(tmp_path / name, host) for name, host in (("1", "one.example"), ("2", "two.example"), ("w", "*.wild.example"))
    )
    tls = {"certificates": [{"cert": str(each.cert), "key": str(each.key)} for each in (one, two, wild)]}
    with ScriptedUpstream(answer()) as upstream:
        config = {"listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}], "upstream": {"u": {"urls": [upstream.url]}}}
        with Daemon({**config, "route": [{"upstream": "u"}]}, tmp_path) as daemon:
            for made, name in ((one, "one.example"), (two, "two.example"), (two, "TWO.example"), (wild, "a.wild.example")):
                with daemon.client(tls=made.client(), name=name) as client:  # the context trusts only this one
                    assert client.exchange(post(host=name)).status == 200
            for name in ("unknown.example", "127.0.0.1"):
                context = one.client()
                context.check_hostname = False
                with daemon.client(tls=context, name=name) as client:
                    assert client.exchange(post()).status == 200


def test_a_session_ticket_saves_a_handshake(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    context = certificate.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.2 the session is there right after the handshake
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with shake(daemon, context) as client:
            client.exchange(post())
            session = client.link.session  # type: ignore[attr-defined]
        with RawClient(daemon.port()) as plain:
            link = context.wrap_socket(plain.raw, server_hostname="localhost", session=session)
            assert link.session_reused
            link.close()


def test_the_daemon_says_close_notify(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen, limits={"keepalive": "1s"})
        with shake(daemon, certificate.client()) as client:
            client.exchange(post(extra="Connection: close\r\n"))
            assert client.is_closed()
            assert client.how == "fin", "close_notify, not a bare end of TCP"
        with shake(daemon, certificate.client()) as client:
            client.exchange(post())
            assert client.is_closed()
            assert client.how == "fin", "also when an idle connection is closed"


def test_a_close_notify_from_the_client_ends_its_call(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(once(end="keep")) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        client = shake(daemon, certificate.client())
        client.send(post())
        upstream.wait_for(1)
        until(lambda: upstream.requests(), "the call arrived")
        threading.Thread(target=_unwrap, args=(client,), daemon=True).start()
        until(upstream.links[0].ended.is_set, "the upstream leg ends")
        assert daemon.record(path="/mcp")["end"] == "client-gone"


def _unwrap(client: RawClient) -> None:
    try:
        client.link.unwrap()  # type: ignore[attr-defined]
    except OSError:
        client.close()


def test_an_until_close_answer_ends_with_close_notify_and_a_cut_one_does_not(
    run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    whole = b"HTTP/1.1 200 OK\r\n\r\nhello"
    with ScriptedUpstream(once(whole), once(whole, end="reset"), once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")) as upstream:
        daemon = run(upstream.url, listen=tls_listen, upstream={"retry_after": "0s"})
        with shake(daemon, certificate.client()) as client:
            assert client.exchange(get()).body == b"hello"
            assert client.how == "fin"
        for _ in range(2):
            with shake(daemon, certificate.client()) as client:
                client.send(get())
                client.read_to_end()
                assert client.how != "fin", "a cut is visible"


def test_records_of_any_slicing(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    """One byte per record, and one record in one-byte segments."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with shake(daemon, certificate.client()) as client:
            for byte in post(b"hello"):
                client.send(bytes([byte]))
            assert client.response().body == b"hello"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with daemon.client() as client:
            answer_text = b""
            stage = half.do_handshake
            while b"hello" not in answer_text:
                try:
                    if stage == half.do_handshake:
                        half.do_handshake()
                        half.write(post(b"hello"))
                        stage = None  # type: ignore[assignment]
                    answer_text += half.read()
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        client.send(bytes([byte]))
                    client.receive()
                    incoming.write(client.buffer)
                    client.buffer = b""


def test_bodies_of_megabytes_survive_tls_both_ways(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    body = bytes(range(256)) * 16384  # 4 MiB
    with (
        ScriptedUpstream(answer(), keep_bytes=False) as upstream,
        shake(run(upstream.url, listen=tls_listen), certificate.client()) as client,
    ):
        assert client.exchange(post(body), deadline_s=20).body == body


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_upload_in_odd_pieces_arrives_whole_and_what_follows_is_served(
    version: ssl.TLSVersion, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """Records and chunks are cut at unlike places, the server stalls, and the next request comes in the flight of the last chunk."""
    context = certificate.client()
    context.minimum_version = context.maximum_version = version
    body, goes_on = random.Random(1).randbytes(8 * 2**20), threading.Event()

    def stalls(link: Link) -> None:
        link.wait(goes_on)
        answer()(link)

    lengths = itertools.cycle((1, 16383, 16384, 16385, 65526, 65536, 70001, 131072))
    records = itertools.cycle((16384, 16384, 16384, 16384, 5, 65536, 1000, 16385, 40000))
    text, at = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 0
    while at < len(body):
        piece = body[at : at + next(lengths)]
        text += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += len(piece)
    text += b"0\r\n\r\n" + post(b"next")
    with ScriptedUpstream(stalls, keep_bytes=False) as upstream:
        upstream.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with shake(run(upstream.url, listen=tls_listen), context) as client:
            at = 0
            while at < len(text):
                if at > len(text) // 2:
                    goes_on.set()
                piece = text[at : at + next(records)] if at < len(text) - 100_000 else text[at:]
                client.send(piece)
                at += len(piece)
            assert client.response(deadline_s=20).body == body
            assert client.response().body == b"next"


def test_a_client_that_talks_nonsense_is_closed(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        before = daemon.resting()
        for nonsense in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"x" * 100,
            b"\x00" * 100,
            b"\x15\x03\x01\x00\x02\x02\x28",
        ):
            with daemon.client() as client:
                client.try_send(nonsense)
                client.read_to_end(5)
                assert client.how
        with shake(daemon, certificate.client()) as client:
            client.exchange(post())
        until(lambda: daemon.descriptors() <= before + 1, "nothing is left open")
        with shake(daemon, certificate.client()) as client:
            assert client.exchange(post()).status == 200


def test_an_upstream_may_speak_tls(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer(), tls=certificate.server()) as upstream:
        daemon = run(upstream.url, upstream={"ca": str(certificate.cert)})
        with daemon.client() as client:
            assert client.exchange(post(b"x")).body == b"x"
            assert client.exchange(post(b"y")).body == b"y"
        assert len(upstream.links) == 1


@pytest.mark.parametrize(("settings", "status"), [({}, 502), ({"verify": False}, 200)], ids=["checked", "unchecked"])
def test_an_upstream_with_a_certificate_nobody_signed(settings: dict[str, Any], status: int, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer(), tls=certificate.server()) as upstream:
        daemon = run(upstream.url, upstream=settings)
        with daemon.client() as client:
            assert client.exchange(post()).status == status
        assert len(upstream.requests()) == (status == 200)
        upstream.errors.clear()  # the refused handshake is what was wanted


def test_a_cut_tls_upstream_is_a_cut_answer(run: Run, certificate: Certificate) -> None:
    """An until-close body that ends without close_notify was cut."""
    with ScriptedUpstream(once(b"HTTP/1.1 200 OK\r\n\r\nhello"), tls=certificate.server()) as upstream:
        daemon = run(upstream.url, upstream={"ca": str(certificate.cert)})
        with daemon.client() as client:
            got = client.exchange(get())
            assert not got.ended
            assert client.how == "reset"


def test_handshakes_do_not_hold_up_others(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer(response(b"x"))) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        silent = [daemon.client() for _ in range(50)]
        began = time.monotonic()
        with shake(daemon, certificate.client()) as client:
            assert client.exchange(get()).status == 200
        assert time.monotonic() - began < 2
        for each in silent:
            each.close()


def test_failed_handshakes_leave_neither_memory_nor_descriptors(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    """A fault of other stacks (python/cpython issue 109534)."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        hello = client_hello(certificate)

        def fail(count: int) -> None:
            for i in range(count):
                with daemon.client() as client:
                    client.try_send(hello[: 5 + i % len(hello)] if i % 2 else hello + b"nonsense")

        fail(200)
        descriptors, before = daemon.resting(), daemon.rss()
        fail(600)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        assert daemon.rss() - before < 2 * 1024 * 1024


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_plain_http_on_a_tls_port_is_told_so(method: str, run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    """Somebody typed http for https. Large and in pieces, so that what lies unread would reset the answer away."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with daemon.client() as client:
            client.send(f"{method} /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n".encode() + b"x" * 100_000)
            client.send(b"x" * 100_000)
            got = client.response()
            assert got.status == 400
            assert b"plain-on-tls-port" in got.body
            assert client.is_closed()
        with shake(daemon, certificate.client()) as client:
            assert client.exchange(post()).status == 200
    assert not upstream.links[1:], "nothing of it went upstream"
