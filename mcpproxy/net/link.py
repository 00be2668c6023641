"""HOT. One connected socket, plain or TLS, and the rules for moving bytes through it.

Both sides of the proxy are Links: a Downstream (edge/downstream) towards the client, an UpstreamLink (upstream/pool) towards the server.

 1. Write first. `write` sends at once; only what the kernel refused is kept (`pending`, at most one read's worth). While anything is pending the
    owner stops reading the *other* side and `drained` tells it when to go on. Nothing else ever queues.
 2. One reader callback for the life of the link. Pausing takes it out of the loop, so a stopped peer costs nothing.
 3. TLS is OpenSSL directly on the socket: `recv` and `send` are then the SSL object's own `read` and `write`, and a raised SSLWantRead or
    SSLWantWrite means the same as EAGAIN. Without read-ahead OpenSSL takes exactly one record per read, so nothing hides in its buffers from
    the (level-triggered) loop.
 4. Whoever opened a link closes it: `close` for a clean end (close_notify, FIN), `abort` when the peer must see that the message was cut (RST).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.timers import NOT_ARMED, Wheel

READ = 65536  # bytes per read, and so the most that is ever kept for a peer that does not take them
RECORD = 16384  # bytes: the most one TLS record carries (RFC 8446 §5.1)
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
NO_SOCKET: Any = type(
    "NoSocket", (), {"close": staticmethod(lambda: None)}
)()  # what a link is left with when its socket goes on to another one
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """A connected non-blocking socket in the loop. Subclasses say what readable, drained, lost and due mean."""

    __slots__ = ("fd", "loop", "pending", "reading", "recv", "send", "sock", "tls", "wake", "wheel")
    secure: ClassVar[bool] = False

    def __init__(self, loop: EdgeLoop, wheel: Wheel, sock: socket.socket) -> None:
        self.loop = loop
        self.wheel = wheel
        self.sock = sock
        self.fd = sock.fileno()
        self.pending: memoryview | None = None
        self.reading = False
        self.wake = NOT_ARMED
        self.tls: Any = None
        self.recv: Callable[[int], bytes]
        self.send: Callable[[Any], int]
        if isinstance(sock, ssl.SSLSocket):
            # SSLSocket.read/write are Python wrappers around these two; on the hot path the wrapper costs as much as the dictionary look-up of a plan.
            self.tls = sock._sslobj  # type: ignore[attr-defined]
            if self.tls is None:
                sock.close()
                raise ConnectionAbortedError("the peer left before the handshake")
            self.recv, self.send = self.tls.read, self.tls.write
        else:
            self.recv, self.send = sock.recv, sock.send

    # -- reading ---------------------------------------------------------------------------------------------------------------------

    def asked(self, events: int) -> int:
        """Ask the kernel, past the loop: which of these events (or an end, or an error) are there now?"""
        question = select.poll()
        question.register(self.fd, events)
        found = question.poll(0)
        return found[0][1] if found else 0

    def resume(self) -> None:
        """Read from this link (again)."""
        if not self.reading and self.fd >= 0:
            self.reading = True
            self._hear()

    def _hear(self) -> None:
        self.loop.add_reader(
            self.fd, self.readable, drains=self.tls is None
        )  # TLS takes a record at a time and leaves the rest with the kernel

    def pause(self) -> None:
        """Stop reading from this link."""
        if self.reading:
            self.reading = False
            self.loop.remove_reader(self.fd)

    def read_on(self, data: bytes) -> bytes:
        """After a full TLS record of a large body: what lies behind it, up to one READ and one record, so that five records cost one turn and one write.

        Five and not four: who sends chunks of 64 KiB sends their framing in a small record behind four full ones. Whatever ends the reading
        (nothing there, an end, an error) is met again by the next `readable`.
        """
        pieces, size, recv = [data], len(data), self.recv
        try:
            while size <= READ:
                more = recv(RECORD)
                pieces.append(more)
                size += len(more)
                if len(more) != RECORD:
                    break
        except OSError:
            pass
        return b"".join(pieces)

    def read_failed(self, error: OSError) -> bool:
        """A read raised. True when that is the peer's clean end; False when there is nothing to do (`lost` was told, if it was that)."""
        if isinstance(error, WOULD_BLOCK):
            if isinstance(error, ssl.SSLWantWriteError):  # a key update: TLS must write before it can read on
                self.loop.remove_reader(self.fd)  # or what lies unread calls us again and again meanwhile
                if self.pending is None:
                    self.loop.add_writer(self.fd, self._read_after_write)
            return False
        if isinstance(error, ssl.SSLZeroReturnError):
            return True  # close_notify; OpenSSL reads it as b"" only as long as we have not said ours
        self.lost(error)
        return False

    def _read_after_write(self) -> None:
        self.loop.remove_writer(self.fd)
        if self.reading:
            self._hear()
            self.readable()

    # -- writing ---------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> bool:
        """Send `data` now. True: all of it is with the kernel. False: the rest is pending and `drained` will be called.

        Raises OSError when the peer is gone. Nothing may be pending when this is called.
        """
        try:
            sent = self.send(data)
        except WOULD_BLOCK:
            sent = 0
        if sent == len(data):
            return True
        self.pending = memoryview(data)[sent:]
        self.loop.add_writer(self.fd, self._writable)
        return False

    def hold(self, data: bytes | memoryview) -> None:
        """Keep what `send` refused when the caller called it itself (the hot path does)."""
        self.pending = memoryview(data)
        self.loop.add_writer(self.fd, self._writable)

    def _writable(self) -> None:
        pending = cast(memoryview, self.pending)
        try:
            sent = self.send(pending)
        except WOULD_BLOCK:
            return
        except OSError as error:
            self.loop.remove_writer(self.fd)
            self.pending = None
            self.not_written(error)
            return
        if sent < len(pending):
            self.pending = pending[sent:]
            return
        self.pending = None
        self.loop.remove_writer(self.fd)
        if self.reading:
            self._hear()  # read_failed may have taken it out
        self.drained()

    # -- ends ------------------------------------------------------------------------------------------------------------------------

    def finish_writing(self) -> None:
        """Tell the peer that no more bytes come (close_notify, FIN) while still reading what it sends.

        Over TLS, bytes of the peer that cross our close_notify are an error to OpenSSL as Python calls it: see `read_raw`.
        """
        self._say_goodbye()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def read_raw(self) -> None:
        """What comes from now on is thrown away: there is no need to decrypt it, and nothing in it can be an error."""
        if self.tls is not None:
            self.recv = partial(socket.socket.recv, self.sock)

    def close(self) -> None:
        """A clean end: close_notify for TLS, then FIN."""
        if self.fd >= 0:
            self._say_goodbye()
            self._release()

    def drop(self) -> None:
        """A cut that loses nothing already sent: FIN, but no close_notify, so that TLS and framed messages show it."""
        if self.fd >= 0:
            self._release()

    def abort(self) -> None:
        """A cut: the peer gets a reset and no close_notify, so it cannot take what it has for the whole message."""
        if self.fd >= 0:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # already reset by the peer
            self._release()

    def _say_goodbye(self) -> None:
        if self.tls is not None and self.pending is None:
            try:
                self.tls.shutdown()
            except (OSError, ValueError):
                pass  # sent (it then wants the peer's answer, which nobody waits for) or the peer is gone

    def broken(self) -> None:
        """A callback of ours raised (net/loop.broken): nobody knows what state this is in."""
        self.abort()

    def _release(self) -> None:
        if self.reading:
            self.loop.remove_reader(self.fd)
            self.reading = False
        self.loop.remove_writer(self.fd)
        self.fd = -1
        if self.wake:
            self.wheel.disarm(self)
        self.pending = None
        self.tls = None
        self.recv = self.send = _closed
        self.sock.close()

    # -- what a subclass answers --------------------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """The loop says: bytes, end or error are there."""
        raise NotImplementedError

    def drained(self) -> None:
        """Everything pending is with the kernel: the other side may be read again."""
        raise NotImplementedError

    def lost(self, error: OSError) -> None:
        """The peer is gone; found out while writing what was pending."""
        raise NotImplementedError

    def not_written(self, error: OSError) -> None:
        """What was pending could not be written."""
        self.lost(error)

    def due(self, now: float) -> float | None:
        """See timers.Item."""
        raise NotImplementedError


def _closed(_: Any) -> Any:
    raise ConnectionAbortedError("link is closed")


def prepare(sock: socket.socket) -> None:
    """Socket options every TCP link gets: no Nagle, and probes so that a vanished peer of a silent 24 h stream is found within minutes.

    A listening socket hands them on to what it accepts.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def unpace(sock: socket.socket) -> None:
    """For TCP over loopback, before it connects: no congestion control that paces.

    There is no path whose width could be felt for; where the system prefers BBR, sends would wait for kernel timers, a sixth of what an upload costs
    (docs/performance.md). Reno is in every kernel and free for everybody to choose, unless the administrator says otherwise.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    except OSError:
        pass  # it works as well as before


PROBE_AFTER, PROBE_EVERY, PROBES = 60, 15, 4  # a dead peer is found after 60 + 4 x 15 s: two minutes, far below any NAT's patience
