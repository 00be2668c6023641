"""Who may come in, and which pages of a browser may ask."""

import asyncio

import pytest

from mcpproxy.control import doorman
from mcpproxy.control.doorman import Doorman, is_local
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


async def test_a_cookie_is_nothing() -> None:
    """Browsers send it to every port of a host."""
    assert await admitted(Doorman(TOKEN), cookie=f"mcpproxy_admin={TOKEN}") == 401


async def test_a_wrong_one_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(doorman, "WRONG_S", 0.5)
    assert await admitted(Doorman(TOKEN), authorization="Bearer x") == 401
    assert waited == [0.5]
