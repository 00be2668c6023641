"""What just happened: kept for who looks, and for nobody else."""

import json

import pytest

from mcpproxy.observe import recent as module
from mcpproxy.observe.recent import KEPT, Recent, quantile, slot_of

ABOUT = b'"method":"POST","host":"a","path":"/x"'


def row(end: bytes = b"done", ms: float = 2.0, first_ms: float = 0.0, extra: bytes = b"", about: bytes = ABOUT) -> tuple[object, ...]:
    first = 100.0 + first_ms / 1000 if first_ms else 0.0
    return (about, b'"client":"192.0.2.1"', b"id-1", 100.0, first, 100.0 + ms / 1000, 401, 1, 2, b"null", 0, end, extra, None)


def test_only_what_went_wrong_is_kept_and_told_once() -> None:
    recent = Recent()
    recent.hear([row(), row(b"refused", extra=b',"reason":"no-credentials"'), row(b"client-gone")])
    (told,) = recent.since(0)
    assert told | {"time": 0} == {
        "number": 1, "time": 0, "id": "id-1", "ms": 2.0, "method": "POST", "host": "a", "path": "/x", "principal": None, "client": "192.0.2.1",
        "status": 401, "reason": "no-credentials", "end": "refused", "upstream": None,
    }  # fmt: skip
    assert recent.since(1) == []
    recent.hear([row(b"timeout"), row(b"failed")])
    assert [each["number"] for each in recent.since(1)] == [2, 3]
    assert [each["number"] for each in recent.since(999)] == [1, 2, 3]  # a number of somebody else's
    assert recent.heard == 5


def test_a_flood_is_bounded() -> None:
    recent = Recent()
    for _ in range(10):
        recent.hear([row(b"refused")] * KEPT)
    assert len(recent.rows) == KEPT
    told = recent.since(5, most=3)
    assert [each["number"] for each in told] == [KEPT * 10 - 2, KEPT * 10 - 1, KEPT * 10]


def test_names_of_clients_are_data() -> None:
    recent = Recent()
    name = '</script><img src=x onerror=alert(1)>"\\\u2028'
    recent.hear([row(b"refused", about=b'"method":"GET","host":null,"path":"/","principal":%b' % json.dumps(name).encode())])
    assert recent.since(0)[0]["principal"] == name


def test_durations_are_only_noted_while_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    recent = Recent()
    recent.hear([row()])
    assert recent.durations() == {}
    recent.hear([row(ms=1.0), row(ms=3600_000.0, first_ms=1.0), row(b"refused", ms=500.0)])
    assert recent.durations() == {slot_of(1.0): 2}
    now[0] += module.WATCHED_S + 1
    recent.hear([row()])
    assert recent.durations() == {}


@pytest.mark.parametrize("ms", [0.0, 0.01, 0.5, 1.0, 7.3, 950.0, 3.6e6])
def test_a_slot_is_near(ms: float) -> None:
    found = quantile({slot_of(ms): 1}, 0.5)
    assert found is not None
    assert abs(found - max(ms, module.SHORTEST_MS)) <= 0.05 * max(ms, module.SHORTEST_MS)


def test_quantiles() -> None:
    histogram = {slot_of(1.0): 90, slot_of(1024.0): 10}
    assert quantile(histogram, 0.5) == 1.0
    assert quantile(histogram, 0.9) == 1.0
    assert quantile(histogram, 0.95) == 1024.0
    assert quantile({}, 0.5) is None
