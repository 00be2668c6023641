"""An admin listener in this process, with workers that are only played, and a client that sends exactly what it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mcpproxy.config.load import load
from mcpproxy.config.model import Config
from mcpproxy.control.admin import Admin
from mcpproxy.control.switchboard import GATEWAY, Refused
from mcpproxy.observe.messages import LEVELS
from tests.config.samples import GOOD

OVERVIEW: dict[str, Any] = {
    "uptime_s": 61,
    "connections": {"open": 3, "accepted": 5, "turned_away": 0, "handshakes_failed": 1},
    "requests": 40,
    "open": {"kinds": {"stream": 2, "request": 1}, "principals": {"agent": 2}, "others": 0, "upstreams": {"search": 2}},
    "pools": {
        "search": {
            "in_use": 2,
            "waiting": 0,
            "endpoints": [{"label": "127.0.0.1:9000", "state": "up", "in_use": 2, "idle": 1, "said": ""}],
        }
    },
    "durations": {"0": 90, "40": 10},
    "failed": 1,
    "refusals": [],
    "draining": False,
}
REFUSAL = {
    "number": 1,
    "time": 1_800_000_000.0,
    "id": "a-1",
    "ms": 0.4,
    "method": "POST",
    "host": "a.test",
    "path": "/mcp",
    "principal": None,
    "client": "192.0.2.1",
    "status": 401,
    "reason": "no-credentials",
    "end": "refused",
    "upstream": None,
}


class Peer:
    def __init__(self, pid: int) -> None:
        self.pid = pid


class Switchboard:
    """Workers that answer by `answers`."""

    def __init__(self, workers: int = 1) -> None:
        self.workers: dict[int, Any] = {number: Peer(4000 + number) for number in range(workers)}
        self.gateway: Any = None
        self.hears: dict[str, Any] = {}
        self.joined: list[Callable[[int], None]] = []
        self.left: list[Callable[[int], None]] = []
        self.answers: dict[str, Callable[[int, Any], Any]] = {"overview": lambda number, data: OVERVIEW}
        self.asked: list[tuple[int, str, Any]] = []
        self.told: list[tuple[int, str, Any]] = []

    async def ask(self, worker: int, topic: str, data: Any = None, wait_s: float = 2.0) -> Any:
        self.asked.append((worker, topic, data))
        if worker not in self.workers and not (worker == GATEWAY and self.gateway):
            raise LookupError(worker)
        try:
            return msgspec.json.decode(msgspec.json.encode(self.answers[topic](worker, data)))
        except ValueError as error:
            raise Refused(str(error)) from None

    async def ask_all(self, topic: str, data: Any = None, wait_s: float = 2.0) -> dict[int, Any]:
        found = {}
        for number in sorted(self.workers):
            try:
                found[number] = await self.ask(number, topic, data)
            except (Refused, LookupError):
                pass
        return found

    def tell(self, worker: int, topic: str, data: Any) -> None:
        self.told.append((worker, topic, data))

    def tell_all(self, topic: str, data: Any) -> None:
        for number in self.workers:
            self.tell(number, topic, data)


class Said:
    """Messages that were said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.level = "info"

    def say(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    def least(self, level: str) -> None:
        assert level in LEVELS
        self.level = level


class Control:
    def __init__(self, config: Config, workers: int = 1) -> None:
        self.config = config
        self.messages: Any = Said()
        self.switchboard: Any = Switchboard(workers)
        self.workers = {number: 4000 + number for number in range(workers)}
        self.events: list[Any] = []
        self.orders: list[tuple[str, Any]] = []
        self.answer: tuple[bool, str] = (True, "")

    async def order(self, what: str, data: Any = None) -> tuple[bool, str]:
        self.orders.append((what, data))
        return self.answer


class Visited:
    """The listener, and how to talk to it."""

    def __init__(self, control: Control, admin: Admin, address: str) -> None:
        self.control, self.admin, self.address = control, admin, address

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.address.startswith("unix:"):
            return await asyncio.open_unix_connection(self.address[5:])
        host, _, port = self.address.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def send(self, *pieces: bytes, until_closed: bool = True) -> bytes:
        """All that comes back until the listener closes."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def ask(self, method: str, path: str, data: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON."""
        answer = await self.raw(method, path, data, **headers)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), msgspec.json.decode(body) if body else None

    async def raw(self, method: str, path: str, data: Any = None, **headers: str) -> bytes:
        body = msgspec.json.encode(data) if data is not None else b""
        fields = {"host": "localhost", "connection": "close", **({"content-type": "application/json"} if data is not None else {})}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        return await self.send(f"{method} {path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def visited(admin_lines: str, tmp_path: Path, workers: int = 1) -> AsyncIterator[Visited]:
    config = load(f"{GOOD}[admin]\n{admin_lines}\n".replace("[[listen]]", f'workers = {workers}\nstate_dir = "{tmp_path}"\n[[listen]]', 1))
    control = Control(config, workers)
    admin = Admin(control)  # type: ignore[arg-type]
    await admin.start()
    assert admin.place is not None
    try:
        yield Visited(control, admin, admin.place.address)
    finally:
        await admin.stop()


async def becomes(true: Callable[[], bool]) -> None:
    """Soon; what it waits for happens in this very loop."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
