"""Streams of events that survive their connection (MCP 2025-03-26 to 2025-11-25, basic/transports, resumability).

    stream.send(message)  ──▶ kept in the Store ──▶ written as fast as the reader takes it
    GET, Last-Event-ID: 3-17 ──▶ stream 3 of the session goes on after its event 17

Stream 0 of a session is the one a GET opens; the others answer a POST each. Event ids are STREAM-NUMBER, unique in the session.

1. A stream has one reader. The next one takes its place: a client reconnects before its old connection is known to be dead.
2. What nobody read waits: also what was said before the first GET.
3. All events of all sessions together are bounded, and so are those of one stream. The stream that was silent longest loses its oldest first.
4. HTTP+SSE streams have no store: no ids, nothing is kept, and when the reader is gone, so is the session.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from mcpproxy.clock import clock
from mcpproxy.gateway.web import Visit
from mcpproxy.mcp.message import one_line

KEPT = 64 * 1024 * 1024  # bytes of events of all sessions
KEPT_OF_ONE = 16 * 1024 * 1024  # of one stream: an answer of the largest size
KEPT_UNREAD = 64 * 1024  # of a stream nobody has ever read: clients that never GET do not need them
KEPT_S = 300.0  # since the last event of the stream: clients give up after seconds
RETRY_MS = 1000  # when a client is to come again: what SDK clients do by themselves
OVERHEAD = 1000  # bytes one kept event costs beside its text, at most: mostly it is the only one of its stream


class Store:
    """All kept events. Bounded in bytes; `limit` is for all sessions together."""

    __slots__ = ("bytes", "limit", "streams")

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self.bytes = 0
        self.streams: OrderedDict[Stream, None] = OrderedDict()  # those with events; the one that was silent longest first

    def keep(self, stream: Stream, event: bytes) -> None:
        """As the stream's latest. One that has no room at all is not kept."""
        size = len(event) + OVERHEAD
        if size > min(self.limit, KEPT_OF_ONE + OVERHEAD):
            return
        if stream.events is None:
            stream.events = deque()
        stream.events.append((stream.number, event))
        stream.size += size
        self.bytes += size
        self.streams[stream] = None
        self.streams.move_to_end(stream)
        stream.last = clock.now
        bound = KEPT_OF_ONE + OVERHEAD if stream.read else KEPT_UNREAD
        while stream.size > bound and len(stream.events) > 1:
            self._lose(stream)
        while self.bytes > self.limit:
            self._lose(next(iter(self.streams)))

    def drop(self, stream: Stream) -> None:
        """Nobody comes back to it."""
        if self.streams.pop(stream, 0) is None:
            self.bytes -= stream.size
        stream.events, stream.size = None, 0
        if stream.owner is not None and (stream.complete or not stream.waiting):
            stream.owner.pop(stream.name, None)

    def expire(self, now: float) -> None:
        """Of streams that were silent for long, nothing is kept."""
        while self.streams:
            stream = next(iter(self.streams))
            if now - stream.last <= KEPT_S:
                return
            self.drop(stream)

    def _lose(self, stream: Stream) -> None:
        assert stream.events
        number, event = stream.events.popleft()
        size = len(event) + OVERHEAD
        stream.size -= size
        self.bytes -= size
        if not stream.events:
            self.drop(stream)
        if stream.visit is not None and stream.sent < number:  # its reader is too slow, and would not know what it missed
            stream.visit.leave()


class Stream:
    """Messages in their order, to whoever reads them now."""

    __slots__ = ("complete", "events", "gone", "last", "name", "number", "owner", "read", "sent", "size", "store", "visit", "waiting")

    def __init__(self, name: int, store: Store | None, owner: dict[int, Stream] | None = None, waiting: int = 0) -> None:
        self.name = name
        self.store = store
        self.owner = owner  # by name: where it is found
        self.waiting = waiting  # answers until it is complete
        self.complete = False
        self.number = 0  # of the last event
        self.sent = 0  # number of the last event that was written to a reader
        self.events: deque[tuple[int, bytes]] | None = None  # kept ones
        self.size = 0  # bytes of these
        self.last = 0.0
        self.read = False  # somebody did, once
        self.visit: Visit | None = None
        self.gone: Callable[[], None] | None = None

    def send(self, message: bytes) -> None:
        """A message. Written at once, when somebody reads; kept, where there is a store."""
        message = one_line(message)
        visit = self.visit
        if self.store is None:
            if visit is not None:
                visit.event(b"event: message\ndata: %b\n\n" % message)
            return
        self.number = number = self.number + 1
        event = b"event: message\nid: %d-%d\ndata: %b\n\n" % (self.name, number, message)
        self.store.keep(self, event)
        if visit is None:
            return
        kept = self.events is not None and self.events[-1][0] == number
        if not kept or (self.sent == number - 1 and not visit.full):
            self.sent = number
            visit.event(event)

    def answered(self, message: bytes) -> None:
        """An answer: the last one completes a stream that waits for it."""
        self.waiting -= 1
        if self.waiting == 0:
            self.complete = True
        self.send(message)
        self.pump()

    def pump(self) -> None:
        """Write what waits, as much as the reader takes."""
        visit = self.visit
        if visit is None:
            return
        if self.events is not None and self.sent < self.number:
            for number, event in tuple(self.events):
                if number > self.sent:
                    if visit.full:
                        return
                    self.sent = number
                    if not visit.event(event):
                        return
        if self.complete:
            self.visit = None
            visit.end()

    def attach(self, visit: Visit, *, after: int | None = None, prime: bool = False) -> None:
        """This one reads from now on: what comes after event `after`, else what nobody read yet. Its stream has begun."""
        old, self.visit = self.visit, visit
        if old is not None:
            old.gone = old.ready = None
            old.end()
        self.read = True
        visit.gone, visit.ready = self._left, self.pump
        if after is not None:
            self.sent = min(after, self.number)
        if self.events is None or self.events[-1][0] <= self.sent:
            self.sent = self.number  # nothing waits that could still be told
            if prime and not self.complete:
                self.number = self.sent = self.number + 1
                visit.event(b"id: %d-%d\nretry: %d\ndata: \n\n" % (self.name, self.number, RETRY_MS))
        self.pump()

    def close(self) -> None:
        """It is over, for its reader as well."""
        visit, self.visit = self.visit, None
        self.complete = True
        if self.store is not None:
            self.store.drop(self)
        if visit is not None:
            visit.gone = visit.ready = None
            visit.end()

    def _left(self) -> None:
        self.visit = None
        if self.gone is not None:
            self.gone()


def place(last_event_id: bytes) -> tuple[int, int] | None:
    """Stream and number of an event id of ours; None for any other text."""
    stream, dash, number = last_event_id.partition(b"-")
    if not dash or not stream.isdigit() or not number.isdigit() or len(last_event_id) > 40:
        return None
    return int(stream), int(number)
