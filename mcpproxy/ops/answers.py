"""What a worker answers when the control process asks for an operator (control/admin), over the line (ops/line).

    overview   {"after": 12}                          counts, pools, refusals after that number, durations, who has streams open
    connections, exchanges   {"cursor": "", "most": 500}   a page, and the cursor of the next one ("" at the end)
    close      {"id": "1f0a7c22-3d.5"}                an exchange, or with a connection's id all of it
    orders                                            what an operator said so far, as [topic, data]
    endpoint   {"upstream": "u", "endpoint": "host:port", "state": "drain"}
    level      {"level": "debug"}                     of the messages

Nothing is kept ready for it. Whoever serves thousands must not stand still while one asks: a page looks at so many connections and no more, in the order of a
list that was made for its first page; who has streams open is counted a slice at a time, and the answer is the last count that came to its end.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mcpproxy.assemble import Runtime
from mcpproxy.clock import monotonic
from mcpproxy.edge import inspect
from mcpproxy.observe.messages import LEVELS
from mcpproxy.observe.recent import Recent
from mcpproxy.upstream.pool import Pool

if TYPE_CHECKING:
    from mcpproxy.ops.line import Line

PAGE = 500  # connections looked at in one go: about a millisecond
LISTS = 4  # that are kept for their next pages
LIST_S = 60.0  # for how long
BREATH_S = 0.01  # between two slices of a count
NAMED = 30  # principals that are named in it; the rest is summed


STATES = {"enable": "enabled", "drain": "drain", "disable": "disabled"}  # an operator's word → the pool's


def show_endpoint(each: dict[str, Any]) -> dict[str, Any]:
    """An endpoint of `Group.snapshot`, with one word for how it is: what an operator said of it, else what is known of it."""
    state = {"drain": "draining", "disabled": "disabled"}.get(each["state"], "")
    if not state:
        state = "down" if each["up"] is False else "up" if each["breaker"] == "closed" else each["breaker"]
    return {"label": each["endpoint"], "state": state, "in_use": each["in_use"], "idle": each["idle"], "said": each["last_error"] or ""}


class Pages:
    """Lists of connections as they were when somebody began to read them. Those that have ended meanwhile are passed over."""

    def __init__(self, links: set[inspect.AnyLink]) -> None:
        self._links = links
        self._lists: dict[str, tuple[float, tuple[inspect.AnyLink, ...]]] = {}
        self._numbers = itertools.count(1)

    def page(self, cursor: str, most: int, weight: Callable[[inspect.AnyLink], int] = lambda _: 1) -> tuple[list[inspect.AnyLink], str]:
        """So many connections, or fewer when together they weigh that much; and where the next page begins. Raises LookupError for a cursor that is too old."""
        now = monotonic()
        self._forget(now)
        name, _, place = cursor.partition(":")
        if not cursor:
            name, place = str(next(self._numbers)), "0"
            self._lists[name] = (now, tuple(self._links))
        if name not in self._lists or not (place.isascii() and place.isdigit()):
            raise LookupError("this list is not there any more: begin again")
        links, end = self._lists[name][1], int(place)
        left = most = max(1, min(most, PAGE))
        found = []
        for link in links[end : end + most]:
            end += 1
            if link.fd >= 0:
                found.append(link)
                left -= weight(link)
            if left <= 0:
                break
        if end >= len(links):
            del self._lists[name]
            return found, ""
        return found, f"{name}:{end}"

    def _forget(self, now: float) -> None:
        for name in [name for name, (made, _) in self._lists.items() if now - made > LIST_S]:
            del self._lists[name]
        while len(self._lists) >= LISTS:
            del self._lists[next(iter(self._lists))]


class Census:
    """How many streams, tunnels and requests are open, by caller and by upstream."""

    def __init__(self, links: set[inspect.AnyLink], names: Callable[[], dict[Pool, str]], later: Callable[..., Any]) -> None:
        self._links, self._names, self._later = links, names, later
        self._running = False
        self.last: dict[str, Any] = {"kinds": {}, "principals": {}, "others": 0, "upstreams": {}}

    def count(self) -> dict[str, Any]:
        """The last one; the next one begins."""
        if not self._running:
            self._running = True
            self._slice(tuple(self._links), 0, Counter(), Counter(), Counter())
        return self.last

    def _slice(
        self, links: tuple[inspect.AnyLink, ...], place: int, kinds: Counter[str], principals: Counter[str], pools: Counter[Pool]
    ) -> None:
        for link in links[place : place + PAGE]:
            if link.fd >= 0:
                for _, x in inspect.exchanges(link):
                    kind = inspect.kind_of(x)
                    kinds[kind] += 1
                    if kind in ("stream", "tunnel"):
                        principals[inspect.principal_of(x)] += 1
                        pools[inspect.pool_of(x)] += 1
        if place + PAGE < len(links):
            self._later(BREATH_S, self._slice, links, place + PAGE, kinds, principals, pools)
            return
        names = self._names()
        named = dict(principals.most_common(NAMED))
        self._running = False
        self.last = {
            "kinds": dict(kinds),
            "principals": named,
            "others": principals.total() - sum(named.values()),
            "upstreams": {names.get(pool, ""): number for pool, number in pools.items()},
        }


class Answers:
    """Made once in each worker."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pages = Pages(runtime.links)
        self._census = Census(runtime.links, self._names, runtime.loop.call_later)
        self.recent = Recent()

    def attach(self, line: Line) -> None:
        """From now on it answers."""
        line.answers |= {
            "overview": self.overview,
            "connections": self.connections,
            "exchanges": self.exchanges,
            "close": self.close,
            "endpoint": self.endpoint,
            "level": self.level,
            "orders": self.orders,
        }
        line.hears |= {"endpoint": self._told(self.endpoint), "level": self._told(self.level)}
        self._runtime.log.hears.append(self.recent.hear)

    @staticmethod
    def _told(does: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any]], None]:
        """The same as an order to one that has just come; what it does not know (any more) is nothing to it."""

        def hear(data: dict[str, Any]) -> None:
            with suppress(LookupError, ValueError):
                does(data)

        return hear

    def _names(self) -> dict[Pool, str]:
        return {pool: name for name, pool in self._runtime.pools.items()}

    def overview(self, data: dict[str, Any]) -> dict[str, Any]:
        """How it goes."""
        runtime = self._runtime
        runtime.log.tick()  # what is over is counted
        return {
            "uptime_s": round(monotonic() - runtime.began),
            "requests": self.recent.heard,
            "connections": {
                "open": len(runtime.links),
                "accepted": sum(front.greeted for front in runtime.fronts),
                "turned_away": sum(listener.turned_away for listener in runtime.listeners),
                "handshakes_failed": sum(front.handshakes_failed for front in runtime.fronts),
            },
            "open": self._census.count(),
            "pools": {name: self._pool(pool) for name, pool in runtime.pools.items()},
            "durations": {str(slot): number for slot, number in self.recent.durations().items()},
            "failed": self.recent.failed,
            "refusals": self.recent.since(int(data.get("after", 0))),
            "draining": runtime.draining.is_set,
        }

    @staticmethod
    def _pool(pool: Pool) -> dict[str, Any]:
        return {"in_use": pool.in_use, "waiting": len(pool.waiting), "endpoints": [show_endpoint(each) for each in pool.group.snapshot()]}

    def connections(self, data: dict[str, Any]) -> dict[str, Any]:
        """A page of them."""
        links, cursor = self._pages.page(data.get("cursor", ""), int(data.get("most", PAGE)))
        now = monotonic()
        return {"items": [inspect.show_link(link, now) for link in links], "cursor": cursor}

    def exchanges(self, data: dict[str, Any]) -> dict[str, Any]:
        """Those of a page of connections."""
        links, cursor = self._pages.page(
            data.get("cursor", ""), int(data.get("most", PAGE)), lambda link: sum(1 for _ in inspect.exchanges(link))
        )
        now, names = monotonic(), self._names()
        items = [inspect.show_exchange(link, number, x, names, now) for link in links for number, x in inspect.exchanges(link)]
        return {"items": items, "cursor": cursor}

    def close(self, data: dict[str, Any]) -> bool:
        """Was it there?"""
        name, _, number = str(data["id"]).partition(".")
        if not name or (number and not (number.isascii() and number.isdigit())):
            raise ValueError("no such name")
        for link in self._runtime.links:
            if inspect.name_of(link) == name:
                return inspect.close(link, int(number) if number else None)
        return False

    def endpoint(self, data: dict[str, Any]) -> bool:
        """An operator takes one out, or back."""
        pool = self._runtime.pools.get(data["upstream"])
        if pool is None:
            raise LookupError("no such upstream")
        pool.group.set_state(data["endpoint"], STATES[data["state"]])
        return True

    def orders(self, _: Any) -> list[tuple[str, dict[str, Any]]]:
        """What operators said of endpoints and messages, for a worker that comes later."""
        words = {state: word for word, state in STATES.items()}
        said: list[tuple[str, dict[str, Any]]] = [("level", {"level": self._runtime.messages.level})]
        said += [
            ("endpoint", {"upstream": name, "endpoint": each["endpoint"], "state": words[each["state"]]})
            for name, pool in self._runtime.pools.items()
            for each in pool.group.snapshot()
            if each["state"] != "enabled"
        ]
        return said

    def level(self, data: dict[str, Any]) -> bool:
        """Of the messages, until the next start."""
        if data["level"] not in LEVELS:
            raise ValueError("no such level")
        self._runtime.messages.least(data["level"])
        return True
