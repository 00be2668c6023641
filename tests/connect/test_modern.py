"""Requests of 2026-07-28: what their heads repeat, cancellation, listen streams, and what older servers say to them."""

from typing import Any

from tests.connect.rig import ENVELOPE, MODERN, Answer, Seen, desk, far

TOOL = {"name": "pick", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}}


def params(**more: Any) -> dict[str, Any]:
    return {**more, "_meta": ENVELOPE}


async def test_the_head_repeats_what_the_body_says() -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        await to.result(seen, {"tools": [TOOL]} if seen.message["method"] == "tools/list" else {"resultType": "complete"})

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(0, "tools/list", params())
        await at.answer(0)
        await at.ask("1", "tools/call", params(name="pick", arguments={"region": "Köln"}))
        await at.answer("1")
        first, second = server.seen
        assert (first.fields["mcp-method"], first.fields["mcp-protocol-version"]) == ("tools/list", MODERN)
        assert "mcp-session-id" not in second.fields
        assert (second.fields["mcp-name"], second.fields["mcp-param-region"]) == ("pick", "=?base64?S8O2bG4=?=")


async def test_a_tool_that_was_never_listed_is_listed_when_the_server_misses_a_field() -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        if seen.message["method"] == "tools/list":
            more = "cursor" not in seen.message["params"]
            await to.result(seen, {"tools": [] if more else [TOOL], **({"nextCursor": "2"} if more else {})})
        elif "mcp-param-region" not in seen.fields:
            await to.json({"jsonrpc": "2.0", "id": seen.message["id"], "error": {"code": -32020, "message": "Header mismatch"}}, 400)
        else:
            await to.result(seen, {"resultType": "complete"})

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(1, "tools/call", params(name="pick", arguments={"region": "eu"}))
        assert "result" in await at.answer(1)
        assert [each.message["method"] for each in server.seen] == ["tools/call", "tools/list", "tools/list", "tools/call"]
        assert len(at.heard) == 1
        await at.ask(2, "tools/call", params(name="other", arguments={"region": "eu"}))
        assert (await at.answer(2))["error"]["code"] == -32020, "once"


async def test_to_call_off_is_to_close_the_stream() -> None:
    running: list[Answer] = []

    async def answer(seen: Seen, to: Answer) -> None:
        await to.stream()
        await to.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}})
        running.append(to)

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(1, "tools/call", params(name="slow"))
        await at.until(lambda: at.heard)
        await at.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        await at.until(running[0].gone.is_set, "the stream is closed")
        assert len(server.seen) == 1 and not at.bridge.calls
        assert len(at.heard) == 1, "nobody waits for an answer"


async def test_a_listen_stream_that_is_lost_is_asked_for_again() -> None:
    streams: list[Answer] = []

    async def answer(seen: Seen, to: Answer) -> None:
        await to.stream()
        meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": seen.message["id"]}}
        await to.event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {**meta, "notifications": {}}})
        streams.append(to)

    async with far(answer) as server, desk(server.url) as at:
        await at.ask("l", "subscriptions/listen", params(notifications={"toolsListChanged": True}))
        await at.until(lambda: streams)
        await server.down()
        await at.until(lambda: any("trying again" in line for line in at.said))
        await server.up()
        await at.until(lambda: streams[1:])
        await streams[1].event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}})
        await at.until(lambda: len(at.heard) == 2)
        assert [each["method"].rpartition("/")[2] for each in at.heard] == ["acknowledged", "list_changed"]
        await streams[1].event({"jsonrpc": "2.0", "id": "l", "result": {"resultType": "complete"}})
        await at.answer("l")


async def test_a_stream_that_breaks_is_not_asked_again() -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        await to.stream()
        to.cut()

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(1, "tools/call", params(name="x"))
        assert (await at.answer(1))["error"]["code"] == 4502
        assert len(server.seen) == 1


async def test_an_older_server_says_no_to_discover_and_the_client_goes_on_with_initialize() -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        await to.plain(405)

    async with far(answer) as server, desk(server.url, transport="streamable") as at:
        await at.ask("server-discover-probe-1", "server/discover", params())
        assert (await at.answer("server-discover-probe-1"))["error"]["code"] == -32601
        assert any("older server" in line for line in at.said)


async def test_an_older_client_is_told_what_a_newer_server_says() -> None:
    refusal = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN]}}

    async def answer(seen: Seen, to: Answer) -> None:
        assert seen.method == "POST", "that is no server of 2024"
        await to.json({"jsonrpc": "2.0", "id": seen.message["id"], "error": refusal}, 400)

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(0, "initialize", {"protocolVersion": "2025-11-25"})
        assert (await at.answer(0))["error"] == refusal
        assert any("newer revisions" in line for line in at.said)
