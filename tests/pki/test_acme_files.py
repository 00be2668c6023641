"""Names from the wire become names of files only where they can do no harm, and readers see only what was meant for them."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.pki import acme_files
from mcpproxy.pki.acme_files import Challenges, Pending, Place, key_authorization, set_name

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
PROOF = TOKEN.encode() + b".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def test_what_is_put_there_is_answered_until_it_is_over(state: str) -> None:
    challenges = Challenges(state)
    assert key_authorization(state, TOKEN.encode()) is None
    challenges.answer_http(TOKEN, PROOF)
    assert key_authorization(state, TOKEN.encode()) == PROOF
    challenges.clear()
    assert key_authorization(state, TOKEN.encode()) is None


@pytest.mark.parametrize(
    "token", [b"", b"short", b"../../../etc/passwd", b"a" * 129, b"a" * 20 + b"/", b"%2e%2e%2f" * 3, b"a" * 20 + b"\x00", b".lock" * 5]
)
def test_no_other_name_is_looked_up(state: str, token: bytes) -> None:
    Challenges(state)
    assert key_authorization(state, token) is None
    with pytest.raises(ValueError, match="token"):
        Challenges(state).answer_http(token.decode(), PROOF)


@given(st.binary(max_size=200))
def test_whatever_is_asked_for(token: bytes) -> None:
    assert key_authorization("/nonexistent", token) is None


def test_links_pipes_and_files_that_say_something_else_are_not_read(state: str, tmp_path: Path) -> None:
    Challenges(state)
    directory = Path(acme_files.root(state), "challenges")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(PROOF)
    (directory / TOKEN).symlink_to(elsewhere)
    assert key_authorization(state, TOKEN.encode()) is None
    (directory / TOKEN).unlink()
    os.mkfifo(directory / TOKEN)
    assert key_authorization(state, TOKEN.encode()) is None
    (directory / TOKEN).unlink()
    for content in (b"", b"root:x:0:0", b"x" + PROOF, PROOF + b"x" * 1000):
        (directory / TOKEN).write_bytes(content)
        assert key_authorization(state, TOKEN.encode()) is None


def test_secrets_are_ours_alone(state: str) -> None:
    challenges = Challenges(state)
    challenges.answer_alpn("a.example", b"pem")
    Place.of(state, ["a.example"]).store().write_secret(acme_files.PAIR, b"pair")
    for found in Path(state).rglob("*"):
        mode = stat.S_IMODE(found.stat().st_mode)
        assert mode == (0o700 if found.is_dir() else 0o600), found


def test_hosts_that_are_pending_are_seen_at_the_next_look(state: str) -> None:
    pending = Pending(state)
    pending.look()
    assert pending.hosts == {}
    challenges = Challenges(state)
    for number in range(5):
        challenges.answer_alpn(f"{number}.example", b"pem")
        pending.look()
        assert sorted(pending.hosts) == [f"{each}.example" for each in range(number + 1)]
    assert Path(pending.hosts["0.example"]).read_bytes() == b"pem"
    challenges.clear()
    pending.look()
    assert pending.hosts == {}
    with pytest.raises(ValueError, match="identifier"):
        challenges.answer_alpn("../../key", b"pem")


def test_a_quiet_directory_is_not_listed(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    challenges, pending = Challenges(state), Pending(state)
    challenges.answer_alpn("a.example", b"pem")
    directory = Path(acme_files.root(state), "tls-alpn")
    os.utime(directory, (1, 1))
    pending.look()
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("listed"))
    pending.look()
    assert list(pending.hosts) == ["a.example"]


def test_a_set_of_names_has_one_directory() -> None:
    assert set_name(["a.example"]) == "a.example"
    assert set_name(["b.example", "a.example"]) == set_name(["a.example", "b.example", "a.example"])
    assert set_name(["a.example", "b.example"]) != set_name(["a.example", "c.example"])
    assert Place.of("/state", ["a.example"]).pair == "/state/acme/certs/a.example/pair.pem"
