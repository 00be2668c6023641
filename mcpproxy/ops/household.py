"""Who lives in the gateway process: members, hubs before them, faces before those; and how another configuration takes the place of one.

   Web ──▶ Faces ──▶ Face ──▶ Post (stays) ──▶ Hub (made anew when anything about it changes) ──▶ Members (stay, unless their own table changed)

1. A face and its sessions live as long as their upstream is served: a reload gives them another hub, and tells them that lists may be others.
2. A member is stopped and made anew only when its own table changed. Several hubs may have the same one; each hears what it says.
3. What rules of a route let a caller do is told by the edge with each request, as the numbers of the rules that concern it (edge/plan.said_to_gateway):
   here nobody knows callers, roles or scopes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any

from msgspec import Raw, structs

from mcpproxy import __version__
from mcpproxy.clock import clock, monotonic
from mcpproxy.config.check_gateway import LINKS
from mcpproxy.config.gateway import Sessions, Watched, own_keys
from mcpproxy.config.model import Config, Upstream
from mcpproxy.config.secrets import secret
from mcpproxy.edge.plan import ROUTE_BITS
from mcpproxy.edge.questions import Questions
from mcpproxy.gateway.face import Face, Faces
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.guarded import GuardedMember
from mcpproxy.gateway.hub import Hub
from mcpproxy.gateway.listing import Sight
from mcpproxy.gateway.member_http import HttpMember
from mcpproxy.gateway.member_stdio import StdioMember
from mcpproxy.gateway.outgoing import Outgoing
from mcpproxy.gateway.parts import Answer, Call, Client, Hearer, Member, Server, Service
from mcpproxy.gateway.shelf import Offer
from mcpproxy.gateway.streams import Store
from mcpproxy.gateway.warden import Warden
from mcpproxy.gateway.web import Web
from mcpproxy.gateway.weight import Weight
from mcpproxy.mcp.call import Call as Asked
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Params
from mcpproxy.net.door import Door
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.timers import Ticker, Wheel
from mcpproxy.observe.messages import Messages
from mcpproxy.policy.tools import Rules, View
from mcpproxy.pooling import make_pool
from mcpproxy.staffing import Offices
from mcpproxy.upstream.pool import Pool

LISTS = ("notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed")
VIEWS = 4096  # kinds of callers remembered


def wanted(config: Config) -> bool:
    """Is there anything for a gateway process to do?"""
    return any(True for _ in served(config))


def served(config: Config) -> Iterator[str]:
    """Names of the upstreams that are asked through the gateway process: those with a route."""
    routed = {route.upstream for route in config.route}
    return (name for name, upstream in config.upstream.items() if upstream.gateway and name in routed)


def members_of(name: str, upstream: Upstream) -> tuple[str, ...]:
    """Who serves it: its members; without any it is the only one itself."""
    return upstream.members or (name,)


def own_table(upstream: Upstream) -> Upstream:
    """What about an upstream is a member's business: neither how workers reach us, nor sessions of clients, nor what its warden looks for."""
    plain = Upstream()
    apart = (*own_keys(Sessions), *own_keys(Watched), *(LINKS if upstream.command else ("bridge",)))
    return structs.replace(upstream, **{key: getattr(plain, key) for key in apart})


def offer_of(member: str, hub: Upstream) -> Offer:
    """What of a member a hub offers. A hub of one, which is its own member, offers all as it is."""
    return Offer.of(member, hub.member.get(member), hub.prefix) if hub.members else Offer()


class Ears(Hearer):
    """What one member says is heard by every hub that has it."""

    def __init__(self) -> None:
        self.hubs: list[Hub] = []

    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        """Told to all."""
        for hub in self.hubs:
            hub.heard(member, client, method, params)

    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        """By the hub whose client it is."""
        hub = next((hub for hub in self.hubs if client in hub.audience.joined), self.hubs[0])
        return await hub.asked(member, client, method, params)

    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        """Told to all."""
        for hub in self.hubs:
            hub.changed(member, available=available, client=client)


class Post(Service):
    """Where a face finds its hub, whichever that is now."""

    def __init__(self, name: str, hub: Hub) -> None:
        self.name, self.hub = name, hub
        self.clients: set[Client] = set()

    async def server(self, client: Client) -> Server:
        """See Service."""
        return await self.hub.server(client)

    async def ask(self, call: Call) -> Answer:
        """See Service."""
        return await self.hub.ask(call)

    async def tell(self, client: Client, method: str, params: bytes | None) -> None:
        """See Service."""
        await self.hub.tell(client, method, params)

    def join(self, client: Client) -> None:
        """See Service."""
        self.clients.add(client)
        self.hub.join(client)

    def leave(self, client: Client) -> None:
        """See Service."""
        self.clients.discard(client)
        self.hub.leave(client)

    def become(self, hub: Hub) -> None:
        """Another hub from now on. Nobody leaves the former one: processes that are a session's alone go on."""
        self.hub = hub
        for client in tuple(self.clients):
            hub.join(client)
            for method in LISTS:
                client.hears(method, None)


class Sights:
    """What the tool rules of routes let clients see."""

    def __init__(self, config: Config) -> None:
        self._rules = [Rules(route.tools, f"route[{n}]") if route.tools is not None else None for n, route in enumerate(config.route)]
        self._views: dict[int, Sight] = {}

    def of(self, client: Client) -> Sight | None:
        """None: everything."""
        index, bits = client.route & (1 << ROUTE_BITS) - 1, client.route >> ROUTE_BITS
        rules = self._rules[index] if 0 <= client.route and index < len(self._rules) else None
        if rules is None or rules.shadow:
            return None
        found = self._views.get(client.route)
        if found is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
            found = self._views[client.route] = sight(rules.seen_through(bits))
        return found


def sight(view: View) -> Sight:
    """A View as the hub asks it."""

    def sees(method: str, name: str, arguments: bytes | None) -> bool:
        if arguments is None:
            return view.shows(method, name)
        try:
            return view.judge(Asked(b"0", method, name, Raw(arguments))).allowed
        except CallError:
            return False

    return sees


class Household:
    """Made once."""

    def __init__(self, loop: EdgeLoop, messages: Messages, door: Door) -> None:
        self._loop, self._messages, self._door = loop, messages, door
        self._wheel = Wheel(clock.tick())
        self._ticker = Ticker(loop, self._wheel, [self._tick])
        self._questions = Questions(loop)
        self._config = Config(listen=())
        self._offices: Offices | None = None
        self._family: Family | None = None
        self._pools: dict[str, Pool] = {}
        self._members: dict[str, tuple[Upstream, GuardedMember, Ears]] = {}
        self._posts: dict[str, Post] = {}
        self._hubs: dict[str, object] = {}  # what each was made of
        self._store = Store()
        self._weight = Weight()
        self.faces = Faces({})
        self._web = Web(self._heard, door.secret.encode())
        self._web.sweeps.append(self.faces.sweep)
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._recovered: Counter[str] = Counter()
        self._began = monotonic()
        self._ending: set[asyncio.Task[None]] = set()

    # -- its life --

    async def open(self) -> None:
        """Calls may come: those that waited first."""
        self._ticker.start()
        await self._web.start(self._door.sock)

    async def become(self, config: Config) -> None:
        """What this configuration says. Raises StartError; then as much as could be had is there."""
        if self._family is None:
            self._family = Family()
        self._config = config
        names = list(served(config))
        needed = list(dict.fromkeys(member for name in names for member in members_of(name, config.upstream[name])))
        self._open_offices(config, needed)
        kept = {}
        for name in needed:
            table = own_table(config.upstream[name])
            known = self._members.pop(name, None)
            if known is not None and known[0] == table:
                kept[name] = known
            else:
                if known is not None:
                    self._end(known[1].stop())
                ears = Ears()
                warden = Warden(name, ears, self._messages.say)
                kept[name] = table, GuardedMember(self._member(name, config.upstream[name], warden), warden), ears
            kept[name][1].warden.become(config.upstream[name])
            if kept[name] is not known:
                await kept[name][1].start()
        gone, self._members = self._members, kept
        self._serve(config, names)
        for _, member, _ in gone.values():
            self._end(member.stop())
        for name in [name for name in self._pools if name not in needed or not config.upstream[name].urls]:
            self._pools.pop(name).retire()

    def _open_offices(self, config: Config, needed: list[str]) -> None:
        """Credentials for those that are asked by HTTP."""
        remote = {name: structs.replace(config.upstream[name], affinity="off") for name in needed if config.upstream[name].urls}
        offices = Offices(
            structs.replace(config, upstream=remote, auth={}, route=(), audit=None, otel=None), self._questions, self._messages
        )
        offices.open(self._offices)
        self._offices = offices

    def _member(self, name: str, upstream: Upstream, ears: Hearer) -> Member:
        assert self._family is not None and self._offices is not None
        if upstream.command:
            say, home = self._messages.say, os.path.expanduser(self._config.state_dir)
            with suppress(OSError):  # who starts it says that it is missing
                os.makedirs(home, 0o700, exist_ok=True)
            return StdioMember(name, upstream, ears, self._family, environ=os.environ, secret=secret, home=home, say=say)
        former = self._pools.pop(name, None)
        if former is not None:
            former.retire()
        pool = self._pools[name] = make_pool(name, upstream, self._loop, self._wheel, self._messages)
        outgoing = Outgoing(pool, self._questions, self._offices.outbounds.get(name), upstream.host)
        return HttpMember(name, outgoing, upstream, ears, self._messages.say)

    def _serve(self, config: Config, names: list[str]) -> None:
        sights = Sights(config)
        rules = [(route.upstream, route.tools) for route in config.route]
        for _, _, ears in self._members.values():
            ears.hubs.clear()
        made_of: dict[str, object] = {}
        posts, faces = {}, {}
        for name in names:
            upstream = config.upstream[name]
            members: list[tuple[Member, Offer]] = [
                (self._members[each][1], offer_of(each, upstream)) for each in members_of(name, upstream)
            ]
            made_of[name] = members, structs.replace(upstream, **dict.fromkeys(LINKS)), rules
            post = self._posts.get(name)
            if post is None or self._hubs[name] != made_of[name]:
                hub = self._hub(name, upstream, members, sights)
                if post is None:
                    post = Post(name, hub)
                else:
                    former = post.hub
                    post.become(hub)
                    self._end(former.stop())
            posts[name] = post
            for each in members_of(name, upstream):
                self._members[each][2].hubs.append(post.hub)
            face = self.faces.of.get(name)
            if face is None:
                face = Face(post, self._store, weight=self._weight, done=self._done, broken=self._broken)
            face.sessions.ttl, face.sessions.limit = upstream.session_ttl, upstream.max_sessions
            faces[name] = face
        for name, face in self.faces.of.items():
            if name not in faces:
                face.stop()
        self._hubs, self._posts = made_of, posts
        self.faces.of = faces

    def _hub(self, name: str, upstream: Upstream, members: list[tuple[Member, Offer]], sights: Sights) -> Hub:
        return Hub(
            name,
            members,
            version=__version__,
            sight=sights.of,
            search=upstream.expose == "search",
            limit=upstream.name_length,
            deadline=upstream.deadline,
            keep=upstream.cache,
            key=hashlib.sha512(f"{self._door.secret} {name}".encode()).digest(),
            say=self._messages.say,
        )

    def drain(self) -> None:
        """Streams that belong to no call end; calls go on."""
        for face in self.faces.of.values():
            face.drain()

    async def stop(self) -> None:
        """No child is left, and no connection."""
        for face in self.faces.of.values():
            face.stop()
        self._web.stop()
        await asyncio.gather(*(member.stop() for _, member, _ in self._members.values()), *self._ending, return_exceptions=True)
        self._ticker.stop()
        for pool in self._pools.values():
            pool.retire()

    def _end(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(what)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # -- what happens --

    def _heard(self, visit: Any, asked: Any) -> None:
        self.faces.heard(visit, asked)

    def _done(self, call: Call, answer: Answer) -> None:
        member = call.labels.get("member", "")
        self._calls[member] += 1
        self._errors[member] += answer.error is not None
        self._recovered[member] += answer.recovered

    def _broken(self, error: BaseException) -> None:
        self._loop.broken("a service raised", None, error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _tick(self, now: float) -> None:
        for pool in self._pools.values():
            pool.tick(now)
        if self._offices is not None:
            self._offices.tick(now)
        for _, member, _ in self._members.values():
            member.warden.tick()

    def checked(self, said: list[dict[str, Any]]) -> None:
        """What health checks found (`control/checks`)."""
        for row in said:
            pool = self._pools.get(row["upstream"])
            if pool is not None:
                with suppress(ValueError):
                    pool.group.set_checked(row["endpoint"], row["up"], row["why"])

    # -- for operators --

    @property
    def calls(self) -> int:
        """Requests of workers that are not answered to their end."""
        return sum(visit.busy for visit in self._web.visits)

    def state(self) -> dict[str, Any]:
        """Members and upstreams, as things stand."""
        return {
            "pid": os.getpid(),
            "uptime_s": round(monotonic() - self._began),
            "members": {name: self._state_of(name, member.state()) for name, (_, member, _) in self._members.items()},
            "upstreams": {
                name: {
                    "members": list(members_of(name, self._config.upstream[name])),
                    "sessions": len(face.sessions.table),
                    "streams": sum(session.stream.visit is not None for session in face.sessions.table.values()) + len(face.listens),
                }
                for name, face in self.faces.of.items()
            },
        }

    async def catalogue(self, name: str) -> dict[str, dict[str, Any]]:
        """What a server says that it has, whatever is approved of it. Raises LookupError, Unavailable."""
        return await self._members[name][1].catalogue()

    def _state_of(self, name: str, state: Mapping[str, object]) -> dict[str, object]:
        counted = {"calls": self._calls[name], "errors": self._errors[name], "recovered": self._recovered[name]}
        return {**state, "open": state.get("calls", 0), **counted}
