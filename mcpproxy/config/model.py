"""What can be configured: one frozen structure per table, and for every key its kind, default and documentation, here and nowhere else.

    idle_timeout: Annotated[float, Key(Duration(), "What it means, its unit, when not to use it.")] = 24 * HOUR

`load` reads TOML by these annotations, `reference` writes docs/config.md from them. After loading every duration is a float of seconds
and every size an int of bytes. Names are exactly the keys of the file. LATER lists keys that later versions will know: they are refused
by name, never ignored. It is one file because this is the list of what can be said; who may come in and call has one of its own (policies).
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Struct, field

from mcpproxy.config import names
from mcpproxy.config.gateway import TABLES as GATEWAY
from mcpproxy.config.gateway import Hub
from mcpproxy.config.kinds import (
    AUTO,
    Choice,
    Count,
    Duration,
    File,
    Flag,
    Frequency,
    Key,
    Named,
    Processes,
    Size,
    Table,
    Tables,
    Text,
    Words,
)
from mcpproxy.config.policies import TABLES as POLICIES
from mcpproxy.config.policies import Audit, Auth, Credential, Identity, Limit, Tools
from mcpproxy.config.serving import TABLES as SERVING
from mcpproxy.config.serving import Acme, Admin, Affinity, Otel
from mcpproxy.config.upstreams import TABLES as UPSTREAMS
from mcpproxy.config.upstreams import Breaker, Endpoint, Health
from mcpproxy.units import Rate

MINUTE, HOUR = 60.0, 3600.0
KIB, MIB = 1 << 10, 1 << 20
PLACES = ("stdout", "stderr", "off")  # for the access log, beside files


class CertificateFiles(Struct, frozen=True, kw_only=True):
    """A certificate, by its files or by its names; the one whose names fit the name the client asks for (SNI) is used, the first of all when none fits."""

    cert: Annotated[
        str | None, Key(File(), "The certificate in PEM: the full chain, leaf first (certbot: `fullchain.pem`). Goes with `key`.")
    ] = None
    key: Annotated[
        str | None,
        Key(
            File(), "Its private key in PEM (certbot: `privkey.pem`), without a passphrase, readable by the daemon only. Goes with `cert`."
        ),
    ] = None
    hosts: Annotated[
        tuple[str, ...],
        Key(
            Words("list of host names", Text("host name", names.host)),
            "Instead of files: the names of a certificate of its own that comes by ACME; needs `listen.tls.acme`.",
            "none",
        ),
    ] = ()


class Tls(Struct, frozen=True, kw_only=True):
    """How a listener speaks TLS. Write `tls = "dev"` instead of a table for a certificate of the local development authority."""

    cert: Annotated[
        str | None, Key(File(), "The certificate in PEM: the full chain, leaf first (certbot: `fullchain.pem`). Goes with `key`.")
    ] = None
    key: Annotated[
        str | None,
        Key(
            File(), "Its private key in PEM (certbot: `privkey.pem`), without a passphrase, readable by the daemon only. Goes with `cert`."
        ),
    ] = None
    certificates: Annotated[
        tuple[CertificateFiles, ...],
        Key(
            Tables("list of tables", CertificateFiles),
            "Several certificates, chosen by the name the client asks for (SNI). The first of all (`cert`/`key` come before these) "
            "answers clients that ask for none or for an unknown one.",
            "none",
        ),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        Key(
            Words("list of host names", Text("host name", names.host)),
            "Names for a certificate of the local development authority, beside localhost and the loopback addresses: local names "
            "(`mcp.test`, `box.lan`, private addresses) and those of this machine; it vouches for no others. With `acme` the names of a "
            "certificate that comes by itself. Not together with `cert` and `key`: those carry their names themselves.",
            "none",
        ),
    ] = ()
    acme: Annotated[
        str | None,
        Key(
            Text("email address", names.email),
            "Certificates for `hosts` come by themselves from a public authority (Let's Encrypt, or that of `[acme]`) and are renewed; its terms of service "
            "are agreed to. The address is for the authority: it warns there when something is wrong. Until the first certificate is there clients see a "
            "self-made one. See [operations.md](operations.md#certificates).",
            "not asked for",
        ),
    ] = None
    min_version: Annotated[
        Literal["1.2", "1.3"],
        Key(Choice('"1.2" or "1.3"', ("1.2", "1.3")), 'The oldest TLS version accepted. `"1.3"` refuses clients from before about 2019.'),
    ] = "1.2"

    client_ca: Annotated[
        str | None,
        Key(File(), "Authorities (PEM) whose client certificates are accepted, for `[auth.NAME]` of type mtls.", "no client certificates"),
    ] = None
    client_cert: Annotated[
        Literal["optional", "required"],
        Key(
            Choice('"optional" or "required"', ("optional", "required")),
            "With `client_ca`: whether a client without a certificate may connect (routes may know it by other means).",
        ),
    ] = "optional"

    @property
    def files(self) -> tuple[CertificateFiles, ...]:
        """Every certificate given by files, the default one first."""
        return tuple(each for each in self.identities if each.cert)

    @property
    def identities(self) -> tuple[CertificateFiles, ...]:
        """Every certificate, the default one first: with files, or with hosts for those that come by ACME."""
        own: tuple[CertificateFiles, ...] = ()
        if self.cert and self.key:
            own = (CertificateFiles(cert=self.cert, key=self.key),)
        elif self.hosts and self.acme is not None:
            own = (CertificateFiles(hosts=self.hosts),)
        return own + self.certificates

    @property
    def host_sets(self) -> tuple[tuple[str, ...], ...]:
        """The names of each certificate that comes by ACME."""
        return tuple(each.hosts for each in self.identities if each.hosts) if self.acme is not None else ()


class Listen(Struct, frozen=True, kw_only=True):
    """An address where clients connect. At least one is needed."""

    address: Annotated[
        str,
        Key(
            Text("address", names.address),
            'Where to listen: `"0.0.0.0:443"` (every IPv4 address), `"[::]:443"` (every IPv6 address; give both for both), '
            '`"127.0.0.1:8000"`, `"unix:/run/mcpproxy/mcp.sock"`. Port 0 lets the system choose one (it is printed at the start).',
        ),
    ]
    tls: Annotated[
        Tls | Literal["dev"] | None,
        Key(
            Table('table or "dev"', Tls, "dev"),
            'The certificates, see `[listen.tls]`; or `"dev"` for a certificate of the local development authority, which only machines '
            "that trust it accept. Without it the listener speaks plain HTTP: for loopback, unix sockets and redirects.",
            "plain HTTP",
        ),
    ] = None
    h2: Annotated[
        bool,
        Key(
            Flag(),
            "Offer HTTP/2: over TLS by ALPN, on plain listeners to clients that begin with it (prior knowledge). HTTP/1.1 is always spoken.",
        ),
    ] = True
    h2_lane: Annotated[
        bool,
        Key(
            Flag(),
            "The common HTTP/2 frames take a short way past the h2 library (docs/decisions tell how). `false` sends every frame through it: "
            "many times slower, for when you want to know whether an oddity is ours.",
        ),
    ] = True
    proxy_protocol: Annotated[
        bool,
        Key(
            Flag(),
            "Every connection from a trusted proxy begins with a PROXY protocol header (version 1 or 2) that says who the client is; one without it, "
            "or from anybody else, is closed. Needs `trusted_proxies`.",
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        Key(
            Words("list of address ranges", Text("address range", names.network), bare=True),
            "Proxies whose word about the client counts: from them the last address in `X-Forwarded-For` that is no trusted proxy is the client, and "
            '`X-Forwarded-Proto` and `X-Forwarded-Host` are passed on. Everybody else\'s are replaced. `"unix"` is whoever comes by a unix socket.',
            "nobody",
        ),
    ] = ()
    redirect: Annotated[
        Literal["https"] | None,
        Key(
            Choice('"https"', ("https",)),
            'With `"https"` every request is answered by 308 with the same URL on https (the port of the first TLS listener); nothing is'
            " forwarded. For the plain listener on port 80.",
        ),
    ] = None


class Upstream(Hub, frozen=True, kw_only=True):
    """A named group of MCP servers that can stand in for each other, with its pool of warm connections: `urls`. Or, through the gateway process, a server
    that is started as a child process (`command`), or several servers as one (`members`): those have keys of their own, see below."""

    urls: Annotated[
        tuple[str, ...],
        Key(
            Words("list of URLs", Text("URL", names.url), least=1),
            "Its addresses: `http://host[:port]`, `https://host[:port]` or `unix:/path/to.sock`. Several are used in turn. No path: "
            "requests keep the path the client sent (see `route.path` and `route.strip_prefix`).",
            "needed, unless `command` or `members`",
        ),
    ] = ()
    keepalive: Annotated[
        int,
        Key(
            Count(least=0),
            "Idle connections kept ready, over all its addresses. Choose about the number of calls in progress at a busy moment; with "
            "fewer, connections are opened and closed all the time. 0 keeps none. Streams do not count: they are not idle.",
        ),
    ] = 32
    keepalive_idle: Annotated[
        float,
        Key(
            Duration(),
            "An idle connection older than this is not used again. Must be shorter than the server's own keep-alive time (5 s in Node "
            "and uvicorn), or calls meet a connection that is just being closed. A `Keep-Alive: timeout=` of the server wins when it is "
            "shorter.",
        ),
    ] = 4.0
    connect_timeout: Annotated[
        float, Key(Duration(), "How long a connection attempt (with its TLS handshake) may take; then the next address, at last 504.")
    ] = 5.0
    response_timeout: Annotated[
        float,
        Key(
            Duration(),
            "How long the server may think before its response begins; then 504. Tools may run for hours, so this is long; shorten it "
            "only where every tool is known to be quick.",
        ),
    ] = 24 * HOUR
    max_connections: Annotated[
        int,
        Key(
            Count(),
            "Connections in use at once, open streams included. Beyond it calls wait in the queue. It protects the server, not the proxy.",
        ),
    ] = 4096
    queue: Annotated[
        int,
        Key(Count(least=0), "Calls that may wait for a connection when `max_connections` are in use; beyond it 503 with `Retry-After`."),
    ] = 256
    queue_timeout: Annotated[float, Key(Duration(), "How long a call waits in the queue; then 503 with `Retry-After`.")] = 5.0
    host: Annotated[
        str,
        Key(
            Text('"upstream", "keep" or host name', names.host_policy),
            'The Host the server sees: `"upstream"` (host and port of its own URL; what SDK servers on loopback insist on), `"keep"` '
            "(what the client sent), or a fixed name. `X-Forwarded-Host` always tells what the client sent.",
        ),
    ] = "upstream"
    balance: Annotated[
        Literal["round-robin", "least-busy"],
        Key(
            Choice('"round-robin" or "least-busy"', ("round-robin", "least-busy")),
            '`"round-robin"`: its addresses are used in turn, by weight. `"least-busy"`: of two drawn by weight, the one with fewer open calls for its weight; '
            "for servers of different speed, and calls of different length.",
        ),
    ] = "round-robin"
    endpoints: Annotated[
        dict[str, Endpoint],
        Key(
            Named("tables by URL", Endpoint, names.url),
            "What is particular about some of `urls` (weight, bound, state), see there.",
            "none",
        ),
    ] = field(default_factory=dict)
    retry_after: Annotated[
        float,
        Key(
            Duration(zero=True),
            "How long an address that could not be connected to is passed over; twice as long each time, at most a minute. While no other is left it is "
            'tried twice a second, and calls meanwhile are answered 503 at once. `"0s"`: it is not passed over at all.',
        ),
    ] = 5.0
    slow_start: Annotated[
        float,
        Key(
            Duration(zero=True),
            'How long it takes until an address that came back has its full share of the calls again. `"0s"`: at once.',
        ),
    ] = 10.0
    breaker: Annotated[
        Breaker,
        Key(Table("table", Breaker), "When an address that answers badly is passed over, see `[upstream.NAME.breaker]`.", "its defaults"),
    ] = Breaker()
    health: Annotated[Health | None, Key(Table("table", Health), "Active health checks, see `[upstream.NAME.health]`.", "none")] = None
    ca: Annotated[
        str | None,
        Key(File(), "Authorities (PEM) that sign the certificates of `https` addresses, instead of those of the system.", "the system's"),
    ] = None
    verify: Annotated[
        bool, Key(Flag(), "`false` accepts any certificate of `https` addresses. Not for networks others can touch: use `ca`.")
    ] = True
    cert: Annotated[
        str | None,
        Key(
            File(),
            "The certificate we show to `https` addresses that ask for one, in PEM, leaf first. Goes with `key`. Read at the start and at a reload.",
            "none",
        ),
    ] = None
    key: Annotated[str | None, Key(File(), "Its private key in PEM, without a passphrase, readable by the daemon only.", "none")] = None
    server_name: Annotated[
        str | None,
        Key(
            Text("host name", names.host),
            "The name that `https` addresses are asked for in the handshake (SNI), and that their certificates must carry.",
            "that of the URL",
        ),
    ] = None
    min_version: Annotated[
        Literal["1.2", "1.3"], Key(Choice('"1.2" or "1.3"', ("1.2", "1.3")), "The oldest TLS version spoken with `https` addresses.")
    ] = "1.2"
    credential: Annotated[
        Credential | None,
        Key(
            Table("table", Credential),
            "What is shown to the server instead of the caller's credential, see `[upstream.NAME.credential]`. Without it: nothing where the route "
            "has `auth`, else what the caller sent.",
            "see there",
        ),
    ] = None
    identity: Annotated[Identity | None, Key(Table("table", Identity), "Tell the server who calls, see `[upstream.NAME.identity]`.")] = None
    affinity: Annotated[
        Literal["auto", "on", "off"],
        Key(
            Choice('"auto", "on" or "off"', ("auto", "on", "off")),
            "Sessions (`Mcp-Session-Id`, HTTP+SSE) stay with the address that opened them, for the caller that opened them, by ids that are sealed: "
            'see `[affinity]`. `"auto"`: where there are several addresses. `"on"`: also for one, so that a session serves nobody but its caller, and '
            'survives when addresses are added. `"off"`: ids pass as they are; for servers that share their sessions.',
        ),
    ] = "auto"
    principal_header: Annotated[
        str | None,
        Key(
            Text("field name", names.header),
            "Tell the server the caller's name in this field. A client's own field of this name is removed.",
        ),
    ] = None
    cookies: Annotated[bool, Key(Flag(), "Cookies are passed on also where the route has `auth`.")] = False

    @property
    def gateway(self) -> bool:
        """Is it served by the gateway process?"""
        return bool(self.command or self.members or self.bridge)


class Route(Struct, frozen=True, kw_only=True):
    """Which requests go to which upstream.

    Among the routes that fit a request, one that names its host exactly goes before one with a wildcard (the longer before the shorter),
    and that before one for any host; among those of one host the longest path wins. The order in the file does not matter.
    A path that servers may read in different ways (`//`, `;`, an encoded slash) is forwarded only when every reading belongs to the same
    route; otherwise it is answered 404.
    """

    upstream: Annotated[str, Key(Text("upstream name", names.upstream_name), "The name of the upstream: `search` for `[upstream.search]`.")]
    name: Annotated[
        str | None,
        Key(
            Text("name", names.upstream_name),
            "What it is called in metrics. Give one where `host` or `path` may change and its history shall go on.",
            "its first host and its path, like `mcp.example.com/mcp`",
        ),
    ] = None
    host: Annotated[
        tuple[str, ...],
        Key(
            Words("host name or list", Text("host name", names.host), bare=True),
            "The host names of this route: exact (`mcp.example.com`), or with a wildcard for one or more labels at the left "
            "(`*.example.com`, which is not `example.com` itself). Ports are not compared. A request for a host that no route knows is "
            "answered 421.",
            "any host",
        ),
    ] = ()
    path: Annotated[
        str,
        Key(
            Text("path", names.path),
            "A prefix on segment borders: `/mcp` takes `/mcp`, `/mcp/` and `/mcp/x`, not `/mcpx`. A request that no route takes is "
            "answered 404.",
        ),
    ] = "/"
    strip_prefix: Annotated[
        bool,
        Key(
            Flag(),
            "Remove `path` from what is forwarded: `/search/mcp` arrives as `/mcp`. Not where the server builds links from its path.",
        ),
    ] = False
    idle_timeout: Annotated[
        float,
        Key(
            Duration(),
            "A response (SSE stream, WebSocket, download) on which nothing moves for this long is cut. Long on purpose: sessions are "
            "quiet for hours.",
        ),
    ] = 24 * HOUR
    max_body: Annotated[int, Key(Size(), "The largest request body; beyond it 413. Responses are not limited.")] = 10 * MIB
    sse_keepalive: Annotated[
        float | None,
        Key(
            Duration(),
            'Send a comment line on an SSE stream that was silent for this long, like `"15s"`, so that NATs and load balancers between '
            "here and the client keep it open. It is only sent between events. Not needed where the server sends its own.",
            "off",
        ),
    ] = None
    mcp: Annotated[
        bool,
        Key(Flag(), "The proxy's own error answers have the shape of JSON-RPC errors. `false` for routes that are not MCP: plain JSON."),
    ] = True
    auth: Annotated[
        tuple[str, ...],
        Key(
            Words("name or list", Text("name", names.upstream_name), bare=True),
            "Ways to know the caller, any of which will do: names of `[auth.NAME]`. Without it everybody may come in, and what the caller shows goes "
            "to the server.",
            "everybody",
        ),
    ] = ()
    scopes: Annotated[
        tuple[str, ...],
        Key(Words("text or list", Text("text", names.words), bare=True), "OAuth scopes a token must have, all of them; else 403.", "none"),
    ] = ()
    public_url: Annotated[
        str | None,
        Key(
            Text("URL", names.public_url),
            "The URL clients use for this endpoint: the `resource` of its metadata (RFC 9728) and the audience of its tokens.",
            "from `host` and `path`",
        ),
    ] = None
    rate: Annotated[
        Rate | None,
        Key(
            Frequency(),
            'How often each caller (each client address, where nobody is named) may ask, like `"30/m burst 10"`. Beyond it 429. Each call of a batch counts.',
        ),
    ] = None
    limits: Annotated[
        tuple[str, ...],
        Key(Words("name or list", Text("name", names.upstream_name), bare=True), "More limits: names of `[limit.NAME]`.", "none"),
    ] = ()
    tools: Annotated[Tools | None, Key(Table("table", Tools), "Who may call what, see `[route.tools]`.", "everybody everything")] = None
    audit: Annotated[
        bool,
        Key(
            Flag(),
            "Calls on this route are written into the audit log, where there is one; bodies above 1 MiB (or `tools.peek`) pass unread.",
        ),
    ] = True
    allow_from: Annotated[
        tuple[str, ...],
        Key(
            Words("list of address ranges", Text("address range", names.network), bare=True),
            "Clients outside these are answered 403.",
            "everywhere",
        ),
    ] = ()
    deny_from: Annotated[
        tuple[str, ...],
        Key(
            Words("list of address ranges", Text("address range", names.network), bare=True),
            "Clients inside these are answered 403.",
            "none",
        ),
    ] = ()
    allow_hosts: Annotated[
        tuple[str, ...],
        Key(
            Words("host name or list", Text("host name", names.host), bare=True),
            "Requests for other hosts are answered 403: protects a server on this machine or in this network from web pages that rebind their name "
            "to it (DNS rebinding).",
            "any host of the route",
        ),
    ] = ()
    allow_origins: Annotated[
        tuple[str, ...],
        Key(
            Words("origin or list", Text("origin", names.origin), bare=True),
            'Web pages that may call: `"https://app.example.com"`, `"https://*.example.com"`, `"http://localhost:*"`, or `"*"`. A request with another '
            "`Origin` (`null` is always another) is answered 403; one without `Origin` does not come from a web page.",
            "not looked at",
        ),
    ] = ()
    cors: Annotated[
        bool,
        Key(
            Flag(),
            "Preflights of `allow_origins` are answered here, and the answers they get may be read by their pages: the MCP header fields are "
            "allowed and exposed. What the server says about CORS itself is replaced.",
        ),
    ] = False
    security_headers: Annotated[
        bool,
        Key(
            Flag(),
            "Add `Strict-Transport-Security: max-age=63072000; includeSubDomains` (TLS listeners; browsers then refuse plain HTTP for two years, on "
            "every subdomain, too), `X-Content-Type-Options: nosniff` and `X-Frame-Options: DENY` to responses that do not have them.",
        ),
    ] = False
    hide_headers: Annotated[
        tuple[str, ...],
        Key(
            Words("field name or list", Text("field name", names.header), bare=True),
            'Fields that are removed from responses, like `["Server", "X-Powered-By"]`.',
            "none",
        ),
    ] = ()
    upgrade: Annotated[
        bool,
        Key(
            Flag(),
            "WebSocket handshakes are passed on. With `false`, and wherever there are `tools` or calls are audited, the request goes on without its "
            "Upgrade. Nobody looks at what passes in a WebSocket: for limits and logs it is one request.",
        ),
    ] = True

    @property
    def label(self) -> str:
        """Its name, or what stands for it."""
        return self.name or "".join(self.host[:1]) + self.path


class Log(Struct, frozen=True, kw_only=True):
    """Where the log goes."""

    access: Annotated[
        str,
        Key(
            File('"stdout", "stderr", "off" or file', PLACES),
            'One JSON line per exchange. A file (`"access.log"`) is opened for appending, and opened again at SIGUSR1 (log rotation).',
        ),
    ] = "stdout"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Key(
            Choice('"debug", "info", "warning" or "error"', ("debug", "info", "warning", "error")),
            "The least important messages of the daemon itself that are written to stderr.",
        ),
    ] = "info"

    @property
    def file(self) -> str | None:
        """The file of the access log, where it is one."""
        return None if self.access in PLACES else self.access


class Limits(Struct, frozen=True, kw_only=True):
    """What a client may use up. The defaults suit a server on the open internet."""

    head: Annotated[int, Key(Size(least=1 * KIB), "The largest request head; beyond it 431.")] = 32 * KIB
    target: Annotated[int, Key(Size(least=64), "The longest request target (path and query); beyond it 414.")] = 8 * KIB
    fields: Annotated[int, Key(Count(), "Header fields in a request; beyond it 431.")] = 100
    head_timeout: Annotated[float, Key(Duration(), "How long a request head may take to arrive; then 408.")] = 10.0
    body_stall: Annotated[
        float,
        Key(
            Duration(),
            "How long a request body may pause; then 408. And how long a client may leave the end of its response untaken; then its "
            "connection is closed.",
        ),
    ] = 60.0
    handshake_timeout: Annotated[float, Key(Duration(), "How long a TLS handshake may take.")] = 10.0
    keepalive: Annotated[float, Key(Duration(), "How long an idle client connection is kept open between requests.")] = 75.0
    streams: Annotated[
        int,
        Key(
            Count(),
            "Requests that one HTTP/2 connection may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS); beyond it REFUSED_STREAM.",
        ),
    ] = 128
    connections: Annotated[
        int,
        Key(
            Count(least=0),
            "Client connections at once. 0: as many as the limit on open files allows (two per connection). Beyond it plain listeners "
            "answer 503, TLS listeners close.",
        ),
    ] = 0
    failed_credentials: Annotated[
        Rate,
        Key(
            Frequency(),
            "Where a route has `auth` of type `jwt` or `introspection`: how many tokens of one client address (of a whole IPv6 /64) may be looked at in vain: "
            "signatures that are wrong, tokens that the issuer says are not active. Beyond it tokens from there that are not known yet are answered 429; "
            "those known to be good are served.",
        ),
    ] = Rate(5, 1.0, burst=100)
    plans: Annotated[int, Key(Count(least=2), "Request heads remembered per listener, so that equal ones are judged once.")] = 4096
    plan_bytes: Annotated[
        int, Key(Size(least=4 * KIB), "Memory for them. Their templates, and response heads, may take as much again each.")
    ] = 16 * MIB


def default_state_dir() -> str:
    """Where state is kept unless configured: systemd's StateDirectory, else the user's, else the system's for root."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    home = os.path.expanduser("~")  # stays as it is for a user without a home, as containers have them
    return "/var/lib/mcpproxy" if os.geteuid() == 0 or home == "~" else f"{home.rstrip('/')}/.local/state/mcpproxy"


class Config(Struct, frozen=True, kw_only=True):
    """The whole file."""

    listen: Annotated[tuple[Listen, ...], Key(Tables("list of tables", Listen), "The listeners, see `[[listen]]`.", "needed")] = ()
    upstream: Annotated[
        dict[str, Upstream], Key(Named("tables by name", Upstream), "The upstreams, see `[upstream.NAME]`.", "needed for routes")
    ] = field(default_factory=dict)
    route: Annotated[
        tuple[Route, ...], Key(Tables("list of tables", Route), "The routes, see `[[route]]`.", "needed unless every listener redirects")
    ] = ()
    auth: Annotated[dict[str, Auth], Key(Named("tables by name", Auth), "Ways to know who is calling, see `[auth.NAME]`.", "none")] = field(
        default_factory=dict
    )
    limit: Annotated[dict[str, Limit], Key(Named("tables by name", Limit), "Limits, see `[limit.NAME]`.", "none")] = field(
        default_factory=dict
    )
    audit: Annotated[Audit | None, Key(Table("table", Audit), "The audit log, see `[audit]`.", "none")] = None
    log: Annotated[Log, Key(Table("table", Log), "See `[log]`.", "its defaults")] = Log()
    admin: Annotated[Admin, Key(Table("table", Admin), "Where operators ask, see `[admin]`.", "its defaults")] = Admin()
    otel: Annotated[Otel | None, Key(Table("table", Otel), "Traces, see `[otel]`.", "none")] = None
    affinity: Annotated[Affinity, Key(Table("table", Affinity), "How sessions are sealed, see `[affinity]`.", "its defaults")] = Affinity()
    acme: Annotated[Acme, Key(Table("table", Acme), "Who signs certificates for `listen.tls.acme`, see `[acme]`.", "its defaults")] = Acme()
    limits: Annotated[Limits, Key(Table("table", Limits), "See `[limits]`.", "its defaults")] = Limits()
    health: Annotated[
        str | None,
        Key(
            Text("path", names.path),
            'A path that is answered here with 200 and `{"status":"ok"}`, on every listener and host, for load balancers and monitors, '
            'like `"/healthz"`.',
            "off",
        ),
    ] = None
    workers: Annotated[
        int,
        Key(
            Processes(),
            'Processes that serve. `"auto"`: as many as there are cores for the daemon (the quota of its cgroup counts), but only so many that each has '
            "8 of an upstream's `max_connections` and 64 of `limits.connections`. These, `keepalive` and `queue` are divided among them; limits of "
            "callers hold for all together. See [operations.md](operations.md#several-workers).",
            '"auto"',
        ),
    ] = AUTO
    watchdog: Annotated[
        float,
        Key(
            Duration(zero=True),
            'A worker that gives no sign of life for this long is ended and replaced; its stacks are written to stderr. `"0s"`: never.',
        ),
    ] = 15.0
    user: Annotated[
        str | None,
        Key(
            Text("user", names.account),
            "Who serves when the daemon is started as root: once the addresses are bound and the certificates read, it becomes this user and never root "
            'again. `"root"`: stay root. Under systemd the unit says it (`User=`). See [operations.md](operations.md#started-as-root).',
            "who started it",
        ),
    ] = None
    group: Annotated[str | None, Key(Text("group", names.account), "The group for `user`.", "the user's own")] = None
    drain: Annotated[
        float,
        Key(
            Duration(zero=True),
            "How long open exchanges and streams may go on after the daemon was told to stop; a second signal ends them at once.",
        ),
    ] = 24 * HOUR
    state_dir: Annotated[
        str,
        Key(
            File("directory"),
            "Where the daemon keeps what it makes itself (development certificates and keys).",
            "`$STATE_DIRECTORY` (systemd), else `/var/lib/mcpproxy` for root, else `~/.local/state/mcpproxy`",
        ),
    ] = field(default_factory=default_state_dir)


LATER: dict[type, dict[str, str]] = {
    Config: {},
    Listen: {},
    Tls: {},
    Upstream: {},
}  # fmt: skip

TABLES: dict[type, str] = {
    Config: "the top of the file",
    Listen: "[[listen]]",
    Tls: "[listen.tls]",
    CertificateFiles: "[[listen.tls.certificates]]",
    Upstream: "[upstream.NAME]",
    **UPSTREAMS,
    **GATEWAY,
    Route: "[[route]]",
    Log: "[log]",
    Limits: "[limits]",
    **POLICIES,
    **SERVING,
}
