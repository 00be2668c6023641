"""What is known about heads, as one kind of caller is seen.

A plan depends on the head's bytes, the listener and the configuration. Where a fact of the *connection* can change the judgement as well (its client
certificate, an address some route does not take, a proxy whose word counts), that fact is part of the key: connections with equal facts (`Caller`)
share a Shelf, and no shelf ever sees the plans of another. Everybody who is nobody special shares one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from mcpproxy.edge.cut import REQUEST_CUTS, cut
from mcpproxy.edge.facts import ANYBODY, Caller
from mcpproxy.edge.plan import RequestTemplate
from mcpproxy.edge.store import Store

if TYPE_CHECKING:
    from mcpproxy.edge.plan import Judge, Plan

SHELVES = 64  # of special callers, found again by their facts; more than these begin anew
SHARE = 16  # part of the memory for plans that a special caller's shelf may take


class Shelf:
    """The plans of connections with equal facts."""

    __slots__ = ("__weakref__", "caller", "judge", "plans", "plans_h2", "templates", "templates_h2")

    def __init__(self, judge: Judge, caller: Caller, entries: int, total: int, copies: int) -> None:
        self.judge, self.caller = judge, caller
        self.plans: Store[Plan] = Store(entries, total, copies)
        self.templates: Store[RequestTemplate] = Store(entries, total, copies)
        self.plans_h2: Store[Plan] = Store(entries, total, copies)  # by heads as http/h2 writes them down: a client
        self.templates_h2: Store[RequestTemplate] = Store(entries, total, copies)  # that sends such bytes over HTTP/1.1 must not find them

    def plan_for(self, head: bytes, *, h2: bool = False, address: bytes = b"") -> Plan:
        """The slow way to a plan: seen a while ago, a template, or compiled. Raises what compiling raises. `address`: who pays
        when somebody must be known first."""
        plans, templates = (self.plans_h2, self.templates_h2) if h2 else (self.plans, self.templates)
        plan = plans.older(head)
        if plan is not None:
            return plan
        found = cut(REQUEST_CUTS, head)
        if found is not None:
            like = templates.find(found.key)
            if like is not None:
                plan = like.plan_for(found, len(head), self.judge.limits)
                if like.worth_storing and plans.earned(head):
                    plans.put(head, plan)
                return plan
        plan = self.judge.request(head, self.caller, h2=h2, address=address)
        if not plan.lasts:
            return plan
        if plans.earned(head):
            plans.put(head, plan)
        if found is not None and plan.answer is None and templates.earned(found.key):
            made = RequestTemplate.of(plan, found)
            if made is not None:
                templates.put(found.key, made)
        return plan

    def refit(self, judge: Judge, entries: int, total: int, copies: int) -> None:
        """Another judge, other bounds: everything is judged anew."""
        self.judge = judge
        for store in (self.plans, self.templates, self.plans_h2, self.templates_h2):
            store.clear()
            store.bound(entries, total, copies)

    def clear(self) -> None:
        """Forget every judgement (a key was revoked, the process drains)."""
        for store in (self.plans, self.templates, self.plans_h2, self.templates_h2):
            store.clear()


class Shelves:
    """The views of one listener."""

    def __init__(self, judge: Judge, entries: int, total: int, copies: int) -> None:
        self._judge, self._entries, self._total, self._copies = judge, entries, total, copies
        self.anybody = Shelf(judge, ANYBODY, entries, total, copies)
        self._special: dict[Caller, Shelf] = {}
        self.alive: WeakSet[Shelf] = WeakSet((self.anybody,))  # those that are not found any more, but used by open connections, too

    def of(self, caller: Caller) -> Shelf:
        """The view of callers like this one."""
        if caller == ANYBODY:
            return self.anybody
        found = self._special.get(caller)
        if found is None:
            if len(self._special) >= SHELVES:
                del self._special[next(iter(self._special))]
            found = Shelf(self._judge, caller, *self._share())
            self._special[caller] = found
            self.alive.add(found)
        return found

    def _share(self) -> tuple[int, int, int]:
        """The bounds of a special caller's shelf."""
        return max(2, self._entries // SHARE), self._total // SHARE, self._copies

    def refit(self, fresh: Shelves) -> None:
        """Judge as `fresh` does, within its bounds. Facts mean something else then (numbers of routes): every connection must ask for its shelf again."""
        self._judge, self._entries, self._total, self._copies = fresh._judge, fresh._entries, fresh._total, fresh._copies
        self._special.clear()
        for shelf in self.alive:
            bounds = (self._entries, self._total, self._copies) if shelf is self.anybody else self._share()
            shelf.refit(self._judge, *bounds)

    def clear(self) -> None:
        """Forget every judgement."""
        for shelf in self.alive:
            shelf.clear()
