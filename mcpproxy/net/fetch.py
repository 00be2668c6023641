"""A small HTTPS client for the control plane: key sets, metadata, introspection, token endpoints. Never for the calls that are proxied.

What is fetched is named by others (an issuer's metadata, a resolver), so a name is a way to make us knock inside our own network:

 1. A name is resolved once, every address that is not a public one is passed over, and we connect to exactly an address that was looked at;
    the certificate is checked for the name. What follows from a second look-up (DNS rebinding) cannot happen: there is none.
 2. No redirects: where the operator did not send us, we do not go.
 3. Head, body and the time for everything together are bounded, so that nothing can be slow or large for long.
 4. One request per connection (`Connection: close`), framing read strictly, nothing kept.

asyncio streams, not http.client in a thread: a blocking read is bounded per read only, and a server that sends a byte now and then would keep the
thread for ever. The loop is uvloop's own part (net/loop): the hot path's epoll does not notice. This is the one file of this room that speaks
HTTP, because rooms above that do not know each other need it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import urlsplit

from mcpproxy.net.resolve import Target, literal

ADDRESSES_TRIED = 3
INTERIM_RESPONSES = 4
CHUNKS = 4096  # of a body; servers send a handful
CHUNK_LINE = 256  # bytes of a chunk size with its extensions

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[Target]]]


class FetchError(Exception):
    """It could not be fetched. `kind` is one of: bad-url, name-unknown, address-refused, connect-failed, tls-failed, timeout, bad-response,
    redirected, too-large. `detail` is for the log: it repeats nothing the other side sent."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of everything: bytes, and seconds for all together."""

    head: int = 16 * 1024
    body: int = 256 * 1024
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Field names in lower case; of repeated fields the first."""

    status: int
    body: bytes
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


async def fetch(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Iterable[tuple[str, str]] = (),
    private: bool = False,
    ca: str | None = None,
    bounds: Bounds = Bounds(),
    resolve: Resolver | None = None,
) -> Response:
    """Ask for `url`. `private`: its address may be one of a private network or this machine's own. `ca`: authorities (PEM file) instead of the
    system's. Raises FetchError, also for redirects; other statuses are the caller's to judge."""
    place = _place(url)
    request = _request(place, method, body, headers)
    tls = _context(ca) if place.secure else None
    try:
        async with asyncio.timeout(bounds.seconds):
            targets = await _targets(place, private, resolve or _resolve)
            reader, writer = await _connect(place, targets, tls, bounds)
            try:
                writer.write(request)
                return await _response(reader, bounds, place, bodiless=method == "HEAD")
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise FetchError("timeout", f"{place.name} did not answer within {bounds.seconds:g} s") from None


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, name: str, bounds: Bounds) -> Response:
    """Send a request over a connection that its caller made, and read the answer as strictly. Raises FetchError, OSError."""
    writer.write(request)
    return await _response(reader, bounds, _Place(False, name, 0, name, "/"), bodiless=False)


# -- where ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    secure: bool
    name: str
    port: int
    authority: str
    target: str


def _place(url: str) -> _Place:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchError("bad-url", "not a URL") from None
    name = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not name or "@" in parts.netloc or not is_plain(url):
        raise FetchError("bad-url", "not an http(s) URL in printable ASCII without user and password")
    shown = f"[{name}]" if ":" in name else name
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(secure, name, port or (443 if secure else 80), shown if port is None else f"{shown}:{port}", target)


is_plain = re.compile(r"[!-~]{1,4096}").fullmatch
is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
is_value = re.compile(r"[\t -~]*").fullmatch


def _request(place: _Place, method: str, body: bytes | None, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {place.target} HTTP/1.1", f"Host: {place.authority}", "Connection: close", "Accept-Encoding: identity"]
    for name, value in headers:
        assert is_name(name), "a field name"
        assert is_value(value), "a field value"
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


# -- may we go there --------------------------------------------------------------------------------------------------------------------------

# IANA's special-purpose registries (2025), as far as they are not global; Python's own `is_global` differs between versions and takes 6to4 for
# global. What is not listed here and not in 2000::/3 is not global unicast.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's platform address: public by number, the host's own by meaning
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # protocol assignments with Teredo; documentation; 6to4
    )
)
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def allowed(address: str, *, private: bool) -> bool:
    """May we connect to this address? Public ones always; private networks and loopback only when told so; link-local ones (metadata services of
    clouds), multicast and the unspecified address never. An IPv4 address in IPv6 clothes (mapped, NAT64) is judged as what it is; 6to4, Teredo
    and IPv4-compatible ones are refused."""
    try:
        ip: Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    if private and any(ip in network for network in PRIVATE):
        return True
    return not any(ip in network for network in NOT_PUBLIC) and (ip.version == 4 or ip in GLOBAL_UNICAST)


async def _targets(place: _Place, private: bool, resolve: Resolver) -> list[Target]:
    """The addresses of the place that we may connect to."""
    try:
        found = await resolve(place.name, place.port)
    except (OSError, UnicodeError):
        raise FetchError("name-unknown", f"{place.name} could not be resolved") from None
    fit = [target for target in dict.fromkeys(found) if allowed(target.address[0], private=private)]
    if not fit:
        raise FetchError("address-refused", f"{place.name} has no address that may be asked" + ("" if private else " (private = false)"))
    if not place.secure and not all(ipaddress.ip_address(target.address[0]).is_loopback for target in fit):
        raise FetchError("address-refused", f"{place.name} is not this machine: over plain http anybody on the way could answer")
    return fit[:ADDRESSES_TRIED]


async def _resolve(name: str, port: int) -> Sequence[Target]:
    known = literal(name, port)
    if known is not None:
        return [known]
    rows = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [Target(row[0], row[4]) for row in rows]


# -- connect ----------------------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _context(ca: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise FetchError("tls-failed", f"{ca}: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect(
    place: _Place, targets: Sequence[Target], tls: ssl.SSLContext | None, bounds: Bounds
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that takes one; each has its share of the time."""
    loop = asyncio.get_running_loop()
    for target in targets:
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM)
        except OSError:  # no descriptor left, or this machine has no such family
            continue
        try:
            sock.setblocking(False)
            async with asyncio.timeout(bounds.seconds / (len(targets) + 1)):
                await loop.sock_connect(sock, target.address)
        except OSError:  # TimeoutError is one
            sock.close()
            continue
        except BaseException:
            sock.close()
            raise
        try:
            return await asyncio.open_connection(sock=sock, limit=bounds.head, ssl=tls, server_hostname=place.name if tls else None)
        except ssl.SSLCertVerificationError as error:
            raise FetchError("tls-failed", f"{place.name}: {error.verify_message}") from None
        except TimeoutError:
            raise
        except OSError as error:
            raise FetchError("tls-failed", f"{place.name}: {getattr(error, 'reason', None) or 'closed during the handshake'}") from None
    raise FetchError("connect-failed", f"{place.name} could not be connected to")


# -- the response -----------------------------------------------------------------------------------------------------------------------------

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~]*)?\r\n")
LENGTH = re.compile(r"[0-9]{1,12}")


async def _response(reader: asyncio.StreamReader, bounds: Bounds, place: _Place, *, bodiless: bool) -> Response:
    try:
        for _ in range(INTERIM_RESPONSES):
            status, minor, fields = _head(await reader.readuntil(b"\r\n\r\n"))
            if status >= 200:
                break
        else:
            raise FetchError("bad-response", "too many interim responses")
        if 300 <= status < 400 and status != 304:
            raise FetchError("redirected", f"{place.name} answered {status}; redirects are not followed")
        if fields.get("content-encoding", "identity").lower() != "identity":
            raise FetchError("bad-response", "the body is compressed, which was not asked for")
        body = b"" if bodiless or status in (204, 304) else await _body(reader, fields, minor, bounds.body)
        return Response(status, body, MappingProxyType(fields))
    except asyncio.IncompleteReadError:
        raise FetchError("bad-response", f"{place.name} closed within its response") from None
    except asyncio.LimitOverrunError:
        raise FetchError("too-large", f"more than {bounds.head} bytes of head") from None
    except TimeoutError:
        raise
    except OSError:
        raise FetchError("bad-response", f"the connection to {place.name} broke") from None


def _head(head: bytes) -> tuple[int, int, dict[str, str]]:
    first, *lines = head[:-4].split(b"\r\n")
    start = STATUS_LINE.fullmatch(first)
    if start is None:
        raise FetchError("bad-response", "not HTTP/1.1")
    fields: dict[str, str] = {}
    for line in lines:
        found = FIELD_LINE.fullmatch(line)
        if found is None:
            raise FetchError("bad-response", "a malformed field")
        name = found[1].decode().lower()
        if name in fields and name in ("content-length", "transfer-encoding", "content-encoding"):
            raise FetchError("bad-response", "framing is said twice")
        fields.setdefault(name, found[2].decode("latin-1").rstrip(" \t"))
    return int(start[2]), int(start[1]), fields


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str], minor: int, most: int) -> bytes:
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None or minor == 0:
            raise FetchError("bad-response", "the framing of the body is not understood")
        return await _chunked(reader, most)
    if length is not None:
        if not LENGTH.fullmatch(length):
            raise FetchError("bad-response", "the length of the body is malformed")
        if int(length) > most:
            raise FetchError("too-large", f"more than {most} bytes of body")
        return await reader.readexactly(int(length))
    body = bytearray()
    while data := await reader.read(65536):
        body += data
        if len(body) > most:
            raise FetchError("too-large", f"more than {most} bytes of body")
    return bytes(body)


async def _chunked(reader: asyncio.StreamReader, most: int) -> bytes:
    body = bytearray()
    for _ in range(CHUNKS):
        line = await reader.readuntil(b"\r\n")
        found = CHUNK_SIZE.fullmatch(line)
        if found is None or len(line) > CHUNK_LINE:
            raise FetchError("bad-response", "a malformed chunk")
        size = int(found[1], 16)
        if size == 0:
            return bytes(body)  # trailers, if any, say nothing to us; the connection ends here
        if len(body) + size > most:
            raise FetchError("too-large", f"more than {most} bytes of body")
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise FetchError("bad-response", "a malformed chunk")
    raise FetchError("too-large", f"more than {CHUNKS} chunks")
