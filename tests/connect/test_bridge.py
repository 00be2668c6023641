"""What holds whatever the server is: every request is answered once, nothing else is on stdout, and all of it ends."""

import asyncio
import json
import os
from typing import Any

import pytest

from mcpproxy.connect.bridge import CALLS, run
from mcpproxy.connect.lines import Out, TooLong
from mcpproxy.connect.remote import Nobody
from mcpproxy.errors import StartError
from tests.connect.rig import Answer, Legacy, Seen, desk, far


async def test_what_is_no_message_is_refused() -> None:
    async with far(Legacy()) as server, desk(server.url) as at:
        for bad in (b"{", b"[]", b"7", b'{"method":7,"id":1}', b"\xff"):
            await at.say(bad)
            assert at.heard[-1]["error"]["code"] == -32700 and at.heard[-1]["id"] is None
        await at.bridge.take(TooLong())
        assert at.heard[-1]["error"]["code"] == -32600
        assert not server.seen


async def test_a_server_that_is_away_is_waited_for() -> None:
    async with far(Legacy()) as server:
        await server.down()
        async with desk(server.url) as at:
            await at.ask(1, "initialize", {"protocolVersion": "2025-11-25"})
            await at.until(lambda: any("trying again" in line for line in at.said))
            await server.up()
            assert "result" in await at.answer(1)
            assert any("can be reached again" in line for line in at.said)


async def test_a_server_that_stays_away_is_an_error() -> None:
    async with far(Legacy()) as server:
        await server.down()
        async with desk(server.url, patience=0.3) as at:
            await at.ask(1, "initialize", {})
            assert (await at.answer(1))["error"]["code"] == 4503


async def test_a_connection_that_breaks_within_a_call_is_an_error_and_the_next_call_is_answered() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        if seen.message["params"]["name"] == "bad":
            to.cut()
            return
        await to.result(seen, {})

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/call", {"name": "bad"})
        error = (await at.answer(1))["error"]
        assert error["code"] == 4502 and "not known whether" in error["message"]
        await at.ask(2, "tools/call", {"name": "good"})
        assert "result" in await at.answer(2)
        assert [each.message["params"]["name"] for each in server.of("tools/call")] == ["bad", "good"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"status": 404, "reason": "no-route", "message": "Nothing is served at this path."}}, "Nothing is served at this path."),
        ({"error": "not_found"}, "not_found"),
        ({"message": "no Route matched"}, "no Route matched"),
        ({"error": {"code": "404", "message": "absent"}}, "absent"),
        ({"error": [1]}, ""),
    ],
)
async def test_an_error_of_another_shape_becomes_one_that_clients_can_read(body: Any, said: str) -> None:
    async def more(seen: Seen, to: Answer) -> None:
        await to.json(body, 404)

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/list", {})
        error = (await at.answer(1))["error"]
        assert (error["code"], error["message"].partition(" answered 404")[2]) == (4503, f": {said}" if said else "")


async def test_ids_keep_their_type_and_are_answered_each_for_itself() -> None:
    held = asyncio.Event()

    async def more(seen: Seen, to: Answer) -> None:
        await held.wait()
        await to.result(seen, {"id": seen.message["id"]})

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        for id in (0, 1, "1", -1, "ü"):
            await at.ask(id, "tools/list")
        await at.ask(0, "tools/list")
        assert "waits for its answer" in (await at.answer(0))["error"]["message"]
        held.set()
        await at.until(lambda: len(at.heard) == 7)
        assert {json.dumps(each["result"]["id"]) for each in at.heard[2:]} == {"0", "1", '"1"', "-1", '"\\u00fc"'}
        for each in at.heard[2:]:
            assert each["id"] == each["result"]["id"]


async def test_too_many_calls_are_refused() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        await asyncio.Event().wait()

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        for id in range(CALLS + 1):
            await at.ask(id, "tools/list")
        assert "too many" in (await at.answer(CALLS))["error"]["message"]


async def test_tokens_that_cannot_be_kept_are_an_answer() -> None:
    class Full(Nobody):
        async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
            raise StartError("the disk is full", "another place")

    async with far(lambda seen, to: to.plain(401)) as server, desk(server.url, Full()) as at:
        await at.ask(1, "initialize", {})
        assert (await at.answer(1))["error"] == {"code": -32603, "message": "the disk is full"}
        await at.until(lambda: "the disk is full; another place" in at.said)


async def test_an_answer_without_a_result_is_an_error() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        await to.plain(202)

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/list")
        assert (await at.answer(1))["error"]["code"] == 4502


@pytest.mark.parametrize(("status", "word"), [(401, "--oauth"), (403, "not allowed"), (502, "answered 502")])
async def test_a_refusal_by_http_is_put_in_words(status: int, word: str) -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        await to.plain(status, b"<html>no</html>")

    async with far(answer) as server, desk(server.url) as at:
        await at.ask(1, "initialize", {})
        error = (await at.answer(1))["error"]
        assert word in error["message"] and "<" not in error["message"]


async def test_an_answer_that_is_too_large_is_an_error() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        if seen.message["params"]["events"]:
            await to.stream()
            await to.event({"jsonrpc": "2.0", "id": seen.message["id"], "result": "x" * 200_000})
            to.end()
            return
        await to.result(seen, "x" * 200_000)

    async with far(Legacy(more)) as server, desk(server.url, most=100_000) as at:
        await at.begin()
        for id, events in enumerate((False, True)):
            await at.ask(id, "tools/list", {"events": events})
            assert (await at.answer(id))["error"]["code"] == 4413


async def test_a_client_may_begin_anew() -> None:
    legacy = Legacy()
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        await at.until(lambda: server.of("notifications/initialized"))
        at.lines.clear()
        await at.begin()
        await at.ask(1, "ping")
        await at.answer(1)
        assert legacy.alive == {"s2"}


# -- from the beginning to the end -------------------------------------------------------------------------------------------------------------------


class Program:
    """The whole of it, on pipes."""

    def __init__(self, at: Any, grace: float = 20.0) -> None:
        self.read_in, self.write_in = os.pipe()
        self.read_out, write_out = os.pipe()
        out = Out(write_out)
        at.bridge._put = out.put
        self.stop = asyncio.Event()
        self.task = asyncio.ensure_future(run(at.bridge, out, self.stop, stdin=self.read_in, most=1 << 20, grace=grace))

    def write(self, *messages: Any) -> None:
        os.write(self.write_in, b"".join(json.dumps(each).encode() + b"\n" for each in messages))


INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


async def test_answers_that_still_come_are_waited_for_when_stdin_ends_and_the_session_is_ended() -> None:
    asked, think = asyncio.Event(), asyncio.Event()

    async def more(seen: Seen, to: Answer) -> None:
        asked.set()
        await think.wait()
        await to.result(seen, {"late": True})

    legacy = Legacy(more, listens=True)
    async with far(legacy) as server, desk(server.url) as at:
        program = Program(at)
        program.write(INITIALIZE, INITIALIZED, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        os.close(program.write_in)
        await asked.wait()
        think.set()
        await program.task
        out = os.dup(program.read_out)
        os.set_blocking(out, False)
        lines = [json.loads(line) for line in os.read(out, 1 << 20).splitlines()]
        os.close(out)
        assert [line["id"] for line in lines] == [0, 1]
        assert not legacy.alive, "DELETE"


async def test_waiting_for_answers_has_an_end() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        await asyncio.Event().wait()

    legacy = Legacy(more)
    async with far(legacy) as server, desk(server.url) as at:
        program = Program(at, grace=0.3)
        program.write(INITIALIZE, INITIALIZED, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        os.close(program.write_in)
        await asyncio.wait_for(program.task, 20)
        assert not legacy.alive


async def test_told_to_stop_it_ends_at_once() -> None:
    legacy = Legacy()
    async with far(legacy) as server, desk(server.url) as at:
        program = Program(at)
        program.write(INITIALIZE, INITIALIZED)
        await at.until(lambda: server.of("notifications/initialized"))
        program.stop.set()
        await asyncio.wait_for(program.task, 20)
        assert not legacy.alive
        os.close(program.write_in)


async def test_it_ends_when_nobody_reads_stdout() -> None:
    async with far(Legacy()) as server, desk(server.url) as at:
        program = Program(at)
        os.close(program.read_out)
        program.write(INITIALIZE)
        await asyncio.wait_for(program.task, 20)
        os.close(program.write_in)
