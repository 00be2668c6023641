"""A worker's connection to the control process (`control/switchboard` is the other end, and says what the messages look like).

Nothing here may hold up the worker: what cannot be sent now waits, up to a bound; beyond it `say` takes nothing and tells its caller so. Without a control
process (it died, or is being made) the worker serves on, and tries again every second.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from mcpproxy.control.switchboard import AGAIN
from mcpproxy.errors import ProxyError
from mcpproxy.net.door import Door
from mcpproxy.net.loop import EdgeLoop

AGAIN_S = 1.0  # until the next attempt to connect
SOON_S = 0.05  # until the first one
PENDING = 4 * 1024 * 1024  # bytes that may wait to be sent
READ = 256 * 1024


class Line:
    """Made once in each worker."""

    def __init__(self, loop: EdgeLoop, door: Door, worker: int) -> None:
        self._loop, self._address = loop, door.address
        self._hello = {"secret": door.secret, "worker": worker, "pid": os.getpid()}
        self._sock: socket.socket | None = None
        self._pending = bytearray()
        self._read = bytearray()
        self.hears: dict[str, Callable[[Any], None]] = {}  # what control tells, by topic
        self.answers: dict[
            str, Callable[[Any], Any]
        ] = {}  # what control asks, by topic; LookupError, ValueError and ProxyError are answers, too; a coroutine is awaited
        self._answering: set[asyncio.Task[None]] = set()
        self.joined: list[Callable[[], None]] = []
        self.hears[AGAIN] = lambda _: self._say_all()

    def connect(self) -> None:
        """Now, and from now on whenever it is lost."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._address)
        except OSError:  # the backlog is full; the supervisor is gone
            sock.close()
            self._loop.call_later(AGAIN_S, self.connect)
            return
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._readable)
        self._send(self._hello)
        self._say_all()

    def _say_all(self) -> None:
        for each in self.joined:
            each()

    def say(self, topic: str, data: Any) -> bool:
        """Was it taken? If not (control is away or slow), the caller keeps it and tries later. What was taken is lost with the connection."""
        if self._sock is None or len(self._pending) > PENDING:
            return False
        return self._send({"t": topic, "d": data})

    def _send(self, message: dict[str, Any]) -> bool:
        waited = bool(self._pending)
        self._pending += msgspec.json.encode(message)
        self._pending += b"\n"
        if not waited:
            self._write()
        return self._sock is not None

    def _write(self) -> None:
        assert self._sock is not None
        descriptor = self._sock.fileno()
        try:
            del self._pending[: self._sock.send(self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
            return
        if self._pending:
            self._loop.add_writer(descriptor, self._write)
        else:
            self._loop.remove_writer(descriptor)

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._read += data
        *lines, self._read = self._read.split(b"\n")
        for line in lines:
            self._hear(msgspec.json.decode(line))

    def _hear(self, message: dict[str, Any]) -> None:
        topic, number = message["t"], message.get("q")
        if number is None:
            heard = self.hears.get(topic)
            if heard is not None:
                heard(message["d"])
            return
        answer = self.answers.get(topic)
        if self._sock is None:
            return
        if answer is None:
            self._send({"a": number, "e": f"nobody answers {topic!r}"})
            return
        try:
            found = answer(message["d"])
            if isinstance(found, Coroutine):
                task = self._loop.create_task(self._answer_later(number, topic, found))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                return
            said = {"a": number, "d": found}
        except (LookupError, ValueError, ProxyError) as error:
            said = {"a": number, "e": str(error)}
        except Exception as error:  # a bug of ours; who asked must not wait for nothing
            said = {"a": number, "e": f"{type(error).__name__}: {error}"}
            self._loop.broken(f"the answer to {topic!r} raised", None, error)
        self._send(said)

    async def _answer_later(self, number: int, topic: str, found: Coroutine[Any, Any, Any]) -> None:
        try:
            said = {"a": number, "d": await found}
        except (LookupError, ValueError, ProxyError) as error:
            said = {"a": number, "e": str(error)}
        except Exception as error:
            said = {"a": number, "e": f"{type(error).__name__}: {error}"}
            self._loop.broken(f"the answer to {topic!r} raised", None, error)
        if self._sock is not None:
            self._send(said)

    def _lost(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            with suppress(OSError):
                self._loop.remove_writer(sock.fileno())
            sock.close()
        self._pending.clear()
        self._read.clear()
        self._loop.call_later(SOON_S, self.connect)

    def close(self) -> None:
        """The process ends."""
        for task in self._answering:
            task.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            with suppress(OSError):
                sock.setblocking(True)
                sock.settimeout(0.2)
                sock.sendall(self._pending)
            sock.close()
