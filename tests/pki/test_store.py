"""The state directory: who may read it, and that a file in it is whole."""

import os
import stat
import threading
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.pki import store
from mcpproxy.pki.store import Busy, Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_ours_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "var" / "state")
    assert mode(store.path) == 0o700


def test_a_secret_is_ours_alone_and_a_certificate_is_not_secret(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert mode(store.write_secret("key.pem", b"key")) == 0o600
    assert mode(store.write("cert.pem", b"cert")) == 0o644
    assert (store.read_secret("key.pem"), store.read("cert.pem"), store.read("other")) == (b"key", b"cert", None)


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(tmp_path / "state")
        store.write_secret("key.pem", b"key")
    finally:
        os.umask(before)
    assert (mode(store.path), mode(store.path / "key.pem")) == (0o700, 0o600)


def test_a_key_others_could_have_read_is_refused_and_the_cure_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.write_secret("key.pem", b"key").chmod(0o640)
    with pytest.raises(StartError, match="others may read this key") as caught:
        store.read_secret("key.pem")
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("loose", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_others_may_write_to_is_refused(tmp_path: Path, loose: int) -> None:
    tmp_path.chmod(loose)
    with pytest.raises(StartError, match="others may write to it"):
        Store(tmp_path)


def test_a_directory_others_may_only_read_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Store(tmp_path).write_secret("key.pem", b"key")
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("owner", [1000, 65534])
def test_what_belongs_to_a_stranger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(store, "_trusted", set())
    found = os.stat_result((0o40700, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda self, **_: found)
    with pytest.raises(StartError, match=f"belongs to user {owner}"):
        Store(tmp_path)


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StartError, match="state directory"):
        Store(tmp_path / "state")


def test_a_symbolic_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    (tmp_path / "elsewhere").write_bytes(b"secret of another")
    (store.path / "key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError):
        store.read_secret("key.pem")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """A reader that looks all the time sees the old content or the new one, and nothing is left beside it."""
    store = Store(tmp_path / "state")
    contents = {b"a" * 100_000, b"b" * 100_000}
    store.write("file", b"a" * 100_000)
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(store.read("file") or b"")

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        for content in contents:
            store.write("file", content)
    over.set()
    reader.join()
    assert seen <= contents
    assert os.listdir(store.path) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "state")
    store.write("file", b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StartError, match="No space left on device"):
        store.write("file", b"new")
    assert store.read("file") == b"old"
    assert os.listdir(store.path) == ["file"]


def test_two_holders_of_the_lock_come_one_after_the_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with Store(tmp_path / "state").locked():
            order.append("second")

    with store.locked():
        other = threading.Thread(target=second)
        other.start()
        entered.wait(5)
        other.join(0.2)  # it must still be waiting
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]


def test_who_is_not_patient_hears_that_somebody_else_has_the_lock(tmp_path: Path) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    with one.locked():
        with pytest.raises(Busy, match="another process is at work there"), other.locked(patient=False):
            pass
    with other.locked(patient=False):
        pass


@pytest.mark.parametrize("secret", [True, False])
def test_a_directory_in_place_of_a_file_is_told(tmp_path: Path, secret: bool) -> None:
    store = Store(tmp_path)
    (tmp_path / "key.pem").mkdir()
    for does in (store.read_secret if secret else store.read, store.remove):
        with pytest.raises(StartError, match=f"{tmp_path}/key.pem: Is a directory"):
            does("key.pem")


def test_what_is_removed_is_gone_and_what_is_gone_may_be_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("story.json", b"{}")
    store.remove("story.json")
    store.remove("story.json")
    assert store.read("story.json") is None
