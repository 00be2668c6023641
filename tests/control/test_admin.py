"""What an operator may ask and order, and who may not."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from mcpproxy.config.kinds import Auto
from mcpproxy.control import admin as module
from mcpproxy.control import doorman
from mcpproxy.control.certificates import Expiry
from mcpproxy.control.switchboard import GATEWAY, Refused
from tests.control.visiting import OVERVIEW, becomes, visited

ALL = ("status", "upstreams", "connections", "exchanges", "refusals", "certificates", "workers", "config")
ORDERS = ("endpoint", "close", "reload", "log")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "WRONG_S", 0.0)


def page(*items: dict[str, Any], cursor: str = "") -> dict[str, Any]:
    return {"items": list(items), "cursor": cursor}


async def test_how_it_goes(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        status, look = await here.ask("GET", "/api/v1/status")
        assert status == 200
        assert look["health"] == "ok"
        assert look["requests"] == 40
        assert look["open"]["principals"] == [{"name": "agent", "streams": 2}]
        assert look["workers"] == [{"number": 0, "pid": 4000, "state": "serving", "uptime_s": 61, "connections": 3, "requests": 40}]
        assert (await here.ask("GET", "/api/v1/upstreams"))[1]["search"]["endpoints"][0]["label"] == "127.0.0.1:9000"
        assert (await here.ask("GET", "/api/v1/workers"))[1] == look["workers"]


async def test_the_configuration_shows_where_secrets_are_and_not_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "hunter2-hunter2")
    async with visited('address = "127.0.0.1:19532"\ntoken = "env:ADMIN_TOKEN"', tmp_path) as here:
        answer = await here.raw("GET", "/api/v1/config", authorization="Bearer hunter2-hunter2")
        assert b'"token":"env:ADMIN_TOKEN"' in answer
        assert b"hunter2" not in answer
        assert not any("hunter2" in text for _, text in here.control.messages.lines)


async def test_the_configuration_shows_how_many_workers_nobody_asked_for(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.config = structs.replace(here.control.config, workers=Auto(3))
        status, shown = await here.ask("GET", "/api/v1/config")
        assert (status, shown["workers"]) == (200, 3)


async def test_pages_go_on_with_the_next_worker(tmp_path: Path) -> None:
    def connections(number: int, data: dict[str, Any]) -> Any:
        if number == 0 and not data["cursor"]:
            return page({"id": "a"}, {"id": "b"}, cursor="1:2")
        return page({"id": "c" if number == 0 else "d"})

    async with visited("", tmp_path, workers=2) as here:
        here.control.switchboard.answers["connections"] = connections
        found, cursor = [], ""
        for _ in range(3):
            _, said = await here.ask("GET", f"/api/v1/connections?limit=2&cursor={cursor}")
            found += [(each["worker"], each["id"]) for each in said["items"]]
            cursor = said["cursor"]
        assert cursor == ""
        assert found == [(0, "a"), (0, "b"), (0, "c"), (1, "d")]


async def test_a_list_can_be_of_one_caller(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["exchanges"] = lambda number, data: page(
            {"id": "a", "principal": "x"}, {"id": "b", "principal": "y&z"}
        )
        _, said = await here.ask("GET", "/api/v1/exchanges?principal=y%26z")
        assert [each["id"] for each in said["items"]] == ["b"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=%C2%B2", "cursor=x/1", "cursor=9/"])
async def test_odd_questions_for_a_page(query: str, tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["connections"] = lambda number, data: page({"id": "a"})
        status, said = await here.ask("GET", f"/api/v1/connections?{query}")
        assert (status == 400) if query.startswith("limit") else (status == 200 and said == page())


async def test_an_endpoint_is_drained_everywhere_and_those_who_come_later_hear_it(tmp_path: Path) -> None:
    async with visited("", tmp_path, workers=2) as here:
        board = here.control.switchboard
        board.answers["endpoint"] = lambda number, data: True
        order = {"upstream": "search", "endpoint": "127.0.0.1:9000", "state": "drain"}
        assert await here.ask("POST", "/api/v1/endpoint", order) == (200, {"ok": True, "workers": [0, 1]})
        assert [each for each in board.asked if each[1] == "endpoint"] == [(0, "endpoint", order), (1, "endpoint", order)]
        assert here.control.orders == [("endpoint", {**order, "state": "drain"})], "the supervisor keeps it for programs to come"
        board.answers["orders"] = lambda number, data: [["endpoint", order]] if number == 0 else []
        for joined in board.joined:
            joined(1)
        await becomes(lambda: bool(board.told))
        assert board.told == [(1, "endpoint", order)]
        assert any("uid" in text and "drain endpoint" in text for _, text in here.control.messages.lines)


@pytest.mark.parametrize(
    ("order", "status", "said"),
    [
        ({"upstream": "search", "endpoint": "127.0.0.1:9000", "state": "gone"}, 400, "state is one of"),
        ({"upstream": "none", "endpoint": "127.0.0.1:9000", "state": "drain"}, 404, "no upstream"),
        ({"upstream": "search", "endpoint": "x", "state": "drain"}, 404, "it has 127.0.0.1:9000"),
        ({}, 400, "state"),
        ([], 400, "JSON object"),
        ("text", 400, "JSON object"),
    ],
)
async def test_an_endpoint_that_is_not_there(order: Any, status: int, said: str, tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        found, answer = await here.ask("POST", "/api/v1/endpoint", order)
        assert (found, said in answer["error"]) == (status, True)


async def test_a_connection_is_closed_by_whoever_has_it(tmp_path: Path) -> None:
    async with visited("", tmp_path, workers=2) as here:
        here.control.switchboard.answers["close"] = lambda number, data: number == 1 and data["id"] == "a-1"
        assert (await here.ask("POST", "/api/v1/close", {"id": "a-1"}))[0] == 200
        assert (await here.ask("POST", "/api/v1/close", {"id": "a-2"}))[0] == 404


async def test_a_reload_says_what_is_wrong(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.answer = (False, "mcpproxy.toml:3: listen: what is that?")
        assert await here.ask("POST", "/api/v1/reload", {}) == (409, {"ok": False, "text": here.control.answer[1]})
        here.control.answer = (True, "generation 2")
        assert (await here.ask("POST", "/api/v1/reload", {}))[0] == 200
        assert here.control.orders == [("reload", None), ("reload", None)]


async def test_a_refused_reload_is_a_problem_until_one_is_taken(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        said = "the last reload was refused: a.toml: 2 mistakes (generation 2 goes on until one is taken)"
        for refused, problems in (("a.toml: 2 mistakes", [said]), ("", [])):
            for hears in here.control.events:
                hears({"event": "reloaded", "generation": 2} | ({"refused": refused} if refused else {}))
            look = (await here.ask("GET", "/api/v1/status"))[1]
            assert look["problems"] == problems
            assert look["health"] == ("degraded" if refused else "ok")


async def test_a_certificate_that_has_not_come_yet_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Expiry("a.test", "acme", ("a.test",), 0, 0, 0, "the authority cannot connect", 1)
    monkeypatch.setattr(module, "expiries", lambda config: [missing, missing._replace(source="file")])
    async with visited("", tmp_path) as here:
        (shown,) = (await here.ask("GET", "/api/v1/certificates"))[1]
        assert (shown["names"], shown["expires"], shown["days"], shown["error"]) == (["a.test"], None, None, missing.error)


async def test_what_the_query_of_the_collectors_url_says_is_not_shown(tmp_path: Path) -> None:
    async with visited('[otel]\nendpoint = "https://collector.test/v1/traces?key=hidden&a=b"', tmp_path) as here:
        _, config = await here.ask("GET", "/api/v1/config")
        assert config["otel"]["endpoint"] == "https://collector.test/v1/traces?key=…&a=…"


async def test_messages_can_say_more(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["level"] = lambda number, data: True
        assert (await here.ask("POST", "/api/v1/log", {"level": "debug"}))[0] == 200
        assert here.control.messages.level == "debug"
        assert (await here.ask("POST", "/api/v1/log", {"level": "loud"}))[0] == 400


async def test_a_worker_says_no_or_nothing(tmp_path: Path) -> None:
    def refuse(number: int, data: Any) -> Any:
        raise Refused("no such thing")

    def silent(number: int, data: Any) -> Any:
        raise TimeoutError

    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["connections"] = refuse
        assert (await here.ask("GET", "/api/v1/connections"))[0] == 409
        here.control.switchboard.answers["connections"] = silent
        assert (await here.ask("GET", "/api/v1/connections"))[0] == 503
        here.control.switchboard.answers["overview"] = silent
        _, look = await here.ask("GET", "/api/v1/status")
        assert (look["health"], look["workers"][0]["state"]) == ("down", "silent")


async def test_probes_need_no_token_and_everything_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "secret")
    async with visited('address = "127.0.0.1:19533"\ntoken = "env:ADMIN_TOKEN"', tmp_path) as here:
        assert (await here.ask("GET", "/healthz"))[0] == 200
        assert (await here.ask("GET", "/readyz"))[0] == 200
        assert b"200 " in (await here.raw("GET", "/"))[:13]
        for path in (*(f"/api/v1/{name}" for name in ALL), "/metrics", "/api/v1/events", "/nothing"):
            assert (await here.ask("GET", path))[0] == 401, path
        for name in ORDERS:
            assert (await here.ask("POST", f"/api/v1/{name}", {}))[0] == 401, name
        assert here.control.orders == []


async def test_a_wrong_token_is_told_of_and_no_cookie_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "secret")
    async with visited('address = "127.0.0.1:19534"\ntoken = "env:ADMIN_TOKEN"', tmp_path) as here:
        assert (await here.ask("GET", "/api/v1/status", authorization="Bearer wrong"))[0] == 401
        assert here.control.messages.lines == [("warning", "admin: 127.0.0.1: a wrong token")]
        assert (await here.ask("GET", "/api/v1/status"))[0] == 401, "nothing was shown: nobody is told"
        assert len(here.control.messages.lines) == 1
        for method, path in (("GET", "/"), ("GET", "/api/v1/status"), ("POST", "/api/v1/login")):
            answer = await here.raw(method, path, {"token": "secret"} if method == "POST" else None, authorization="Bearer secret")
            assert b"set-cookie" not in answer.lower()
        assert not any("secret" in text for _, text in here.control.messages.lines)


async def test_not_ready_while_nobody_serves(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["overview"] = lambda number, data: {**OVERVIEW, "draining": True}
        assert (await here.ask("GET", "/readyz"))[0] == 503
        assert (await here.ask("GET", "/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v1/status/", 404),
        ("GET", "/api/v2/status", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/api/v1/status", 405),
        ("DELETE", "/api/v1/endpoint", 405),
        ("GET", "/api/v1/reload", 405),
        ("POST", "/", 405),
        ("PUT", "/healthz", 405),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        found, said = await here.ask(method, path, {} if method != "GET" else None)
        assert (found, said["status"]) == (status, status)
        assert here.control.orders == []


async def test_other_pages_of_a_browser_have_no_business_here(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        assert (await here.ask("GET", "/api/v1/status", host="evil.test"))[0] == 421
        assert (await here.ask("GET", "/", host="evil.test"))[0] == 421
        assert (await here.ask("POST", "/api/v1/reload", {}, origin="http://evil.test"))[0] == 403
        assert (await here.ask("POST", "/api/v1/reload", {}, content_type="text/plain"))[0] == 415
        assert here.control.orders == []
        assert (await here.ask("POST", "/api/v1/reload", {}, origin="http://localhost"))[0] == 200


async def test_events_are_shared_and_end_with_who_reads_them(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        reader, writer = await here.connect()
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        assert b"event: history\ndata: [" in await reader.readuntil(b"\n\n")
        assert b'"health":"ok"' in await reader.readuntil(b"\n\n")
        writer.close()
        await becomes(lambda: not here.admin.survey.viewers)


async def test_a_taken_address_is_tried_again_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    blocker = tmp_path / "admin.sock"
    blocker.write_text("in the way")
    async with visited("", tmp_path) as here:
        assert [level for level, text in here.control.messages.lines if "no admin listener" in text] == ["warning"]
        blocker.unlink()
        await becomes(lambda: any("the admin listener is at" in text for _, text in here.control.messages.lines))
        assert (await here.ask("GET", "/healthz"))[0] == 200


async def test_a_bug_is_a_message_and_no_end(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        here.control.switchboard.answers["overview"] = lambda number, data: {"requests": 1}
        assert (await here.ask("GET", "/api/v1/status"))[0] == 500
        assert any(level == "error" for level, _ in here.control.messages.lines)
        here.control.switchboard.answers["overview"] = lambda number, data: OVERVIEW
        assert (await here.ask("GET", "/api/v1/status"))[0] == 200


async def test_what_a_server_offers_is_asked_of_the_gateway_process(tmp_path: Path) -> None:
    async with visited("", tmp_path) as here:
        assert (await here.ask("GET", "/api/v1/catalogue?upstream=files"))[0] == 503
        here.control.switchboard.workers[GATEWAY] = object()

        def catalogue(number: int, data: Any) -> Any:
            if data["upstream"] != "files":
                raise ValueError("nobody asks it")
            return {"tools": {}}

        here.control.switchboard.answers["catalogue"] = catalogue
        assert await here.ask("GET", "/api/v1/catalogue?upstream=files") == (200, {"tools": {}})
        assert await here.ask("GET", "/api/v1/catalogue") == (409, {"error": "nobody asks it", "status": 409})
