"""A new link: name → addresses → connect → TLS, endpoint after endpoint, each with its deadline.

A connect that fails sent nothing, so the next address, then the next endpoint is tried; an endpoint where nobody answered is skipped by the
balancer for a while. The lessee hears of the outcome once, from the loop, never from inside the call that started the dial.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from mcpproxy.clock import monotonic
from mcpproxy.errors import ProxyError, Retry, Side
from mcpproxy.net.link import prepare, unpace
from mcpproxy.net.resolve import Target
from mcpproxy.net.timers import NOT_ARMED
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Lessee, Pool, UpstreamLink

IN_PROGRESS = frozenset({errno.EINPROGRESS, errno.EAGAIN})
CROWDED_S = 0.005  # seconds until a unix socket whose backlog is full is tried again; twice as long each time
CROWDED_MOST_S = 0.32
TELL_S = 60.0  # seconds between two lines about the same endpoint
LOCAL_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})  # ours, not the endpoint's


def tls_trouble(error: Exception) -> str:
    """Why there is no TLS, in the words of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    hint = " (does it speak TLS at all?)" if reason == "WRONG_VERSION_NUMBER" else ""
    return f"TLS failed: {reason.lower().replace('_', ' ') if reason else error}{hint}"


class Dial:
    """One attempt to reach one of a pool's endpoints, or that endpoint `alone`. Ends in lessee.leased or lessee.not_leased unless cancelled."""

    __slots__ = (
        "_again",
        "_alone",
        "_crowded",
        "_error",
        "_sock",
        "_target",
        "_targets",
        "_task",
        "_tried",
        "endpoint",
        "lessee",
        "pool",
        "wake",
    )

    def __init__(self, pool: Pool, endpoint: Endpoint, lessee: Lessee, alone: bool = False) -> None:
        self.pool = pool
        self.lessee: Lessee | None = lessee
        self.wake = NOT_ARMED
        self._alone = alone
        self._tried = [endpoint]
        self._targets: list[Target] = []
        self._sock: socket.socket | None = None
        self._target: Target | None = None
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._crowded = CROWDED_S
        self._error = ProxyError("connect-refused", Side.UPSTREAM, 502, Retry.SAFE)
        self.endpoint = endpoint
        self._try_endpoint()

    def broken(self) -> None:
        """Something of ours raised: who waits must not wait for ever."""
        if self.lessee is not None:
            self.lessee.broken()

    def cancel(self) -> None:
        """The lessee left."""
        if self.lessee is not None:
            self._end()
            self.pool.lease_ended(self.endpoint)

    # -- one endpoint after the other ---------------------------------------------------------------------------------------------------

    def _next_endpoint(self) -> None:
        endpoint = None if self._alone else self.pool.group.another(self._tried, self.endpoint, monotonic())
        if endpoint is None:
            self.pool.loop.call_soon(self._give_up)
            return
        self._tried.append(endpoint)
        self.pool.moved(self.endpoint, endpoint)
        self.endpoint = endpoint
        self._try_endpoint()

    def _try_endpoint(self) -> None:
        endpoint = self.endpoint
        self.pool.wheel.arm(self, monotonic() + self.pool.limits.connect_timeout)
        name = endpoint.name
        if name is None:
            self._targets = list(endpoint.targets)
        elif name.targets:
            self._targets = name.in_turn()
            if not name.fresh(monotonic()):
                name.refresh(self.pool.loop)
        else:
            self._task = self.pool.loop.create_task(self._look_up())
            return
        self._next_target()

    async def _look_up(self) -> None:
        assert self.endpoint.name is not None
        try:
            await self.endpoint.name.ask(self.pool.loop)
            self._targets = self.endpoint.name.in_turn()
        except OSError as error:
            self._failed(ProxyError("name-unknown", Side.UPSTREAM, 502, Retry.SAFE), error.strerror or str(error))
            return
        self._task = None
        self._next_target()

    def _failed(self, error: ProxyError, why: str, *, blame: bool = True) -> None:
        self._drop_socket()
        self._error = error
        if self._targets:
            self._next_target()
            return
        self._tell(why)
        if blame:
            self.pool.group.unreachable(self.endpoint, why)
        self._next_endpoint()

    def _tell(self, why: str) -> None:
        """The operator; once in a while is enough."""
        endpoint, now = self.endpoint, monotonic()
        if now - endpoint.told >= TELL_S:
            endpoint.told = now
            self.pool.tell(f"{endpoint.label}: {why}")

    def _give_up(self) -> None:
        lessee = self.lessee
        if lessee is not None:
            self._end()
            self.pool.lease_ended(self.endpoint)
            lessee.not_leased(self._error, self.endpoint)

    def due(self, now: float) -> float | None:
        """The connect (or TLS, or name) deadline of this endpoint has passed."""
        self._targets = []
        self._stop_waiting()
        self._failed(ProxyError("connect-timeout", Side.UPSTREAM, 504, Retry.SAFE), "no connection in time (connect_timeout)")
        return None

    # -- one address --------------------------------------------------------------------------------------------------------------------

    def _next_target(self) -> None:
        self._target = target = self._targets.pop(0)
        try:
            self._sock = sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._refused(error.errno or 0)
            return
        prepare(sock)
        if target.loopback:
            unpace(sock)
        try:
            code = sock.connect_ex(target.address)
        except OSError as error:  # a unix path that is too long, an address that is none
            code = error.errno or errno.EINVAL
        if code == 0 or (code in IN_PROGRESS and target.family != socket.AF_UNIX):
            self.pool.loop.add_writer(sock.fileno(), self._connected)
        elif code == errno.EAGAIN:
            self._wait_for_backlog(target)
        else:
            self._refused(code)

    def _wait_for_backlog(self, target: Target) -> None:
        """A unix socket whose server has not accepted for a moment. TCP would ask again by itself until the deadline; here it is up to us."""
        self._drop_socket()
        self._targets.insert(0, target)
        self._again = self.pool.loop.call_later(self._crowded, self._next_target)
        self._crowded = min(2 * self._crowded, CROWDED_MOST_S)

    def _refused(self, code: int) -> None:
        if code in LOCAL_TROUBLE:
            self._targets = []
            self._failed(ProxyError("out-of-descriptors", Side.INTERNAL, 503, Retry.NEVER), os.strerror(code), blame=False)
        else:
            kind = "connect-refused" if code == errno.ECONNREFUSED else "connect-failed"
            self._failed(ProxyError(kind, Side.UPSTREAM, 502, Retry.SAFE), os.strerror(code))

    def _connected(self) -> None:
        sock = self._sock
        assert sock is not None
        self.pool.loop.remove_writer(sock.fileno())
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._refused(code)
            return
        context = self.endpoint.tls
        if context is None:
            self._succeed(sock)
            return
        try:
            self._sock = context.wrap_socket(
                sock, server_hostname=self.endpoint.hostname, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except (OSError, ValueError) as error:
            self._failed(ProxyError("upstream-tls", Side.UPSTREAM, 502, Retry.SAFE), tls_trouble(error))
            return
        self._shake()

    def _shake(self) -> None:
        sock = self._sock
        assert isinstance(sock, ssl.SSLSocket)
        loop, fd = self.pool.loop, sock.fileno()
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(fd, self._shake)
        except ssl.SSLWantWriteError:
            loop.add_writer(fd, self._shake)
        except (OSError, ValueError) as error:
            self._failed(ProxyError("upstream-tls", Side.UPSTREAM, 502, Retry.SAFE), tls_trouble(error))
        else:
            self._succeed(sock)

    def _succeed(self, sock: socket.socket) -> None:
        lessee = self.lessee
        assert lessee is not None
        self._sock = None
        endpoint = self.endpoint
        self._end()
        if endpoint.trial:
            self.pool.group.reached(endpoint)
        link = UpstreamLink(self.pool, endpoint, sock)
        link.target = self._target
        link.resume()
        try:
            lessee.leased(link)
        except Exception as error:
            self.pool.loop.broken("a fresh link's request raised", link.readable, error)

    # -- ends ----------------------------------------------------------------------------------------------------------------------------

    def _drop_socket(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None and (fd := sock.fileno()) >= 0:
            self.pool.loop.remove_reader(fd)
            self.pool.loop.remove_writer(fd)
            sock.close()

    def _end(self) -> None:
        self.lessee = None
        self._alone = True
        self._targets = []
        self._drop_socket()
        if self.wake:
            self.pool.wheel.disarm(self)
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        """For a name, or for room in a backlog."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._again is not None:
            self._again.cancel()
            self._again = None
