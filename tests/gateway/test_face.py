"""Which era, and what is wrong with it."""

import asyncio
from typing import Any

import pytest

from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE, Client, Server, Unavailable
from tests.support.faces import META, envelope, faces, until

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": envelope()}}
HEAD = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}


async def test_both_eras_on_one_connection() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        assert (await peer.modern(0, "tools/list")).json["result"]["resultType"] == "complete"
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
        reply = await peer.ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert reply.json["result"]["protocolVersion"] == "2025-06-18"
        old = {"Mcp-Session-Id": reply.fields["mcp-session-id"]}
        reply = await peer.ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "tools/list"}, fields=old)
        assert "resultType" not in reply.json["result"] and len(reply.json["result"]["tools"]) == 4
        reply = await peer.modern(0, "tools/list", fields=old)  # a session means nothing there
        assert reply.status == 200 and "mcp-session-id" not in reply.fields


@pytest.mark.parametrize("id", [0, 7, "a", "0", -1, 2**53])
@pytest.mark.parametrize(
    ("change", "head", "status", "code"),
    [
        ({}, {"MCP-Protocol-Version": ""}, 400, -32020),
        ({}, {"MCP-Protocol-Version": "2025-11-25"}, 400, None),  # an old client without a session: whatever is in its body
        ({}, {"Mcp-Method": ""}, 400, -32020),
        ({}, {"Mcp-Method": "tools/call"}, 400, -32020),
        ({}, {"Mcp-Method": "TOOLS/LIST"}, 400, -32020),
        ({"method": "tools/call", "params": {"name": "x", "_meta": envelope()}}, {"Mcp-Method": "tools/call"}, 400, -32020),
        (
            {"method": "tools/call", "params": {"name": "x", "_meta": envelope()}},
            {"Mcp-Method": "tools/call", "Mcp-Name": "y"},
            400,
            -32020,
        ),
        (
            {"method": "tools/call", "params": {"name": "x", "_meta": envelope()}},
            {"Mcp-Method": "tools/call", "Mcp-Name": "=?base64?!?="},
            400,
            -32020,
        ),
        ({"params": {}}, {}, 400, -32602),
        ({"params": {"_meta": {META + "protocolVersion": "2026-07-28"}}}, {}, 400, -32602),
        ({"params": {"_meta": {META + "clientCapabilities": {}}}}, {}, 400, -32602),
        ({"params": {"_meta": {**envelope(), META + "protocolVersion": "2025-11-25"}}}, {}, 400, -32020),
        (
            {"params": {"_meta": {**envelope(), META + "protocolVersion": "2027-01-01"}}},
            {"MCP-Protocol-Version": "2027-01-01"},
            400,
            -32022,
        ),
        ({"method": "of/tomorrow"}, {"Mcp-Method": "of/tomorrow"}, 404, -32601),
        ({"method": "ping"}, {"Mcp-Method": "ping"}, 404, -32601),
        ({"method": "initialize"}, {"Mcp-Method": "initialize"}, 404, -32601),
        ({"method": "resources/subscribe"}, {"Mcp-Method": "resources/subscribe"}, 404, -32601),
    ],
)
async def test_what_a_modern_request_must_be(id: Any, change: dict[str, Any], head: dict[str, str], status: int, code: int | None) -> None:
    """MCP.md §2.1: each with the id it came with, of its type."""
    async with faces() as rig:
        reply = await (await rig.peer()).ask("POST", {**CALL, "id": id, **change}, fields={**HEAD, **head})
        assert reply.status == status, reply.body
        assert reply.json["id"] == id and type(reply.json["id"]) is type(id)
        assert code is None or reply.json["error"]["code"] == code
        if code == -32022:
            assert reply.json["error"]["data"]["requested"] == "2027-01-01"
            assert reply.json["error"]["data"]["supported"][0] == "2026-07-28"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]', -32600),
        (b'"text"', -32600),
        (b"\xff", -32700),
        (b"[" * 100_000, -32600),
    ],
)
async def test_bodies_that_are_no_message(body: bytes, code: int) -> None:
    async with faces() as rig:
        reply = await (await rig.peer()).ask("POST", body, fields=HEAD)
        assert (reply.status, reply.json["error"]["code"]) == (400, code), reply.body


@pytest.mark.parametrize("name", ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list", "Mcp-Session-Id: x", "Last-Event-ID: 0-1"])
async def test_fields_that_are_there_twice(name: str) -> None:
    async with faces() as rig:
        twice = f"{name}\r\n{name}\r\n".encode()
        reply = await (await rig.peer()).ask("POST", CALL, raw=twice)
        assert (reply.status, reply.json["error"]["code"], reply.json["id"]) == (400, -32020, 7)


@pytest.mark.parametrize(
    ("method", "fields", "status", "allow"),
    [
        ("PUT", {}, 405, "GET, POST, DELETE"),
        ("GET", HEAD, 405, "POST"),
        ("DELETE", HEAD, 405, "POST"),
        ("GET", {"Accept": "text/html"}, 406, None),
        ("GET", {"Accept": ""}, 406, None),
        ("GET", {"MCP-Protocol-Version": "2025-06-18"}, 400, None),
        ("GET", {"MCP-Protocol-Version": "1900-01-01", "Mcp-Session-Id": "x"}, 400, None),
        ("DELETE", {}, 400, None),
        ("DELETE", {"Mcp-Session-Id": "x"}, 404, None),
        ("GET", {"Mcp-Session-Id": "x"}, 404, None),
    ],
)
async def test_other_methods(method: str, fields: dict[str, str], status: int, allow: str | None) -> None:
    async with faces() as rig:
        reply = await (await rig.peer()).ask(method, fields=fields)
        assert (reply.status, reply.fields.get("allow")) == (status, allow)


async def test_content_types() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        assert (await peer.ask("POST", CALL, fields={**HEAD, "Content-Type": "text/plain"})).status == 415
        assert (await peer.ask("POST", CALL, fields={**HEAD, "Content-Type": "application/json; charset=utf-7"})).status == 415
        assert (await peer.ask("POST", CALL, fields={**HEAD, "Content-Type": "Application/JSON; charset=utf-8"})).status == 200


async def test_what_is_at_well_known_paths_is_not_ours() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        for path in ("/.well-known/oauth-protected-resource/mcp", "/mcp/.well-known/openid-configuration"):
            assert (await peer.ask("GET", path=path)).status == 404
        assert (await peer.ask("POST", CALL, path="/any/other", fields=HEAD)).status == 200  # routes are the edge's


async def test_an_upstream_that_is_not_here_now() -> None:
    async with faces() as rig:
        reply = await (await rig.peer()).ask("POST", CALL, fields=HEAD, upstream="others")
        assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (503, 7, MEMBER_UNAVAILABLE)


async def test_a_bug_behind_us_is_an_answer() -> None:
    async with faces() as rig:
        reply = await rig.modern(3, "tools/call", {"name": "break"})
        assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (200, 3, -32603)
        assert [str(error) for error in rig.broken] == ["a bug"]


async def test_server_discover_is_answered_here() -> None:
    async with faces() as rig:
        reply = await rig.modern("server-discover-probe-1", "server/discover")
        result = reply.json["result"]
        assert reply.json["id"] == "server-discover-probe-1" and not rig.service.calls
        assert result["supportedVersions"] == ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
        assert result["_meta"][META + "serverInfo"]["name"] == "stand-in" and result["instructions"] == "Be brief."


async def test_a_service_that_cannot_say_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(client: Client) -> Server:
        raise Unavailable("not now")

    async with faces() as rig:
        monkeypatch.setattr(rig.service, "server", unavailable)
        reply = await rig.modern(1, "server/discover")
        assert reply.json["error"] == {"code": MEMBER_UNAVAILABLE, "message": "not now"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
        reply = await (await rig.peer()).ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert reply.json["error"]["code"] == MEMBER_UNAVAILABLE and not rig.face.sessions.table


async def test_every_call_is_told_with_its_answer() -> None:
    told: list[tuple[str, bool]] = []
    async with faces(done=lambda call, answer: told.append((call.method, answer.result is not None))) as rig:
        await rig.modern(1, "tools/list")
        await rig.modern(1, "of/tomorrow")
        assert told == [("tools/list", True), ("of/tomorrow", False)]


async def test_the_edge_is_told_which_member_answered() -> None:
    async with faces() as rig:
        operation = {"name": "trigger-long-running-operation", "arguments": {"duration": 0.01, "steps": 1}}
        old = await rig.old()
        for reply in (
            await rig.modern(1, "tools/list"),
            await rig.modern(1, "tools/call", operation, meta={"progressToken": 1}),
            await old.call("echo", {"message": "x"}),
            await old.call(operation["name"], operation["arguments"], more={"_meta": {"progressToken": 1}}),
        ):
            assert reply.fields["mcpproxy-member"] == "fs"
        assert "mcpproxy-member" not in (await rig.modern(1, "server/discover")).fields


async def test_who_is_missing_is_said_with_what_the_service_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gaps(client: Client) -> Server:
        return Server(client.era, client.version, {}, b"{}", "", b'{"x/missing":["search"]}')

    async with faces() as rig:
        monkeypatch.setattr(rig.service, "server", gaps)
        reply = await rig.modern(1, "server/discover")
        assert reply.json["result"]["_meta"] == {"x/missing": ["search"], META + "serverInfo": {}}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
        reply = await (await rig.peer()).ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert reply.json["result"]["_meta"] == {"x/missing": ["search"]}


async def test_drain_ends_listens_and_idle_streams_and_leaves_calls() -> None:
    async with faces() as rig:
        listen = await rig.modern("l", "subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        old = await rig.old()
        stream = await old.get()
        peer = await rig.peer()
        await peer.modern(9, "tools/call", {"name": "wait"}, wait=False)
        await rig.service.started.wait()
        rig.face.drain()
        assert (await listen.events())[-1]["data"]["result"]["resultType"] == "complete"
        assert await stream.events()
        rig.service.go.set()
        assert (await peer.reply()).json["result"]["content"][0]["text"] == "waited"
        await until(lambda: not rig.face.listens)


async def test_a_service_that_is_replaced_leaves_nobody_without_an_answer() -> None:
    """Its tasks are cancelled, which whoever waits for them must not take for the end of himself."""
    async with faces() as rig:
        service, server, asked = rig.service, rig.service.server, []

        async def stopped(client: Any) -> Any:
            asked.append(client)
            if len(asked) == 1:
                raise asyncio.CancelledError
            return await server(client)

        async def stops(call: Any) -> Any:
            raise asyncio.CancelledError

        service.server = stopped  # type: ignore[method-assign]
        old = await rig.old()
        assert len(asked) == 2
        service.ask = stops  # type: ignore[method-assign]
        assert (await old.call("echo", {"message": "x"})).json["error"]["code"] == 4503
        assert (await rig.modern(1, "tools/call", {"name": "echo", "arguments": {}})).json["error"]["code"] == 4503
