"""A configuration in the place of another one, while connections, exchanges and streams go on (docs/decisions/0015).

    change = prepare(runtime, config)     everything that can fail; nothing of what serves is touched
    change.commit()                       cannot fail; from now on the new one counts            or   change.abort()

In two steps, so that of several processes none has the new configuration unless all can have it.

 1. A connection stays. It asks its shelf for a plan at each request, and the shelf has another judge then and has forgotten everything: the next request
    is judged by the new configuration. Nothing is asked or compared per request for that.
 2. An exchange ends as it began: its plan holds its route, its pool, its guard. When the last exchange of a configuration is over, nothing of it is left.
 3. What is configured as before stays the very same object: pools with their links and queues, key sets, tokens, limits and what is held of them.
 4. A pool that is configured differently, or no more, serves who has it and closes each link that is given back.
 5. Keys that were revoked, certificates and secrets in files count at once, also where the configuration is equal.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from msgspec import structs

from mcpproxy.assemble import (
    Leaving,
    Runtime,
    forget,
    listen_names,
    make_front,
    make_listener,
    part,
    room_of,
    tls_context,
    url,
    when_full,
)
from mcpproxy.clock import monotonic
from mcpproxy.config import check
from mcpproxy.config.kinds import Auto
from mcpproxy.config.model import Config, Upstream
from mcpproxy.edge.downstream import Front
from mcpproxy.errors import StartError
from mcpproxy.net.listener import Address, Listener, bind
from mcpproxy.net.tls import take_over
from mcpproxy.observe.audit import AuditLog
from mcpproxy.observe.sinks import Sink
from mcpproxy.pooling import make_context, make_pool
from mcpproxy.staffing import Offices
from mcpproxy.upstream.pool import Pool

AT_START = "takes a restart, or the new program in its place (SIGUSR2)"
ABORT_S = 1.0  # seconds for a log that was opened in vain to end


def fixed(before: Config, config: Config) -> list[str]:
    """What of the difference cannot be had while it runs, in words."""
    said = []
    if config.workers != before.workers:
        said.append(f"workers: another number of processes {AT_START}")
    if config.state_dir != before.state_dir:
        said.append(f"state_dir: another directory {AT_START}")
    if (config.user, config.group) != (before.user, before.group):
        said.append(f"user, group: somebody else serves {AT_START}")
    if before.audit is not None and config.audit != before.audit:
        said.append(f"audit: to end the audit log, or to keep it differently, {AT_START}")
    return said


def prepare(runtime: Runtime, config: Config, sockets: Mapping[str, list[socket.socket]] | None = None) -> Change:
    """Everything that can fail. `sockets`: of new listeners (`listen_names`), one for each worker, where somebody bound them for us. Raises StartError."""
    if runtime.draining.is_set:
        raise StartError("it is ending: no configuration is loaded any more")
    if isinstance(config.workers, Auto):  # there are as many as there are
        config = structs.replace(config, workers=Auto(runtime.config.workers))
        if few := [str(finding.located({})) for finding in check.several(config)]:
            raise StartError("; ".join(few))
    if runtime.shared is not None:
        config = part(config, runtime.shared.workers)
    if said := fixed(runtime.config, config):
        raise StartError("; ".join(said))
    with ExitStack() as undo:
        contexts = [tls_context(listen, config) for listen in config.listen]
        change = Change(runtime, config, contexts)
        if config != runtime.config:
            change.make(sockets, undo)
        change.undo = undo.pop_all()
    return change


class Change:
    """A configuration that can be had."""

    def __init__(self, runtime: Runtime, config: Config, contexts: list[ssl.SSLContext | None]) -> None:
        self.runtime, self.config, self.contexts = runtime, config, contexts
        self.fresh: Runtime | None = None  # None: it is equal, but for what is in files
        self.sink = runtime.sink
        self.undo = ExitStack()
        self.listeners: dict[str, tuple[Listener, dict[int, Listener]]] = {}  # the new ones, by name
        upstreams = config.upstream.items()
        self.files = {name: make_context(each) for name, each in upstreams if each.ca is not None or each.cert is not None}

    def make(self, sockets: Mapping[str, list[socket.socket]] | None, undo: ExitStack) -> None:
        """The parts that differ. What is not used in the end is undone."""
        runtime, config = self.runtime, self.config
        if config.log.access != runtime.config.log.access:
            turns = runtime.shared.turns if runtime.shared is not None else None
            self.sink = None if config.log.access == "off" else Sink(config.log.access, turns)
            if self.sink is not None:
                undo.callback(self.sink.retire)
        pools = {name: self._pool(name, upstream) for name, upstream in config.upstream.items()}
        audit = runtime.offices.audit
        if audit is None and config.audit is not None:
            audit = AuditLog(config.audit, config.state_dir, runtime.messages.say, alone=False)
            undo.callback(audit.close, ABORT_S)
        offices = Offices(config, runtime.questions, runtime.messages, audit, looked=runtime.offices.looked)
        offices.forget = partial(forget, runtime)
        offices.open(runtime.offices)
        fresh = replace(runtime, config=config, pools=pools, offices=offices, staffs=offices.staff(), room=room_of(config))
        fresh.fronts = [make_front(number, fresh, context) for number, context in enumerate(self.contexts)]
        known = listen_names(runtime.config)
        for (name, listen), front in zip(listen_names(config).items(), fresh.fronts, strict=True):
            if name not in known:
                own = sockets[name] if sockets is not None else [bind(Address.parse(listen.address))]
                self.listeners[name] = made = make_listener(name, front, own, runtime)
                for each in (made[0], *made[1].values()):
                    undo.callback(each.stop)
        self.fresh = fresh

    def _pool(self, name: str, upstream: Upstream) -> Pool:
        runtime = self.runtime
        before = runtime.config.upstream.get(name)
        if before is not None and _same_links(before, upstream):
            return runtime.pools[name]
        door = None if runtime.shared is None else runtime.shared.gateway
        return make_pool(name, upstream, runtime.loop, runtime.wheel, runtime.messages, door)

    def abort(self) -> None:
        """It is not wanted after all."""
        self.undo.close()

    def commit(self) -> None:
        """From now on this one counts."""
        self.undo.pop_all()
        runtime, fresh = self.runtime, self.fresh
        if fresh is not None:
            self._listeners(fresh)
            self._parts(fresh)
        else:
            for front, context in zip(runtime.fronts, self.contexts, strict=True):
                front.recertify(take_over(front.context, context))
        for name, context in self.files.items():
            for endpoint in runtime.pools[name].endpoints:
                if endpoint.tls is not None:
                    endpoint.tls = context
        runtime.offices.look_now()

    def _listeners(self, fresh: Runtime) -> None:
        """Listeners that stay become what they are to be; others end, and begin."""
        runtime = self.runtime
        before = {each.name: (each, front) for each, front in zip(runtime.listeners, runtime.fronts, strict=True)}
        spares = {(worker, each.name): each for worker, ours in runtime.spares.items() for each in ours}
        listeners: list[Listener] = []
        fronts: list[Front] = []
        runtime.spares.clear()
        for name, made in zip(listen_names(self.config), fresh.fronts, strict=True):
            if name in before:
                listener, front = before.pop(name)
                made.context = take_over(front.context, made.context)
                front.become(made)
                others = {worker: each for (worker, of), each in spares.items() if of == name}
            else:
                (listener, others), front = self.listeners[name], made
                listener.start()
            for worker, each in others.items():
                each.full = when_full(front)
                runtime.spares.setdefault(worker, []).append(each)
            listener.full = when_full(front)
            listeners.append(listener)
            fronts.append(front)
        now = monotonic()
        for name, (listener, front) in before.items():
            for each in (listener, *(each for (_, of), each in spares.items() if of == name)):
                each.last_call()
                each.stop()
            front.leave()
            runtime.leaving.append(Leaving(front, now, now + self.config.drain))
        runtime.listeners, runtime.fronts = listeners, fronts
        runtime.urls = [url(each.address, secure=front.context is not None) for each, front in zip(listeners, fronts, strict=True)]

    def _parts(self, fresh: Runtime) -> None:
        """What is behind the listeners."""
        runtime = self.runtime
        for name, pool in runtime.pools.items():
            if (other := fresh.pools.get(name)) is not pool:
                if other is not None:
                    other.group.adopt(pool.group, checked=self.config.upstream[name].health is not None)
                pool.retire()
                runtime.retired.add(pool)
        if self.sink is not runtime.sink:
            runtime.log.go_on_in(self.sink)
            if runtime.sink is not None:
                runtime.sink.retire()
            runtime.sink = self.sink
        runtime.messages.least(self.config.log.level)
        runtime.config, runtime.pools, runtime.room = fresh.config, fresh.pools, fresh.room
        runtime.offices, runtime.staffs = fresh.offices, fresh.staffs


def _same_links(one: Upstream, other: Upstream) -> bool:
    """Is the pool the same? What is said over its links is no business of it."""
    words = {"host": "upstream", "credential": None, "identity": None, "principal_header": None, "cookies": False}
    return structs.replace(one, **words) == structs.replace(other, **words)
