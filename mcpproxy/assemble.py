"""Config → Runtime. The only file that knows every room; it is one file because what is put together here is put together in one order."""

from __future__ import annotations

import os
import resource
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from weakref import WeakSet

from msgspec import structs

from mcpproxy.clock import clock, monotonic
from mcpproxy.config.check_gateway import LINKS
from mcpproxy.config.model import CertificateFiles, Config, Listen, Tls, Upstream
from mcpproxy.edge.admission import Admission, Staff
from mcpproxy.edge.affinity import Affinity
from mcpproxy.edge.doorstep import Doorstep
from mcpproxy.edge.downstream import DRAIN_GRACE_S, Downstream, Draining, Front
from mcpproxy.edge.multiplex import Multiplex
from mcpproxy.edge.plan import Judge, LiveRoute, Variants
from mcpproxy.edge.questions import Questions
from mcpproxy.edge.router import Router
from mcpproxy.edge.shelf import Shelves
from mcpproxy.http import replies
from mcpproxy.http.forward import Dress
from mcpproxy.http.h2 import Connection
from mcpproxy.http.head import HeadLimits
from mcpproxy.http.lane import Lane
from mcpproxy.net.door import Door, make_door
from mcpproxy.net.listener import Address, Listener, bind, bind_all
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.pages import Heap
from mcpproxy.net.passed import Passed
from mcpproxy.net.timers import TICK, Ticker, Wheel
from mcpproxy.net.tls import Clients, Identity, ServerContext, server_context
from mcpproxy.observe.accesslog import AccessLog, Place
from mcpproxy.observe.audit import AuditLog
from mcpproxy.observe.messages import Messages
from mcpproxy.observe.sinks import Sink, new_turns
from mcpproxy.pki import acme_files, devca, selfmade
from mcpproxy.policy.buckets import Buckets
from mcpproxy.policy.headers import dress
from mcpproxy.policy.network import Networks
from mcpproxy.policy.present import ours
from mcpproxy.pooling import GATEWAY, make_pool
from mcpproxy.staffing import Offices, has_affinity
from mcpproxy.upstream.pool import Pool

PROTOCOLS = ("h2", "http/1.1")
RESERVED_DESCRIPTORS = 64  # log files, listeners, the loop itself, a resolver or two
GATEWAY_BACKLOG = 4096  # calls that wait while the gateway process is replaced
DESCRIPTORS_PER_EXCHANGE = 2  # a client and its server


@dataclass(slots=True)
class Shared:
    """What several workers have in common, made before the first of them is forked (docs/decisions/0014): listening sockets, so that no connection is lost
    with a worker; TLS contexts, so that each takes the others' session tickets; limits; and the turns at writing the log."""

    workers: int
    sockets: list[list[socket.socket]]  # of each listener, one for each worker
    contexts: list[ssl.SSLContext | None]  # of each listener
    urls: list[str]
    buckets: Buckets
    turns: int | None  # None: there is nobody else
    passed: set[str] = field(default_factory=set)  # paths of unix sockets that systemd made and keeps
    alone: bool = True  # no worker of this daemon, nor of one that it takes over from, has begun to serve yet
    worker: int = 0  # who we are; set after the fork
    unwanted: list[socket.socket] = field(default_factory=list)  # that another program left, and this configuration does not name
    states: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  # what operators made of endpoints (upstream, label), for workers to begin with
    gateway: Door = field(default_factory=lambda: make_door(GATEWAY_BACKLOG))  # to the gateway process, whether there is one or not
    lent: bool = False  # the addresses are another program's, too, which may go on with them: no path is taken away

    def paths(self) -> list[str]:
        """Of the unix sockets that are ours."""
        found = [sockets[0].getsockname() for sockets in self.sockets if sockets[0].family == socket.AF_UNIX]
        return [path for path in found if path not in self.passed]

    def let_go(self) -> None:
        """This process does not listen; the others do."""
        for sockets in self.sockets:
            for sock in sockets:
                sock.close()

    def want_none(self) -> None:
        """Close what is unwanted, and leave its place to whoever else has it."""
        for sock in self.unwanted:
            sock.close()
        self.unwanted = []

    def own(self) -> None:
        """We serve: the addresses are nobody else's from now on, and those that nobody wants any more are gone."""
        self.lent = False
        give_back(self.unwanted, self.passed)
        self.unwanted = []

    def close(self) -> None:
        """Give the addresses back, as far as this process has them."""
        if self.lent:
            self.let_go()
            self.want_none()
        for sockets in self.sockets:
            give_back(sockets, self.passed)
        self.gateway.sock.close()


def share(
    config: Config, passed: Passed | None = None, inherited: Mapping[str, list[socket.socket]] | None = None, kept: Iterable[str] = ()
) -> Shared:
    """Bind the addresses, unless their sockets were `passed` or `inherited` (by name of the listener), and read the
    certificates for `config.workers` processes. `kept`: paths of inherited sockets that systemd made. Raises StartError."""
    left = dict(inherited or {})
    shared = Shared(config.workers, [], [], [], Buckets(config.workers), new_turns() if config.workers > 1 else None)
    shared.passed.update(kept)
    shared.lent = inherited is not None
    try:
        for name, listen in listen_names(config).items():
            shared.contexts.append(tls_context(listen, config))
            asked = Address.parse(listen.address)
            given = passed.take(asked) if passed is not None else None
            there = left.pop(name, None) or ([given] if given is not None else bind_all(asked, config.workers))
            shared.sockets.append([there[number % len(there)] for number in range(config.workers)])
            for sock in set(there).difference(shared.sockets[-1]):
                sock.close()
            if given is not None:
                shared.passed.add(asked.path)
            shared.urls.append(url(Address.of(shared.sockets[-1][0]), secure=shared.contexts[-1] is not None))
        if passed is not None:
            passed.none_left()
    except BaseException:
        shared.close()
        raise
    shared.unwanted = [sock for there in left.values() for sock in there]
    return shared


def give_back(sockets: list[socket.socket], kept: Iterable[str] = ()) -> None:
    """Nobody listens there any more; `kept` are paths that somebody else takes away."""
    for sock in sockets:
        if sock.fileno() >= 0:
            path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
            sock.close()
            if path and path not in kept:
                with suppress(OSError):  # somebody tidied up already
                    os.unlink(path)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A listener that is no more, while it still has connections: what is left of them is ended at `until`. Monotonic seconds."""

    front: Front
    since: float
    until: float


@dataclass(slots=True)
class Runtime:
    """A configuration come to life: what `ops/worker` starts, drains and stops."""

    loop: EdgeLoop
    config: Config
    wheel: Wheel
    ticker: Ticker
    pools: dict[str, Pool]
    log: AccessLog
    messages: Messages
    sink: Sink | None
    draining: Draining
    links: set[Downstream | Multiplex | Doorstep]
    questions: Questions
    offices: Offices
    staffs: list[Staff] = field(default_factory=list)
    began: float = field(default_factory=monotonic)
    fronts: list[Front] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    shared: Shared | None = None  # with other workers
    spares: dict[int, list[Listener]] = field(default_factory=dict)  # the listeners of other workers, for as long as one of them is missing
    room: int = 0  # client connections at once
    retired: WeakSet[Pool] = field(default_factory=WeakSet)  # pools of configurations before this one, as long as an exchange has them
    leaving: list[Leaving] = field(default_factory=list)

    def tick(self, now: float) -> None:
        """The chores of what a reload may change."""
        for pool in (*self.pools.values(), *self.retired):
            pool.tick(now)
        self.offices.tick(now)
        for leaving in self.leaving[:]:
            mine = [link for link in self.links if link.front is leaving.front]
            for link in mine:
                if leaving.until <= now:
                    link.end_now()
                elif leaving.since + DRAIN_GRACE_S <= now:
                    link.drain()
            if not mine:
                self.leaving.remove(leaving)


def assemble(config: Config, loop: EdgeLoop, shared: Shared | None = None) -> Runtime:
    """Build everything and bind the addresses, unless they are `shared`; nothing is accepted yet. Raises StartError."""
    if shared is not None:
        config = part(config, shared.workers)
    wheel = Wheel(clock.tick())
    sink = None if config.log.access == "off" else Sink(config.log.access, shared.turns if shared is not None else None)
    log = AccessLog(sink)
    messages = Messages(config.log.level)
    door = None if shared is None else shared.gateway
    pools = {name: make_pool(name, upstream, loop, wheel, messages, door) for name, upstream in config.upstream.items()}
    questions = Questions(loop)
    audit = (
        AuditLog(config.audit, config.state_dir, messages.say, alone=shared is None or shared.alone) if config.audit is not None else None
    )
    offices = Offices(config, questions, messages, audit)
    if shared is not None:
        offices.buckets = shared.buckets
    offices.open()
    chores: list[Callable[[float], None]] = [Heap().tick, log.tick]
    ticker = Ticker(loop, wheel, chores)
    runtime = Runtime(loop, config, wheel, ticker, pools, log, messages, sink, Draining(), set(), questions, offices)
    chores.append(runtime.tick)
    runtime.shared = shared
    runtime.staffs = offices.staff()
    runtime.room = room_of(config)
    offices.forget = partial(forget, runtime)
    chores.append(partial(_look_at_certificates, runtime))
    try:
        for number, (name, listen) in enumerate(listen_names(config).items()):
            front = make_front(number, runtime, tls_context(listen, config) if shared is None else shared.contexts[number])
            sockets = [bind(Address.parse(listen.address))] if shared is None else shared.sockets[number]
            listener, spares = make_listener(name, front, sockets, runtime)
            runtime.fronts.append(front)
            runtime.listeners.append(listener)
            runtime.urls.append(url(listener.address, secure=front.context is not None))
            for worker, spare in spares.items():
                runtime.spares.setdefault(worker, []).append(spare)
    except BaseException:
        for listener in runtime.listeners:
            listener.stop()
        raise
    _look_at_certificates(runtime, monotonic())  # they may be newer than the contexts of our supervisor
    return runtime


def part(config: Config, workers: int) -> Config:
    """What one of `workers` may have of that which is configured for all of them together; what the gateway process does is its own business."""
    upstream = {
        name: structs.replace(
            as_seen_here(each),
            keepalive=ceil(each.keepalive / workers),
            max_connections=each.max_connections // workers,  # never more than the server is meant to have
            queue=ceil(each.queue / workers),
            endpoints={
                url: structs.replace(one, max_connections=one.max_connections and one.max_connections // workers)
                for url, one in each.endpoints.items()
            },
        )
        for name, each in config.upstream.items()
    }
    limits = structs.replace(config.limits, connections=ceil(config.limits.connections / workers))
    return structs.replace(config, upstream=upstream, limits=limits)


def as_seen_here(upstream: Upstream) -> Upstream:
    """An upstream of the gateway process is but the links to that: whatever else changes about it, the links and who uses them stay."""
    if not upstream.gateway:
        return upstream
    return Upstream(members=(GATEWAY,), **{key: getattr(upstream, key) for key in LINKS})


def listen_names(config: Config) -> dict[str, Listen]:
    """The listeners, by what another configuration knows them again by: their address, and the how manieth of that address it is (port 0 may be there
    several times)."""
    found: dict[str, Listen] = {}
    for listen in config.listen:
        number = 0
        while (name := f"{listen.address} {number}") in found:
            number += 1
        found[name] = listen
    return found


def make_front(number: int, runtime: Runtime, context: ssl.SSLContext | None) -> Front:
    """What the connections of one listener share."""
    config = runtime.config
    listen = config.listen[number]
    secure = context is not None
    networks = Networks([(route.allow_from, route.deny_from) for route in config.route], listen.trusted_proxies)
    routes = tuple(_route(index, networks, secure, runtime) for index in range(len(config.route)))
    limits = config.limits
    heads = max((len(live.pool.authorities) for live in routes), default=1)  # that a plan holds: one for each address of its upstream
    judge = Judge(
        router=Router(config.route),
        routes=routes,
        limits=HeadLimits(head=limits.head, target=limits.target, fields=limits.fields),
        scheme=b"https" if secure else b"http",
        variants=Variants(limits.plans, limits.plan_bytes),
        documents=runtime.offices.identity,
        health=config.health.encode() if config.health else None,
        redirect=listen.redirect == "https",
        redirect_port=_https_port(config),
        challenges=_challenges(config),
        certified=frozenset(
            name.encode() for each in config.listen if isinstance(each.tls, Tls) for names in each.tls.host_sets for name in names
        ),
    )
    return Front(
        loop=runtime.loop,
        wheel=runtime.wheel,
        judge=judge,
        shelves=Shelves(judge, limits.plans, limits.plan_bytes, heads),
        log=runtime.log,
        limits=limits,
        draining=Draining(),
        questions=runtime.questions,
        networks=networks,
        context=context,
        alpn=acme_files.Pending(config.state_dir) if isinstance(listen.tls, Tls) and listen.tls.host_sets else None,
        counts=any(not staff.idle for staff in runtime.staffs),
        proxy_line=listen.proxy_protocol,
        asks_certificates=isinstance(listen.tls, Tls) and listen.tls.client_ca is not None,
        links=runtime.links,
        id_prefix=secrets.token_hex(4).encode() + b"-",
        patience=_patience(config),
        h2=(Lane if listen.h2_lane else Connection) if listen.h2 else None,
        mcp=all(route.mcp for route in config.route),
    )


def make_listener(name: str, front: Front, sockets: list[socket.socket], runtime: Runtime) -> tuple[Listener, dict[int, Listener]]:
    """A listener for `front`, not accepting yet; and by the numbers of other workers those of `sockets` that are theirs."""
    shared, links = runtime.shared, runtime.links

    def listener(sock: socket.socket) -> Listener:
        return Listener(
            runtime.loop, sock, front.greet, lambda: len(links) < runtime.room, when_full(front), owner=shared is None, name=name
        )

    own = sockets[shared.worker if shared is not None else 0]
    return listener(own), {worker: listener(sock) for worker, sock in enumerate(sockets) if sock is not own}


def when_full(front: Front) -> bytes:
    """What a client is told for whom there is no room."""
    return b"" if front.context is not None else replies.reply(503, "too-many-connections", jsonrpc=False, close=True, retry_after=1)


def room_of(config: Config) -> int:
    """How many client connections there may be."""
    return connection_room(config.limits.connections, sum(upstream.keepalive for upstream in config.upstream.values()))


def url(address: Address, *, secure: bool) -> str:
    """How clients write it."""
    return str(address) if address.path else f"{'https' if secure else 'http'}://{address}"


def _route(index: int, networks: Networks, secure: bool, runtime: Runtime) -> LiveRoute:
    config = runtime.config
    route = config.route[index]
    upstream = config.upstream[route.upstream]
    own, call = dress(route, secure), b""
    if upstream.gateway and runtime.shared is not None:
        call = b"Mcpproxy-Call: %b;%b;" % (runtime.shared.gateway.secret.encode(), route.upstream.encode())
        own = (own or Dress())._replace(gateway=True)
    staff = replace(runtime.staffs[index], dress=own, scheme="https" if secure else "http")
    pool, keys = runtime.pools[route.upstream], runtime.offices.seals
    affinity = Affinity(pool, keys, config.affinity.ttl) if keys is not None and route.mcp and has_affinity(upstream) else None
    place = Place(route.label, route.upstream)
    live = LiveRoute(route, pool, upstream.host, place, affinity=affinity, dress=staff.dress, auths=staff.auths, call=call, index=index)
    if staff.idle and networks.idle and not (route.allow_hosts or route.allow_origins or ours(upstream)):
        return live
    return replace(live, admission=Admission(index, route, upstream, networks, staff))


def _look_at_certificates(runtime: Runtime, now: float) -> None:
    """Files that were replaced are taken; one of several workers tells of it. Challenges that came are answered from now on."""
    for front in runtime.fronts:
        if front.alpn is not None:
            front.alpn.look()
        if isinstance(front.context, ServerContext):
            for level, text in front.context.look(now):
                if runtime.shared is None or runtime.shared.worker == 0:
                    runtime.messages.say(level, text)


def forget(runtime: Runtime) -> None:
    """Every judgement made so far."""
    for front in runtime.fronts:
        front.shelves.clear()


def tls_context(listen: Listen, config: Config) -> ssl.SSLContext | None:
    """The listener's TLS context, or None for a plain listener. Makes the development certificate if that is asked for."""
    tls = listen.tls
    if tls is None:
        return None
    if isinstance(tls, str) or not tls.identities:  # "dev", or names for a certificate of the local development authority
        made = devca.ensure(config.state_dir, () if isinstance(tls, str) else tls.hosts)
        pairs = [Identity(str(made[0]), str(made[1]))]
    else:
        pairs = [_identity(each, config.state_dir) for each in tls.identities]
    protocols = PROTOCOLS if listen.h2 else PROTOCOLS[1:]
    if isinstance(tls, str):
        return server_context(pairs, "1.2", protocols)
    clients = None if tls.client_ca is None else Clients(tls.client_ca, tls.client_cert == "required")
    return server_context(pairs, tls.min_version, protocols, clients)


def _identity(given: CertificateFiles, state_dir: str) -> Identity:
    if given.cert and given.key:
        return Identity(given.cert, given.key)
    place = acme_files.Place.of(state_dir, given.hosts)
    return Identity(place.pair, place.pair, selfmade.ensure(place, given.hosts))


def connection_room(configured: int, idle: int) -> int:
    """How many client connections fit into the descriptors we may have (the soft limit is raised to the hard one first).

    `idle` links of the pools are open beside those that clients have in use.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fits = max(8, (hard - RESERVED_DESCRIPTORS - idle) // DESCRIPTORS_PER_EXCHANGE)
    return min(configured, fits) if configured else fits


def _patience(config: Config) -> float:
    """A quarter of the shortest timeout that is not armed on its own: so none is late by more than a quarter of itself (or one tick)."""
    waits = [config.limits.keepalive, config.limits.body_stall]
    waits += [upstream.response_timeout for upstream in config.upstream.values()]
    for route in config.route:
        waits.append(route.idle_timeout)
        if route.sse_keepalive:
            waits.append(route.sse_keepalive)
    return max(TICK, min(waits) / 4)


def _challenges(config: Config) -> Callable[[bytes], bytes | None] | None:
    """What an authority may ask for by HTTP, on every listener: it follows redirects."""
    if any(isinstance(listen.tls, Tls) and listen.tls.host_sets for listen in config.listen):
        return partial(acme_files.key_authorization, config.state_dir)
    return None


def _https_port(config: Config) -> int:
    """Where a redirect sends clients: the first TLS listener's port."""
    for listen in config.listen:
        if listen.tls is not None and not listen.address.startswith("unix:"):
            return Address.parse(listen.address).port
    return 443
