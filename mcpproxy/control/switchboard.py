"""The workers, as the control process sees them: one connection each, over which either side says, and control asks.

A message is one line of JSON. `t` is its topic, `d` its content; a question has a number `q`, its answer the same as `a`, with `d` or the error `e`:

    worker → control   {"secret": …, "worker": 0, "pid": 4711}      first, once            `ops/line` is the other end
                       {"t": "tally", "d": …}                       `hears["tally"](0, …)`
                       {"a": 7, "d": …} | {"a": 7, "e": "no such"}  what `ask` returns, or raises as Refused
    control → worker   {"t": "health", "d": …}                      `tell`, `tell_all`
                       {"q": 7, "t": "streams", "d": …}             `ask`, `ask_all`

The gateway process joins as if it were a worker, but is none: it is `gateway`, not among the workers; what it says is heard under its number.

A worker that reads too slowly is cut off rather than waited for: it comes back and is told everything again by those who listen to `joined`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpproxy.net.door import Door
from mcpproxy.observe.messages import Messages

GATEWAY = -2  # the number of the gateway process: it hears what all are told, and is asked by name only
BROKEN = ("failing", "away")  # states of a member of it that could not be started, or reached, when it was asked last
AGAIN = "again"  # the topic by which a worker is asked to say all that it says when it joins
LONGEST = 16 * 1024 * 1024  # bytes of a line: a page of connections is far below
UNREAD = 16 * 1024 * 1024  # bytes that may wait for a worker that does not read
HELLO_S = 5.0  # to say who it is
WAIT_S = 2.0  # for an answer


class Refused(Exception):
    """The worker's answer to a question is that it has none; the text says why."""


@dataclass(slots=True, eq=False)
class Peer:
    """A worker that has joined."""

    number: int
    pid: int
    writer: asyncio.StreamWriter
    asked: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    def send(self, message: dict[str, Any]) -> None:
        """Or cut it off."""
        transport = self.writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNREAD:
            transport.abort()
        else:
            self.writer.write(msgspec.json.encode(message) + b"\n")


class Switchboard:
    """All workers that are there."""

    def __init__(self, door: Door, messages: Messages) -> None:
        self._door, self._messages = door, messages
        self.workers: dict[int, Peer] = {}
        self.gateway: Peer | None = None
        self.hears: dict[str, Callable[[int, Any], None]] = {}  # by topic; called with the worker's number and the content
        self.joined: list[Callable[[int], None]] = []
        self.left: list[Callable[[int], None]] = []
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """From now on workers may join."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._door.sock, limit=LONGEST)

    def begin_again(self, newcomers: Sequence[Callable[[int], None]]) -> None:
        """Who has just begun to listen to `joined` hears of those that are there, and they say again what they say to who has just begun."""
        for worker in tuple(self.workers):
            for each in newcomers:
                each(worker)
        self.tell_all(AGAIN, None)

    def tell(self, worker: int, topic: str, data: Any) -> None:
        """If it is there."""
        if (peer := self._peer(worker)) is not None:
            peer.send({"t": topic, "d": data})

    def _peer(self, number: int) -> Peer | None:
        return self.gateway if number == GATEWAY else self.workers.get(number)

    def tell_all(self, topic: str, data: Any) -> None:
        """All that are there; those that come later are told by whoever listens to `joined`."""
        for peer in (*self.workers.values(), *((self.gateway,) if self.gateway is not None else ())):
            peer.send({"t": topic, "d": data})

    async def ask(self, worker: int, topic: str, data: Any = None, wait_s: float = WAIT_S) -> Any:
        """Its answer. Raises Refused with the worker's reason, TimeoutError, LookupError when it is not there (any more)."""
        peer = self._peer(worker)
        if peer is None:
            raise LookupError(f"worker {worker} is not there")
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        peer.asked[number] = answer
        peer.send({"q": number, "t": topic, "d": data})
        try:
            return await asyncio.wait_for(answer, wait_s)
        finally:
            del peer.asked[number]

    async def ask_all(self, topic: str, data: Any = None, wait_s: float = WAIT_S) -> dict[int, Any]:
        """The answers by worker; who refused, left or was silent is not among them."""
        numbers = sorted(self.workers)
        answers = await asyncio.gather(*(self.ask(number, topic, data, wait_s) for number in numbers), return_exceptions=True)
        return {number: answer for number, answer in zip(numbers, answers, strict=True) if not isinstance(answer, BaseException)}

    # -- one worker --------------------------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._door.is_ours(writer.get_extra_info("socket")):
            writer.transport.abort()  # before a byte is kept for it
            return
        peer: Peer | None = None
        try:
            peer = await asyncio.wait_for(self._greet(reader, writer), HELLO_S)
            if peer is None:
                return
            await self._listen(peer, reader)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:  # ValueError: a line that is too long, or no JSON
            if isinstance(error, ValueError):
                self._messages.say("error", f"a worker's line to the control process was cut: {error}")
        finally:
            writer.transport.abort()
            if peer is not None and self._peer(peer.number) is peer:
                for answer in peer.asked.values():
                    if not answer.done():
                        answer.set_exception(LookupError(f"worker {peer.number} left"))
                if peer is self.gateway:
                    self.gateway = None
                else:
                    del self.workers[peer.number]
                    for each in self.left:
                        each(peer.number)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Peer | None:
        hello = msgspec.json.decode(await reader.readuntil(b"\n"))
        if not isinstance(hello, dict) or not self._door.opens(hello.get("secret")):
            return None
        peer = Peer(hello["worker"], hello["pid"], writer)
        former = self._peer(peer.number)
        if peer.number == GATEWAY:
            if former is not None:
                former.writer.transport.abort()
            self.gateway = peer
            return peer
        if former is not None:  # it died, and we have not heard of it yet
            former.writer.transport.abort()
            for each in self.left:
                each(peer.number)
        self.workers[peer.number] = peer
        for each in self.joined:
            each(peer.number)
        return peer

    async def _listen(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        while True:
            message = msgspec.json.decode(await reader.readuntil(b"\n"))
            if "t" in message:
                heard = self.hears.get(message["t"])
                if heard is not None:
                    heard(peer.number, message["d"])
                continue
            answer = peer.asked.get(message["a"])
            if answer is None or answer.done():
                continue  # too late
            if "e" in message:
                answer.set_exception(Refused(message["e"]))
            else:
                answer.set_result(message["d"])
