"""Caddyfiles: sites with reverse_proxy in them. `caddyfile` reads the syntax, here is what it means.

A Caddyfile says less than it does: a site with a public name has HTTPS, its certificate and its redirect without a word. Ours says all of that. It is one file
because a directive means what the site, the matchers and the handles around it make of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mcpproxy.config import names
from mcpproxy.migrate import sites
from mcpproxy.migrate.caddyfile import Line, parse
from mcpproxy.migrate.found import Found, Keys, Listener, Unusable, valid

DIRECTIVES = frozenset(
    "reverse_proxy handle handle_path route redir header request_body basicauth basic_auth rate_limit respond encode log root file_server uri tls import "
    "bind forward_auth abort error rewrite try_files php_fastcgi vars handle_errors method templates acme_server request_header map invoke push tracing "
    "metrics skip_log log_skip log_append intercept copy_response fs cache jwt authenticate authorize".split()
)
SILENT = frozenset("encode log skip_log log_skip log_append log_name bind vars tracing metrics order push".split())
PROXY_SILENT = frozenset(
    "flush_interval to transport header_up header_down lb_policy lb_try_duration lb_try_interval lb_retries buffer_requests buffer_responses request_buffers "
    "response_buffers stream_timeout stream_close_delay trusted_proxies verbose_logs".split()
)
ANY = ("", "*", "/*", "/")
SECRET_FIELDS = re.compile(r"authorization|api-?key|token|secret|auth", re.IGNORECASE)


@dataclass(slots=True)
class Matcher:
    """What a named matcher says, as far as routes can: `known` is false where it says more."""

    paths: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # not remote_ip
    credential: bool = False  # it looks at a header field that shows who asks
    methods: bool = False
    known: bool = True


@dataclass(frozen=True, slots=True)
class Around:
    """What holds where a directive stands: the path that leads there, how much of it is taken away, and the directives around it."""

    path: str = "/"
    strip: bool = False
    keys: tuple[tuple[str, object], ...] = ()
    hosts: tuple[str, ...] = ()


def read(text: str) -> Found:
    """Every site of the file."""
    root = parse(text)
    found = Found("a Caddyfile")
    for line in root.missing:
        found.note(f"line {line.line}", "import: other files are not read; import them, too")
    email = ""
    for line in root.options:
        if line.words and line.name == "email" and line.args:
            email = valid(names.email, line.args[0]) or ""
        elif line.words and line.name not in ("order", "admin", "log", "debug", "storage", "auto_https", "grace_period"):
            found.note(f"line {line.line}", f"{line.name[:60]} (global option): no equivalent")
    for addresses, block, number in _sites(root.lines):
        _Site(found, addresses, block, number, email).read()
    if not found.routes and not found.notes:
        raise Unusable("no reverse_proxy is in it that can be a route")
    return found


def _sites(lines: list[Line]) -> Iterator[tuple[list[str], list[Line], int]]:
    """Addresses and directives. Without braces the first line is the addresses; a fragment has none."""
    if lines and lines[0].block is None and lines[0].name not in DIRECTIVES and not lines[0].name.startswith("@"):
        addresses = [word for line in lines[:1] for word in line.words]
        yield _addresses(addresses), lines[1:], lines[0].line
        return
    loose = [line for line in lines if line.name in DIRECTIVES or line.name.startswith("@")]
    if loose:
        yield [], loose, loose[0].line
    waiting: list[str] = []
    for line in lines:
        if line in loose:
            continue
        waiting += line.words
        if line.block is not None:
            yield _addresses(waiting), line.block, line.line
            waiting = []


def _addresses(words: list[str]) -> list[str]:
    return [each for word in words for each in word.split(",") if each]


class _Site:
    """A site block."""

    def __init__(self, found: Found, addresses: list[str], block: list[Line], number: int, email: str) -> None:
        self.found, self.addresses, self.block, self.place, self.email = found, addresses, block, f"line {number}", email
        self.matchers: dict[str, Matcher] = {}
        self.hosts: list[str] = []
        self.listeners: list[Listener] = []

    def read(self) -> None:
        """Into `found`."""
        for line in self.block:
            if line.name.startswith("@"):
                self.matchers[line.name] = _matcher(self.found, line)
        self._listen()
        self._directives(self.block, Around())

    # -- addresses ---------------------------------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        tls = next((line for line in self.block if line.name == "tls"), None)
        bound = next((line.args[0] for line in self.block if line.name == "bind" and line.args), "0.0.0.0")
        every = False
        for address in self.addresses:
            split = re.fullmatch(r"(?:(https?)://)?(\[[0-9a-fA-F:.]+\]|[^:/]*)(?::(\d+))?(/.*)?", address)
            if split is None or "{" in address:
                self.found.note(self.place, "an address is put together from variables: write host and address yourself")
                every = True
                continue
            scheme, host, port = split[1] or "", split[2], split[3] or ""
            if split[4] and split[4] not in ANY:
                self.found.note(self.place, "a path in the address of a site: give it in path")
            plain = scheme == "http" or port == "80" or (not host and port not in ("443",) and tls is None and scheme != "https")
            if port and not 0 < int(port) < 65536:
                self.found.note(self.place, "its port is none")
                continue
            port = port or ("80" if plain else "443")
            known = sites.hosts(self.found, self.place, [host]) if host else []
            every = every or not known
            self.hosts += [each for each in known if each not in self.hosts]
            where = valid(names.address, f"{bound}:{port}") or valid(names.address, f"0.0.0.0:{port}")
            if where is None:
                continue
            listener = self.found.listener(where)
            listener.used = True
            self.listeners.append(listener)
            if not plain:
                self._tls(listener, known, tls)
        self.hosts = [] if every else self.hosts

    def _tls(self, listener: Listener, hosts: list[str], tls: Line | None) -> None:
        args = tls.args if tls is not None else []
        place = f"line {tls.line}" if tls is not None else self.place
        for line in (tls.block or []) if tls is not None else []:
            if line.name == "protocols" and line.args[:1] == ["tls1.3"]:
                listener.tls["min_version"] = "1.3"
            elif line.name == "client_auth":
                self.found.note(f"line {line.line}", "client_auth: listen.tls.client_ca and [auth.NAME] of type mtls")
            elif line.name not in ("curves", "ciphers", "alpn", "protocols"):
                self.found.note(f"line {line.line}", f"tls {line.name[:40]}: no equivalent; certificates come by tls.acme or from files")
        if len(args) == 2 and "{" not in "".join(args):
            pair: Keys = {"cert": args[0], "key": args[1]}
            if pair not in listener.certificates:
                listener.certificates.append(pair)
            return
        names_ = [host for host in hosts if sites.tls_name(host)]
        if args == ["internal"] or not names_:
            listener.dev = True
            if args != ["internal"] and any(host.startswith("*.") for host in hosts):
                self.found.note(place, "a certificate for *. comes by DNS only, which is not done here: name cert and key")
            return
        email = (valid(names.email, args[0]) if len(args) == 1 else None) or self.email
        if not email:
            email = f"hostmaster@{names_[0]}"
            self.found.note(place, "an authority wants an address for warnings: tls.acme has one that was made up")
        listener.tls.setdefault("acme", email)
        if {"hosts": names_} not in listener.certificates:
            listener.certificates.append({"hosts": names_})
        if listener.address.endswith(":443"):
            plain = self.found.listener(re.sub(r":443$", ":80", listener.address))
            plain.redirect = True

    # -- directives --------------------------------------------------------------------------------------------------------------------------------

    def _directives(self, block: list[Line], around: Around) -> None:
        around = self._inherited(block, around)
        for line in block:
            if line.name in ("handle", "route"):
                for inner in self._inside(line, around):
                    self._directives(line.block or [], inner)
            elif line.name == "handle_path":
                for inner in self._inside(line, around):
                    self._directives(line.block or [], replace(inner, strip=inner.path != "/"))
            elif line.name == "reverse_proxy":
                for inner in self._inside(line, around):
                    self._proxy(line, inner)

    def _args(self, line: Line) -> tuple[str, list[str]]:
        """Its matcher, and its other arguments."""
        if line.args and (line.args[0].startswith(("/", "@")) or line.args[0] == "*"):
            return line.args[0], line.args[1:]
        return "", line.args

    def _inside(self, line: Line, around: Around) -> list[Around]:
        """What holds inside of a directive, for each path that its matcher names; nothing where the matcher says what routes cannot."""
        word = self._args(line)[0]
        place = f"line {line.line}"
        if not word.startswith("@"):
            return [self._below(around, word)] if word else [around]
        matcher = self.matchers.get(word)
        if matcher is None or not matcher.known or matcher.methods:
            self.found.note(
                place, f"{line.name} {word[:40]}: its matcher says what no route can (paths, hosts and addresses can): left out"
            )
            return []
        keys = dict(around.keys)
        if matcher.ranges:
            keys["allow_from"] = matcher.ranges
        if matcher.outside:
            keys["deny_from"] = matcher.outside
        if matcher.credential:
            keys["auth"] = self.found.ask_for_key(place)
        inner = replace(around, keys=tuple(keys.items()), hosts=tuple(matcher.hosts) or around.hosts)
        return [self._below(inner, path) for path in matcher.paths or [""]]

    def _below(self, around: Around, path: str) -> Around:
        """Handles in handles: the longer path leads there. Behind one that strips, paths begin anew."""
        plain = re.sub(r"/?\*$", "", path) or "/"
        if plain == "/":
            return around
        return replace(around, path=around.path.rstrip("/") + plain if around.strip else plain)

    def _inherited(self, block: list[Line], around: Around) -> Around:
        """With what the directives of a block say about everything in it."""
        keys = dict(around.keys)
        strip = around.strip
        for line in block:
            place = f"line {line.line}"
            word, args = self._args(line)
            if line.name in ("basicauth", "basic_auth", "forward_auth", "jwt", "authenticate", "authorize"):
                if word not in ANY:
                    self.found.note(place, f"{line.name}: was for some requests, is for all of this site here")
                self.found.note(place, f"{line.name}: callers are known in another way here")
                keys["auth"] = self.found.ask_for_key(place)
            elif line.name in ("respond", "abort", "error"):
                self._refusal(line, word, args, keys)
            elif line.name == "header":
                self._header(line, args, keys)
            elif line.name == "request_body":
                given = next((inner.args[0] for inner in line.block or [] if inner.name == "max_size" and inner.args), "")
                size = sites.size(given, decimal=True)
                if size:
                    keys["max_body"] = size
            elif line.name == "uri" and args[:1] == ["strip_prefix"] and len(args) > 1:
                strip = args[1].rstrip("/") == around.path.rstrip("/") and around.path != "/"
                if not strip:
                    self.found.note(place, "uri strip_prefix: strip_prefix takes away the path of the route, no other one")
            elif line.name == "redir":
                if not any(arg.startswith("https://") for arg in args):
                    self.found.note(place, "redir: only plain HTTP is redirected here, to https")
                elif not any(each.name in ("reverse_proxy", "handle", "route", "handle_path") for each in self.block):
                    for listener in self.listeners:
                        listener.redirect, listener.used = True, False
            elif line.name == "rate_limit":
                self.found.note(place, 'rate_limit: rate = "30/m burst 10" in the route, for each caller')
            elif line.name in ("root", "file_server", "php_fastcgi", "try_files", "templates"):
                self.found.note(place, f"{line.name}: no files are served here")
            elif (
                line.name not in SILENT
                and line.name not in ("reverse_proxy", "handle", "handle_path", "route", "tls", "import")
                and line.name[:1] != "@"
            ):
                self.found.note(place, f"{line.name[:60]}: no equivalent")
        return replace(around, keys=tuple(keys.items()), strip=strip)

    def _refusal(self, line: Line, word: str, args: list[str], keys: dict[str, object]) -> None:
        matcher = self.matchers.get(word)
        place = f"line {line.line}"
        refuses = line.name != "respond" or bool({"401", "403", "404", "400"} & set(args))
        if matcher is not None and refuses and (matcher.credential or matcher.ranges or matcher.outside):
            if matcher.credential:
                keys["auth"] = self.found.ask_for_key(place)
            if matcher.outside:
                keys["allow_from"] = matcher.outside
            if matcher.ranges:
                keys["deny_from"] = matcher.ranges
        elif line.name == "respond" and re.search(r"health|ready|live|ping", word) and not refuses:
            path = valid(names.path, word.rstrip("*").rstrip("/") or "/")
            if path and "health" not in self.found.top:
                self.found.top["health"] = path
        elif matcher is not None and matcher.methods:
            return  # preflights
        elif not refuses or word not in ANY:
            self.found.note(place, f'{line.name}: no answers of our own but the health check (health = "/healthz")')

    def _header(self, line: Line, args: list[str], keys: dict[str, object]) -> None:
        fields = [(inner.words, inner.line) for inner in line.block or []] + ([(args, line.line)] if args else [])
        for words, number in fields:
            name, value = words[0].lstrip("+?>"), words[1] if len(words) > 1 else ""
            lower = name.lower()
            if name.startswith("-"):
                hidden = valid(names.header, name[1:])
                if hidden:
                    keys["hide_headers"] = list(dict.fromkeys([*keys.get("hide_headers", []), hidden]))  # type: ignore[misc]
            elif lower in sites.SECURITY:
                keys["security_headers"] = True
            elif lower == "access-control-allow-origin":
                origins: Keys = {}
                if sites.merge_origins(origins, value):
                    keys.update(origins)
                else:
                    self.found.note(
                        f"line {number}", "header Access-Control-Allow-Origin: name the pages in allow_origins, with cors = true"
                    )
            elif lower not in sites.STREAMING and not lower.startswith("access-control-") and lower not in ("vary", "defer"):
                self.found.note(f"line {number}", f"header {name[:60]}: no such field is added here")

    def _proxy(self, line: Line, around: Around) -> None:
        place = f"line {line.line}"
        given = [*self._args(line)[1], *(arg for inner in line.block or [] if inner.name == "to" for arg in inner.args)]
        keys: Keys = {}
        urls: list[str] = []
        secure = any(
            inner.name == "transport" and any(each.name.startswith("tls") for each in inner.block or []) for inner in line.block or []
        )
        for each in given:
            url = _url(each, secure)
            if url is None:
                self.found.note(place, "reverse_proxy: an address that is no upstream (variables, ranges, h2c): left out")
            elif url not in urls:
                urls.append(url)
        if not urls:
            self.found.note(place, "reverse_proxy: no address that can be an upstream")
            return
        keys["urls"] = urls
        wanted = sites.slug(given[0])
        extra: Keys = {"host": "keep"}  # as Caddy does by itself
        for inner in line.block or []:
            self._option(inner, wanted, keys, extra)
        if extra["host"] != "upstream" and not (urls[0].startswith("https:") and "host" not in keys):
            keys.setdefault("host", extra["host"])
        if keys.get("host") == "upstream":
            del keys["host"]
        said = sites.path_to(self.found, place, around.path, "/" if around.strip else None)
        if said is None:
            return
        said.pop("upstream", None)
        part = sites.part_of(self.found, place, wanted, keys)
        hosts = list(around.hosts) or self.hosts
        route: Keys = {**({"host": hosts if len(hosts) > 1 else hosts[0]} if hosts else {}), **said, "upstream": part.name}
        route.update(dict(around.keys))  # type: ignore[arg-type]
        self.found.route(place, route)

    def _option(self, inner: Line, owner: str, keys: Keys, extra: Keys) -> None:
        place, name, args = f"line {inner.line}", inner.name, inner.args
        health = keys.get("health", {})
        assert isinstance(health, dict)
        if name == "lb_policy" and args:
            if args[0] in ("least_conn", "random_choose"):
                keys["balance"] = "least-busy"
            elif args[0] not in ("random", "round_robin", "first"):
                self.found.note(place, f'lb_policy {args[0][:40]}: MCP sessions stay with their server by themselves (affinity = "auto")')
        elif name in ("health_uri", "health_path") and args:
            path = valid(names.path, args[0].partition("?")[0].rstrip("/") or "/")
            if path:
                keys["health"] = {"path": path, **health}
        elif name in ("health_interval", "health_timeout") and args:
            given = sites.duration(args[0])
            if given:
                keys["health"] = {**health, "every" if name == "health_interval" else "timeout": given}
        elif name == "health_status" and args and re.fullmatch(r"[1-5][0-9][0-9]", args[0]):
            keys["health"] = {**health, "expect": [int(args[0])]}
        elif name == "header_up" and args:
            self._up(place, owner, args, keys, extra)
        elif name == "transport":
            for each in inner.block or []:
                self._transport(each, keys)
        elif name == "header_down" and args and args[0].startswith("-"):
            self.found.note(place, "header_down -NAME: hide_headers in the route")
        elif name not in PROXY_SILENT or name == "header_down":
            self.found.note(
                place,
                f"reverse_proxy {name[:40]}: " + ("[upstream.NAME.breaker]" if "fail" in name or "unhealthy" in name else "no equivalent"),
            )

    def _up(self, place: str, owner: str, args: list[str], keys: Keys, extra: Keys) -> None:
        name, value = args[0], args[1] if len(args) > 1 else ""
        if name.lower() == "host":
            part: Keys = {}
            sites.upstream_host(
                self.found,
                place,
                part,
                value,
                keep=("{host}", "{http.request.host}", "{hostport}"),
                own=("{upstream_hostport}", "{http.reverse_proxy.upstream.hostport}"),
            )
            extra["host"] = part.get("host", "upstream")
        elif not name.startswith(("-", "+")) or name.startswith("+"):
            environment = re.search(r"\{\$([A-Za-z_]\w*)\}|\{env\.([A-Za-z_]\w*)\}", value)
            passed = re.fullmatch(r"\{(?:http\.request\.)?header\.([^}]*)\}", value)
            if not (passed and passed[1].lower() == name.lower().lstrip("+")):
                plain = value if environment is None else value.replace(environment[0], "x")
                sites.sent_field(self.found, owner, place, keys, name.lstrip("+"), value, variable="{" in plain)

    def _transport(self, each: Line, keys: Keys) -> None:
        if each.name == "tls_insecure_skip_verify":
            keys["verify"] = False
        elif each.name == "tls_server_name" and each.args and valid(names.host, each.args[0]):
            keys["server_name"] = each.args[0]
        elif each.name in ("tls_trusted_ca_certs", "tls_trust_pool") and each.args and each.args[-1].startswith("/"):
            keys["ca"] = each.args[-1]
        elif each.name in ("dial_timeout", "response_header_timeout") and each.args and sites.duration(each.args[0]):
            keys["connect_timeout" if each.name == "dial_timeout" else "response_timeout"] = sites.duration(each.args[0]) or "5s"
        elif each.name == "tls_client_auth" and len(each.args) == 2:
            keys |= {"cert": each.args[0], "key": each.args[1]}
        elif each.name not in (
            "tls",
            "keepalive",
            "keepalive_idle_conns",
            "read_buffer",
            "write_buffer",
            "versions",
            "compression",
            "read_timeout",
            "write_timeout",
        ):
            self.found.note(f"line {each.line}", f"transport {each.name[:40]}: no equivalent")


def _url(text: str, secure: bool) -> str | None:
    if "{" in text:
        return None
    if text.startswith(("unix/", "unix+")):
        return valid(names.url, "unix:" + text.partition("/")[2])
    if text.startswith(":"):
        text = "127.0.0.1" + text
    return valid(names.url, text if "://" in text else f"{'https' if secure else 'http'}://{text}")


def _matcher(found: Found, line: Line) -> Matcher:
    """`@name path /a /b`, or a block of such lines."""
    matcher = Matcher()
    inner = line.block if line.block is not None else [Line(line.args, line.line)] if line.args else []
    for each in inner:
        _matches(matcher, each, negated=False)
    matcher.ranges, matcher.outside = list(dict.fromkeys(matcher.ranges)), list(dict.fromkeys(matcher.outside))
    return matcher


def _matches(matcher: Matcher, line: Line, *, negated: bool) -> None:
    name, args = (line.name, line.args) if line.words else ("", [])
    if name == "not":
        for each in line.block if line.block is not None else [Line(args, line.line)] if args else []:
            _matches(matcher, each, negated=True)
    elif name in ("remote_ip", "client_ip"):
        ranges = [
            given
            for arg in args
            for wanted in (
                ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1") if arg == "private_ranges" else (arg,)
            )
            if (given := valid(names.network, wanted))
        ]
        matcher.known = matcher.known and bool(ranges)
        (matcher.outside if negated else matcher.ranges).extend(ranges)
    elif name in ("header", "header_regexp", "expression") and SECRET_FIELDS.search(" ".join(args)):
        matcher.credential = True
    elif name == "method":
        matcher.methods = True
    elif negated:
        matcher.known = False
    elif name == "path":
        matcher.paths += args
    elif name == "host":
        hosts = [host for arg in args if (host := valid(names.host, arg))]
        matcher.known = matcher.known and bool(hosts)
        matcher.hosts += hosts
    else:
        matcher.known = False
