"""HTTP/1.1 requests to somewhere on the internet: TLS, warm connections, answers as they come, proxies by environment.

    wire = Wire(context)
    reply = await wire.send(b"POST", url, fields, body)
    async for event in reply.events(): …        or: body = await reply.body()

upstream/pool is made for a server that is known and near; this is made for a desk: one server far away, a network that comes and goes.

 1. An error knows whether the request may have been heard (`sent`). Only who knows that it was not may ask again.
 2. A connection that lies idle is used again for a few seconds only, and only when the server has not closed it: a POST is never asked twice.
 3. Bodies and events have a bound, and what is not read by us is not read by the kernel: back-pressure reaches the server.
 4. A dead network is noticed by TCP's own probes, so streams may be silent for as long as they like.
 5. Redirects (307, 308) are followed within an origin, or to https of the same host.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin, urlsplit

from mcpproxy.clock import monotonic
from mcpproxy.connect.places import Place, WireError, place_of, proxy_for
from mcpproxy.errors import ProxyError
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, RESPONSE, ChunkedScanner, LengthScanner, UntilClose
from mcpproxy.http.head import ResponseHead, parse_response
from mcpproxy.http.sse import Event, Events
from mcpproxy.net.fetch import allowed

HEAD_LIMIT = 64 * 1024  # bytes of a response head
INTERIM_LIMIT = 16  # 1xx heads before the final one
READ = 64 * 1024
CONNECT_S = 10.0  # to resolve, connect and shake hands
WARM_S = 4.0  # idle connections of servers that do not say how long they keep them: uvicorn and Node close after 5
WARM_MOST_S = 60.0
IDLE_LINKS = 8
REDIRECTS = 3
PROBES = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 60_000))


@dataclass(slots=True, eq=False)
class Link:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    by_proxy: bool = False  # plain http over a proxy: targets are whole URLs
    until: float = 0.0  # idle: used again until then

    @property
    def is_alive(self) -> bool:
        """As far as we have heard."""
        return not self.reader.at_eof() and not self.writer.is_closing() and self.reader.exception() is None

    def close(self) -> None:
        """At once."""
        self.writer.transport.abort()


@dataclass(slots=True)
class Wire:
    """Connections to whom we ask. `context` makes the TLS context, when first needed. `environment`: where proxies are named."""

    context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _idle: dict[tuple[bool, str, int], list[Link]] = field(default_factory=dict)
    _made: ssl.SSLContext | None = None

    async def send(
        self,
        method: bytes,
        url: str,
        fields: bytes | Callable[[Place], bytes] = b"",
        body: bytes = b"",
        *,
        most: int = 16 << 20,
        public: bool = False,
    ) -> Reply:
        """Ask, and read the head of the answer. `fields`: whole lines with CRLF, or who makes them for the place. `public`: only public addresses
        will do (the URL came from somebody else). Raises WireError."""
        place = place_of(url)
        for _ in range(REDIRECTS):
            reply = await self._send(method, place, fields(place) if callable(fields) else fields, body, most, public)
            where = reply.first(b"location") if reply.status in (307, 308) else None
            if where is None:
                return reply
            there = place_of(urljoin(f"{'https' if place.secure else 'http'}://{place.authority}{place.target}", where.decode("latin-1")))
            if there.origin != place.origin and not (
                there.secure and not place.secure and (place.name, place.port, there.port) == (there.name, 80, 443)
            ):
                reply.close()
                raise WireError(f"{place.authority} sends us to {there.authority}: not followed; give that URL itself", hopeless=True)
            reply.close()
            place = there
        raise WireError(f"{place.authority} sends us in circles", hopeless=True)

    def close(self) -> None:
        """No connection is left."""
        for links in self._idle.values():
            for link in links:
                link.close()
        self._idle.clear()

    async def _send(self, method: bytes, place: Place, fields: bytes, body: bytes, most: int, public: bool) -> Reply:
        link, reused = self._warm(place), True
        if link is None:
            link, reused = await self._connect(place, public), False
        try:
            return await self._ask(link, method, place, fields, body, most)
        except WireError as error:
            if not reused or method == b"POST" or not error.sent:
                raise
        link = await self._connect(place, public)
        return await self._ask(link, method, place, fields, body, most)

    async def _ask(self, link: Link, method: bytes, place: Place, fields: bytes, body: bytes, most: int) -> Reply:
        target = f"http://{place.authority}{place.target}" if link.by_proxy else place.target
        length = b"Content-Length: %d\r\n" % len(body) if body or method == b"POST" else b""
        start = f"{method.decode()} {target} HTTP/1.1\r\nHost: {place.authority}\r\nAccept-Encoding: identity\r\n".encode()
        try:
            link.writer.write(b"%b%b%b\r\n%b" % (start, fields, length, body))
            await link.writer.drain()
            head, rest = await self._head(link, method)
        except (OSError, asyncio.IncompleteReadError, EOFError, ProxyError) as error:
            link.close()
            raise WireError(f"{place.authority} {_why(error)}", sent=True) from None
        except BaseException:
            link.close()
            raise
        if (head.first(b"content-encoding") or b"identity").lower() != b"identity":
            link.close()
            raise WireError(f"{place.authority} sent a compressed answer, which was not asked for", sent=True)
        return Reply(self, place, link, head, rest, most)

    @staticmethod
    async def _head(link: Link, method: bytes) -> tuple[ResponseHead, bytes]:
        held = b""
        for _ in range(INTERIM_LIMIT):
            while (end := held.find(b"\r\n\r\n") + 4) < 4:
                data = await link.reader.read(READ)
                if not data or len(held) > HEAD_LIMIT:
                    raise EOFError
                held += data
            head = parse_response(held[:end], method)
            held = held[end:]
            if head.status >= 200:
                return head, held
        raise EOFError

    # -- connections -----------------------------------------------------------------------------------------------------------------------------

    def _warm(self, place: Place) -> Link | None:
        links, now = self._idle.get(place.origin, []), monotonic()
        while links:
            link = links.pop()
            if link.is_alive and now < link.until:
                return link
            link.close()
        return None

    def keep(self, place: Place, link: Link, head: ResponseHead) -> None:
        """An answer is read to its end."""
        links = self._idle.setdefault(place.origin, [])
        if not head.keep_alive or not link.is_alive or len(links) >= IDLE_LINKS:
            link.close()
            return
        hint = head.keep_alive_timeout
        link.until = monotonic() + (WARM_S if hint is None else min(max(0.0, hint - 1.0), WARM_MOST_S))
        links.append(link)

    async def _connect(self, place: Place, public: bool) -> Link:
        proxy = proxy_for(place, self.environment)
        try:
            async with asyncio.timeout(CONNECT_S):
                if proxy is not None:
                    return await self._by_proxy(place, proxy)
                host = await self._public(place) if public else place.name
                tls = self._tls() if place.secure else None
                reader, writer = await asyncio.open_connection(
                    host,
                    place.port,
                    limit=READ,
                    ssl=tls,
                    server_hostname=place.name if tls else None,
                    happy_eyeballs_delay=None if public else 0.25,
                )
        except TimeoutError:
            raise WireError(f"{place.authority} could not be connected to within {CONNECT_S:g} s") from None
        except ssl.SSLCertVerificationError as error:
            said = f"{place.authority}: its certificate is not trusted: {error.verify_message} (--cacert FILE names who signs it)"
            raise WireError(said, hopeless=True) from None
        except OSError as error:
            raise WireError(f"{place.authority} {_why(error)}") from None
        _probe(writer)
        return Link(reader, writer)

    async def _public(self, place: Place) -> str:
        rows = await asyncio.get_running_loop().getaddrinfo(place.name, place.port, type=socket.SOCK_STREAM)
        for row in rows:
            if allowed(str(row[4][0]), private=False):
                return str(row[4][0])
        raise WireError(f"{place.name} has no public address: the server may not send us there", hopeless=True)

    async def _by_proxy(self, place: Place, proxy: str) -> Link:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WireError(f"the proxy of the environment is neither http:// nor https:// but {parts.scheme}://", hopeless=True)
        over_tls = parts.scheme == "https"
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if over_tls else 80), limit=READ, ssl=self._tls() if over_tls else None
        )
        _probe(writer)
        if not place.secure:
            return Link(reader, writer, by_proxy=True)
        whom = f"{place.name if ':' not in place.name else f'[{place.name}]'}:{place.port}"
        lines = f"CONNECT {whom} HTTP/1.1\r\nHost: {whom}\r\n"
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines += f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
        link = Link(reader, writer)
        try:
            writer.write(f"{lines}\r\n".encode())
            try:
                head, rest = await self._head(link, b"CONNECT")
            except (EOFError, ProxyError):
                raise WireError(f"the proxy {parts.hostname} closed, or speaks no HTTP") from None
            if not 200 <= head.status < 300 or rest:
                raise WireError(f"the proxy {parts.hostname} answered {head.status} for {whom}", hopeless=head.status in (403, 407))
            await writer.start_tls(self._tls(), server_hostname=place.name)
        except BaseException:
            link.close()
            raise
        return link

    def _tls(self) -> ssl.SSLContext:
        if self._made is None:
            self._made = self.context()
        return self._made


class Reply:
    """An answer whose head is here."""

    def __init__(self, wire: Wire, place: Place, link: Link, head: ResponseHead, rest: bytes, most: int) -> None:
        self.status, self.first = head.status, head.first
        self.events_read = Events(most)
        self._wire, self._place, self._link, self._head, self._rest, self._most = wire, place, link, head, rest, most
        self._scanner: ChunkedScanner | LengthScanner | UntilClose = UntilClose()
        if head.framing == CHUNKED:
            self._scanner = ChunkedScanner(RESPONSE)
        elif head.framing in (LENGTH, NO_BODY):
            self._scanner = LengthScanner(head.length if head.framing == LENGTH else 0)
        self._over = False
        if self._scanner.done:
            self._end(keep=not rest)

    def all(self, name: bytes) -> list[bytes]:
        """The values of every field of that (lower-case) name."""
        return [value for _, lower, value in self._head.fields if lower == name]

    @property
    def media_type(self) -> bytes:
        """In lower case, without parameters."""
        return (self.first(b"content-type") or b"").partition(b";")[0].strip().lower()

    @property
    def streams(self) -> bool:
        """Are these events?"""
        return self.status == 200 and self.media_type == b"text/event-stream"

    async def pieces(self) -> AsyncIterator[bytes]:
        """The payload as it comes. Raises WireError where it was cut."""
        data, self._rest = self._rest, b""
        try:
            while not self._over:
                if data:
                    found: list[bytes] = []
                    taken = self._scanner.feed(data, found)
                    for piece in found:
                        yield piece
                    if self._scanner.done:
                        self._end(keep=taken == len(data))
                        return
                data = await self._link.reader.read(READ)
                if not data:
                    cut = self._head.framing in (LENGTH, CHUNKED)
                    self._end(keep=False)
                    if cut:
                        raise EOFError
        except (OSError, EOFError, ProxyError) as error:
            raise WireError(f"{self._place.authority} {_why(error)}", sent=True) from None
        finally:
            self.close()

    async def body(self) -> bytes:
        """All of it."""
        if self._head.length > self._most:
            self.close()
            raise WireError(f"{self._place.authority}: the answer is larger than {self._most} bytes", sent=True)
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > self._most:
                self.close()
                raise WireError(f"{self._place.authority}: the answer is larger than {self._most} bytes", sent=True)
        return bytes(body)

    async def events(self) -> AsyncIterator[Event]:
        """Its events. Who stops early must `close`."""
        async for piece in self.pieces():
            try:
                found = self.events_read.feed(piece)
            except ProxyError:
                self.close()
                raise WireError(f"{self._place.authority}: an event is larger than {self._most} bytes", sent=True) from None
            for event in found:
                yield event

    def close(self) -> None:
        """The rest is not wanted: the server sees the connection closed."""
        self._end(keep=False)

    def _end(self, *, keep: bool) -> None:
        if self._over:
            return
        self._over = True
        if keep:
            self._wire.keep(self._place, self._link, self._head)
        else:
            self._link.close()


def _probe(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _why(error: BaseException) -> str:
    """Of a failure, for people."""
    if isinstance(error, socket.gaierror):
        return "is a name that could not be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ProxyError):
        return f"sent what is no HTTP answer ({error.kind})"
    if isinstance(error, ssl.SSLError):
        return f"failed the TLS handshake ({error.reason or 'closed'})"
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return "closed the connection before its answer was whole"
    return f"could not be reached ({error.strerror if isinstance(error, OSError) and error.strerror else error})"
