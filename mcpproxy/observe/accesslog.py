"""HOT. One JSON line per exchange.

An exchange leaves its facts as one tuple by `add`; a batch is rendered when it is full or at the next tick, small enough to stay in the
processor's cache and in memory the allocator has at hand (batches of megabytes cost more in page faults than the lines cost to render). What
does not change between exchanges is rendered once: by the plan (method, host, path, MCP fields) and by the connection (client, TLS). Values that
come from a peer are JSON-escaped there; no credential is ever put in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import gmtime, strftime
from typing import NamedTuple

from mcpproxy.clock import wall_offset
from mcpproxy.observe.sinks import Sink

BATCH = 128  # rows rendered together: about 50 KiB of lines
HAND_OVER = 256 * 1024  # bytes of lines that go to the sink's thread at once; waking it for less costs the loop more than it saves


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where an exchange belongs, by the names of the configuration: what it is counted under. Equal only to itself, so that counting hashes no text."""

    route: str
    upstream: str


OURS = Place("", "")  # answered here, or never understood: no route had it

RowTuple = tuple[bytes, bytes, bytes, float, float, float, int, int, int, bytes, int, bytes, bytes, Place]


class Row(NamedTuple):
    """The facts of one exchange. The hot path appends a plain tuple in this order."""

    about: bytes  # from the plan: '"method":"POST","host":…' without braces
    client: bytes  # from the connection: '"client":"192.0.2.1",…'
    request_id: bytes
    began: float  # monotonic seconds
    first: float  # monotonic seconds of the first byte of the response head from upstream, 0.0 when none came
    ended: float
    status: int
    bytes_in: int
    bytes_out: int
    upstream: bytes  # '"127.0.0.1:8000"' or 'null'
    reused: int  # earlier uses of the link
    end: bytes  # how it ended: done, refused, client-gone, …
    extra: bytes  # further members, each with its leading comma
    place: Place  # from the plan


class AccessLog:
    """Collects rows, renders them in batches, hands the lines to a sink. `hears`: who else is shown each batch (observe/tally counts it)."""

    __slots__ = ("_bytes", "_lines", "_sink", "hears", "rows")

    def __init__(self, sink: Sink | None) -> None:
        self.rows: list[RowTuple] = []
        self.hears: list[Callable[[list[RowTuple]], None]] = []
        self._sink = sink
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, row: RowTuple) -> None:
        """One exchange is over."""
        rows = self.rows
        rows.append(row)
        if len(rows) >= BATCH:
            self._render()

    def _render(self) -> None:
        for hear in self.hears:
            hear(self.rows)
        sink = self._sink
        if sink is not None:
            lines = render(self.rows, wall_offset())
            self._lines.append(lines)
            self._bytes += len(lines)
            if self._bytes >= HAND_OVER:
                self._hand_over(sink)
        self.rows.clear()

    def _hand_over(self, sink: Sink) -> None:
        sink.put(self._lines)
        self._lines = []
        self._bytes = 0

    def go_on_in(self, sink: Sink | None) -> None:
        """What has gathered goes to the old sink, everything from now on to this one."""
        self.tick()
        self._sink = sink

    def tick(self, _: float = 0.0) -> None:
        """Write what has gathered."""
        if self.rows:
            self._render()
        if self._lines and self._sink is not None:
            self._hand_over(self._sink)


def render(rows: list[RowTuple], offset: float) -> bytes:
    """Rows → lines. `offset` turns monotonic seconds into Unix time."""
    pieces: list[bytes] = []
    second, stamp = -1, b""
    for about, client, request_id, began, first, ended, status, bytes_in, bytes_out, upstream, reused, end, extra, _ in rows:
        moment = began + offset
        whole = int(moment)
        if whole != second:
            second, stamp = whole, b'{"time":"%b' % strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole)).encode()
        took = b"%.3f" % ((ended - began) * 1000)
        first_took = took if first == ended else b"%.3f" % ((first - began) * 1000) if first else b"null"
        pieces += (
            stamp,
            b'.%03dZ","id":"' % ((moment - whole) * 1000),
            request_id,
            b'",',
            client,
            b",",
            about,
            b',"status":%d,"bytes_in":%d,"bytes_out":%d,"ms":' % (status, bytes_in, bytes_out),
            took,
            b',"ttfb_ms":',
            first_took,
            b',"upstream":',
            upstream,
            b',"reused":true,"end":"' if reused else b',"reused":false,"end":"',
            end,
            b'"',
            extra,
            b"}\n",
        )
    return b"".join(pieces)
