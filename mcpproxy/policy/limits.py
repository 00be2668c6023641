"""HOT: may this be asked for just now? Rates, daily quotas and what may go on at once.

    Gate (one per route)  ──▶  Check (one per limit)  ──▶  Slot (one per caller, remembered)  ──▶  an entry of `buckets`

`compile_gates` reads the configuration once; `Gate.admit` asks all checks of its route, and only when all agree takes from all: what is refused has cost
nothing. `now` is Unix seconds, read for this very question: the ticks of the coarse clock would make 5/s of a caller 2/s, and the begin of an exchange
may lie long before the end of its body.

The rate is GCRA. `full` is the moment when the bucket will be full again; each request moves it `interval` (period / count) on, from now or from where it
was, and one that would find it further ahead than `room` (burst × interval) has to wait. So `burst + 1` may come at once, and in any s seconds at most
burst + 1 + s / interval. A double tells such times to 0.24 µs (GRAIN). Clocks that step back: a moment further ahead than
a whole bucket (and SLACK) can only be one of another time, and is taken for an empty bucket; a day that is over and comes again starts anew.

One file because check, gate and answer are one story. What is told follows draft-ietf-httpapi-ratelimit-headers-11 (May 2026, the current one):
`RateLimit-Policy` tells all policies of the route, `RateLimit` those that matter; names are `calls/rate`, `calls/daily`, `calls/concurrent` for
`[limit.calls]`, and `rate` for `route.rate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Network, ip_address
from math import ceil

from mcpproxy.config.model import Config, Route
from mcpproxy.config.policies import Limit
from mcpproxy.http import replies
from mcpproxy.mcp.call import Call
from mcpproxy.policy.buckets import ADDRESSES, COUNT, COUNT_BITS, DAY, NAMED, NO_ROOM, TOOLS, Buckets, Slot
from mcpproxy.policy.verdict import Principal
from mcpproxy.units import Rate

SLACK = 60.0  # seconds; `now` of two workers may differ by what lies between reading the clock and having the lock, and must not look like a step
GRAIN = 2.4e-7  # seconds; neighbouring doubles of our times. A burst adds up so many roundings, none of which may cost its last request
SLOTS = 4096  # remembered per check and generation, so that a caller is hashed once
LONG_NAME = 256  # characters of a tool's name; longer ones are hashed each time instead of remembered
PROBES = Limit(per=("address",), rate=Rate(10, 1.0, burst=600))  # of what is exempt: an office full of clients may restart at once

Who = str | bytes | tuple[object, ...]


class Denied:
    """Not now. `retry_after`, `reset`: whole seconds."""

    __slots__ = ("kind", "limit", "name", "policy", "remaining", "retry_after", "status")

    def __init__(self, kind: str, name: str, limit: int, remaining: int, retry_after: int, policy: bytes) -> None:
        self.kind = kind  # slug of http/replies
        self.name = name  # of the limit that asks for the longest wait: "calls/rate"
        self.limit = limit  # what it allows
        self.remaining = remaining  # what it would still allow: less than was asked for
        self.retry_after = retry_after
        self.policy = policy  # RateLimit-Policy
        self.status = 503 if kind in ("too-many-probes", "limits-full") else 429

    @property
    def reset(self) -> int:
        """When there will be more: the draft's effective window ends when it may be tried again."""
        return self.retry_after


class Held:
    """What an admitted request holds as long as it goes on. Whoever got it calls `leave` at its end; a second time does nothing."""

    __slots__ = ("_buckets", "_entries")

    def __init__(self, buckets: Buckets, entries: list[tuple[int, int]]) -> None:
        self._buckets = buckets
        self._entries = entries

    def leave(self) -> None:
        """It is over."""
        entries, self._entries = self._entries, []
        for index, count in entries:
            self._buckets.hold(index, -count)


class Check:
    """One limit on one route."""

    __slots__ = (
        *("concurrent", "count", "daily", "interval", "name", "period", "room", "whole"),
        *("by_address", "by_principal", "by_tool", "fresh"),
        *("_buckets", "_full", "_label", "_older", "_used"),
    )

    def __init__(self, buckets: Buckets, name: str, limit: Limit, label: tuple[object, ...]) -> None:
        rate = limit.rate
        self.name = name
        self.count, self.period = (rate.count, rate.period) if rate else (0, 0.0)
        self.interval = rate.period / rate.count if rate else 0.0  # seconds per request; 0: no rate
        self.room = rate.burst * self.interval + min((rate.burst + 1) * GRAIN, self.interval / 2) if rate else 0.0
        self.whole = self.room + self.interval
        self.daily = limit.daily or 0
        self.concurrent = limit.concurrent or 0
        self.by_address, self.by_principal, self.by_tool = (part in limit.per for part in ("address", "principal", "tool"))
        self.fresh: dict[Who, Slot] = {}
        self._older: dict[Who, Slot] = {}
        self._buckets, self._full, self._used = buckets, buckets.full, buckets.used
        self._label = label
        buckets.horizon = max(buckets.horizon, self.whole + SLACK)

    def slot(self, address: bytes, principal: str, tool: str | None) -> Slot | None:
        """Where it is counted for these. None: a limit of tools does not count what calls none."""
        who: Who = address if self.by_address else ""
        if self.by_principal:
            who = (principal, address) if self.by_address and principal else principal or address
        if self.by_tool:
            if tool is None:
                return None
            who = (who, tool)
        return self.fresh.get(who) or self.remember(who)

    def remember(self, who: Who) -> Slot:
        """The slot of somebody who is not fresh in memory. Two generations: callers in use stay, a flood washes through."""
        found = self._older.pop(who, None)
        if found is None:
            caller = who[0] if self.by_tool else who  # bytes: an address; text: a name, or "" for all; a pair: both
            region = (TOOLS if self.by_tool else NAMED) if isinstance(caller, str) else ADDRESSES
            found = self._buckets.slot(region, repr((self._label, who)).encode())
            if self.by_tool and len(str(who[1])) > LONG_NAME:
                return found
        if len(self.fresh) >= SLOTS:
            self._older = dict(self.fresh)
            self.fresh.clear()
        self.fresh[who] = found
        return found

    def fits(self, index: int, now: float, day: int, cost: int) -> bool:
        """Would `cost` more be admitted? `day` is that of `now`."""
        if self.interval:
            ahead = self._full[index] - now
            if (ahead if ahead > 0.0 else 0.0) + (cost - 1) * self.interval > self.room:
                return False
        if self.daily:
            used = self._used[index]
            if (used & COUNT if 0 <= (used >> COUNT_BITS) - day <= 1 else 0) + cost > self.daily:
                return False
        return not self.concurrent or self._buckets.holding(index) + cost <= self.concurrent

    def take(self, index: int, now: float, day: int, cost: int) -> None:
        """It is admitted."""
        if self.interval:
            full = self._full[index]
            self._full[index] = (full if full > now else now) + cost * self.interval
        if self.daily:
            used = self._used[index]  # another worker may see the next day a moment before us
            self._used[index] = (used if 0 <= (used >> COUNT_BITS) - day <= 1 else day << COUNT_BITS) + cost
        if self.concurrent:
            self._buckets.hold(index, cost)

    def give_back(self, index: int, cost: int) -> None:
        """Of a rate: it shall not have been asked for."""
        self._full[index] = max(self._full[index] - cost * self.interval, 0.0)

    def wait(self, index: int, now: float, day: int, cost: int) -> tuple[float, str]:
        """How long until `cost` more would be admitted, and by which key of the limit; 0.0: now. An impossible cost waits until the bucket is full."""
        wait, key = 0.0, ""
        if self.interval:
            full = self._full[index]
            if full - now > self.whole + SLACK:  # the clock stepped back
                full = self._full[index] = now + self.whole
            late = max(full - now, 0.0) + (cost - 1) * self.interval - self.room
            if late > 0.0:
                wait, key = min(late, max(full - now, self.interval)), "rate"
        if self.daily and self._count(index, day) + cost > self.daily:
            wait, key = max(wait, (day + 1) * DAY - now), "daily"
        if self.concurrent and self._buckets.holding(index) + cost > self.concurrent and wait < 1.0:
            wait, key = 1.0, "concurrent"  # nobody knows; soon
        return wait, key

    def _count(self, index: int, day: int) -> int:
        used = self._used[index]
        return used & COUNT if 0 <= (used >> COUNT_BITS) - day <= 1 else 0

    def policies(self) -> list[str]:
        """Items of RateLimit-Policy."""
        items = []
        if self.interval:
            items.append(f'"{self.told("rate")}";q={self.count};w={ceil(self.period)}')
        if self.daily:
            items.append(f'"{self.told("daily")}";q={self.daily};w={int(DAY)}')
        if self.concurrent:
            items.append(f'"{self.told("concurrent")}";q={self.concurrent};qu="concurrent-requests"')
        return items

    def told(self, key: str) -> str:
        """The name of the limit by one of its keys."""
        return f"{self.name}/{key}" if self.name else key

    def left(self, index: int, now: float, key: str) -> tuple[int, float]:
        """How many more one key would admit at once, and for how many seconds no more than that."""
        if key == "daily":
            day = int(now // DAY)
            return max(0, self.daily - (self._count(index, day) if index != NO_ROOM else 0)), (day + 1) * DAY - now
        if key == "concurrent":
            return max(0, self.concurrent - (self._buckets.holding(index) if index != NO_ROOM else 0)), 0.0
        ahead = min(max(0.0, self._full[index] - now), self.whole) if index != NO_ROOM else 0.0
        more = int((self.whole - ahead) / self.interval)
        return more, ahead + more * self.interval - self.room

    def allowed(self, key: str) -> int:
        """What one key of the limit allows."""
        return {"rate": self.count, "daily": self.daily, "concurrent": self.concurrent}[key]


class Gate:
    """All limits of one route."""

    __slots__ = ("_buckets", "_locks", "_probes", "checks", "needs_tool", "policy")

    def __init__(self, buckets: Buckets, checks: Sequence[Check], probes: Check) -> None:
        self.checks = tuple(checks)
        self.needs_tool = any(check.by_tool for check in checks)  # then the edge must know the tool of each call
        self.policy = ", ".join(item for check in checks for item in check.policies()).encode()
        self._buckets = buckets
        self._locks = buckets.locks
        self._probes = probes

    def admit(self, now: float, address: bytes, principal: str = "", tool: str | None = None) -> Denied | Held | None:
        """May it go on? None: yes. Held: yes, and `leave` it at the end. `address`: `network`; `principal`: `identity`; `tool` of a call, as the body says."""
        wanted = []
        for check in self.checks:
            slot = check.slot(address, principal, tool)
            if slot is not None:
                wanted.append((check, slot, 1))
        return self._admit(now, wanted) if wanted else None

    def admit_batch(self, now: float, address: bytes, principal: str, tools: Sequence[str | None]) -> Denied | Held | None:
        """The same for all messages of a batch (`tools_of`): each counts, and all or none are admitted. An empty one is a request, too."""
        tools = tools or (None,)
        wanted: dict[tuple[Check, Slot], int] = {}
        for check in self.checks:
            for tool in tools if check.by_tool else tools[:1]:
                slot = check.slot(address, principal, tool)
                if slot is not None:
                    key = (check, self._same(slot, wanted))
                    wanted[key] = wanted.get(key, 0) + (1 if check.by_tool else len(tools))
        return self._admit(now, [(check, slot, cost) for (check, slot), cost in wanted.items()]) if wanted else None

    def probe(self, now: float, address: bytes) -> Denied | None:
        """May something go on that is exempt (policy/exempt)?"""
        slot = self._probes.slot(address, "", None)
        verdict = self._admit(now, [(self._probes, slot, 1)]) if slot is not None else None
        if not isinstance(verdict, Denied):
            return None
        verdict.kind, verdict.status, verdict.policy = "too-many-probes", 503, b""
        return verdict

    def fields(self, now: float, address: bytes, principal: str = "", tool: str | None = None) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit and RateLimit-Policy for an answer that was admitted. Not hot; takes nothing."""
        items = []
        for check in self.checks:
            slot = check.slot(address, principal, tool)
            if slot is None:
                continue
            index = self._buckets.look(slot)  # no lock: each number is true by itself, and it is old when it arrives
            for key in ("rate", "daily", "concurrent"):
                if check.allowed(key):
                    more, window = check.left(index, now, key)
                    items.append(f'"{check.told(key)}";r={more}' + (f";t={max(1, ceil(window))}" if window else ""))
        return ((b"RateLimit-Policy", self.policy), (b"RateLimit", ", ".join(items).encode())) if items else ()

    def _admit(self, now: float, wanted: list[tuple[Check, Slot, int]]) -> Denied | Held | None:
        locks = self._locks
        if locks is None:
            return self._judge(now, wanted)
        locks.take(sorted({slot.stripe for _, slot, _ in wanted}))
        try:
            return self._judge(now, wanted)
        finally:
            locks.give()

    def _judge(self, now: float, wanted: list[tuple[Check, Slot, int]]) -> Denied | Held | None:
        buckets = self._buckets
        keys, day, fit = buckets.keys, int(now // DAY), True
        entries: list[int] = []
        for check, slot, cost in wanted:
            index = slot.index
            if keys[index] != slot.key:
                index = buckets.find(slot, now, entries)
                if index == NO_ROOM:
                    return Denied("limits-full", check.name, 0, 0, 1, b"")
            entries.append(index)
            fit = fit and check.fits(index, now, day, cost)
        if not fit:
            return self._denied(now, day, wanted, entries)
        held = []
        for (check, _, cost), index in zip(wanted, entries, strict=True):
            check.take(index, now, day, cost)
            if check.concurrent:
                held.append((index, cost))
        return Held(buckets, held) if held else None

    def _denied(self, now: float, day: int, wanted: list[tuple[Check, Slot, int]], entries: list[int]) -> Denied:
        """By the check that asks for the longest wait: who comes back after it will not be refused by another one."""
        waits = [check.wait(index, now, day, cost) for (check, _, cost), index in zip(wanted, entries, strict=True)]
        at = max(range(len(waits)), key=lambda number: waits[number][0])
        (wait, key), check = waits[at], wanted[at][0]
        return Denied(_KINDS[key], check.told(key), check.allowed(key), check.left(entries[at], now, key)[0], ceil(wait), self.policy)

    @staticmethod
    def _same(slot: Slot, wanted: dict[tuple[Check, Slot], int]) -> Slot:
        """One object for one bucket: slots of long names are made each time."""
        return next((known for _, known in wanted if known.key == slot.key and known.base == slot.base), slot)


class RateGate(Gate):
    """The commonest gate: one rate, nothing else, not by tool. The same as Gate.admit in a fifth of the time."""

    __slots__ = ("_check", "_fresh", "_full", "_interval", "_keys", "_room", "_who")

    def __init__(self, buckets: Buckets, checks: Sequence[Check], probes: Check) -> None:
        super().__init__(buckets, checks, probes)
        (check,) = checks
        self._check = check
        self._fresh = check.fresh.get
        self._interval, self._room = check.interval, check.room
        self._keys, self._full = buckets.keys, buckets.full
        self._who = "principal" if check.by_principal else "address" if check.by_address else ""

    @staticmethod
    def fits(checks: Sequence[Check]) -> bool:
        """Can it take the place of a Gate?"""
        if len(checks) != 1:
            return False
        check = checks[0]
        return not (check.daily or check.concurrent or check.by_tool or (check.by_principal and check.by_address))

    def admit(self, now: float, address: bytes, principal: str = "", tool: str | None = None) -> Denied | Held | None:
        """As Gate.admit."""
        who = principal or address if self._who == "principal" else address if self._who else ""
        slot = self._fresh(who)
        if slot is None:
            slot = self._check.remember(who)
        locks, lock = self._locks, slot.lock
        if locks is not None and (code := locks.lock(lock)):
            locks.mend(lock, code)
        try:
            index = slot.index
            if self._keys[index] == slot.key:
                full = self._full[index]
                if full - now <= self._room:
                    self._full[index] = (full if full > now else now) + self._interval
                    return None
            return self._judge(now, [(self._check, slot, 1)])
        finally:
            if locks is not None:
                locks.unlock(lock)


_NAT64 = IPv6Network("64:ff9b::/96")
_KINDS = {"rate": "rate-limited", "daily": "quota-used-up", "concurrent": "too-many-at-once"}


def compile_gates(config: Config, buckets: Buckets) -> tuple[Gate | None, ...]:
    """The gate of each route, in their order; None where nothing is limited."""
    return tuple(_gate(config, route, buckets) for route in config.route)


def _gate(config: Config, route: Route, buckets: Buckets) -> Gate | None:
    where = (route.host, route.path)
    checks = [Check(buckets, "", Limit(rate=route.rate), ("rate", where))] if route.rate else []
    for name in route.limits:
        limit = config.limit[name]
        checks.append(Check(buckets, name, limit, ("limit", name, sorted(limit.per), where if "route" in limit.per else ())))
    if not checks:
        return None
    probes = Check(buckets, "probes", PROBES, ("probes", where))
    return (RateGate if RateGate.fits(checks) else Gate)(buckets, checks, probes)


def network(address: str) -> bytes:
    """What a client's address is counted as: IPv4 whole (also inside of IPv6, RFC 4291 §2.5.5.2, RFC 6052), IPv6 by its /64. b"" for a unix socket."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return b""
    if ip.version == 4:
        return ip.packed
    return ip.packed[12:] if ip.ipv4_mapped or ip in _NAT64 else ip.packed[:8]


def tools_of(calls: Sequence[Call]) -> list[str | None]:
    """What `admit_batch` counts of a body: each message, with the tool it calls. What a subscription stands for is no message of its own."""
    return [call.name if call.method == "tools/call" else None for call in calls if not call.implied]


def identity(principal: Principal | None) -> str:
    """What a caller is counted as: the same name by another [auth.NAME] is another caller. "" for nobody."""
    return f"{principal.by}\n{principal.name}" if principal is not None else ""


def too_many(
    denied: Denied,
    *,
    jsonrpc: bool,
    close: bool,
    id: bytes | tuple[bytes, ...] = b"",
    head_only: bool = False,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """The answer, whole but for its Date. `id`: as the call sent it, where known; `extra`: more fields. SDKs do not read Retry-After: the message says it."""
    told = extra
    if denied.policy:
        item = b'"%b";r=%d;t=%d' % (denied.name.encode(), denied.remaining, denied.reset)
        told = (*extra, (b"RateLimit-Policy", denied.policy), (b"RateLimit", item))
    if not jsonrpc or head_only:
        return replies.reply(
            denied.status,
            denied.kind,
            jsonrpc=jsonrpc,
            close=close,
            retry_after=denied.retry_after,
            extra=told,
            head_only=head_only,
        )
    fields = (*told, (b"Retry-After", b"%d" % denied.retry_after))
    message = f"{replies.MESSAGES[denied.kind]} Try again in {denied.retry_after} s."
    return replies.rpc_error(denied.status, denied.status, message, id, denied.kind, fields, close=close)
