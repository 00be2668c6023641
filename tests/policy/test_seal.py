"""Sealed session ids: they open for their caller with any of the keys, and for nobody else, and not when a bit was changed."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.clock import clock
from mcpproxy.config.sealfile import KEY, NAME, new_file, new_key, rotated
from mcpproxy.errors import StartError
from mcpproxy.pki.store import Store
from mcpproxy.policy.seal import FIELD, LOOK_S, QUERY, Opened, Seal, SealKeys, decoded, packed, place_of, unpacked

NOW = 1_790_000_000.0
HERE, THERE = place_of("http://127.0.0.1:8001"), place_of("http://127.0.0.1:8002")
SEAL = Seal([bytes(range(KEY))])
ids = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.uuids().map(lambda each: str(each).encode()),
    st.uuids().map(lambda each: each.hex.encode()),
    st.text("0123456789abcdef-", min_size=1, max_size=40).map(str.encode),
)
callers = st.one_of(st.just(b""), st.binary(max_size=40))


@given(ids)
def test_ids_come_back_as_they_were(id: bytes) -> None:
    assert unpacked(packed(id)) == id


@given(ids, callers, st.sampled_from([FIELD, QUERY]), st.floats(0, 2**32 - 1))
def test_what_is_sealed_opens_for_its_caller(id: bytes, caller: bytes, kind: bytes, now: float) -> None:
    text = SEAL.seal(kind, caller, HERE, id, now)
    assert set(text) <= set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert SEAL.open(kind, caller, text) == Opened(HERE, id, int(now))


@given(ids, callers, callers)
def test_no_two_callers_share_a_session(id: bytes, one: bytes, other: bytes) -> None:
    text = SEAL.seal(FIELD, one, HERE, id, NOW)
    assert (SEAL.open(FIELD, other, text) is None) is (one != other)


@given(ids, callers)
def test_a_query_is_no_field(id: bytes, caller: bytes) -> None:
    assert SEAL.open(FIELD, caller, SEAL.seal(QUERY, caller, HERE, id, NOW)) is None


@given(ids, st.data())
def test_any_changed_bit_is_refused(id: bytes, data: st.DataObject) -> None:
    raw = decoded(SEAL.seal(FIELD, b"a", HERE, id, NOW))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    assert SEAL.open(FIELD, b"a", base64.urlsafe_b64encode(changed).rstrip(b"=")) is None


@given(ids, st.data())
def test_any_changed_character_is_refused(id: bytes, data: st.DataObject) -> None:
    text = SEAL.seal(FIELD, b"a", HERE, id, NOW)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(sorted(set(b"ABCyz019-_=+/ %\x00\xff") - {text[at]})))
    assert SEAL.open(FIELD, b"a", text[:at] + bytes([other]) + text[at + 1 :]) is None


@given(st.binary(max_size=200))
def test_anything_else_is_refused(text: bytes) -> None:
    assert SEAL.open(FIELD, b"", text) is None
    assert SEAL.open(FIELD, b"", base64.urlsafe_b64encode(text).rstrip(b"=")) is None


@pytest.mark.parametrize("cut", range(1, 70, 3))
def test_cut_and_longer_texts_are_refused(cut: int) -> None:
    text = SEAL.seal(FIELD, b"", HERE, b"8f3a" * 8, NOW)
    assert SEAL.open(FIELD, b"", text[:-cut]) is None
    assert SEAL.open(FIELD, b"", text + b"A" * cut) is None


def test_it_is_short_for_the_ids_of_common_servers() -> None:
    assert len(SEAL.seal(FIELD, b"", HERE, b"0123456789abcdef" * 2, NOW)) == 62
    assert len(SEAL.seal(FIELD, b"", HERE, b"550e8400-e29b-41d4-a716-446655440000", NOW)) == 62


def test_the_first_key_seals_and_all_open() -> None:
    old, new = os.urandom(KEY), os.urandom(KEY)
    before, during, after = Seal([old]), Seal([new, old]), Seal([new])
    text = before.seal(FIELD, b"", HERE, b"x" * 20, NOW)
    assert during.open(FIELD, b"", text) == Opened(HERE, b"x" * 20, int(NOW))
    assert after.open(FIELD, b"", text) is None
    fresh = during.seal(FIELD, b"", HERE, b"x" * 20, NOW)
    assert after.open(FIELD, b"", fresh) is not None
    assert before.open(FIELD, b"", fresh) is None


def test_keys_with_equal_marks_are_all_tried() -> None:
    keys: dict[bytes, bytes] = {}
    while True:
        key = os.urandom(KEY)
        mark = decoded(Seal([key]).seal(FIELD, b"", HERE, b"y", NOW))[:1]
        if mark in keys:
            break
        keys[mark] = key
    text = Seal([key]).seal(FIELD, b"", HERE, b"y", NOW)
    assert Seal([keys[mark], key]).open(FIELD, b"", text) is not None


def test_an_endpoint_is_known_by_where_it_is() -> None:
    assert HERE != THERE
    assert len(HERE) == 8


# -- the file


def test_the_state_directory_gets_a_key_once(tmp_path: Path) -> None:
    one = SealKeys.kept(Store(tmp_path), str(tmp_path))
    two = SealKeys.kept(Store(tmp_path), str(tmp_path))
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert two.open(FIELD, b"", one.seal.seal(FIELD, b"", HERE, b"z", NOW)) is not None
    (tmp_path / NAME).chmod(0o644)
    with pytest.raises(StartError, match="others may read"):
        SealKeys.kept(Store(tmp_path), str(tmp_path))


def given_file(tmp_path: Path, data: bytes | None = None, mode: int = 0o600) -> str:
    file = tmp_path / "keys"
    file.write_bytes(new_file() if data is None else data)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(StartError, match="others may read or change"):
        SealKeys.given(given_file(tmp_path, mode=mode))


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StartError) as error:
        SealKeys.given(str(tmp_path / "none"))
    assert "openssl rand" in error.value.hint
    with pytest.raises(StartError, match="is no file"):
        SealKeys.given("/dev/null")
    with pytest.raises(StartError, match="line 1 is no key"):
        SealKeys.given(given_file(tmp_path, b"secret words"))
    with pytest.raises(StartError) as error:
        SealKeys.given(given_file(tmp_path, b"secret words"))
    assert "secret" not in error.value.message


def test_a_file_that_became_unusable_changes_nothing(tmp_path: Path) -> None:
    file = given_file(tmp_path)
    keys = SealKeys.given(file)
    text = keys.seal.seal(FIELD, b"", HERE, b"z", NOW)
    assert not keys.changed()
    Path(file).write_bytes(b"half of")
    assert keys.changed()
    assert "line 1" in keys.reload()
    assert not keys.changed(), "it is said once"
    assert not keys.renewed
    assert keys.open(FIELD, b"", text) is not None
    Path(file).write_bytes(new_file())
    assert keys.reload() == ""
    assert keys.renewed
    assert keys.open(FIELD, b"", text) is None


def test_what_another_process_seals_with_a_newer_key_opens_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = given_file(tmp_path)
    slow = SealKeys.given(file)
    while True:
        data = rotated(Path(file).read_bytes(), 1)
        Path(file).write_bytes(data)
        quick = SealKeys.given(file)
        text = quick.seal.seal(FIELD, b"", HERE, b"z", NOW)
        if not slow.seal.knows(text):  # one of 256 has the same mark by chance
            break
    assert slow.open(FIELD, b"", text) is None, "it has just looked"
    monkeypatch.setattr(clock, "now", clock.now + LOOK_S)
    assert slow.open(FIELD, b"", text) is not None
    assert slow.renewed


def test_made_up_ids_cost_a_look_in_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SealKeys.given(given_file(tmp_path))
    looks: list[int] = []
    monkeypatch.setattr(SealKeys, "changed", lambda self: bool(looks.append(1)))
    monkeypatch.setattr(clock, "now", clock.now + 2 * LOOK_S)
    foreign = Seal([bytes(KEY)])
    for number in range(600):
        keys.open(FIELD, b"", foreign.seal(FIELD, b"", HERE, b"%d" % number, NOW))
        keys.open(FIELD, b"", b"no seal")
    assert len(looks) <= 1


def test_a_key_is_a_line() -> None:
    assert "\n" not in new_key()
