"""Rows become JSON lines, in batches, at the latest at the next tick."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.observe import accesslog
from mcpproxy.observe.accesslog import BATCH, AccessLog, Row, render

PLAIN = Row(
    about=b'"method":"POST","path":"/mcp"',
    client=b'"client":"192.0.2.1"',
    request_id=b"id-1",
    began=100.25,
    first=100.35,
    ended=100.5,
    status=200,
    bytes_in=10,
    bytes_out=20,
    upstream=b'"127.0.0.1:8000"',
    reused=3,
    end=b"done",
    extra=b"",
)


class Paper:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def put(self, batch: list[bytes]) -> None:
        self.batches.append(batch)

    def lines(self) -> list[bytes]:
        return b"".join(piece for batch in self.batches for piece in batch).splitlines()


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def log(paper: Paper) -> AccessLog:
    return AccessLog(paper)  # type: ignore[arg-type]


def test_a_row_is_one_line_of_json_with_its_members_in_order() -> None:
    line = render([PLAIN], offset=1_700_000_000.0 - 100.25)
    assert line.endswith(b"}\n")
    assert list(json.loads(line).items()) == [
        ("time", "2023-11-14T22:13:20.000Z"),
        ("id", "id-1"),
        ("client", "192.0.2.1"),
        ("method", "POST"),
        ("path", "/mcp"),
        ("status", 200),
        ("bytes_in", 10),
        ("bytes_out", 20),
        ("ms", 250.0),
        ("ttfb_ms", 100.0),
        ("upstream", "127.0.0.1:8000"),
        ("reused", True),
        ("end", "done"),
    ]


def test_what_did_not_happen_is_null_or_false_and_more_may_follow() -> None:
    row = PLAIN._replace(first=0.0, upstream=b"null", reused=0, end=b"refused", extra=b',"reason":"bad-host"')
    record = json.loads(render([row], 0.0))
    assert (record["ttfb_ms"], record["upstream"], record["reused"]) == (None, None, False)
    assert (record["end"], record["reason"]) == ("refused", "bad-host")


def test_milliseconds_are_not_those_of_a_neighbour_in_the_same_second() -> None:
    rows = [PLAIN._replace(began=moment, first=0.0, ended=moment) for moment in (5.125, 5.875, 6.5, 5.25)]
    assert [json.loads(line)["time"][17:] for line in render(rows, 0.0).splitlines()] == ["05.125Z", "05.875Z", "06.500Z", "05.250Z"]


@given(st.floats(0, 4e9), st.floats(0, 1e6))
def test_every_moment_is_a_valid_time(began: float, took: float) -> None:
    record = json.loads(render([PLAIN._replace(began=began, first=0.0, ended=began + took)], 0.0))
    assert len(record["time"]) == len("2023-11-14T22:13:20.000Z")
    assert record["ms"] >= 0


def test_nothing_is_written_before_the_tick(log: AccessLog, paper: Paper) -> None:
    log.add(PLAIN)
    assert paper.lines() == []
    log.tick()
    assert len(paper.lines()) == 1
    log.tick()
    assert len(paper.lines()) == 1


def test_every_row_is_written_once_and_in_order(log: AccessLog, paper: Paper) -> None:
    number = BATCH * 3 + 7
    for status in range(number):
        log.add(PLAIN._replace(status=status))
    log.tick()
    assert [json.loads(line)["status"] for line in paper.lines()] == list(range(number))


def test_much_is_handed_over_before_the_tick(log: AccessLog, paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "HAND_OVER", 1)
    for _ in range(BATCH):
        log.add(PLAIN)
    assert len(paper.lines()) == BATCH


def test_a_batch_belongs_to_the_sink_once_it_is_handed_over(log: AccessLog, paper: Paper) -> None:
    log.add(PLAIN)
    log.tick()
    first = list(paper.batches[0])
    log.add(PLAIN)
    log.tick()
    assert paper.batches[0] == first


def test_without_a_sink_rows_are_forgotten_and_cost_no_memory() -> None:
    log = AccessLog(None)
    for _ in range(BATCH * 2 + 5):
        log.add(PLAIN)
    assert len(log.rows) == 5
    log.tick()
    assert log.rows == []
