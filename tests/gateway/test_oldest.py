"""HTTP+SSE."""

from typing import Any

from tests.gateway.test_legacy import answer_of
from tests.support.faces import Rig, faces, until


async def oldest(rig: Rig, caller: str = "", path: str = "/some/sse") -> tuple[Any, str]:
    reply = await (await rig.peer()).ask("GET", path=path, caller=caller)
    endpoint = await reply.event()
    assert endpoint["event"] == "endpoint" and endpoint["data"].startswith(path + "?session_id=")
    return reply, endpoint["data"]


async def test_everything_on_one_stream() -> None:
    async with faces() as rig:
        stream, where = await oldest(rig)
        peer = await rig.peer()
        params = {"protocolVersion": "2024-11-05", "capabilities": {"elicitation": {}}, "clientInfo": {}}
        assert (await peer.ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, path=where)).status == 202
        assert (await stream.event())["data"]["result"]["protocolVersion"] == "2024-11-05"
        await peer.ask("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, path=where)
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask"}}
        assert (await peer.ask("POST", call, path=where)).status == 202
        asked = (await stream.event())["data"]
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
        await peer.ask("POST", answer, path=where)
        assert answer_of(await stream.event()) == "Hello Ada"
        rig.service.change()
        event = await stream.event()
        assert event["data"]["method"] == "notifications/tools/list_changed" and "id" not in event


async def test_the_stream_is_the_session() -> None:
    async with faces() as rig:
        stream, where = await oldest(rig, "ada")
        peer = await rig.peer()
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait"}}
        assert (await peer.ask("POST", call, path=where, caller="bob")).status == 404
        assert (await peer.ask("POST", call, path=where[:-1] + "x", caller="ada")).status == 400
        assert (await peer.ask("POST", call, path=where[:-2] + "00", caller="ada")).status == 404 or where.endswith("00")
        assert (await peer.ask("POST", call, path=where, caller="ada")).status == 202
        await rig.service.started.wait()
        stream.peer.close()
        await until(lambda: rig.service.cancelled and not rig.face.sessions.table)
        assert (await peer.ask("POST", call, path=where, caller="ada")).status == 404


async def test_sessions_of_the_two_transports_are_not_mixed() -> None:
    async with faces() as rig:
        old = await rig.old()
        _, where = await oldest(rig)
        peer = await rig.peer()
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert (await peer.ask("POST", ping, path=f"/mcp?session_id={old.session}")).status == 404
        assert (await peer.ask("POST", ping, fields={"Mcp-Session-Id": where.partition("=")[2]})).status == 404
