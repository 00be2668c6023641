"""Who may come in, and which pages of a browser may ask."""

import asyncio
from typing import Any

import pytest

from mcpproxy.control import doorman
from mcpproxy.control.doorman import COOKIE, Doorman, is_local
from mcpproxy.control.web import Refusal, Request

TOKEN = "a-long-secret-token"


def request(method: str = "GET", path: str = "/api/v1/status", **headers: str) -> Request:
    fields = {"host": "localhost:9090"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, {}, fields, b"", "127.0.0.1")


def refused(door: Doorman, asked: Request) -> int:
    with pytest.raises(Refusal) as caught:
        door.polite(asked)
    return caught.value.status


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "WRONG_S", 0.0)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:9090", "[::1]", "[::1]:9090", "10.0.0.7:9090"])
def test_names_of_this_machine_and_addresses(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["", "evil.test", "evil.test:9090", "localhost.evil.test", "127.0.0.1.evil.test", "[::1", "localhost:9090:1", "0x7f.1"]
)
def test_a_page_that_rebinds_its_name_is_refused(host: str) -> None:
    assert not is_local(host)
    assert refused(Doorman(), request(host=host)) == 421


def test_with_a_token_any_name_will_do() -> None:
    Doorman(TOKEN).polite(request(host="proxy.example.com"))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.test"},
        {"origin": "null"},
        {"origin": "http://localhost:9091"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ],
)
def test_pages_of_other_origins_have_no_business_here(headers: dict[str, str]) -> None:
    assert refused(Doorman(), request(**headers)) == 403
    assert refused(Doorman(TOKEN), request(**headers)) == 403


def test_the_dashboard_itself_may_ask_and_a_link_may_lead_to_it() -> None:
    Doorman().polite(request(origin="http://localhost:9090", sec_fetch_site="same-origin"))
    Doorman().polite(request(sec_fetch_site="none"))
    Doorman().polite(request(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document"))


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=application/json"]
)
def test_a_form_changes_nothing(content_type: str) -> None:
    assert refused(Doorman(), request("POST", content_type=content_type)) == 415


def test_json_may() -> None:
    Doorman().polite(request("POST", content_type="Application/JSON; charset=utf-8"))


async def admitted(door: Doorman, **headers: str) -> str | int:
    try:
        return await door.admit(request(**headers))
    except Refusal as refusal:
        return refusal.status if ("WWW-Authenticate", 'Bearer realm="mcpproxy admin"') in refusal.headers else 0


async def test_without_a_token_it_is_who_the_kernel_says() -> None:
    assert await admitted(Doorman()) == "127.0.0.1"


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff\xfe", f"Bearer {TOKEN}, Bearer x"],
)
async def test_no_token_and_a_wrong_one_are_refused(shown: str) -> None:
    headers = {"authorization": shown} if shown else {}
    assert await admitted(Doorman(TOKEN), **headers) == 401


async def test_the_token_lets_in() -> None:
    assert await admitted(Doorman(TOKEN), authorization=f"bearer {TOKEN}") == "token from 127.0.0.1"


async def test_a_browser_logs_in_once_and_shows_its_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Doorman(TOKEN)
    made = await door.login(TOKEN)
    assert TOKEN not in made
    assert "HttpOnly; SameSite=Strict" in made
    cookie = made.partition(";")[0]
    assert await admitted(door, cookie=f"other=1; {cookie}; more=2") == "session from 127.0.0.1"
    assert await admitted(Doorman(TOKEN), cookie=cookie) == "session from 127.0.0.1"  # after the control process died
    assert await admitted(Doorman(TOKEN + "2"), cookie=cookie) == 401  # after the token was changed
    later = doorman.unix() + doorman.LASTS_S + 1
    monkeypatch.setattr(doorman, "unix", lambda: later)
    assert await admitted(door, cookie=cookie) == 401


@pytest.mark.parametrize("value", ["", ".", "9999999999.", "9999999999.00", "-1.x", "9999999999", "²³.x", "99999999999999999999.x", '"; x'])
async def test_made_up_cookies_are_refused(value: str) -> None:
    assert await admitted(Doorman(TOKEN), cookie=f"{COOKIE}={value}") == 401


async def test_a_longer_life_than_was_given_is_refused() -> None:
    door = Doorman(TOKEN)
    end, _, signature = (await door.login(TOKEN)).partition(";")[0].partition("=")[2].partition(".")
    assert await admitted(door, cookie=f"{COOKIE}={int(end) + 1}.{signature}") == 401


@pytest.mark.parametrize("shown", [None, 1, "", "wrong", [TOKEN], {"token": TOKEN}])
async def test_a_wrong_token_logs_nobody_in(shown: Any) -> None:
    with pytest.raises(Refusal) as caught:
        await Doorman(TOKEN).login(shown)
    assert caught.value.status == 401


async def test_nobody_logs_in_where_no_token_is() -> None:
    with pytest.raises(Refusal):
        await Doorman().login("")


async def test_a_wrong_one_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(doorman, "WRONG_S", 0.5)
    assert await admitted(Doorman(TOKEN), authorization="Bearer x") == 401
    assert waited == [0.5]
