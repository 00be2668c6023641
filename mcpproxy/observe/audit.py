"""The audit log: one JSON line per MCP call, chained so that no line can be changed, moved or taken out unseen.

   loop: add(entry) ──128 entries, or a tick──▶ queue ──▶ thread: render (auditline) ─▶ habits ─▶ chain ─▶ file, fsync, head (keeping)

1. The loop pays an append. Rendering, hashing and writing are the work of a thread, which wakes when there is something to do.
2. What waits is bounded. Beyond it, or when the disk is full: with `count` entries are lost, and a `lost` line says how many as soon as it can be written; with
   `block` nothing is lost, `blocked` is true, and the edge answers calls with 503 until the lines are written. Then at most what was under way waits.
3. Nothing an entry holds can end the thread: what cannot be rendered is lost, counted and told.
4. At the end what waits is written and signed; if it cannot be, the count of what is lost is kept and told by the next run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from mcpproxy.clock import monotonic, wall_offset
from mcpproxy.config.policies import Audit
from mcpproxy.errors import StartError
from mcpproxy.observe.auditline import Entry, Renderer
from mcpproxy.observe.chain import Chain
from mcpproxy.observe.habits import NAME, Habits
from mcpproxy.observe.keeping import Keeper

__all__ = ["AuditLog", "Entry"]

HAND_OVER = 128  # entries: less than a millisecond of the thread's work; waking it, and writing the head before and after, is paid once for all of them
WAITING = 4096  # entries that wait for the thread, at most
WAITING_BYTES = 16 * 1024 * 1024  # bytes of arguments they hold, at most
NEWS = 64  # batches of calls for other processes that wait to be fetched; older ones are forgotten
RETRY_S = 1.0  # a disk that was full is tried again

News = list[
    tuple[str, str, int, float]
]  # who called which tool how often, the last time when (Unix seconds); 0 times: what was told of them
NOTHING = 0, 0.0
Item = (
    tuple[list[Entry], int, int] | Callable[[], None] | None
)  # entries, their size, how many before were lost; something else to do; the end


class AuditLog:
    """Takes entries from the loop; its thread writes them."""

    def __init__(self, settings: Audit, state_dir: str, tell: Callable[[str, str], None], *, alone: bool = True) -> None:
        """`alone`: no process of ours can be writing one; else each has a chain of its own (observe/keeping). `tell(level, text)` is called from the thread.

        Raises StartError when the file, the key or the head cannot be used.
        """
        self.blocked = False  # with when_full = "block": no call may be made just now
        self.lost = 0  # entries that were lost since the start
        self.warnings = 0  # anomalies noted since the start
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._entries: list[Entry] = []
        self._handed = self._handed_bytes = 0  # the loop's
        self._done = self._done_bytes = 0  # the thread's
        self._refused = 0
        self._block = settings.when_full == "block"
        self.news: deque[News] = deque(maxlen=NEWS)  # what callers did, for the habits that other processes keep
        self._worker = _Worker(settings, Path(state_dir).expanduser(), tell, self, alone=alone)
        self.blocked = self._block and self._worker.failing
        self._thread = threading.Thread(target=self._worker.work, args=(self._queue,), name="audit", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """One exchange is over. Costs an append."""
        self._entries.append(entry)
        if len(self._entries) >= HAND_OVER:
            self.tick()

    def tick(self, _: float = 0.0) -> None:
        """Hand over what has gathered."""
        entries = self._entries
        if not entries:
            return
        size = sum([len(call.raw_arguments) for entry in entries for call in entry.calls])
        if self._handed - self._done + len(entries) > WAITING or self._handed_bytes - self._done_bytes + size > WAITING_BYTES:
            if not self._block:
                self._refused += len(entries)
                self.lost += len(entries)
                entries.clear()
                return
            self.blocked = True
        self._handed += len(entries)
        self._handed_bytes += size
        refused, self._refused = self._refused, 0
        self._entries = []
        self._queue.put((entries, size, refused))

    def done(self, count: int, size: int, *, failing: bool) -> None:
        """The thread has dealt with so many entries of this size."""
        self._done += count
        self._done_bytes += size
        self.blocked = self._block and (
            failing or self._handed - self._done > WAITING // 2 or self._handed_bytes - self._done_bytes > WAITING_BYTES // 2
        )

    def reopen(self) -> None:
        """Go on in a new file of the same name (log rotation)."""
        self.tick()
        self._queue.put(self._worker.reopen)

    def hear(self, news: News) -> None:
        """What callers did elsewhere."""
        self._queue.put(partial(self._worker.heard, news))

    def close(self, patience_s: float) -> bool:
        """Write what waits, sign, end. False when that took too long."""
        self.tick()
        self._queue.put(([], 0, self._refused))
        self._queue.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()


class _Worker:
    """The thread's side."""

    def __init__(self, settings: Audit, state: Path, tell: Callable[[str, str], None], log: AuditLog, *, alone: bool) -> None:
        self._tell, self._log = tell, log
        self._block = settings.when_full == "block"
        self.failing = self._broken = False
        self._news: dict[tuple[str, str], tuple[int, float]] = {}
        self._bodies: list[bytes] = []  # rendered, and not in the chain yet: with `block` they wait
        keeper = None
        try:
            keeper = Keeper(state, alone=alone)
            self._renderer = Renderer(settings, keeper.salt)
            self._habits = Habits(state) if settings.anomalies else None
            self._chain = Chain(settings, keeper, _unix())
        except OSError as error:
            if keeper is not None:
                keeper.close()
            where = error.filename or settings.file
            raise StartError(
                f"audit log: {where}: {error.strerror}", "the daemon must be able to write it, and to keep its state"
            ) from None
        self._try(self._chain.flush)

    def work(self, queue: SimpleQueue[Item]) -> None:
        """Until the end."""
        while True:
            try:
                item = queue.get(timeout=RETRY_S if self.failing else self._chain.wait(_unix()))
            except Empty:
                self._try(self._catch_up)
                self._log.done(0, 0, failing=self.failing)
                continue
            if item is None:
                break
            if callable(item):
                self._try(item)
                continue
            entries, size, refused = item
            self._chain.lost += refused
            offset = wall_offset()
            for entry in entries:
                self._render(entry, offset)
            if self._news:
                self._log.news.append([(who, tool, count, now) for (who, tool), (count, now) in self._news.items()])
                self._news = {}
            self._try(self._catch_up)
            if self.failing and not self._block:
                self._lose(sum(map(_is_call, self._bodies)))
                self._bodies.clear()
                with suppress(OSError):  # a kill forgets it then
                    self._chain.keep_lost()
            self._log.done(len(entries), size, failing=self.failing)
        self._end()

    def reopen(self) -> None:
        """Raises OSError."""
        self._chain.reopen(_unix(), self._bodies)
        self._catch_up()

    def _catch_up(self) -> None:
        """Write what waits, and do what is due. Raises OSError."""
        chain, bodies, now = self._chain, self._bodies, _unix()
        if chain.lost:
            chain.tell_lost(now)
        while bodies:
            del bodies[: chain.append(bodies, now)]
        if chain.rest(now) and self._habits is not None:
            self._habits.save()

    def _render(self, entry: Entry, offset: float) -> None:
        try:
            self._bodies += self._renderer.bodies(entry, offset)
            if self._habits is not None and entry.verdict == "allowed":
                self._note(entry, self._habits, entry.ended + offset)
        except Exception as error:  # rule 3
            self._lose(1)
            if not self._broken:
                self._broken = True
                self._tell("error", f"audit log: an entry could not be written: {error!r}")

    def _note(self, entry: Entry, habits: Habits, now: float) -> None:
        """What is unusual about it."""
        who = _principal(entry.who)
        if who is None:
            return
        for call in entry.calls:
            if call.method != "tools/call" or call.name is None:
                continue
            key = who, call.name[:NAME]
            self._news[key] = self._news.get(key, NOTHING)[0] + 1, now
            for kind, more in habits.called(who, call.name, now):
                self._log.warnings += 1
                self._news[who, kind] = 0, now
                self._bodies.append(
                    b'"time":"%b","type":"warning","kind":"%b","id":"%b"%b,"tool":%b%b'
                    % (self._renderer.stamp(now), kind.encode(), entry.request_id, entry.who, self._renderer.word(call.name), more.encode())
                )

    def heard(self, news: News) -> None:
        """It is not unusual any more; whoever saw it has told of it."""
        if self._habits is not None:
            for who, tool, count, now in news:
                self._habits.heard(who, tool, count, now)

    def _lose(self, count: int) -> None:
        self._chain.lost += count
        self._log.lost += count

    def _try(self, work: Callable[[], None]) -> None:
        """Do it; a disk that refuses is told once."""
        try:
            work()
            self._chain.flush()
        except OSError as error:
            if not self.failing:
                self.failing = True
                self._log.blocked = self._block
                then = "calls are refused until it can be written" if self._block else "lines are lost until it can be written"
                self._tell("error", f"audit log {self._chain.file}: {error.strerror}; {then}")
            return
        if self.failing:
            self.failing = False
            self._tell("warning", f"audit log {self._chain.file}: it can be written again")

    def _end(self) -> None:
        self._try(self._catch_up)
        self._lose(sum(map(_is_call, self._bodies)))
        self._bodies.clear()
        try:
            if self._habits is not None:
                self._habits.save()
            self._chain.close(_unix())
        except OSError as error:
            self._tell("error", f"audit log {self._chain.file}: {error.strerror}; its last lines are lost")


def _is_call(body: bytes) -> bool:
    return b'"type":"call"' in body


@lru_cache(4096)
def _principal(who: bytes) -> str | None:
    """The name in the members of a caller."""
    name = msgspec.json.decode(b"{%b}" % who[1:]).get("principal")
    return name if isinstance(name, str) else None


def _unix() -> float:
    return monotonic() + wall_offset()
