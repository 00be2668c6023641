"""The way back from the browser."""

import asyncio
import urllib.error
import urllib.request

import pytest

from mcpproxy.connect import visit
from mcpproxy.connect.places import WireError
from mcpproxy.connect.visit import Door, open_browser


def knock(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_only_who_brings_our_state_comes_in() -> None:
    door, pages, said = Door(), list[str](), list[str]()
    coming = asyncio.ensure_future(door.come("https://as/page", pages.append, said.append))
    await asyncio.sleep(0)
    for query in (
        "",
        "?code=x",
        "?code=x&state=wrong",
        f"?code=x&state={door.state}&state={door.state}",
        f"?code=a&code=b&state={door.state}",
    ):
        status, page = await asyncio.to_thread(knock, door.url + query)
        assert status == 400 and "not the login" in page
    assert (await asyncio.to_thread(knock, door.url.replace("/callback", "/other")))[0] == 404
    assert not coming.done()
    status, page = await asyncio.to_thread(knock, f"{door.url}?code=%3Cb%3E&state={door.state}&iss=https%3A%2F%2Fas")
    assert status == 200 and "logged in" in page and "<b>" not in page
    assert await coming == {"code": "<b>", "state": door.state, "iss": "https://as"}
    assert pages == ["https://as/page"] and "https://as/page" in said[0]
    door.close()


async def test_nobody_is_waited_for_for_ever() -> None:
    door = Door()
    with pytest.raises(WireError, match="nobody logged in"):
        await door.come("https://as/page", lambda page: None, lambda line: None, seconds=0.05)
    door.close()


async def test_a_door_with_an_address_of_its_own() -> None:
    door = Door()
    port = door.url.rpartition(":")[2].partition("/")[0]
    with pytest.raises(WireError, match="cannot be listened on"):
        Door(f"http://localhost:{port}/x")
    door.close()
    again = Door(f"http://localhost:{port}/x")
    assert again.url == f"http://localhost:{port}/x"
    again.close()


async def test_the_browser_is_opened_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(visit.webbrowser, "open", lambda url: loop.call_soon_threadsafe(opened.set))
    open_browser("https://as/page")
    await asyncio.wait_for(opened.wait(), 20)
