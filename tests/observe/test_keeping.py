"""What the audit log keeps between runs: its key and salt for itself, its head whole whatever happens."""

import os
import stat
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.observe.keeping import HEAD, KEY, PUBLIC, SALT, SLOT, Head, Keeper, public_key, read_head, read_heads

A, B = "a" * 64, "b" * 64


def kept(directory: Path) -> Keeper:
    return Keeper(directory)


def test_the_secrets_are_ours_alone_and_stay_the_same(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = kept(state)
    first.close()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE((state / name).stat().st_mode) for name in (KEY, SALT, HEAD)} == {0o600}
    again = kept(state)
    again.close()
    assert again.salt == first.salt and len(first.salt) == 32
    assert again.key.private_bytes_raw() == first.key.private_bytes_raw()
    assert public_key((state / PUBLIC).read_bytes(), "x").public_bytes_raw() == first.key.public_key().public_bytes_raw()


@pytest.mark.parametrize("name", [KEY, SALT])
def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path, name: str) -> None:
    kept(tmp_path).close()
    (tmp_path / name).chmod(0o640)
    with pytest.raises(StartError, match="others may read") as caught:
        kept(tmp_path)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize(("name", "said"), [(KEY, "not an Ed25519 key"), (SALT, "not a salt")])
def test_a_broken_secret_is_told_and_not_replaced(tmp_path: Path, name: str, said: str) -> None:
    kept(tmp_path).close()
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(StartError, match=said):
        kept(tmp_path)
    assert b"nonsense" == (tmp_path / name).read_bytes()


def test_a_public_key_that_is_none_is_told() -> None:
    with pytest.raises(StartError, match="not the public key"):
        public_key(b"-----BEGIN NONSENSE-----", "x.pem")


def test_two_daemons_do_not_share_a_head(tmp_path: Path) -> None:
    first = kept(tmp_path)
    with pytest.raises(StartError, match="another mcpproxy"):
        kept(tmp_path)
    first.close()
    kept(tmp_path).close()


def test_the_newest_head_is_found_again(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None
    keeper = kept(tmp_path)
    assert keeper.found is None
    keeper.write((1, A), (2, B), 3)
    keeper.write((2, B), (2, B), 4, closed=True)
    keeper.sync()
    keeper.close()
    head = read_head(tmp_path)
    assert head is not None and (head.sure, head.sure_hash, head.meant, head.lost, head.closed) == (2, B, 2, 4, True)
    assert kept(tmp_path).found == head


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("cut", range(0, SLOT, 37))
def test_a_head_that_was_written_in_half_leaves_the_one_before(tmp_path: Path, turn: int, cut: int) -> None:
    keeper = kept(tmp_path)
    for number in range(1, turn + 1):
        keeper.write((number, A), (number, A), 0)
    before = (tmp_path / HEAD).read_bytes().ljust(2 * SLOT, b"\0")
    keeper.write((9, B), (9, B), 0)
    keeper.close()
    after = (tmp_path / HEAD).read_bytes()
    start = SLOT * ((turn + 1) % 2)
    (tmp_path / HEAD).write_bytes(after[: start + cut] + before[start + cut : start + SLOT] + after[start + SLOT :])
    found = read_head(tmp_path)
    assert isinstance(found, Head) and found.sure in (turn, 9)


def test_a_head_of_nonsense_is_none(tmp_path: Path) -> None:
    (tmp_path / HEAD).write_bytes(os.urandom(2 * SLOT))
    assert read_head(tmp_path) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / HEAD).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        kept(tmp_path)


def test_who_is_not_alone_takes_the_first_chain_that_is_free(tmp_path: Path) -> None:
    first, second, third = kept(tmp_path), *(Keeper(tmp_path, alone=False) for _ in range(2))
    assert [keeper.chain for keeper in (first, second, third)] == [0, 1, 2]
    second.write((7, A), (7, A), 0)
    second.close()
    again = Keeper(tmp_path, alone=False)
    assert again.chain == 1 and again.found is not None and again.found.sure == 7
    assert first.salt == again.salt and first.key.private_bytes_raw() == again.key.private_bytes_raw()
    assert {number: head.sure for number, head in read_heads(tmp_path).items()} == {1: 7}
    for keeper in first, again, third:
        keeper.close()
