"""An endpoint is asked in the way that was configured; what that says reaches the workers when it is sure, and a new prober flips nothing."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcpproxy.config.load import load
from mcpproxy.control.checks import Checks, Sick, Watched, check, has_result
from mcpproxy.net.fetch import Response
from mcpproxy.observe.messages import Messages
from mcpproxy.upstream.endpoint import Endpoint
from tests.support.ports import refusing_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{}}'


def answer(body: bytes, status: str = "200 OK", *fields: str, kind: str = "application/json") -> bytes:
    more = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Server:
    """Answers each connection with the next of its answers, the last one again and again; keeps what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.asked = list(answers), []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            self.asked.append((head.split("\r\n", 1)[0], head, body))
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def soon(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


@asynccontextmanager
async def server(*answers: bytes):
    made = Server(*answers)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()


def configured(url: str, health: str = "") -> Any:
    text = f'[[listen]]\naddress = "127.0.0.1:0"\n[[route]]\nupstream = "u"\n[upstream.u]\nurls = ["{url}"]\nhealth = {{ {health} }}\n'
    return load(text)


def watched(url: str, health: str = "") -> Watched:
    found = configured(url, health).upstream["u"].health
    place = Endpoint(url, None)
    return Watched("u", url, found, None, place, place.authority)


# -- one check -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_http() -> None:
    async with server(OK, answer(b"", "503 Busy"), answer(b"", "204 No Content"), answer(b"", "302 Found", "Location: /")) as made:
        one = watched(made.url, 'path = "/alive"')
        assert await check(one) == "status 200"
        with pytest.raises(Sick, match="status 503"):
            await check(one)
        assert await check(one) == "status 204"
        with pytest.raises(Sick, match="redirects are not followed"):
            await check(one)
        first, head, _ = made.asked[0]
        assert first == "GET /alive HTTP/1.1"
        assert f"Host: {one.place.authority}\r\n" in head


@pytest.mark.asyncio
async def test_http_with_statuses_of_its_own() -> None:
    async with server(answer(b"", "404 Not Found"), OK) as made:
        one = watched(made.url, "expect = [404]")
        assert await check(one) == "status 404"
        with pytest.raises(Sick, match="status 200"):
            await check(one)


@pytest.mark.asyncio
async def test_tcp(tmp_path) -> None:
    async with server(OK) as made:
        assert await check(watched(made.url, 'check = "tcp"')) == "connected"
    with refusing_port() as port, pytest.raises(Sick):
        await check(watched(f"http://127.0.0.1:{port}", 'check = "tcp"'))
    path = str(tmp_path / "s")
    listening = await asyncio.start_unix_server(Server(OK).serve, path)
    assert await check(watched(f"unix:{path}", 'check = "tcp"')) == "connected"
    assert await check(watched(f"unix:{path}")) == "status 200"
    listening.close()
    with pytest.raises(Sick, match="No such file"):
        await check(watched(f"unix:{path}.no"))


@pytest.mark.asyncio
async def test_what_is_no_http() -> None:
    async with server(b"SSH-2.0-OpenSSH\r\n\r\n", b"") as made:
        with pytest.raises(Sick, match="not HTTP"):
            await check(watched(made.url))
        with pytest.raises(Sick, match="closed within"):
            await check(watched(made.url))


@pytest.mark.asyncio
async def test_discover() -> None:
    event = answer(b"event: message\ndata: " + RESULT + b"\n\n", kind="text/event-stream")
    refused = answer(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"?"}}')
    async with server(answer(RESULT), event, answer(b"", "401 Unauthorized"), refused, answer(b"", "404 Not Found")) as made:
        one = watched(made.url, 'check = "discover"')
        assert [await check(one) for _ in range(3)][-1] == "server/discover: status 401"
        for said in ("without a result", "status 404"):
            with pytest.raises(Sick, match=said):
                await check(one)
        first, head, body = made.asked[0]
        assert first == "POST /mcp HTTP/1.1"
        assert "Mcp-Method: server/discover\r\n" in head
        assert "MCP-Protocol-Version: 2026-07-28\r\n" in head
        assert b'"io.modelcontextprotocol/protocolVersion":"2026-07-28"' in body


@pytest.mark.asyncio
async def test_initialize_opens_a_session_pings_and_deletes_it() -> None:
    async with server(answer(RESULT, "200 OK", "Mcp-Session-Id: abc"), answer(RESULT), answer(b"", "405 Method Not Allowed")) as made:
        assert await check(watched(made.url, 'check = "initialize"')) == "initialize and ping: status 200"
        assert [first.split()[0] for first, _, _ in made.asked] == ["POST", "POST", "DELETE"]
        assert all("Mcp-Session-Id: abc\r\n" in head for _, head, _ in made.asked[1:])
        assert b'"method":"ping"' in made.asked[1][2]


@pytest.mark.asyncio
async def test_a_ping_that_fails_still_ends_its_session() -> None:
    async with server(answer(RESULT, "200 OK", "Mcp-Session-Id: abc"), answer(b"", "500 Oops"), answer(b"", "200 OK")) as made:
        with pytest.raises(Sick, match="ping: status 500"):
            await check(watched(made.url, 'check = "initialize"'))
        assert made.asked[-1][0].startswith("DELETE")


@pytest.mark.asyncio
async def test_what_is_missing_here_says_nothing_about_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_descriptor_left(*_: object, **__: object) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "open_connection", no_descriptor_left)
    with pytest.raises(OSError, match="Too many open files"):
        await check(watched("http://127.0.0.1:1", 'check = "tcp"'))


@pytest.mark.parametrize(
    ("status", "kind", "body", "found"),
    [
        (200, "application/json", RESULT, True),
        (202, "application/json", RESULT, False),
        (200, "application/json", b"[]", False),
        (200, "text/html", b"<html>", False),
        (200, "text/event-stream", b": hello\n\ndata: x\n\ndata: " + RESULT, True),
        (200, "text/event-stream", b"data: {}\n\n", False),
        (200, "application/json", b"[" * 100_000, False),
        (200, "application/json", b'{"\xff":1}', False),
    ],
)
def test_a_result_is_a_result(status: int, kind: str, body: bytes, found: bool) -> None:
    assert has_result(Response(status, body, {"content-type": kind})) is found


# -- what is said about it -----------------------------------------------------------------------------------------------------------------


class Board:
    """A switchboard that writes down what is told."""

    def __init__(self) -> None:
        self.hears: dict[str, Any] = {}
        self.joined: list[Any] = []
        self.workers: dict[int, object] = {0: object(), 1: object(), 2: object()}
        self.told: list[Any] = []

    def tell_all(self, topic: str, data: Any) -> None:
        self.told.append(("all", topic, data))

    def tell(self, worker: int, topic: str, data: Any) -> None:
        self.told.append((worker, topic, data))


@pytest.fixture
def board() -> Board:
    return Board()


def checks(board: Board, health: str) -> tuple[Checks, Watched]:
    made = Checks(configured("http://127.0.0.1:1", health), board, Messages("error"))  # type: ignore[arg-type]
    made.watched = [watched("http://127.0.0.1:1", health)]
    return made, made.watched[0]


def test_the_first_good_check_counts_and_bad_ones_when_there_are_enough(board: Board) -> None:
    made, one = checks(board, "rise = 3, fall = 2")
    made.judge(one, False, "status 500")
    assert board.told == []
    made.judge(one, True, "status 200")
    assert board.told == [("all", "health", [{"upstream": "u", "endpoint": "127.0.0.1:1", "up": True, "why": "status 200"}])]
    made.judge(one, False, "status 500")
    made.judge(one, True, "status 200")
    made.judge(one, False, "status 500")
    assert len(board.told) == 1, "never two in a row"
    made.judge(one, False, "status 503")
    assert (one.up, one.why) == (False, "status 503")
    for _ in range(2):
        made.judge(one, True, "status 200")
    assert one.up is False
    made.judge(one, True, "status 200")
    assert (one.up, len(board.told)) == (True, 3)


@pytest.mark.asyncio
async def test_a_new_prober_takes_over_what_workers_know(board: Board) -> None:
    made, one = checks(board, "fall = 2")
    await Checks.start(made)
    made.watched, theirs = [one], made.watched
    for each in theirs:
        assert each.task is not None
        each.task.cancel()
    row = {"upstream": "u", "endpoint": "127.0.0.1:1", "up": False, "why": "status 500"}
    board.hears["health"](1, [row, {**row, "upstream": "other"}])
    assert (one.up, board.told) == (False, [(1, "health", [row])])
    board.hears["health"](2, [{**row, "up": True}])
    assert one.up is False, "what it knows itself is newer"
    board.joined[0](0)
    assert board.told[-1] == (0, "health", [row])
    await made.stop()


@pytest.mark.asyncio
async def test_one_workers_breaker_is_told_to_the_others(board: Board) -> None:
    made = Checks(configured("http://127.0.0.1:1").__class__(), board, Messages("error"))  # type: ignore[arg-type]
    await made.start()
    board.hears["breaker"](1, {"upstream": "u"})
    assert board.told == [(0, "breaker", {"upstream": "u"}), (2, "breaker", {"upstream": "u"})]
    await made.stop()


@pytest.mark.asyncio
async def test_it_asks_again_and_again(board: Board) -> None:
    async with server(OK) as made:
        config = configured(made.url, 'every = "50ms", timeout = "50ms"')
        part = Checks(config, board, Messages("error"))  # type: ignore[arg-type]
        await part.start()
        await soon(lambda: len(made.asked) >= 3)
        assert part.snapshot()[0]["up"] is True
        await part.stop()


@pytest.mark.asyncio
async def test_who_does_not_answer_is_not_waited_for(board: Board) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    part = Checks(configured(url, 'every = "50ms", timeout = "20ms"'), board, Messages("error"))  # type: ignore[arg-type]
    await part.start()
    await soon(lambda: bool(board.told))
    (_, _, ((row),)) = board.told[0]
    assert (row["up"], row["why"]) == (False, "no answer within 0.02 s")
    await part.stop()
    listening.close()


@pytest.mark.asyncio
async def test_a_server_that_never_lets_a_session_go_holds_up_no_check(board: Board) -> None:
    async def opens_and_falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b'"initialize"' in await reader.read(65536):
            writer.write(answer(RESULT, "200 OK", "Mcp-Session-Id: abc"))
            await writer.drain()
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(opens_and_falls_silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    part = Checks(configured(url, 'check = "initialize", every = "50ms", timeout = "50ms"'), board, Messages("error"))  # type: ignore[arg-type]
    await part.start()
    await soon(lambda: bool(board.told))
    (_, _, ((row),)) = board.told[0]
    assert (row["up"], row["why"]) == (False, "no answer within 0.05 s")
    await part.stop()
    listening.close()
