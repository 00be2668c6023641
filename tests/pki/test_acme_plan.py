"""When certificates are asked for, whatever the clock, the authority and chance do."""

from hypothesis import assume, given
from hypothesis import strategies as st

from mcpproxy.pki.acme_plan import DAY, LONGEST_TOLD, LONGEST_WAIT, Span, Story, choose, due, explain, left, renewal, suggested, told, warns

MOMENT = st.floats(1e9, 4e9)
CHANCE = st.floats(0, 1)
LIFE = st.floats(60, 400 * DAY)
SPAN = st.builds(lambda begin, life: Span(begin, begin + life), MOMENT, LIFE)


@given(SPAN, CHANCE)
def test_renewal_is_a_little_before_two_thirds_of_life(span: Span, chance: float) -> None:
    share = (renewal(span, Story(chance=chance)) - span.begin) / (span.end - span.begin)
    assert 0.6 < share < 0.67


@given(SPAN, CHANCE, MOMENT)
def test_a_suggestion_counts_as_long_as_it_is_before_the_end(span: Span, chance: float, suggested: float) -> None:
    moment = renewal(span, Story(chance=chance, suggested=suggested))
    assert moment == suggested or suggested >= span.end or moment - span.begin <= min(DAY, (span.end - span.begin) / 10) * 1.01
    assert span.begin < moment < span.end


@given(MOMENT, st.lists(st.tuples(CHANCE, st.floats(0, 1e9)), min_size=1, max_size=60), st.floats(1, DAY))
def test_failures_wait_longer_and_longer_and_never_for_ever(now: float, failures: list[tuple[float, float]], first: float) -> None:
    story = Story()
    for number, (chance, asked) in enumerate(failures):
        story.failed(now, "no", first, chance, asked)
        wait = story.not_before - now
        assert min(asked, LONGEST_TOLD) - 1 <= wait <= max(1.2 * LONGEST_WAIT, LONGEST_TOLD) + 1
        if not asked:
            expected = min(first * 2**number, LONGEST_WAIT)
            assert 0.79 * expected <= wait <= 1.21 * expected + 1
        now = due(None, story, now)
        assert now == story.not_before


@given(SPAN, MOMENT, CHANCE)
def test_what_is_there_is_not_asked_for_and_what_is_not_is_asked_for_at_once(span: Span, now: float, chance: float) -> None:
    story = Story(chance=chance)
    assert due(None, story, now) <= now
    assert (due(span, story, now) <= now) == (renewal(span, story) <= now)


@given(SPAN, MOMENT, st.floats(-20 * DAY, 4000 * DAY))
def test_a_clock_that_jumps_stops_nothing_for_ever(span: Span, now: float, jump: float) -> None:
    story = Story()
    story.failed(now, "no", 60.0, 0.5)
    later = now + jump
    assert due(None, story, later) - later <= LONGEST_TOLD


@given(SPAN, MOMENT, MOMENT)
def test_warnings_come_near_the_end_and_once_a_day(span: Span, now: float, before: float) -> None:
    story = Story(warned_at=before)
    if warns(span, story, now):
        assert span.end - now < min(14 * DAY, (span.end - span.begin) / 4)
        assert not 0 <= now - before < DAY
        story.warned_at = now
        assert not warns(span, story, now + DAY - 1)
        assume(now + DAY < 4e9)
        assert warns(span, story, now + DAY + 1)


def test_a_success_forgets_the_failures() -> None:
    story = Story(suggested=5.0, warned_at=3.0)
    story.failed(100.0, "no", 60.0, 0.5)
    story.succeeded(0.25)
    assert story == Story(chance=0.25)


def test_the_other_way_is_tried_after_a_failure() -> None:
    tried = Story(failures=1, challenge="http-01")
    assert choose("auto", True, True, Story()) == "http-01"
    assert choose("auto", True, True, tried) == "tls-alpn-01"
    assert choose("auto", True, True, Story(failures=2, challenge="tls-alpn-01")) == "http-01"
    assert choose("auto", True, False, tried) == "http-01"
    assert choose("auto", False, True, Story()) == "tls-alpn-01"
    assert choose("tls-alpn-01", True, True, tried) == "tls-alpn-01"


def test_failures_in_words() -> None:
    assert "does its DNS lead here" in explain("connection", "Timeout during connect", "a.example", "http-01")
    assert "port 80" in explain("connection", "", "a.example", "http-01")
    assert "port 443" in explain("connection", "", "a.example", "tls-alpn-01")
    assert "CAA" in explain("caa", "", "a.example")
    assert "acme.eab_key_id" in explain("externalAccountRequired", "")
    assert "limit" in explain("rateLimited", "too many certificates")
    assert "\x1b" not in explain("unheardOf", "\x1b[31mred\n")
    assert len(explain("dns", "x" * 10_000, "a.example")) < 500


def test_how_long_is_left() -> None:
    assert [left(days * DAY) for days in (-1, 0.5, 1.5, 13)] == [
        "has expired",
        "expires within a day",
        "expires in 1 day",
        "expires in 13 days",
    ]


def test_a_story_that_cannot_be_read_is_a_new_one() -> None:
    for text in ("", "{", "[]", '{"failures": "many"}', '{"chance": null}'):
        assert told(text) == Story()
    assert told('{"failures": 3, "other": 1}') == Story(failures=3)


@given(SPAN, MOMENT, st.integers(1, 60))
def test_what_lives_for_days_only_is_tried_more_often(span: Span, now: float, failures: int) -> None:
    story = Story(failures=failures - 1)
    story.failed(now, "no", 600.0, 0.5, span=span)
    longest = min(max((span.end - span.begin) / 24, DAY / 24), LONGEST_WAIT)
    assert abs(story.not_before - now - min(600.0 * 2 ** (failures - 1), longest)) < 1


@given(SPAN, st.floats(1, 20 * DAY))
def test_the_end_is_told_whatever_was_told_before(span: Span, before: float) -> None:
    assert warns(span, Story(warned_at=span.end - before), span.end)
    assert not warns(span, Story(warned_at=span.end), span.end + 60)


@given(MOMENT, st.floats(61, 4000 * DAY))
def test_a_wait_that_began_in_the_future_is_none(now: float, back: float) -> None:
    story = Story()
    story.failed(now, "no", 60.0, 0.5, 5 * DAY)
    assert due(None, story, now - back) == 0


@given(SPAN, CHANCE, st.floats(-0.5, 1.2), st.floats(0.001, 1))
def test_a_moment_of_the_window_that_leaves_time_for_failures(span: Span, chance: float, share: float, width: float) -> None:
    life = span.end - span.begin
    begin, end = span.begin + share * life, span.begin + (share + width) * life
    moment = suggested(begin, end, span, chance)
    assert begin <= moment <= end
    assert moment <= span.end - life / 13 or moment == begin
    if end < span.end - life / 12:
        assert abs(moment - (begin + (end - begin) * chance)) < 1
    if begin > 0:
        assert 0 < renewal(span, Story(suggested=moment)) < span.end


def test_an_authority_that_suggests_nothing_is_none() -> None:
    assert suggested(0.0, 0.0, Span(1e9, 2e9), 0.7) == 0
