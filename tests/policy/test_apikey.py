"""Who shows this API key: keys, the file they are kept in, and what is said of them at a moment."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from hmac import compare_digest
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.keyfile import Entry, render
from mcpproxy.config.policies import Auth
from mcpproxy.errors import StartError
from mcpproxy.http.replies import MESSAGES
from mcpproxy.policy import apikey
from mcpproxy.policy.apikey import EXPIRED, KEY, REVOKED, UNKNOWN, ApiKeys, NewKey, checksum, id_of, new_key
from mcpproxy.policy.verdict import Accepted, Credential, Principal, Refused

NOW = 1_800_000_000.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def entry(key: NewKey, name: str = "alpha", **more: object) -> Entry:
    return Entry(**({"id": key.id, "name": name, "created": at(NOW), "hash": key.hash} | more))  # type: ignore[arg-type]


def write(file: Path, *entries: Entry) -> None:
    """As `mcpproxy key` does: a new file in the place of the old."""
    beside = file.with_suffix(".new")
    beside.touch(0o600)
    beside.write_bytes(render(entries))
    beside.replace(file)


def keys(file: Path, *entries: Entry, **auth: object) -> ApiKeys:
    write(file, *entries)
    return ApiKeys("keys", Auth(type="api-key", file=str(file), **auth))  # type: ignore[arg-type]


def bearer(text: str | bytes) -> Credential:
    return Credential("bearer", text.encode() if isinstance(text, str) else text, b"authorization")


def alone(text: str, field: bytes = b"x-api-key") -> Credential:
    return Credential("key", text.encode(), field)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


# -- keys ---------------------------------------------------------------------------------------------------------------------------------------


def test_a_key_has_the_form_scanners_look_for() -> None:
    key = new_key()
    assert re.fullmatch(KEY, key.text)
    assert id_of(key.text) == key.id
    assert key.text.startswith(f"mcpp_{key.id}_")
    assert key.text[-6:] == checksum(key.text[:-6])
    assert key.text not in repr(key) and key.hash not in repr(key)


def test_no_two_keys_are_the_same_and_no_id_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key() for _ in range(500)]
    assert len({key.text for key in made}) == len({key.hash.split(":")[1] for key in made}) == 500
    letters = iter("0" * 10 + "1" * 10 + "s" * 32)
    monkeypatch.setattr("mcpproxy.policy.apikey.choice", lambda _: next(letters))
    assert new_key(["0" * 10]).id == "1" * 10


@given(st.integers(0, 48), st.sampled_from("0aZ"))
def test_a_mistyped_key_is_no_key(place: int, letter: str) -> None:
    text = new_key().text
    other = text[:place] + letter + text[place + 1 :]
    assert (id_of(other) is None) == (other != text)


@pytest.mark.parametrize(
    "text", ["", "mcpp_", "mcpp_0000000000_" + "0" * 37, "mcpp_0000000000_" + "0" * 38 + "\n", "mcpp_0000000000_" + "٠" * 38]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert id_of(text) is None


# -- who shows them -----------------------------------------------------------------------------------------------------------------------------


def test_a_key_names_its_caller(file: Path) -> None:
    key, until = new_key(), NOW + 60
    found = keys(file, entry(key, roles=("ops",), expires=at(until)), roles=("agents",)).judge(bearer(key.text), NOW)
    assert found == Accepted(Principal("alpha", "keys", frozenset({"ops", "agents"}), key=key.id), until)


def test_a_key_without_an_end_has_none(file: Path) -> None:
    key = new_key()
    found = keys(file, entry(key)).judge(alone(key.text), NOW)
    assert isinstance(found, Accepted) and found.until == inf


def whose(refused: Refused, key: NewKey, name: str = "alpha") -> Refused:
    """The refusal as it is logged: a key that worked once names its caller and its id."""
    return replace(refused, principal=Principal(name, "keys", key=key.id))


def test_a_key_ends_at_its_second_and_not_before(file: Path) -> None:
    key = new_key()
    known = keys(file, entry(key, expires=at(NOW + 1)))
    assert isinstance(known.judge(bearer(key.text), NOW + 0.999), Accepted)
    assert known.judge(bearer(key.text), NOW + 1) == whose(EXPIRED, key)


def test_a_revoked_key_is_refused_whenever_it_was_revoked(file: Path) -> None:
    key = new_key()
    for moment in (NOW - 1, NOW + 10**6):
        assert keys(file, entry(key, revoked=at(moment))).judge(bearer(key.text), NOW) == whose(REVOKED, key)


def test_why_is_told_only_to_who_has_the_key(file: Path) -> None:
    one, other = new_key(), new_key()
    known = keys(file, entry(one, expires=at(NOW - 1)), entry(other, revoked=at(NOW)))
    for key in (one, other):
        guess = key.text[:-8] + ("x" if key.text[-8] != "x" else "y") + key.text[-7:]
        assert known.judge(bearer(guess), NOW) is UNKNOWN


@pytest.mark.parametrize("value", ["mcpp_", "mcpp_0000000000_" + "0" * 38, "MCPP_0000000000_" + "0" * 38])
def test_what_was_never_made_is_unknown(file: Path, value: str) -> None:
    known = keys(file, entry(new_key()))
    assert known.judge(alone(value), NOW) is UNKNOWN
    assert known.judge(bearer(value), NOW) is (UNKNOWN if value.startswith("mcpp_") else None)


def test_the_one_that_stands_for_nobody_opens_nothing(file: Path) -> None:
    """Its id is a good one; its line could be in nobody's file."""
    assert keys(file).judge(bearer("mcpp_0000000000_" + "0" * 38), NOW) is UNKNOWN


def test_every_judgement_compares_once_and_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of one length, whatever is shown: a key, a guess at its secret, an id nobody has, and no key at all."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr(apikey, "compare_digest", compare)
    key = new_key()
    known = keys(file, entry(key))
    guess = key.text[:-8] + ("x" if key.text[-8] != "x" else "y") + key.text[-7:]
    for text in (key.text, guess, new_key().text, "mcpp_nonsense"):
        known.judge(bearer(text), NOW)
    assert compared == [(32, 32)] * 4


def test_what_is_not_ours_is_for_others_to_judge(file: Path) -> None:
    key = new_key()
    known = keys(file, entry(key), headers=("X-Agent-Key",))
    assert known.judge(bearer(key.text), NOW) is None  # not in Authorization, says the configuration
    assert known.judge(alone(key.text), NOW) is None
    assert isinstance(known.judge(alone(key.text, b"x-agent-key"), NOW), Accepted)
    both = keys(file, entry(key))
    assert both.judge(bearer("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"), NOW) is None
    assert both.judge(Credential("certificate", key.text.encode()), NOW) is None


def test_every_refusal_has_its_sentence() -> None:
    assert {UNKNOWN.kind, EXPIRED.kind, REVOKED.kind} <= set(MESSAGES)


@given(st.data())
def test_nobody_ever_gets_the_verdict_of_anothers_key(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is shown: only the very bytes of a key, in a field that is looked at, are its caller; and what is said agrees with its line."""
    made = [new_key() for _ in range(data.draw(st.integers(0, 4)))]
    moments = st.none() | st.integers(-2, 2).map(lambda days: at(NOW + 86400 * days))
    lines = [entry(key, f"caller-{number}", expires=data.draw(moments), revoked=data.draw(moments)) for number, key in enumerate(made)]
    known = keys(tmp_path_factory.mktemp("keys") / "keys", *lines)
    texts = [key.text for key in made] + [new_key().text]
    pieces = st.sampled_from(texts).flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: (text[:cut], text[cut:])))
    crossed = st.tuples(pieces, pieces).map(lambda two: two[0][0] + two[1][1])
    shown = data.draw(st.sampled_from(texts) | crossed | st.text("mcp_0aZ", max_size=60))
    found = known.judge(data.draw(st.sampled_from([bearer(shown), alone(shown)])), NOW)
    owner = next((line for key, line in zip(made, lines, strict=True) if key.text == shown), None)
    if owner is None:
        assert found is None or found is UNKNOWN
    elif owner.state(NOW) == "active":
        assert isinstance(found, Accepted) and found.principal.name == owner.name and found.principal.key == owner.id
        assert found.until == (inf if owner.expires is None else owner.expires.timestamp())
    else:
        assert isinstance(found, Refused) and found.kind == (REVOKED if owner.revoked else EXPIRED).kind
        assert found.principal is not None and found.principal.key == owner.id


# -- the file ---------------------------------------------------------------------------------------------------------------------------------


def test_a_change_is_seen_and_read(file: Path) -> None:
    one, other = new_key(), new_key()
    known = keys(file, entry(one))
    assert not known.changed()
    write(file, entry(one, revoked=at(NOW)), entry(other, "beta"))
    assert known.changed()
    assert isinstance(known.judge(bearer(one.text), NOW), Accepted)  # not before it was asked to look
    assert known.reload() == ""
    assert not known.changed()
    assert known.judge(bearer(one.text), NOW) == whose(REVOKED, one)
    assert isinstance(known.judge(bearer(other.text), NOW), Accepted)


def test_a_change_within_one_size_and_second_is_seen(file: Path) -> None:
    """A line that is put in the place of another one of the same length."""
    one, other = new_key(), new_key()
    known = keys(file, entry(one))
    times = os.stat(file)
    write(file, entry(other))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert known.changed()


def spoil(file: Path) -> None:
    file.write_text("{}\n")


def open_to_all(file: Path) -> None:
    file.chmod(0o666)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "No such file or directory; `mcpproxy key add NAME` makes it"),
        (spoil, "line 1: `id` is missing"),
        (open_to_all, "everybody on this machine may write to it, and so let themselves in; chmod o-w"),
    ],
)
def test_a_file_that_has_become_unusable_changes_nothing_and_is_told_once(file: Path, harm: object, said: str) -> None:
    key, other = new_key(), new_key()
    known = keys(file, entry(key))
    harm(file)  # type: ignore[operator]
    assert known.changed()
    assert known.reload() == f"{file}: {said}"
    assert not known.changed()
    assert isinstance(known.judge(bearer(key.text), NOW), Accepted)
    write(file, entry(other, "beta"))
    assert known.changed()
    assert known.reload() == ""
    assert known.judge(bearer(key.text), NOW) is UNKNOWN


def test_what_is_mended_by_its_mode_alone_is_read(file: Path) -> None:
    known = keys(file, entry(new_key()))
    file.chmod(0o666)
    assert known.reload()
    file.chmod(0o600)
    assert known.changed()
    assert known.reload() == ""


@pytest.mark.parametrize("content", [None, b"not json\n"])
def test_it_does_not_start_with_a_file_that_cannot_be_used(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError, match=re.escape(str(file))):
        ApiKeys("keys", Auth(type="api-key", file=str(file)))
