"""Certificates that come by themselves, from pebble, through the whole daemon; and what it does while they do not come."""

import contextlib
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mcpproxy.cli.main import status_of
from mcpproxy.clock import unix
from tests.scenarios.test_metrics import scrape
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon
from tests.support.pebble import EAB, Pebble
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer
from tests.support.waiting import until

pytestmark = pytest.mark.needs("pebble", "pebble-challtestsrv")
NAME = "mcp.example.com"
LONG_S = 60.0  # slow validations, refused nonces, busy cores


class Town:
    """An authority, a daemon that asks it, and a server behind."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self.http, self.tls = free_port(), free_port()
        self.upstream = stack.enter_context(ScriptedUpstream(answer()))
        self.pebble: Pebble
        self.daemon: Daemon

    def authority(self, **settings: Any) -> Pebble:
        self.pebble = self._stack.enter_context(Pebble(self._directory, http=self.http, tls=self.tls, **settings))
        return self.pebble

    def start(self, *hosts: str, tls: dict[str, Any] | None = None, acme: dict[str, Any] | None = None, **more: Any) -> Daemon:
        config = {
            "listen": [
                {"address": f"127.0.0.1:{self.http}", "redirect": "https"},
                {"address": f"127.0.0.1:{self.tls}", "tls": {"hosts": list(hosts or (NAME,)), "acme": "ops@example.com", **(tls or {})}},
            ],
            "upstream": {"u": {"urls": [self.upstream.url]}},
            "route": [{"upstream": "u"}],
            "acme": {**self.pebble.config, **(acme or {})},
            "drain": "5s",
            **more,
        }
        self.daemon = self._stack.enter_context(Daemon(config, self._directory))
        return self.daemon

    def shown(self, name: str = NAME) -> x509.Certificate:
        """What a client that asks for this name sees."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with RawClient(("127.0.0.1", self.tls), tls=context, name=name) as client:
            return x509.load_der_x509_certificate(client.link.getpeercert(binary_form=True))  # type: ignore[attr-defined]

    def signed(self, name: str = NAME) -> bool:
        shown = self.shown(name)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        return "Pebble" in shown.issuer.rfc4514_string() and name in names

    def works(self, name: str = NAME, trust: ssl.SSLContext | None = None) -> bool:
        with RawClient(("127.0.0.1", self.tls), tls=trust or self.pebble.trust(), name=name) as client:
            return client.exchange(post(b"x", host=name)).body == b"x"

    def said(self, text: str) -> list[str]:
        return [message for message in self.daemon.messages if text in message]

    def files(self, *names: str) -> Path:
        return self._directory.joinpath("state", "acme", *names)

    def log(self) -> str:
        return self.pebble.log.read_text()


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(stack, tmp_path)


@pytest.mark.parametrize(("challenge", "workers"), [("http-01", 1), ("tls-alpn-01", 2)])
def test_a_certificate_comes_by_itself(town: Town, challenge: str, workers: int) -> None:
    town.authority()
    town.start(acme={"challenge": challenge}, workers=workers)
    assert "has not come yet" in town.shown().issuer.rfc4514_string() or town.signed()
    until(lambda: town.said("a new one is there"), "it is issued", deadline_s=LONG_S)
    until(lambda: all(town.signed() for _ in range(4 * workers)), "every worker shows it", deadline_s=LONG_S)
    assert town.works()
    other = "tls-alpn-01" if challenge == "http-01" else "http-01"
    assert f"{other}" not in [line.split()[-1] for line in town.log().splitlines() if "Attempting to validate" in line]
    for name in ("challenges", "tls-alpn"):
        assert list(town.files(name).iterdir()) == []
    assert not town.said("error")


@pytest.mark.parametrize(
    ("challenge", "mood"),
    [
        ("http-01", {"PEBBLE_WFE_NONCEREJECT": "50"}),
        ("http-01", {"PEBBLE_AUTHZREUSE": "100"}),
        ("tls-alpn-01", {"PEBBLE_VA_NOSLEEP": "", "PEBBLE_VA_SLEEPTIME": "4"}),
    ],
    ids=["nonces", "reuse", "slow"],
)
def test_an_authority_in_a_mood(town: Town, challenge: str, mood: dict[str, str]) -> None:
    town.authority(**mood)
    town.start(acme={"challenge": challenge})
    until(lambda: town.said("a new one is there"), "it is issued", deadline_s=LONG_S)
    until(town.signed, "it is shown", deadline_s=LONG_S)
    assert not town.said("error")


def test_clients_notice_nothing_while_a_validation_is_pending(town: Town) -> None:
    """Only a validator sees the challenge certificate: one that offers acme-tls/1 and nothing else, for that name."""
    town.authority(PEBBLE_VA_NOSLEEP="", PEBBLE_VA_SLEEPTIME="6")
    daemon = town.start(acme={"challenge": "tls-alpn-01"})
    until(lambda: town.files("tls-alpn").is_dir() and list(town.files("tls-alpn").glob("*.pem")), "it is pending", deadline_s=LONG_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def issuer(*protocols: str, name: str = NAME) -> tuple[str | None, str]:
        context.set_alpn_protocols(list(protocols))
        with RawClient(("127.0.0.1", town.tls), tls=context, name=name) as client:
            shown = x509.load_der_x509_certificate(client.link.getpeercert(binary_form=True))  # type: ignore[attr-defined]
            chosen: str | None = client.link.selected_alpn_protocol()  # type: ignore[attr-defined]
            if protocols != ("acme-tls/1",):
                assert client.exchange(post(b"x", host=NAME)).body == b"x" or chosen == "h2"
            return chosen, shown.issuer.rfc4514_string()

    def is_pending() -> bool:
        return bool(list(town.files("tls-alpn").glob("*.pem")))

    seen = [issuer("http/1.1"), issuer("acme-tls/1", "http/1.1"), issuer("http/1.1", name="other.example.com")]
    assert all("has not come yet" in shown for _, shown in seen) or not is_pending()
    with contextlib.suppress(ssl.SSLError, AssertionError):
        until(lambda: issuer("acme-tls/1") == ("acme-tls/1", "") or not is_pending(), "the validator's view", deadline_s=5)
    with daemon.client(1) as silent, daemon.client(1) as nonsense:  # who says nothing, and who talks plain HTTP
        nonsense.send(get())
        assert nonsense.response().status == 400
        assert silent.raw.fileno() >= 0
    until(lambda: town.said("a new one is there"), "it is issued", deadline_s=LONG_S)
    until(town.signed, "it is shown", deadline_s=LONG_S)


def test_two_sets_of_names_are_two_certificates(town: Town) -> None:
    town.authority()
    town.start("a.example.com", "www.example.com", tls={"certificates": [{"hosts": ["b.example.com"]}]})
    until(lambda: len(town.said("a new one is there")) == 2, "both are issued", deadline_s=LONG_S)
    until(lambda: town.signed("a.example.com") and town.signed("b.example.com"), "both are shown", deadline_s=LONG_S)
    assert town.works("a.example.com")
    assert town.works("www.example.com")
    assert town.works("b.example.com")
    assert (
        town.shown("a.example.com").serial_number
        == town.shown("www.example.com").serial_number
        != town.shown("b.example.com").serial_number
    )


def test_names_that_do_not_lead_here_are_told_and_tried_again(town: Town) -> None:
    pebble = town.authority()
    pebble.refuse(NAME)
    town.start()
    until(lambda: len(town.said("does its DNS lead here")) >= 2, "it is told, and tried again", deadline_s=LONG_S)
    assert any("port 80" in each for each in town.said("does its DNS"))
    assert any("port 443" in each for each in town.said("does its DNS")), "the other way is tried, too"
    assert not town.signed()
    pebble.accept(NAME)
    until(town.signed, "it comes after all", deadline_s=LONG_S)


def test_a_wrong_answer(town: Town) -> None:
    """Somebody else has port 80."""
    town.authority()
    with socket.create_server(("127.0.0.1", town.http)) as stranger:
        threading.Thread(target=_strange, args=(stranger,), daemon=True).start()
        town.http = free_port()
        town.start(acme={"challenge": "http-01"})
        until(lambda: town.said("somebody else answers for"), "it is told", deadline_s=LONG_S)
    kept = town.files("certs", NAME, "story.json")
    story = until(lambda: told if kept.exists() and (told := json.loads(kept.read_text()))["failures"] else {}, "it is kept")
    assert "somebody else" in story["error"]


def _strange(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")


def test_an_authority_that_is_down_and_comes_back(town: Town) -> None:
    pebble = town.authority()
    pebble.stop()
    town.start()
    until(lambda: len(town.said("cannot be reached")) >= 2, "it is told, and tried again", deadline_s=LONG_S)
    with RawClient(("127.0.0.1", town.tls), tls=_any(), name=NAME) as client:
        assert client.exchange(post(b"x")).body == b"x", "served meanwhile"
    pebble.start()
    until(town.signed, "it comes", deadline_s=LONG_S)


def test_an_authority_that_is_down_until_the_certificate_has_ended(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """The last third of a life of seconds passes: what is there serves on, waits double, everybody who looks sees it, and it renews by itself once it can."""
    pebble = town.authority(validity_s=3)
    goes_on = threading.Event()

    def streams(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata:1\n\n\r\n")
        link.wait(goes_on)
        link.send(b"8\r\ndata:2\n\n\r\n0\r\n\r\n")

    with ExitStack() as stack:
        town.upstream = stack.enter_context(ScriptedUpstream(streams, answer()))
        daemon = town.start(acme={"retry": "500ms"})
        until(town.signed, "the first", deadline_s=LONG_S)
        pebble.stop()
        stream = stack.enter_context(RawClient(("127.0.0.1", town.tls), tls=_any(), name=NAME))
        stream.send(get(host=NAME))
        stream.read_until(b"data:1")
        kept = stack.enter_context(RawClient(("127.0.0.1", town.tls), tls=_any(), name=NAME))
        assert kept.exchange(post(b"x", host=NAME)).body == b"x"
        last = x509.load_pem_x509_certificate(town.files("certs", NAME, "cert.pem").read_bytes())
        until(lambda: len(town.said("tried again in")) >= 3 and town.said("has expired"), "tried, and told", deadline_s=LONG_S)

        issued = len(town.said("a new one is there"))
        assert town.shown() == last, "what was there is still shown"
        assert last.not_valid_after_utc.timestamp() < unix()
        assert kept.exchange(post(b"y", host=NAME)).body == b"y"
        assert all("cannot be reached" in each for each in town.said("tried again in"))
        kept_story = town.files("certs", NAME, "story.json")
        story = until(lambda: (told := json.loads(kept_story.read_text()))["failures"] >= 3 and told, "it is kept, too")
        assert 0.79 <= (story["not_before"] - story["failed_at"]) / (0.5 * 2 ** (story["failures"] - 1)) <= 1.21, "waits double"
        found = scrape(daemon.file.parent / "state" / "admin.sock")
        assert found["mcpproxy_certificate_failures", ("certificate", NAME)] >= 3
        assert found["mcpproxy_certificate_expiry_time_seconds", ("certificate", NAME), ("source", "acme")] < unix()
        assert status_of(["cert", "list", "-c", str(daemon.file), "--state-dir", str(daemon.file.parent / "state")]) == 0
        listed = capsys.readouterr().out
        assert "clients refuse it" in listed
        assert "connection: Connection refused) (" in listed and " times in a row)" in listed

        pebble.start()
        tries = len(town.said("tried again in"))
        until(lambda: len(town.said("a new one is there")) > issued, "it renews by itself", deadline_s=LONG_S)
        assert len(town.said("tried again in")) == tries, "with the next try"
        until(lambda: town.shown() != last, "it is shown", deadline_s=LONG_S)
        assert kept.exchange(post(b"z", host=NAME)).body == b"z"
        goes_on.set()
        stream.read_until(b"data:2")


def _any() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_an_account_that_must_be_bound(town: Town, tmp_path: Path) -> None:
    town.authority(eab=True)
    key = tmp_path / "eab"
    key.write_text("AAAA" + EAB[1][4:] + "\n")
    key.chmod(0o600)
    daemon = town.start(acme={"eab_key_id": EAB[0], "eab_hmac": f"file:{key}"})
    until(lambda: town.said("does not take acme.eab_key_id"), "it is told", deadline_s=LONG_S)
    assert EAB[1][4:] not in "".join(daemon.messages)
    daemon.stop()
    key.write_text(EAB[1] + "\n")
    town.start(acme={"eab_key_id": EAB[0], "eab_hmac": f"file:{key}"})
    until(town.signed, "it comes", deadline_s=LONG_S)
    secret = EAB[1]
    assert not [file for file in town.files().rglob("*") if file.is_file() and secret in file.read_text("latin-1")]


def test_renewals_under_an_open_stream(town: Town) -> None:
    """Certificates that live for seconds: the stream lives on, who comes sees the newest, and the account is the same one."""
    town.authority(validity_s=12)
    goes_on = threading.Event()

    def streams(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata:1\n\n\r\n")
        link.wait(goes_on)
        link.send(b"8\r\ndata:2\n\n\r\n0\r\n\r\n")

    with ScriptedUpstream(streams, answer()) as upstream:
        town.upstream = upstream
        town.start(workers=2)
        until(town.signed, "the first", deadline_s=LONG_S)
        serials = {town.shown().serial_number}
        with RawClient(("127.0.0.1", town.tls), tls=_any(), name=NAME) as stream:
            stream.send(get(host=NAME))
            stream.read_until(b"data:1")

            def renewed() -> bool:
                serials.add(town.shown().serial_number)
                return len(serials) >= 3

            until(renewed, "two renewals", deadline_s=LONG_S)
            goes_on.set()
            stream.read_until(b"data:2")
        assert town.works()
    assert "There are now 2 accounts" not in town.log()


def test_the_newest_certificate_serves_after_a_restart_without_a_question(town: Town) -> None:
    pebble = town.authority()
    daemon = town.start()
    until(town.signed, "it comes", deadline_s=LONG_S)
    serial, trust = town.shown().serial_number, pebble.trust()
    daemon.stop()
    pebble.stop()
    town.start()
    assert town.shown().serial_number == serial, "from the first connection on"
    assert town.works(trust=trust)


def test_the_control_process_may_die(town: Town) -> None:
    town.authority(PEBBLE_VA_NOSLEEP="", PEBBLE_VA_SLEEPTIME="4")
    daemon = town.start(acme={"challenge": "http-01"})
    until(lambda: town.files("challenges").is_dir() and list(town.files("challenges").iterdir()), "it is asking", deadline_s=LONG_S)
    os.kill(daemon.processes()["mcpproxy:ctl"], 9)
    until(town.signed, "its successor asks again", deadline_s=LONG_S)
    until(lambda: list(town.files("challenges").iterdir()) == [], "what it left behind is gone")


@pytest.mark.parametrize("target", ["nobody-knows-this-token-0123456789", "../../../../etc/passwd", "%2e%2e/%2e%2e/certs", ""])
def test_other_tokens_are_no_business_of_ours(town: Town, target: str) -> None:
    town.authority()
    town.start()
    with town.daemon.client(0) as client:
        got = client.exchange(get(f"/.well-known/acme-challenge/{target}", host=NAME))
    assert got.status in (308, 400)
    assert b"BEGIN" not in got.body


def test_names_that_come_with_a_reload(town: Town) -> None:
    """The new names get a certificate, the old ones keep theirs, and who is connected notices nothing."""
    town.authority()
    daemon = town.start("a.example.com")
    until(lambda: town.signed("a.example.com"), "the first", deadline_s=LONG_S)
    serial = town.shown("a.example.com").serial_number
    with RawClient(("127.0.0.1", town.tls), tls=_any(), name="a.example.com") as kept:
        assert kept.exchange(post(b"x")).body == b"x"
        before = '"hosts" = ["a.example.com"]' if '"hosts" =' in daemon.text else 'hosts = ["a.example.com"]'
        daemon.file.write_text(daemon.text.replace(before, before + ', certificates = [{ hosts = ["b.example.com"] }]'))
        daemon.signal(signal.SIGHUP)
        until(lambda: town.signed("b.example.com"), "the second", deadline_s=LONG_S)
        assert town.shown("a.example.com").serial_number == serial
        assert kept.exchange(post(b"y")).body == b"y"
    assert town.works("a.example.com")
    assert town.works("b.example.com")
