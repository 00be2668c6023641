"""One process and its pipes. What members make of it is in test_member_stdio."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mcpproxy.config.gateway import Command
from mcpproxy.config.secrets import secret
from mcpproxy.gateway import child as module
from mcpproxy.gateway.child import Child
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.launch import Launch, prepare
from mcpproxy.gateway.lines import Cut
from mcpproxy.gateway.parts import Unavailable

ECHO = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.buffer.flush()"


class Pen:
    """A child, and what was heard of it."""

    def __init__(self, family: Family, program: str, most: int = 64 << 20) -> None:
        self.lines: list[bytes] = []
        self.cuts: list[Cut] = []
        self.why: list[str] = []
        self.words: list[str] = []
        self.news = asyncio.Event()
        self.child = Child(
            "c",
            Launch((sys.executable, "-ISE", "-c", program), {"PATH": "/usr/bin:/bin"}, "/"),
            family,
            most=most,
            line=self.line,
            cut=self.cuts.append,
            ended=self.ended,
            log=self.words.append,
        )

    def line(self, raw: bytes) -> None:
        self.lines.append(raw)
        self.news.set()

    def ended(self, why: str) -> None:
        self.why.append(why)
        self.news.set()

    async def until(self, lines: int) -> None:
        async with asyncio.timeout(20):
            while len(self.lines) < lines and not self.why:
                await self.news.wait()
                self.news.clear()


async def send_on(pen: Pen, raw: bytes = b"{}") -> None:
    async with asyncio.timeout(20):
        while True:
            pen.child.send(raw)
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def family() -> AsyncIterator[Family]:
    made = Family()
    yield made
    made.close()
    assert not made.pids


async def test_messages_of_any_size_go_in_and_out(family: Family) -> None:
    pen = Pen(family, ECHO)
    pen.child.start()
    sent = [b'{"n":%d,"x":"%b"}' % (n, b"x" * size) for n, size in enumerate((0, 10, 70_000, 5 << 20, 3, 1 << 20))]
    for raw in sent:
        pen.child.send(raw)
    await pen.until(len(sent))
    assert pen.lines == sent
    pen.child.send(b'{"a":\n1,\r\n"b":"\\n"}')
    await pen.until(len(sent) + 1)
    assert pen.lines[-1] == b'{"a":1,"b":"\\n"}'
    await pen.child.end(2.0)
    assert pen.why == ["c is being stopped"]
    with pytest.raises(Unavailable):
        pen.child.send(b"{}")


async def test_one_that_does_not_read_is_given_no_more(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 1 << 20)
    pen = Pen(family, "import time; time.sleep(600)")
    pen.child.start()
    raw = b'"%b"' % (b"x" * 100_000)
    for _ in range(10):
        pen.child.send(raw)
    with pytest.raises(Unavailable, match="does not read what it is sent"):
        await send_on(pen, raw)
    await pen.child.end(0.05)


async def test_one_that_closes_its_stdin_or_stdout_has_ended(family: Family) -> None:
    for program, words in (("0", "does not read any more"), ("1", "closed its stdout")):
        pen = Pen(family, f"import os, time; os.close({program}); print(file=__import__('sys').stderr, flush=True); time.sleep(600)")
        pen.child.start()
        if program == "1":
            await pen.until(1)
            assert pen.why == [f"c {words}"]
        else:
            with pytest.raises(Unavailable, match=words):
                await send_on(pen)
        assert pen.child.alive is (program == "0")
        await pen.child.end(0.05)
        assert pen.child.over.is_set()


async def test_its_last_words_are_heard_before_its_end(family: Family) -> None:
    pen = Pen(family, "import sys; print('{}\\n' * 5000, end=''); print('oh no', file=sys.stderr); sys.exit(4)")
    pen.child.start()
    async with asyncio.timeout(20):
        await pen.child.over.wait()
    assert len(pen.lines) == 5000
    assert pen.why == ["c exited with status 4"]
    assert pen.child.last_words == "oh no"
    await pen.child.end(1.0)


async def test_a_flood_waits_for_us(family: Family) -> None:
    """It is stopped by its full pipe: nothing piles up here."""
    pen = Pen(family, "import os\nwhile True: os.write(1, b'{}\\n' * 20000)")
    pen.child.start()
    await pen.until(10_000)
    assert len(pen.child._ready) <= module.READ // 3 + 1
    await pen.child.end(0.05)
    assert pen.child.over.is_set()


@pytest.mark.root
async def test_another_user_has_nothing_of_ours(family: Family) -> None:
    upstream = Command(
        command=("sh", "-c", "id -u; id -G; echo $HOME; grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status"), user="nobody", files=50
    )
    pen = Pen(family, "")
    pen.child._launch = prepare(upstream, os.environ, secret, "/")
    pen.child.start()
    async with asyncio.timeout(20):
        await pen.child.over.wait()
    who = pwd.getpwnam("nobody")
    assert [line.decode() for line in pen.lines[:3]] == [str(who.pw_uid), str(who.pw_gid), who.pw_dir], pen.words
    assert {int(line.split()[1], 16) for line in pen.lines[3:]} == {0}


async def test_a_stopped_one_can_be_ended(family: Family) -> None:
    pen = Pen(family, ECHO)
    pen.child.start()
    os.kill(pen.child.pid, signal.SIGSTOP)
    await pen.child.end(0.05)
    assert pen.child.over.is_set()


async def test_what_cannot_be_started_leaves_nothing_open(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    def refuse(*args: object, **keys: object) -> int:
        raise OSError(24, "Too many open files")

    for name in ("posix_spawn", "pidfd_open"):
        pen = Pen(family, ECHO)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(Unavailable, match="Too many open files"):
                pen.child.start()
        await pen.child.end(1.0)
    assert sorted(os.listdir("/proc/self/fd")) == before
