"""A member that is a program: who gets which of its processes, when they start, and when they end.

1. A seat is what a client is given: everybody's (`shared`), a session's, or a caller's. On it sits one process at a time. Modern clients have no sessions; with
   `per-session` they have their caller's seat (SEP-2567), which nobody shares who shows who he is.
   A process speaks one era, that of who greets it. So there is a seat for each era whose clients came, where the server speaks both: its tools may know how
   to ask clients of one era only. Where it speaks one, or cannot run twice, clients of the other sit there, too.
2. A process starts with the first call that needs it (or `warm`, with us), once for all who wait. Its calls are answered at once when it dies; the next call
   starts another, after a pause that grows with every failure. Subscriptions and log level are told to the new one.
3. A server that ends at the greeting of one era is started again for the other; that is remembered until it fails, too.
4. Nothing outlives `stop`.

One file because seat, process and member each may be the first to end, and end the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcpproxy.config.gateway import Command
from mcpproxy.gateway.chatter import Chatter
from mcpproxy.gateway.child import Child
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.greeting import answered, greet
from mcpproxy.gateway.launch import prepare
from mcpproxy.gateway.lines import Cut
from mcpproxy.gateway.listening import Listening
from mcpproxy.gateway.parts import TOO_LARGE, Answer, Call, Client, Conversation, Era, Hearer, Member, Server, Unavailable
from mcpproxy.gateway.pipe import Patience, Pipe
from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params

PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before it is started after so many failures in a row
PATIENT = 1.0  # seconds of such a pause that a call waits; a longer one is an answer
PROVEN = 60.0  # seconds after which its end is not the next failure in a row, but the first
RETRY = 5.0  # seconds after which a client may come again that found no seat
LOOKS = 30.0  # seconds between two looks for idle ones, at most

REPLAYED = ("resources/subscribe", "resources/unsubscribe", "logging/setLevel")


@dataclass(slots=True, eq=False)
class Seat:
    """Of everybody, a session or a caller."""

    whom: str  # "" everybody
    era: Era  # that is wanted of its process, and once there is one, the one it speaks
    owner: Client | None  # whose session it is
    whose: Client | None = None  # of whose caller: who came first; None: everybody's
    talk: Talk | None = None
    starting: asyncio.Task[Talk] | None = None
    waking: asyncio.Task[None] | None = None
    failures: int = 0
    not_before: float = 0.0
    used: float = 0.0
    restarts: int = 0
    uris: dict[bytes, Params] = field(default_factory=dict)  # what was subscribed to
    level: Params | None = None  # params of the last logging/setLevel

    @property
    def key(self) -> tuple[str, Era]:
        """By which it is found."""
        return self.whom, self.era


class Talk(Conversation):
    """One process, and what is said to it."""

    def __init__(self, member: StdioMember, seat: Seat) -> None:
        self._member, self._seat = member, seat
        upstream = member.upstream
        self.child = Child(
            member.name,
            prepare(upstream, member.environ, member.secret, member.home),
            member.family,
            most=upstream.max_message,
            line=self._line,
            cut=self._cut,
            ended=self._ended,
            log=lambda text: member.chatter("info", text),
        )
        self.pipe = Pipe(
            member.name,
            lambda raw, _: self.child.send(raw),
            member.hearer,
            owner=seat.owner,
            whose=seat.whose,
            patience=Patience(upstream.call_timeout, upstream.call_ceiling),
            say=member.chatter,
        )
        self.listening: Listening | None = None
        self.began = 0.0
        self.why = ""
        self.ending: asyncio.Task[None] | None = None

    def _line(self, raw: bytes) -> None:
        self.pipe.received(raw)

    async def begin(self, era: Era | None) -> None:
        """Start it and greet it. Raises Unavailable."""
        upstream = self._member.upstream
        self.child.start()
        self.began = asyncio.get_running_loop().time()

        async def ask(method: str, params: bytes | None, within: float) -> Answer:
            return await self.pipe.request(
                method, params, within=within + 1.0
            )  # the greeting ends first: `initialize` is not to be cancelled

        async def tell(method: str, params: bytes | None) -> None:
            self.pipe.tell(method, params)

        seat = self._seat
        self.server = await greet(ask, tell, era=era, first=seat.era, client=seat.owner, within=upstream.start_timeout)
        if self.server.era is Era.MODERN:
            self.listening = Listening(
                self.server, lambda params, note: self.pipe.request("subscriptions/listen", params, note=note), self._heard
            )
            self.listening.begin()
        await self._replay()

    async def _replay(self) -> None:
        seat = self._seat
        if self.listening is not None:
            for params in seat.uris.values():
                await self.listening.ask("resources/subscribe", params)
            return
        if seat.level is not None:
            await self.pipe.request("logging/setLevel", message.put(seat.level))
        for params in seat.uris.values():
            await self.pipe.request("resources/subscribe", message.put(params))

    def _heard(self, method: str, params: Params) -> None:
        self._member.hearer.heard(self._member.name, self._seat.whose, method, params)

    async def ask(self, call: Call) -> Answer:
        """Have it answered."""
        seat = self._seat
        if call.method in REPLAYED:
            return await self._remembered(call)
        if call.method == "ping" and self.server.era is Era.MODERN:
            return Answer(result=b"{}")
        try:
            return await self._answered(call)
        finally:
            seat.used = self._member.now()

    def _answered(self, call: Call) -> Coroutine[Any, Any, Answer]:
        return answered(self.server, call, lambda params: self.pipe.ask(call, params))

    async def _remembered(self, call: Call) -> Answer:
        """What a new process must be told again. A modern one hears the log level with each request, and listens for the rest."""
        seat, params = self._seat, call.params
        if call.method == "logging/setLevel":
            answer = Answer(result=b"{}") if self.listening is not None else await self._answered(call)
            if answer.result is not None:
                seat.level = {"level": params["level"]} if "level" in params else None
            return answer
        answer = await (self._answered(call) if self.listening is None else self.listening.ask(call.method, params))
        if answer.result is not None and "uri" in params:
            if call.method == "resources/subscribe":
                seat.uris[params["uri"]] = {"uri": params["uri"]}
            else:
                seat.uris.pop(params["uri"], None)
        return answer

    async def tell(self, method: str, params: bytes | None) -> None:
        """The modern era knows no notification of clients but that a call is cancelled, which is the pipe's."""
        if self.server.era is Era.LEGACY:
            self.pipe.tell(method, params)

    async def close(self) -> None:
        """A process of everybody stays."""
        if self._seat.owner is not None:
            await self._member.vacate(self._seat)

    def _cut(self, line: Cut) -> None:
        text = f"a message of {line.size} bytes, more than max_message allows"
        self._member.chatter("warning", text)
        if line.id is not None:
            self.pipe.fail(line.id, Answer.failure(TOO_LARGE, f"{self._member.name} answered with {text}"))
        else:
            self.child.condemn(f"{self._member.name} sent {text}")

    def _ended(self, why: str) -> None:
        self.why = why
        self.pipe.lost(why)
        if self.listening is not None:
            self.listening.end()
        self._member.ended(self._seat, self, why)


class StdioMember(Member):
    """A configured program."""

    def __init__(
        self,
        name: str,
        upstream: Command,
        hearer: Hearer,
        family: Family,
        *,
        environ: Mapping[str, str],
        secret: Callable[[str], str],
        home: str,
        say: Callable[[str, str], None],
    ) -> None:
        self.name, self.upstream, self.hearer, self.family = name, upstream, hearer, family
        self.environ, self.secret, self.home = environ, secret, home
        self.chatter = Chatter(name, say)
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._configured = None if upstream.era == "auto" else Era(upstream.era)
        self._other: set[Era] = set()  # clients of these eras have a process of the other one: this one the server does not speak
        self._seats: dict[tuple[str, Era], Seat] = {}
        self._talks: set[Talk] = set()  # whose process is not gone yet
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._stopped = False
        self._last_error = ""
        self._server: Server | None = None
        self._restarts = 0

    # -- what the hub asks --

    async def start(self) -> None:
        """Warm ones start now, and are started again when they die."""
        if self._warm:
            seat = Seat("", self._configured or Era.LEGACY, None)
            self._wake(self._seats.setdefault(seat.key, seat))

    async def conversation(self, client: Client) -> Conversation:
        """Its process, started if need be. Raises Unavailable."""
        whom, owner = self._whom(client)
        era = self._configured or (other(client.era) if client.era in self._other else client.era)
        seat = self._seats.get((whom, era))
        if seat is None:
            seat = self._seats[whom, era] = Seat(whom, era, owner, client if whom else None)
        elif seat.talk is not None and seat.talk.child.alive:
            seat.used = self._loop.time()
            return seat.talk
        elif seat.failures and (beside := self._beside(seat)) is not None:
            return beside
        return await self._started(seat)

    def leave(self, client: Client) -> None:
        """Its process ends with the session."""
        whom, owner = self._whom(client)
        if owner is not None:
            for era in Era:
                if (seat := self._seats.get((whom, era))) is not None:
                    self.spawn(self.vacate(seat))

    async def stop(self) -> None:
        """No process is left."""
        self._stopped = True
        if self._looking is not None:
            self._looking.cancel()
        seats = tuple(self._seats.values())
        starting = [seat.starting for seat in seats if seat.starting is not None]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        self._seats.clear()
        for seat in seats:
            if seat.waking is not None:
                seat.waking.cancel()
        for talk in tuple(self._talks):
            self._end(talk)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def state(self) -> Mapping[str, object]:
        """For operators."""
        living = [seat.talk for seat in self._seats.values() if seat.talk is not None and seat.talk.child.alive]
        starting = any(seat.starting is not None for seat in self._seats.values())
        failing = any(seat.failures and seat.talk is None for seat in self._seats.values())
        return {
            "kind": "stdio",
            "mode": self.upstream.mode,
            "state": "running" if living else "failing" if failing else "starting" if starting else "stopped",
            "children": len(self._talks),
            "pids": sorted(talk.child.pid for talk in self._talks),
            "calls": sum(talk.pipe.calls for talk in living),
            "restarts": self._restarts,
            "last_error": self._last_error,
            "era": ", ".join(sorted({talk.server.era.value for talk in living}))
            or (self._server.era.value if self._server else self.upstream.era),
            "version": self._server.version if self._server is not None else "",
        }

    # -- seats --

    @property
    def _warm(self) -> bool:
        return self.upstream.start == "warm" and self.upstream.mode == "shared"

    def _whom(self, client: Client) -> tuple[str, Client | None]:
        if self.upstream.mode == "shared":
            return "", None
        if self.upstream.mode == "per-session" and client.session:
            return f"session {client.session}", client
        return f"caller {client.principal}", None

    def _beside(self, seat: Seat) -> Talk | None:
        """What the same clients have in the other era."""
        beside = self._seats.get((seat.whom, other(seat.era)))
        talk = None if beside is None else beside.talk
        if beside is None or talk is None or not talk.child.alive:
            return None
        beside.used = self._loop.time()
        return talk

    async def _started(self, seat: Seat) -> Conversation:
        if self._stopped:
            raise Unavailable(f"{self.name} is being stopped")
        if seat.starting is None:
            pause = seat.not_before - self._loop.time()
            if pause > PATIENT:
                raise Unavailable(f"{self.name} cannot be started now", pause)
            if len(self._talks) + sum(each.starting is not None for each in self._seats.values()) >= self.upstream.max_children:
                if (beside := self._beside(seat)) is not None:
                    return beside
                if not seat.failures and not seat.restarts:
                    self._seats.pop(seat.key, None)
                raise Unavailable(f"{self.name} serves as many as it may", RETRY)
            seat.starting = self._loop.create_task(self._start(seat, max(pause, 0.0)))
            seat.starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        starting = seat.starting
        await asyncio.wait({starting})  # who does not wait any more ends nothing for the others
        if starting.cancelled():
            raise Unavailable(f"{self.name} is being stopped")
        return starting.result()

    async def _start(self, seat: Seat, pause: float) -> Talk:
        try:
            await asyncio.sleep(pause)
            try:
                talk = await self._begun(seat, self._configured)
            except _Died as first:
                if (beside := self._beside(seat)) is not None:
                    self._other.add(seat.era)
                    return beside
                try:
                    talk = await self._begun(seat, other(seat.era))  # it cannot bear the question
                except Unavailable:
                    raise Unavailable(str(first)) from None
            self._server = talk.server
            if talk.server.era is not seat.era:
                self._other.add(seat.era)
                beside = await self._moved(seat)
                if beside is not None:
                    self._end(talk)
                    return beside
            seat.talk, seat.used = talk, self._loop.time()
            seat.restarts += 1
            self._restarts += seat.restarts > 1
            if not talk.child.alive:
                self._end(talk)
                raise Unavailable(talk.why)
        except Unavailable as why:
            seat.talk = None
            self._failed(seat, why.text)
            if (beside := self._beside(seat)) is not None:
                return beside  # it cannot run twice, perhaps
            self._other.clear()
            raise Unavailable(f"{self.name} cannot be started", max(0.0, seat.not_before - self._loop.time())) from None
        finally:
            seat.starting = None
        if seat.restarts > 1 or (self.upstream.mode == "shared" and self._beside(seat) is None):
            self.hearer.changed(self.name, available=True, client=seat.whose)
        self._look()
        return talk

    async def _moved(self, seat: Seat) -> Talk | None:
        """Its process speaks the other era: it becomes the seat of that, unless there is one (or will be)."""
        self._seats.pop(seat.key, None)
        beside = self._seats.get((seat.whom, other(seat.era)))
        if beside is not None and beside.starting is not None and beside.era not in self._other:
            await asyncio.wait({beside.starting})
        if (talk := self._beside(seat)) is not None:
            return talk
        seat.era = other(seat.era)
        if beside is not None:
            seat.uris, seat.level = {**beside.uris, **seat.uris}, seat.level or beside.level
        self._seats[seat.key] = seat
        return None

    async def _begun(self, seat: Seat, era: Era | None) -> Talk:
        talk = Talk(self, seat)
        try:
            await talk.begin(era)
        except BaseException as why:
            died, words = not talk.child.alive, talk.child.last_words
            if talk.child.pid:
                self._talks.add(talk)
                self._end(talk)
            if not isinstance(why, Unavailable):
                raise
            text = with_words(why.text, words)
            raise _Died(text) if died and era is None and talk.child.pid else Unavailable(text) from None
        self._talks.add(talk)
        return talk

    def _failed(self, seat: Seat, why: str) -> None:
        if not seat.failures or why != self._last_error:  # it is tried again and again
            self.chatter("warning", why)
        seat.failures = min(seat.failures + 1, len(PAUSES))
        seat.not_before = self._loop.time() + PAUSES[seat.failures - 1]
        self._last_error = why

    def ended(self, seat: Seat, talk: Talk, why: str) -> None:
        """Its process has ended, or was."""
        if seat.talk is not talk:
            return
        seat.talk = None
        self._end(talk)
        if self._stopped or self._seats.get(seat.key) is not seat:
            return
        if self._loop.time() - talk.began >= PROVEN:
            seat.failures = 0
        self._failed(seat, with_words(why, talk.child.last_words))
        if self.upstream.mode == "shared":
            self.hearer.changed(self.name, available=False)
        if self._warm or seat.uris:
            self._wake(seat)

    async def vacate(self, seat: Seat) -> None:
        """Nobody sits here any more."""
        if self._seats.get(seat.key) is seat:
            del self._seats[seat.key]
        if seat.starting is not None:
            seat.starting.cancel()
        talk, seat.talk = seat.talk, None
        if talk is not None:
            await asyncio.wait({self._end(talk)})

    def _end(self, talk: Talk) -> asyncio.Task[None]:
        if talk.ending is None:
            talk.ending = self.spawn(talk.child.end(self.upstream.stop_grace))
            talk.ending.add_done_callback(lambda _: self._talks.discard(talk))
        return talk.ending

    def _wake(self, seat: Seat) -> None:
        """Start it without being asked, and try until that works or nobody wants it any more."""
        if seat.waking is None or seat.waking.done():
            seat.waking = self.spawn(self._awake(seat))

    async def _awake(self, seat: Seat) -> None:
        while not self._stopped and self._seats.get(seat.key) is seat and seat.talk is None:
            await asyncio.sleep(max(0.0, seat.not_before - self._loop.time()))
            try:
                await self._started(seat)
            except Unavailable as why:
                await asyncio.sleep(max(0.1, min(why.retry_after, 1.0)))

    # -- idle ones --

    def _look(self) -> None:
        """End those that nobody used for `idle_stop`, now and again."""
        idle = self.upstream.idle_stop
        if self._stopped or idle is None or self._warm:
            return
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        before = self._loop.time() - idle
        for seat in tuple(self._seats.values()):
            if seat.talk is not None and seat.used <= before and not seat.talk.pipe.calls and not seat.uris:
                self.spawn(self.vacate(seat))
            elif seat.talk is None and seat.starting is None and not seat.uris and max(seat.used, seat.not_before) <= before:
                del self._seats[seat.key]
        if self._seats:
            self._looking = self._loop.call_later(min(LOOKS, idle / 2), self._look)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it beside."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def other(era: Era) -> Era:
    """There are two."""
    return Era.MODERN if era is Era.LEGACY else Era.LEGACY


def with_words(why: str, words: str) -> str:
    """And what the process said last: mostly that is the reason."""
    return f"{why}; its last words: {words}" if words else why


class _Died(Exception):
    """It ended while its era was asked for."""
