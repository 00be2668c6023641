"""A child process and its three pipes: lines out, lines in, words for the log.

    child = Child("files", launch, family, line=pipe.received, cut=…, ended=…, log=…, most=16 << 20)
    child.start()                 # raises Unavailable: no processes left, …
    child.send(b'{"jsonrpc":…}')  # never waits; raises Unavailable
    await child.end(2.0)          # stdin closed → 2 s → TERM → 2 s → KILL; nothing of it is left then

1. What it writes is read when we can use it: LINES lines a turn of the loop, no reading while some wait. A child that floods waits itself, others do not
   notice. A line that is too long is passed over (gateway/lines).
2. What it does not read waits here, up to BACKLOG and a message; then `send` refuses.
3. `ended` is called once, at once: when it has exited (pidfd_open(2)), or closed its stdout. What it wrote before that has been given to `line`.
4. stderr is always read, so nobody blocks on it; what is said of it has a bound (gateway/chatter).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
from collections import deque
from collections.abc import Callable

from mcpproxy.gateway.family import MARK, Family, kill_group
from mcpproxy.gateway.launch import Launch
from mcpproxy.gateway.lines import Cut, Lines
from mcpproxy.gateway.parts import Unavailable
from mcpproxy.mcp import message

READ = 65536  # bytes at once: what a pipe holds (pipe(7))
LINES = 64  # handed on in one turn of the loop
BACKLOG = 16 << 20  # bytes that wait for a child to read them
STDERR_LINE = 2048
LAST = 1 << 20  # bytes that are still read of a child that has exited
EXIT = 0.1  # seconds between its last word and its exit, which says more
KILLED = 5.0  # seconds until a killed process is given up (it hangs in the kernel)


class Child:
    """One process."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        family: Family,
        *,
        most: int,
        line: Callable[[bytes], None],
        cut: Callable[[Cut], None],
        ended: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        self.name, self.pid, self.last_words = name, 0, ""
        self.over = asyncio.Event()  # it has exited, and is reaped
        self._launch, self._family, self._mark = launch, family, family.mark()
        self._line, self._cut, self._ended, self._log = line, cut, ended, log
        self._loop = asyncio.get_running_loop()
        self._lines, self._words = Lines(most), Lines(STDERR_LINE)
        self._ready: deque[bytes | Cut] = deque()
        self._unsent: deque[memoryview] = deque()
        self._backlog = 0
        self._in = self._out = self._err = self._guard = self._watch = -1
        self._told = self._paused = False

    # -- start --

    def start(self) -> None:
        """Raises Unavailable, with a text for operators."""
        mine: list[int] = []
        theirs: list[int] = []
        try:
            for ours_reads in (False, True, True, False):  # stdin, stdout, stderr, guard
                ends = os.pipe2(os.O_CLOEXEC)
                mine.append(ends[0] if ours_reads else ends[1])
                theirs.append(ends[1] if ours_reads else ends[0])
            env = {**self._launch.env, MARK: self._mark}
            self.pid = self._family.spawn(
                self._launch.words, env, self._launch.cwd, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], guard=theirs[3]
            )
            self._watch = os.pidfd_open(self.pid)
            for kind, most in self._launch.limits:
                resource.prlimit(self.pid, kind, (most, most))
            os.write(mine[3], b"\n")  # go
        except (OSError, ValueError) as why:
            if self.pid:
                kill_group(self.pid, signal.SIGKILL)
                self._family.bury(self.pid)
                self.pid = 0
            for each in mine:
                os.close(each)
            if self._watch >= 0:
                os.close(self._watch)
            raise Unavailable(f"cannot start {self._launch.words[0]}: {why}") from None
        finally:
            for each in theirs:
                os.close(each)
        self._in, self._out, self._err, self._guard = mine
        for each in mine[:3]:
            fcntl.fcntl(each, fcntl.F_SETFL, fcntl.fcntl(each, fcntl.F_GETFL) | os.O_NONBLOCK)
        self._loop.add_reader(self._out, self._readable)
        self._loop.add_reader(self._err, self._worded)
        self._loop.add_reader(self._watch, self._exited)

    @property
    def alive(self) -> bool:
        """Can it be spoken with?"""
        return self.pid > 0 and not self._told

    # -- out of it --

    def _readable(self) -> None:
        try:
            data = os.read(self._out, READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close_out()
            self._loop.call_later(EXIT, self._tell, f"{self.name} closed its stdout")
            return
        self._ready.extend(self._lines.feed(data))
        self._hand_on()

    def _hand_on(self) -> None:
        for _ in range(min(LINES, len(self._ready))):
            self._give(self._ready.popleft())
        if self._out < 0:
            return
        if self._ready:
            if not self._paused:
                self._paused = True
                self._loop.remove_reader(self._out)
            self._loop.call_soon(self._hand_on)
        elif self._paused:
            self._paused = False
            self._loop.add_reader(self._out, self._readable)

    def _give(self, line: bytes | Cut) -> None:
        if self._told:
            return
        if isinstance(line, Cut):
            self._cut(line)
        else:
            self._line(line)

    def _worded(self) -> None:
        try:
            data = os.read(self._err, READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._err)
            os.close(self._err)
            self._err = -1
            return
        for line in self._words.feed(data):
            words = line.head + b" ..." if isinstance(line, Cut) else line
            self.last_words = words.decode(errors="replace").strip()
            self._log(self.last_words)

    # -- into it --

    def send(self, raw: bytes) -> None:
        """A message, on a line of its own. Raises Unavailable."""
        if self._in < 0 or self._told:
            raise Unavailable(f"{self.name} has ended")
        line = message.one_line(raw) + b"\n"
        if not self._unsent:
            try:
                written = os.write(self._in, line)
            except (BlockingIOError, InterruptedError):
                written = 0
            except OSError:
                raise Unavailable(f"{self.name} does not read any more") from None
            if written == len(line):
                return
            self._loop.add_writer(self._in, self._writable)
        else:
            written = 0
            if self._backlog > BACKLOG:
                raise Unavailable(f"{self.name} does not read what it is sent")
        self._unsent.append(memoryview(line)[written:])
        self._backlog += len(line) - written

    def _writable(self) -> None:
        try:
            while self._unsent:
                first = self._unsent[0]
                written = os.write(self._in, first)
                self._backlog -= written
                if written < len(first):
                    self._unsent[0] = first[written:]
                    return
                self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close_in()
            self._loop.call_later(EXIT, self._tell, f"{self.name} closed its stdin")
            return
        self._loop.remove_writer(self._in)

    # -- its end --

    async def end(self, grace: float) -> None:
        """Politely, then less so. When this returns, it and all it started are gone."""
        if self.pid == 0:
            return
        self._tell(f"{self.name} is being stopped")
        self._close_in()
        if self._out >= 0 and self._paused:
            self._hand_on()
        try:
            await self._within(grace)
            if not self.over.is_set():
                kill_group(self.pid, signal.SIGTERM)
                await self._within(grace)
        finally:
            if not self.over.is_set():
                kill_group(self.pid, signal.SIGKILL)
        await self._within(KILLED)
        await self._family.sweep(self._mark)

    async def _within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            pass

    def condemn(self, why: str) -> None:
        """Nothing more is taken from it, nor given to it: `ended` is called. It still has to be ended."""
        self._tell(why)

    def _exited(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        for line in self._ready:
            self._give(line)
        self._ready.clear()
        left = LAST
        while self._out >= 0 and left > 0:
            try:
                data = os.read(self._out, READ)
            except OSError:
                break
            if not data:
                break
            left -= len(data)
            for line in self._lines.feed(data):
                self._give(line)
        if self._err >= 0:
            self._worded()
        code = self._family.bury(self.pid)
        how = f"was ended by {_signal(-code)}" if code < 0 else f"exited with status {code}"
        self._tell(f"{self.name} {how}")
        self._close_in()
        self._close_out()
        if self._err >= 0:
            self._loop.remove_reader(self._err)
            os.close(self._err)
            self._err = -1
        os.close(self._guard)
        self.over.set()

    def _tell(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._ended(text)

    def _close_in(self) -> None:
        if self._in >= 0:
            if self._unsent:
                self._loop.remove_writer(self._in)
            self._unsent.clear()
            os.close(self._in)
            self._in = -1

    def _close_out(self) -> None:
        if self._out >= 0:
            self._loop.remove_reader(self._out)
            os.close(self._out)
            self._out = -1


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
