"""What is unusual for a caller is told once; what is usual never."""

from pathlib import Path

import pytest

from mcpproxy.observe.habits import CALLERS, FILE, KNOWN, LEAST, MINUTES, TOOLS, Habits

NOW = 1_795_000_020.0


def known(directory: Path, now: float = NOW) -> Habits:
    """Somebody who calls `search` every few seconds."""
    habits = Habits(directory)
    for number in range(KNOWN):
        assert habits.called("agent", "search", now + number) == []
    return habits


def kinds(found: list[tuple[str, str]]) -> list[str]:
    return [kind for kind, _ in found]


def test_a_tool_it_never_called_is_told_once(tmp_path: Path) -> None:
    habits = known(tmp_path)
    assert kinds(habits.called("agent", "delete_all", NOW)) == ["new-tool"]
    assert habits.called("agent", "delete_all", NOW) == habits.called("agent", "search", NOW) == []


def test_who_is_new_has_no_habits(tmp_path: Path) -> None:
    habits = Habits(tmp_path)
    assert [habits.called("agent", f"tool-{number}", NOW) for number in range(KNOWN)] == [[]] * KNOWN
    assert kinds(habits.called("agent", "another", NOW)) == ["new-tool"]


def test_habits_outlive_the_daemon(tmp_path: Path) -> None:
    known(tmp_path).save()
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    habits = Habits(tmp_path)
    assert habits.called("agent", "search", NOW) == []
    assert kinds(habits.called("agent", "delete_all", NOW)) == ["new-tool"]


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b'{"agent":1}', b'{"\x80":{}}'])
def test_broken_habits_are_learned_anew(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    assert Habits(tmp_path).called("agent", "search", NOW) == []


def test_ten_times_as_often_as_usual_is_told_and_then_not_for_an_hour(tmp_path: Path) -> None:
    habits = Habits(tmp_path)
    for minute in range(MINUTES + 1):
        for _ in range(20):
            assert habits.called("agent", "search", NOW + 60 * minute) == []
    now = NOW + 60 * (MINUTES + 2)
    assert [kinds(habits.called("agent", "search", now)) for _ in range(300)] == [[]] * 199 + [["many-calls"]] + [[]] * 100
    assert [habits.called("agent", "search", now + 60) for _ in range(3000)] == [[]] * 3000
    assert ["many-calls"] in [kinds(habits.called("agent", "search", now + 3700)) for _ in range(3000)]


def test_a_few_more_of_next_to_nothing_is_not_much(tmp_path: Path) -> None:
    habits = Habits(tmp_path)
    for minute in range(MINUTES + 1):
        habits.called("agent", "search", NOW + 60 * minute)
    now = NOW + 60 * (MINUTES + 2)
    assert [habits.called("agent", "search", now) for _ in range(LEAST - 1)] == [[]] * (LEAST - 1)
    assert kinds(habits.called("agent", "search", now)) == ["many-calls"]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    habits = Habits(tmp_path)
    for number in range(CALLERS + 10):
        habits.called(f"agent-{number}", "search", NOW + number)
    for number in range(TOOLS + 10):
        habits.called("agent", f"tool-{number}" + "x" * 10_000, NOW + 1e6 + number)
    assert len(habits._callers) == CALLERS and "agent-0" not in habits._callers
    assert len(habits._callers["agent"].tools) == TOOLS
    assert "agent" in habits._callers


def test_what_is_heard_from_elsewhere_is_not_new(tmp_path: Path) -> None:
    habits = Habits(tmp_path)
    habits.heard("agent", "search", KNOWN, NOW)
    assert kinds(habits.called("agent", "delete_all", NOW)) == ["new-tool"]
    habits.heard("agent", "other", 1, NOW)
    assert habits.called("agent", "other", NOW) == []


def test_two_processes_count_a_minute_together_and_one_tells(tmp_path: Path) -> None:
    one, two = Habits(tmp_path), Habits(tmp_path)
    for minute in range(MINUTES + 1):
        for habits in one, two:
            habits.heard("agent", "search", 20, NOW + 60 * minute)
    now = NOW + 60 * (MINUTES + 2)
    told = []
    for _ in range(200):
        for habits, other in (one, two), (two, one):
            told.append(kinds(habits.called("agent", "search", now)))
            other.heard("agent", "search", 1, now)
            if told[-1]:
                other.heard("agent", told[-1][0], 0, now)
    assert told.index(["many-calls"]) == 199 and len(told) == 400 and told.count(["many-calls"]) == 1


def test_what_is_heard_late_belongs_to_the_minute_that_is(tmp_path: Path) -> None:
    habits = known(tmp_path)
    habits.called("agent", "search", NOW + 60)
    count = habits._callers["agent"].count
    habits.heard("agent", "search", 3, NOW + 59)
    assert habits._callers["agent"].count == count + 3
