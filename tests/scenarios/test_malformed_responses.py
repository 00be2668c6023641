"""Every row of the response corpus through the daemon: a client gets the answer whole, 502, or a visible cut; never a clean lie.

A link that carried anything wrong is closed, and the next request gets its own answer, not a left-over.
"""

from collections.abc import Iterator

import pytest

from tests.scenarios.response_corpus import CUT, GATEWAY, LAST, PASS, STRICT, Row, all_rows
from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

ROWS = all_rows()


def play_rows(link: Link) -> None:
    """Answer /whole/N and /bytes/N with row N, /sentinel with something good."""
    while True:
        request = link.read_request()
        if request.target == b"/sentinel":
            link.send(response(b"sentinel"))
            continue
        _, way, number = request.target.split(b"/")
        row = ROWS[int(number)]
        (link.send_bytewise if way == b"bytes" else link.send)(row.data)
        if row.close:
            return


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(play_rows, keep_bytes=False) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(upstream: ScriptedUpstream, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}, {"address": f"127.0.0.1:{free_port()}", "tls": tls}],
        "upstream": {"u": {"urls": [upstream.url], "retry_after": "0s", "keepalive_idle": "60s"}},
        "route": [{"upstream": "u"}],
    }
    with Daemon(config, tmp_path_factory.mktemp("responses")) as running:
        yield running


def ask(client: RawClient, target: str) -> Message:
    return client.exchange(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), deadline_s=5)


def check(row: Row, way: str, client: RawClient, upstream: ScriptedUpstream) -> None:
    got = ask(client, f"/{way}/{ROWS.index(row)}")
    used = upstream.links[-1]
    whole = got.status == row.status and got.ended and got.body == row.body
    if row.verdict in (PASS, LAST):
        assert whole, f"{got.status} ended={got.ended} {got.body[:80]!r}"
        assert not any(name.lower() == b"set-cookie" and b"evil" in value for name, value in got.fields)
    elif row.verdict == GATEWAY:
        assert (got.status, got.ended) == (502, True), f"{got.start!r} ended={got.ended} {got.body[:80]!r}"
    elif row.verdict == CUT:
        assert (got.status == 502 and got.ended) or not got.ended, f"{got.start!r} looks whole: {got.body[:80]!r}"
    else:
        assert (got.status == 502 and got.ended) or whole, f"{got.start!r} ended={got.ended} {got.body[:80]!r}"
    if not got.ended:
        assert client.how, "a cut answer ends the connection"
    if row.verdict in (LAST, GATEWAY, CUT):
        until(lambda: used.ended.is_set() or row.close, "the link is closed by the proxy")
    if not client.how and got.ended and got.first("connection") != b"close":
        assert ask(client, "/sentinel").body == b"sentinel", "the next request gets its own answer"
        if row.verdict == PASS:
            assert upstream.links[-1] is used, "a clean link is used again"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_sent_whole(row: Row, daemon: Daemon, upstream: ScriptedUpstream) -> None:
    with daemon.client() as client:
        check(row, "whole", client, upstream)


@pytest.mark.parametrize("row", [row for row in ROWS if row.small], ids=lambda row: row.name)
def test_sent_byte_by_byte(row: Row, daemon: Daemon, upstream: ScriptedUpstream) -> None:
    with daemon.client() as client:
        check(row, "bytes", client, upstream)


@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict in (CUT, LAST, STRICT)], ids=lambda row: row.name)
def test_seen_over_tls(row: Row, daemon: Daemon, upstream: ScriptedUpstream, certificate: Certificate) -> None:
    """A cut until-close answer must not end with close_notify either; that is what `how == "fin"` means on TLS."""
    with daemon.client(1, tls=certificate.client()) as client:
        check(row, "whole", client, upstream)
