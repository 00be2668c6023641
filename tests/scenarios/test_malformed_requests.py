"""Every row of the request corpus against the daemon: right status, right end, and nothing smuggled.

Each row is sent whole and, where small, byte by byte; bodies, pipelines and floods over TLS as well. Rows that are told 408 wait for the
deadline together, in one test.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.scenarios.request_corpus import CLOSE, MARK, OPEN, Row, all_rows
from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.recorder import Recorder

ROWS = all_rows()
AT_ONCE = [row for row in ROWS if 408 not in row.answers[0]]
IN_TIME = [row for row in ROWS if 408 in row.answers[0]]
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 5.0  # seconds: longer than the deadlines below


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as upstream:
        yield upstream
    assert upstream.bad == []
    assert not [data for data in upstream.partial if MARK not in data], "a refused head is not forwarded"
    assert not [request for request in upstream.complete if b"smuggled" in request.target]


@pytest.fixture(scope="module")
def daemon(recorder: Recorder, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}, {"address": f"127.0.0.1:{free_port()}", "tls": tls}],
        "upstream": {"u": {"urls": [recorder.url]}},
        "route": [{"host": ["localhost", "other.localhost", "*.wild.localhost"], "upstream": "u"}],
        "limits": {"head_timeout": "2s", "body_stall": "2s"},
    }
    directory: Path = tmp_path_factory.mktemp("corpus")
    with Daemon(config, directory) as running:
        yield running


def play(row: Row, client: RawClient, recorder: Recorder, *, bytewise: bool = False) -> None:
    """Send the row, compare answers, end and what reached the upstream."""
    complete = len(recorder.complete)
    for piece in [row.data[i : i + 1] for i in range(len(row.data))] if bytewise else [row.data]:
        if not client.try_send(piece):
            break
    statuses = answers(row, client)
    for status, allowed in zip(statuses, row.answers, strict=False):
        assert status in allowed, f"{status} is none of {sorted(allowed)}; {client.buffer!r}"
    assert len(statuses) == len(row.answers) or statuses[-1] not in (200, 0), f"only {statuses}"
    expected = statuses.count(200)
    if row.then == OPEN:
        assert client.exchange(SENTINEL, deadline_s=PATIENCE).status == 200, "the connection goes on"
        expected += 1
    elif row.then == CLOSE:
        assert client.is_closed(PATIENCE), f"nothing more may come: {client.buffer!r}"
    client.close()
    assert [request.target for request in recorder.complete[complete:]][expected:] == [], "more requests upstream than answers"
    assert len(recorder.complete) - complete == expected
    assert b"smuggled" not in b"".join(request.target for request in recorder.complete[complete:])


def answers(row: Row, client: RawClient) -> list[int]:
    """The statuses that came, up to the first refusal; 0 for a connection that ended without one."""
    statuses: list[int] = []
    for _ in row.answers:
        method = b"HEAD" if row.data.startswith(b"HEAD") and not statuses else b"GET"
        try:
            response = client.response(method, PATIENCE)
        except ConnectionError:
            return [*statuses, 0]
        assert response.ended, "our own answers and these upstream's are never cut"
        statuses.append(response.status)
        if response.status != 200:
            break
    return statuses


@pytest.mark.parametrize("row", AT_ONCE, ids=lambda row: row.name)
def test_sent_whole(row: Row, daemon: Daemon, recorder: Recorder) -> None:
    with daemon.client() as client:
        play(row, client, recorder)


@pytest.mark.parametrize("row", [row for row in AT_ONCE if row.small], ids=lambda row: row.name)
def test_sent_byte_by_byte(row: Row, daemon: Daemon, recorder: Recorder) -> None:
    with daemon.client() as client:
        play(row, client, recorder, bytewise=True)


@pytest.mark.parametrize("row", [row for row in AT_ONCE if row.partial or len(row.answers) > 1 or not row.small], ids=lambda row: row.name)
def test_sent_over_tls(row: Row, daemon: Daemon, recorder: Recorder, certificate: Certificate) -> None:
    with daemon.client(1, tls=certificate.client()) as client:
        play(row, client, recorder)


def test_what_never_ends_is_told_408_in_time(daemon: Daemon, recorder: Recorder) -> None:
    before = len(recorder.complete)

    def wait_for(row: Row) -> str:
        with daemon.client() as client:
            client.try_send(row.data)
            got = answers(row, client)
            wrong = [status for status, allowed in zip(got, row.answers, strict=False) if status not in allowed]
            return f"{row.name}: {got}" if wrong or (got[-1] != 200 and not client.is_closed()) else ""

    with ThreadPoolExecutor(len(IN_TIME)) as pool:
        wrong = [line for line in pool.map(wait_for, IN_TIME) if line]
    assert wrong == []
    assert len(recorder.complete) == before


def test_the_daemon_is_as_it_was(daemon: Daemon, recorder: Recorder) -> None:
    """After the whole corpus: it serves, and a refused head has cost no upstream link for good."""
    with daemon.client() as client:
        assert client.exchange(SENTINEL).status == 200
    assert daemon.process.poll() is None
    assert recorder.bad == []
