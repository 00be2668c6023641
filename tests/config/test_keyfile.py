"""A file of API keys says what was written, and nothing of a bad line is repeated."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.keyfile import LARGEST, Broken, Entry, is_word, parse, render

HASH = "sha256:" + "0" * 32 + ":" + "f" * 64
LINE = {"id": "0123456789", "name": "alpha", "created": "2026-11-21T16:40:00Z", "hash": HASH}
WHEN = datetime(2026, 11, 21, 16, 40, tzinfo=UTC)

words = st.from_regex(r"(?!mcpp_)[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", fullmatch=True)
moments = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))
entries = st.builds(
    Entry,
    id=st.from_regex("[0-9a-z]{10}", fullmatch=True),
    name=words,
    roles=st.lists(words, max_size=4).map(tuple),
    created=moments,
    expires=st.none() | moments,
    revoked=st.none() | moments,
    hash=st.from_regex("sha256:[0-9a-f]{32}:[0-9a-f]{64}", fullmatch=True),
)


def line(**more: object) -> bytes:
    return json.dumps(LINE | more).encode()


def broken(data: bytes) -> str:
    with pytest.raises(Broken) as caught:
        parse(data)
    return str(caught.value)


@given(st.lists(entries, unique_by=lambda entry: entry.id, max_size=5))
def test_what_was_written_is_read(given_entries: list[Entry]) -> None:
    assert parse(render(given_entries)) == tuple(given_entries)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.lists(entries, max_size=2).map(render).flatmap(
    lambda data: st.tuples(st.just(data), st.integers(0, len(data)), st.integers(0, len(data))).map(lambda cut: cut[0][: cut[1]] + cut[0][cut[2] :])
))  # fmt: skip
def test_anything_is_read_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except Broken:
        return
    assert parse(render(found)) == found


def test_a_file_of_nothing_has_no_keys() -> None:
    assert parse(b"") == parse(b"\n \n") == ()


def test_a_line_is_a_key() -> None:
    assert parse(line() + b"\r\n" + line(id="abcdefghij", roles=["ops"], expires="2026-11-21T17:40:00+01:00")) == (
        Entry(id="0123456789", name="alpha", created=WHEN, hash=HASH),
        Entry(id="abcdefghij", name="alpha", roles=("ops",), created=WHEN, expires=WHEN, hash=HASH),
    )


def test_a_key_is_written_as_a_person_reads_it() -> None:
    text = render([Entry(id="0123456789", name="alpha", created=WHEN, hash=HASH, expires=WHEN + timedelta(days=1))]).decode()
    assert '"created":"2026-11-21T16:40:00Z","expires":"2026-11-22T16:40:00Z"' in text
    assert "roles" not in text and "revoked" not in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id = 1", "line 1: not a JSON object"),
        (b"[" * 100_000, "line 1: not a key as `mcpproxy key` writes it"),
        (b"\xff\xfe", "line 1: not a JSON object"),
        (b'{"id":"0123456789"', "line 1: not a JSON object"),
        (line() + b"\n[]", "line 2: not a key as `mcpproxy key` writes it"),
        (b"{}", "line 1: `id` is missing"),
        (line(name=None), "line 1: `name` is not as `mcpproxy key` writes it"),
        (line(name="a b"), "line 1: `name` is not as `mcpproxy key` writes it"),
        (line(name="alpha\n"), "line 1: `name` is not as `mcpproxy key` writes it"),
        (line(name="*"), "line 1: `name` is not as `mcpproxy key` writes it"),
        (line(roles=["ops", "role:ops"]), "line 1: `roles` is not as `mcpproxy key` writes it"),
        (line(id="0123"), "line 1: `id` is not as `mcpproxy key` writes it"),
        (line(created="2026-11-21T16:40:00"), "line 1: `created` is not as `mcpproxy key` writes it"),
        (line(expires="tomorrow"), "line 1: `expires` is not as `mcpproxy key` writes it"),
        (line(revoked=True), "line 1: `revoked` is not as `mcpproxy key` writes it"),
        (line(hash="mcpp_0123456789_" + "s" * 38), "line 1: `hash` is not as `mcpproxy key` writes it"),
        (line(key="mcpp_0123456789_" + "s" * 38), "line 1: not a key as `mcpproxy key` writes it"),
        (line() + b"\n\n" + line(name="beta"), "line 3: the id of another line"),
        (b" " * (LARGEST + 1), "is larger than 8 MiB: no file of keys"),
    ],
)
def test_a_line_that_is_not_understood_makes_the_file_unusable(data: bytes, said: str) -> None:
    assert broken(data) == said


@given(
    st.sampled_from(["id", "name", "roles", "created", "expires", "revoked", "hash", "more"]),
    st.from_regex("mcpp_[a-z]{20}", fullmatch=True),
)
def test_nothing_of_a_bad_line_is_repeated(member: str, secret: str) -> None:
    assert secret not in broken(line(**{member: secret}))
    assert secret not in broken(line(**{secret: 1}))


def test_states() -> None:
    now = WHEN.timestamp()
    entry = Entry(id="0123456789", name="alpha", created=WHEN, hash=HASH, expires=WHEN.astimezone(timezone(timedelta(hours=5))))
    assert (entry.state(now - 1), entry.state(now)) == ("active", "expired")
    assert Entry(id="0123456789", name="alpha", created=WHEN, hash=HASH, revoked=WHEN).state(0) == "revoked"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("agent-alpha", True),
        ("ci@example.com", True),
        ("", False),
        ("-x", False),
        ("a*", False),
        ("mcpp_0123456789_x", False),
        ("ä", False),
        ("a" * 65, False),
    ],
)
def test_names(text: str, good: bool) -> None:
    assert bool(is_word(text)) is good
