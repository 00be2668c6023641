"""What is counted is what happened: from rows to names, and added up in whatever order."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.observe.accesslog import OURS, AccessLog, Place, Row
from mcpproxy.observe.tally import BOUNDS, Sums, Tally, new_times

SEARCH, FILES = Place("search", "s"), Place("a.test/files", "f")


def row(**changes):
    facts = {
        "about": b"",
        "client": b"",
        "request_id": b"",
        "began": 100.0,
        "first": 100.2,
        "ended": 100.5,
        "status": 200,
        "bytes_in": 10,
        "bytes_out": 20,
        "upstream": b'"127.0.0.1:8000"',
        "reused": 0,
        "end": b"done",
        "extra": b"",
        "place": SEARCH,
    }
    return Row(**(facts | changes))


def counted(*rows):
    tally = Tally()
    tally.count(list(rows))
    return tally.fold()


def test_rows_are_counted_by_where_and_how():
    sums = counted(row(), row(), row(end=b"client-gone"), row(status=404, place=FILES), row(upstream=b"null", status=503, end=b"timeout"))
    assert {key[1:]: number for key, number in sums.numbers.items() if key[0] == "requests"} == {
        ("search", "s", "127.0.0.1:8000", "200", "done"): 2,
        ("search", "s", "127.0.0.1:8000", "200", "client-gone"): 1,
        ("a.test/files", "f", "127.0.0.1:8000", "404", "done"): 1,
        ("search", "s", "", "503", "timeout"): 1,
    }


def test_bytes_are_summed():
    sums = counted(row(bytes_in=1, bytes_out=5), row(bytes_in=2, status=500), row(bytes_in=4, bytes_out=0, place=OURS, upstream=b"null"))
    assert sums.numbers["received", "search", "s", "127.0.0.1:8000"] == 3
    assert sums.numbers["sent", "search", "s", "127.0.0.1:8000"] == 25
    assert sums.numbers["received", "", "", ""] == 4
    assert ("sent", "", "", "") not in sums.numbers


def test_an_endpoint_has_its_own_name_again():
    (key,) = [key for key in counted(row(upstream=json.dumps('unix:/a "b"').encode())).numbers if key[0] == "requests"]
    assert key[3] == 'unix:/a "b"'


@pytest.mark.parametrize(("took", "at"), [(0.0, 0), (0.001, 0), (0.0011, 1), (0.5, 8), (3600.0, 16), (3601.0, 17)])
def test_a_bound_belongs_to_what_is_below_it(took, at):
    times = counted(row(began=0.0, first=0.0, ended=took)).times["duration", "search"]
    assert times[0] == took
    assert times[1:] == [int(index == at) for index in range(len(BOUNDS) + 1)]


def test_the_first_byte_is_timed_where_one_came():
    sums = counted(row(began=1.0, first=1.5, ended=3.0), row(began=1.0, first=3.0, ended=3.0), row(first=0.0))
    assert sums.times["duration", "search"][0] == 2.0 + 2.0 - 0.0 + (100.5 - 100.0)
    assert sums.times["first", "search"][0] == 0.5 + 2.0
    assert sum(sums.times["first", "search"][1:]) == 2
    assert ("first", "search") not in counted(row(first=0.0)).times


def test_reasons_are_counted_and_sessions_are_none():
    sums = counted(
        row(extra=b',"reason":"no-route"', place=OURS),
        row(extra=b',"reason":"too-many-requests"'),
        row(extra=b',"new_session":"0123"'),
    )
    assert {key: number for key, number in sums.numbers.items() if key[0] == "refusals"} == {
        ("refusals", "", "no-route"): 1,
        ("refusals", "search", "too-many-requests"): 1,
    }


def test_a_server_cannot_make_labels():
    sums = counted(*(row(status=status) for status in range(100, 1000)))
    statuses = {key[4] for key in sums.numbers if key[0] == "requests"}
    assert {"200", "404", "499", "503", "6xx", "9xx"} <= statuses
    assert len(statuses) < 80


def test_what_was_folded_is_not_counted_twice():
    tally = Tally()
    tally.count([row()])
    tally.fold()
    assert tally.fold().numbers["requests", "search", "s", "127.0.0.1:8000", "200", "done"] == 1
    tally.sums.clear()
    assert not tally.fold()


def test_the_log_has_its_rows_counted_also_where_nobody_writes_them():
    log, tally = AccessLog(None), Tally()
    log.hears.append(tally.count)
    for _ in range(300):
        log.add(row())
    log.tick()
    assert tally.fold().numbers["requests", "search", "s", "127.0.0.1:8000", "200", "done"] == 300


def as_sums(numbers, times):
    made = Sums()
    for name, by in numbers:
        made.count(name, by=by)
    for name, by in times:
        spread = new_times()
        spread[0], spread[1 + by % 18] = by, 1
        made.spread(name, by=spread)
    return made


parts = st.lists(
    st.builds(
        as_sums,
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9))),
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 99))),
    ),
    max_size=8,
)


@given(parts)
def test_sums_add_up_in_any_order_and_over_the_line(made):
    there, back = Sums(), Sums()
    for each in made:
        there.add(json.loads(json.dumps(each.message())))
    for each in reversed(made):
        back.add(each.message())
    assert there.numbers == back.numbers
    assert there.times == back.times
    assert sum(there.numbers.values()) == sum(sum(each.numbers.values()) for each in made)


def test_bounds_rise():
    assert all(one < other for one, other in pairwise(BOUNDS))
