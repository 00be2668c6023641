"""What a worker answers an operator: pages that stay pages, counts in slices, closes by name. (tests/scenarios/test_admin: of a daemon.)"""

from typing import Any, cast

import pytest

from mcpproxy.ops import answers as module
from mcpproxy.ops.answers import PAGE, Census, Pages, show_endpoint


class Link:
    def __init__(self, name: int) -> None:
        self.name, self.fd = name, 5


def links(count: int) -> Any:
    return {Link(number) for number in range(count)}


def all_of(pages: Pages, most: int, between: Any = lambda: None) -> list[Any]:
    found, cursor = [], ""
    while True:
        page, cursor = pages.page(cursor, most)
        assert len(page) <= most
        found += page
        if not cursor:
            return found
        between()


def test_every_connection_is_on_one_page() -> None:
    many = links(1234)
    found = all_of(Pages(many), 100)
    assert len(found) == 1234
    assert set(found) == many


def test_those_that_come_or_go_meanwhile_change_nothing_for_the_others() -> None:
    many = links(50)
    before = set(many)
    gone = next(iter(many))
    pages = Pages(many)

    def change() -> None:
        gone.fd = -1
        many.discard(gone)
        many.update(links(5))

    found = all_of(pages, 10, change)
    assert before - {gone} <= set(found) <= before


def test_a_page_has_a_most_and_ends_earlier_where_connections_are_heavy() -> None:
    pages = Pages(links(3 * PAGE))
    assert len(pages.page("", 10 * PAGE)[0]) == PAGE
    assert len(pages.page("", 0)[0]) == 1
    assert len(pages.page("", 100, lambda link: 50)[0]) == 2


@pytest.mark.parametrize("cursor", ["9:0", "1", ":", "x:y", "1:-3", "1:²"])
def test_a_cursor_of_nobodys_is_refused(cursor: str) -> None:
    pages = Pages(links(10))
    pages.page("", 2)
    with pytest.raises(LookupError):
        pages.page(cursor, 2)


def test_lists_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pages = Pages(links(10))
    _, first = pages.page("", 2)
    now[0] += module.LIST_S + 1
    with pytest.raises(LookupError):
        pages.page(first, 2)
    cursors = [pages.page("", 2)[1] for _ in range(10)]
    with pytest.raises(LookupError):
        pages.page(cursors[0], 2)
    pages.page(cursors[-1], 2)


def test_a_count_takes_a_breath_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []

    def exchanges(link: Any) -> list[tuple[int, Any]]:
        looked.append(link)
        return [(1, None)]

    monkeypatch.setattr(module.inspect, "exchanges", exchanges)
    monkeypatch.setattr(module.inspect, "kind_of", lambda x: "stream")
    monkeypatch.setattr(module.inspect, "pool_of", lambda x: "pool")
    monkeypatch.setattr(module.inspect, "principal_of", lambda x: f"caller {len(looked) % 40}")
    later: list[Any] = []
    census = Census(links(2 * PAGE + 1), lambda: cast(Any, {"pool": "search"}), lambda wait, *call: later.append(call))
    assert census.count()["kinds"] == {}
    assert len(looked) == PAGE
    assert census.count()["kinds"] == {}  # the one that runs goes on; no second one begins
    while later:
        call, *arguments = later.pop()
        call(*arguments)
    assert census.last["kinds"] == {"stream": 2 * PAGE + 1}
    assert census.last["upstreams"] == {"search": 2 * PAGE + 1}
    assert len(census.last["principals"]) == module.NAMED
    assert sum(census.last["principals"].values()) + census.last["others"] == 2 * PAGE + 1


@pytest.mark.parametrize(
    ("state", "breaker", "up", "said"),
    [
        ("enabled", "closed", None, "up"),
        ("enabled", "closed", True, "up"),
        ("enabled", "closed", False, "down"),
        ("enabled", "half-open", None, "half-open"),
        ("enabled", "open", True, "open"),
        ("drain", "open", False, "draining"),
        ("disabled", "closed", True, "disabled"),
    ],
)
def test_one_word_for_an_endpoint(state: str, breaker: str, up: bool | None, said: str) -> None:
    each = {"endpoint": "a:1", "state": state, "breaker": breaker, "up": up, "in_use": 1, "idle": 2, "last_error": None}
    assert show_endpoint(each) == {"label": "a:1", "state": said, "in_use": 1, "idle": 2, "said": ""}
