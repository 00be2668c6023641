"""What is kept between runs."""

import asyncio
import stat
from pathlib import Path

import pytest

from mcpproxy.connect.tokens import Client, Kept, Store
from mcpproxy.errors import StartError

URL = "https://mcp.example/mcp"


def test_it_comes_back_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "connect", URL)
    assert store.read() is None
    kept = Kept(URL, "https://as", client=Client("me", registered=True), access_token="secret")
    store.write(kept)
    assert store.read() == kept
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "deep" / "connect").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "deep" / "connect").stat().st_mode) == 0o700
    assert store.forget() and not store.forget()


def test_each_url_and_client_has_its_own(tmp_path: Path) -> None:
    Store(tmp_path, URL).write(Kept(URL))
    assert Store(tmp_path, URL, "me").read() is None
    assert Store(tmp_path, URL + "2").read() is None


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"url":"https://other"}'])
def test_what_cannot_be_read_is_nothing(bad: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path, URL)
    store.write(Kept(URL))
    [file] = tmp_path.glob("*.json")
    file.write_bytes(bad)
    assert store.read() is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="could not be kept"):
        Store(tmp_path / "file", URL).write(Kept(URL))


async def test_one_has_the_lock_and_says_whether_it_failed(tmp_path: Path) -> None:
    first, second = Store(tmp_path, URL), Store(tmp_path, URL)
    entered = asyncio.Event()

    async def wait() -> tuple[bool, bool]:
        entered.set()
        async with second.locked() as turn:
            return turn.waited, turn.failed_ago() < 60

    async with first.locked() as turn:
        assert not turn.waited and turn.failed_ago() > 1e6
        waiting = asyncio.ensure_future(wait())
        await entered.wait()
        await asyncio.sleep(0)
        from mcpproxy.clock import unix

        turn.failed(now=unix())
    assert await waiting == (True, True)
    async with first.locked() as turn:
        turn.failed(now=0)
        assert turn.failed_ago() > 1e6
