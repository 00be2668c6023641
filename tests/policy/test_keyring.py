"""Changing a file of API keys: whole or not at all, one at a time, and nobody else's business."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config import keyfile
from mcpproxy.config.keyfile import Entry
from mcpproxy.config.policies import Auth
from mcpproxy.errors import StartError
from mcpproxy.policy import keyring
from mcpproxy.policy.apikey import ApiKeys
from mcpproxy.policy.keyring import add, changing, moment, read, revoke, rotate
from mcpproxy.policy.verdict import Accepted, Credential

NOW = 1_800_000_000.0
DAY = 86_400.0


def put(entries: list[Entry], name: str = "alpha", expires: float | None = None) -> str:
    return add(entries, name, roles=("ops",), now=NOW, expires=expires).text


# -- what is changed ----------------------------------------------------------------------------------------------------------------------------


def test_a_key_is_added_and_its_text_is_not() -> None:
    entries: list[Entry] = []
    made = add(entries, "alpha", roles=("ops",), now=NOW + 0.7, expires=NOW + DAY)
    assert entries == [
        Entry(id=made.id, name="alpha", roles=("ops",), created=moment(NOW), expires=moment(NOW + DAY), hash=made.hash),
    ]
    assert made.text.encode() not in keyfile.render(entries)
    assert made.text[16:48].encode() not in keyfile.render(entries)


def test_a_name_has_one_key_that_works() -> None:
    entries: list[Entry] = []
    put(entries, expires=NOW + DAY)
    with pytest.raises(StartError, match=f"alpha has a key already: {entries[0].id}"):
        put(entries)
    put(entries, "beta")
    add(entries, "alpha", roles=(), now=NOW + DAY, expires=None)
    assert [entry.state(NOW + DAY) for entry in entries] == ["expired", "active", "active"]


def test_revoking_a_name_takes_all_its_keys_and_nobody_elses() -> None:
    entries: list[Entry] = []
    put(entries, expires=NOW + 1)
    put(entries, "beta")
    add(entries, "alpha", roles=(), now=NOW + 2, expires=None)
    rotate(entries, "alpha", now=NOW + 3, grace=60, expires=None)
    gone = revoke(entries, "alpha", now=NOW + 4)
    assert [entry.id for entry in gone] == [entries[2].id, entries[3].id]
    assert [entry.state(NOW + 4) for entry in entries] == ["expired", "active", "revoked", "revoked"]
    assert revoke(entries, "alpha", now=NOW + 5) == []
    assert entries[2].revoked == moment(NOW + 4)


def test_one_key_is_revoked_by_its_id_unless_that_is_a_name() -> None:
    entries: list[Entry] = []
    put(entries)
    put(entries, entries[0].id)
    assert revoke(entries, entries[0].id, now=NOW) == [entries[1]]
    assert revoke(entries, entries[1].id, now=NOW) == []
    assert [entry.name for entry in revoke(entries, "alpha", now=NOW)] == ["alpha"]


@pytest.mark.parametrize(
    "change", [lambda entries: revoke(entries, "gamma", now=NOW), lambda entries: rotate(entries, "gamma", now=NOW, grace=0, expires=None)]
)
def test_nobody_has_no_key(change: object) -> None:
    entries: list[Entry] = []
    put(entries)
    with pytest.raises(StartError, match="there is no key of the name or id 'gamma'"):
        change(entries)  # type: ignore[operator]


def test_rotating_replaces_at_once_or_leaves_a_while() -> None:
    entries: list[Entry] = []
    put(entries)
    made, entry = rotate(entries, "alpha", now=NOW, grace=0, expires=None)
    assert (entry.id, entry.roles, entry.expires) == (made.id, ("ops",), None)
    assert entries[0].state(NOW) == "revoked"
    rotate(entries, "alpha", now=NOW, grace=3600, expires=NOW + DAY)
    assert (entries[1].expires, entries[2].expires) == (moment(NOW + 3600), moment(NOW + DAY))
    rotate(entries, "alpha", now=NOW, grace=2 * DAY, expires=None)
    assert [entry.expires for entry in entries[1:3]] == [moment(NOW + 3600), moment(NOW + DAY)]  # none lives longer for it


def test_the_new_key_lives_as_long_as_the_old_one_was_made_for() -> None:
    entries: list[Entry] = []
    put(entries, expires=NOW + 90 * DAY)
    _, entry = rotate(entries, "alpha", now=NOW + 80 * DAY, grace=0, expires=None)
    assert entry.expires is not None and entry.expires - entry.created == timedelta(days=90)


def test_what_has_ended_is_not_rotated() -> None:
    entries: list[Entry] = []
    put(entries, expires=NOW + 1)
    with pytest.raises(StartError, match="alpha has no key that works"):
        rotate(entries, "alpha", now=NOW + 1, grace=0, expires=None)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "revoke", "rotate"]), st.sampled_from("ab"), st.floats(0, 9), st.none() | st.floats(1, 9)),
        max_size=9,
    )
)
def test_whatever_is_done_the_file_agrees_and_other_names_are_not_touched(steps: list[tuple[str, str, float, float | None]]) -> None:
    entries: list[Entry] = []
    now = NOW
    for verb, name, grace, life in steps:
        now += 1
        others = [entry for entry in entries if entry.name != name]
        expires = None if life is None else now + life
        try:
            if verb == "add":
                add(entries, name, roles=(), now=now, expires=expires)
            elif verb == "revoke":
                revoke(entries, name, now=now)
            else:
                rotate(entries, name, now=now, grace=grace, expires=expires)
        except StartError:
            pass
        assert [entry for entry in entries if entry.name != name] == others
        assert keyfile.parse(keyfile.render(entries)) == tuple(entries)


# -- the file -----------------------------------------------------------------------------------------------------------------------------------


def test_what_was_added_comes_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with changing(str(file)) as entries:
        text = put(entries)
    found = ApiKeys("keys", Auth(type="api-key", file=str(file))).judge(Credential("bearer", text.encode(), b"authorization"), NOW)
    assert isinstance(found, Accepted) and found.principal.name == "alpha"


def test_a_new_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    before = os.umask(0)
    try:
        with changing(str(file)) as entries:
            put(entries)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(place.stat().st_mode) for place in tmp_path.iterdir()} == {0o600}
    assert sorted(place.name for place in tmp_path.iterdir()) == [".keys.lock", "keys"]


def test_an_existing_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    file, link = tmp_path / "far" / "keys", tmp_path / "keys"
    file.touch()
    file.chmod(0o640)
    link.symlink_to(file)
    with changing(str(link)) as entries:
        put(entries)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert len(read(str(link))) == 1


def test_root_makes_keys_for_whom_the_directory_belongs_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, user, group: given_to.append((user, group)))
    with changing(str(tmp_path / "keys")) as entries:
        put(entries)
    around = tmp_path.stat()
    assert given_to == [(around.st_uid, around.st_gid)] * 2  # the lock and the file


@pytest.mark.parametrize("allowed", [True, False])
def test_an_existing_file_keeps_its_owner_or_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    file = tmp_path / "keys"
    with changing(str(file)) as entries:
        put(entries)
    owner = file.stat()
    given_to: list[tuple[int, int]] = []

    def fchown(_: int, user: int, group: int) -> None:
        if not allowed:
            raise PermissionError(1, "Operation not permitted")
        given_to.append((user, group))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(keyring, "_made", lambda place: as_somebody_else(place, monkeypatch))
    if allowed:
        with changing(str(file)) as entries:
            put(entries, "beta")
        assert given_to == [(owner.st_uid, owner.st_gid)]
    else:
        with pytest.raises(StartError, match="belongs to another user or group: run this as that user, or as root"):
            with changing(str(file)) as entries:
                put(entries, "beta")
        assert [entry.name for entry in read(str(file))] == ["alpha"]
        assert sorted(place.name for place in tmp_path.iterdir()) == [".keys.lock", "keys"]


def as_somebody_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A new file that looks as if another user had made it."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fstat = os.fstat

    def seen(each: int) -> object:
        found = fstat(each)
        return SimpleNamespace(st_uid=found.st_uid + 1, st_gid=found.st_gid) if each == descriptor else found

    monkeypatch.setattr(os, "fstat", seen)
    return descriptor


def put_twice(entries: list[Entry]) -> None:
    put(entries)
    put(entries)


def test_nothing_is_written_when_something_fails_or_nothing_changed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(StartError, match="alpha has a key already"):
        with changing(str(file)) as entries:
            put_twice(entries)
    assert not file.exists()
    with changing(str(file)) as entries:
        put(entries)
    before = file.stat()
    with changing(str(file)):
        pass
    assert file.stat() == before


def test_a_file_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("precious\n")
    with pytest.raises(StartError, match=f"{file}: line 1: not a JSON object"):
        with changing(str(file)) as entries:
            put(entries)
    assert file.read_text() == "precious\n"


def test_what_a_killed_one_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".keys.new").write_text("half a li")
    with changing(str(tmp_path / "keys")) as entries:
        put(entries)
    assert len(read(str(tmp_path / "keys"))) == 1
    assert not (tmp_path / ".keys.new").exists()


def test_somebody_elses_link_is_not_followed(tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    aim.write_text("precious")
    (tmp_path / ".keys.new").symlink_to(aim)
    with changing(str(tmp_path / "keys")) as entries:
        put(entries)
    assert aim.read_text() == "precious"
    (tmp_path / ".other.lock").symlink_to(aim)
    with pytest.raises(StartError):
        with changing(str(tmp_path / "other")):
            pass


def test_a_full_file_is_not_made_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    with changing(str(file)) as entries:
        put(entries)
    monkeypatch.setattr(keyfile, "LARGEST", file.stat().st_size + 10)
    with pytest.raises(StartError, match="has no room for another key"):
        with changing(str(file)) as entries:
            put(entries, "beta")
    assert len(read(str(file))) == 1


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"there is no directory {tmp_path}/none"):
        with changing(str(tmp_path / "none" / "keys")):
            pass


def test_many_at_once_lose_nobodys_key(tmp_path: Path) -> None:
    """The lock belongs to the open file, so threads shut each other out as processes do."""
    file = str(tmp_path / "keys")

    def many(who: int) -> None:
        for number in range(10):
            with changing(file) as entries:
                put(entries, f"{who}-{number}")

    with ThreadPoolExecutor(4) as crowd:
        assert list(crowd.map(many, range(4))) == [None] * 4
    assert {entry.name for entry in read(file)} == {f"{who}-{number}" for who in range(4) for number in range(10)}
