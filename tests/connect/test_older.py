"""Sessions by HTTP+SSE: one stream for all answers, and what is done when it ends."""

from tests.connect.rig import GREETING, Answer, Seen, desk, far


class Server:
    def __init__(self, endpoint: str = "/messages?id={}") -> None:
        self.streams: list[Answer] = []
        self.endpoint = endpoint
        self.silent: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, seen: Seen, to: Answer) -> None:
        if seen.method == "GET" and seen.target == "/mcp":
            await to.stream()
            self.streams.append(to)
            await to.event(self.endpoint.format(len(self.streams)), type="endpoint")
        elif seen.target == f"/messages?id={len(self.streams)}":
            method = seen.message["method"]
            self.asked.append(method)
            await to.plain(202, b"Accepted")
            if "id" in seen.message and method not in self.silent:
                result = GREETING if method == "initialize" else {"echo": seen.message.get("params")}
                await self.streams[-1].event({"jsonrpc": "2.0", "id": seen.message["id"], "result": result}, type="message")
        else:
            await to.plain(404 if seen.target != "/mcp" else 405)


async def test_it_is_found_out_that_a_server_is_of_2024() -> None:
    served = Server()
    async with far(served) as server, desk(server.url) as at:
        assert (await at.begin())["result"] == GREETING
        await at.ask(1, "tools/list", {"x": 1})
        assert (await at.answer(1))["result"] == {"echo": {"x": 1}}
        assert served.asked == ["initialize", "notifications/initialized", "tools/list"]
        assert any("HTTP+SSE" in line for line in at.said)


async def test_a_stream_that_ends_is_a_session_that_is_lost() -> None:
    served = Server()
    served.silent = {"tools/call"}
    async with far(served) as server, desk(server.url, transport="sse") as at:
        await at.begin()
        await at.ask(0, "logging/setLevel", {"level": "debug"})
        await at.answer(0)
        await at.ask(1, "tools/call", {"name": "slow"})
        await at.until(lambda: "tools/call" in served.asked)
        served.streams[0].cut()
        assert (await at.answer(1))["error"]["code"] == 4502
        await at.ask(2, "tools/list", {})
        assert "result" in await at.answer(2)
        assert served.asked[4:] == ["initialize", "notifications/initialized", "logging/setLevel", "tools/list"]
        assert {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"} in at.heard


async def test_a_url_on_another_server_is_not_posted_to() -> None:
    async with far(Server("http://elsewhere.example/messages")) as server, desk(server.url) as at:
        await at.ask(1, "initialize", {"protocolVersion": "2024-11-05"})
        assert "405" in (await at.answer(1))["error"]["message"]
        assert any("another server" in line for line in at.said)
