"""One JSON line per exchange, in batches, on time."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.observe.accesslog import BATCH, HAND_OVER, OURS, AccessLog, Row, render


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.batches = []

    def put(self, batch):
        self.batches.append(b"".join(batch))

    @property
    def text(self):
        return b"".join(self.batches)


def row(**changes):
    facts = {
        "about": b'"method":"POST","host":"a","path":"/mcp","protocol":"HTTP/1.1"',
        "client": b'"client":"192.0.2.1"',
        "request_id": b"abc-1",
        "began": 100.0,
        "first": 100.25,
        "ended": 100.5,
        "status": 200,
        "bytes_in": 10,
        "bytes_out": 20,
        "upstream": b'"127.0.0.1:8000"',
        "reused": 0,
        "end": b"done",
        "extra": b"",
        "place": OURS,
    }
    return Row(**(facts | changes))


def test_a_line_tells_it_all():
    (line,) = render([row(reused=3, extra=b',"reason":"x"')], 1_000_000_000.0).splitlines()
    assert {
        "time": "2001-09-09T01:48:20.000Z",
        "id": "abc-1",
        "client": "192.0.2.1",
        "method": "POST",
        "host": "a",
        "path": "/mcp",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_in": 10,
        "bytes_out": 20,
        "ms": 500.0,
        "ttfb_ms": 250.0,
        "upstream": "127.0.0.1:8000",
        "reused": True,
        "end": "done",
        "reason": "x",
    } == json.loads(line)


def test_what_never_came_is_null():
    line = json.loads(render([row(first=0.0, upstream=b"null")], 0.0))
    assert (None, None, False) == (line["ttfb_ms"], line["upstream"], line["reused"])


@given(st.floats(0, 2e9), st.floats(0, 1e6), st.integers(0, 2**60), st.integers(100, 599))
def test_every_line_is_json_whatever_the_numbers(began, took, count, status):
    facts = row(began=began, first=began + took / 2, ended=began + took, bytes_in=count, bytes_out=count, status=status)
    line = json.loads(render([facts], 1.7e9))
    assert (count, status) == (line["bytes_in"], line["status"])
    assert 24 == len(line["time"])
    assert line["time"].endswith("Z")


def test_times_are_those_of_each_line():
    lines = [json.loads(line)["time"] for line in render([row(began=b) for b in (0.0, 0.999, 1.0, 61.5)], 0.0).splitlines()]
    assert ["00:00:00.000Z", "00:00:00.999Z", "00:00:01.000Z", "00:01:01.500Z"] == [time[11:] for time in lines]


def test_lines_wait_for_the_tick():
    kept = Kept()
    log = AccessLog(kept)
    log.add(row())
    assert [] == kept.batches
    log.tick()
    log.tick()
    assert [1] == [batch.count(b"\n") for batch in kept.batches]
    assert [] == log.rows


def test_many_lines_do_not_and_go_in_large_pieces():
    kept = Kept()
    log = AccessLog(kept)
    for number in range(20 * BATCH):
        log.add(row(request_id=b"%d" % number))
        assert len(log.rows) < BATCH
    assert all(len(batch) >= HAND_OVER for batch in kept.batches)
    log.tick()
    assert [str(number) for number in range(20 * BATCH)] == [json.loads(line)["id"] for line in kept.text.splitlines()]


def test_a_log_that_is_off_keeps_nothing():
    log = AccessLog(None)
    for _ in range(3 * BATCH + 1):
        log.add(row())
    log.tick()
    assert [] == log.rows
