"""nginx's configuration: the blocks around proxy_pass. crossplane reads its syntax, here is what it means.

What a directive of an outer block says holds inside until it is said again there, as nginx has it: a Scope is the directives of a block
and the Scope around it. It is one file because the meaning of a location is one thought: which server it stands in, what it inherits,
what of that our route can say.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mcpproxy.config import names
from mcpproxy.errors import StartError
from mcpproxy.migrate import sites
from mcpproxy.migrate.found import Found, Keys, Listener, Unusable, valid

Directive = dict[str, Any]
BLOCKS = ("http", "server", "location", "if", "upstream", "map", "events", "limit_except", "stream", "geo", "types", "split_clients")
SILENT = frozenset(
    "user worker_processes worker_connections worker_rlimit_nofile pid error_log access_log log_format events types include default_type sendfile tcp_nopush "
    "tcp_nodelay keepalive_timeout keepalive_requests types_hash_max_size server_names_hash_bucket_size server_names_hash_max_size server_tokens gzip "
    "gzip_vary gzip_types gzip_proxied gzip_comp_level gzip_min_length gzip_disable gzip_http_version gzip_buffers proxy_buffering proxy_request_buffering "
    "proxy_cache proxy_cache_bypass proxy_no_cache proxy_buffers proxy_buffer_size proxy_busy_buffers_size proxy_http_version proxy_redirect "
    "proxy_send_timeout send_timeout proxy_socket_keepalive proxy_max_temp_file_size proxy_pass_header proxy_pass_request_headers "
    "proxy_pass_request_body proxy_ssl_server_name proxy_ssl_name proxy_next_upstream proxy_next_upstream_tries proxy_next_upstream_timeout "
    "proxy_ignore_client_abort chunked_transfer_encoding ssl_ciphers ssl_prefer_server_ciphers ssl_session_cache ssl_session_timeout ssl_session_tickets "
    "ssl_dhparam ssl_ecdh_curve ssl_stapling ssl_stapling_verify ssl_trusted_certificate ssl_buffer_size ssl_early_data resolver resolver_timeout http2 "
    "client_body_timeout client_header_timeout client_body_buffer_size client_header_buffer_size large_client_header_buffers reset_timedout_connection "
    "limit_req_status limit_req_log_level limit_conn_status map set multi_accept use load_module index root charset log_not_found if internal "
    "limit_req_zone limit_conn_zone upstream server location http proxy_pass listen server_name return allow deny satisfy real_ip_header real_ip_recursive "
    "set_real_ip_from ssl_certificate ssl_certificate_key ssl_protocols ssl_client_certificate ssl_verify_client ssl_verify_depth ssl rewrite break "
    "proxy_set_header proxy_hide_header proxy_connect_timeout proxy_read_timeout client_max_body_size add_header limit_req auth_basic auth_basic_user_file "
    "auth_request auth_request_set auth_jwt auth_jwt_key_file keepalive zone proxy_ssl_verify proxy_ssl_trusted_certificate proxy_ssl_certificate "
    "proxy_ssl_certificate_key proxy_ssl_protocols proxy_ssl_session_reuse aio directio open_file_cache etag expires postpone_output lingering_close "
    "daemon master_process env working_directory thread_pool variables_hash_max_size map_hash_bucket_size ignore_invalid_headers merge_slashes".split()
)
CREDENTIALS = re.compile(
    r"\$(?:http_(?:authorization|x_api_key|x_auth_token|api_key|x_mcp_\w*|proxy_authorization)|remote_user|arg_\w*(?:key|token))\b"
)
REFUSE = ("401", "403")


@dataclass(slots=True)
class Scope:
    """A block's own directives, and what is around it."""

    block: list[Directive]
    outer: Scope | None = None

    def own(self, name: str) -> list[Directive]:
        """Those of this block."""
        return [each for each in self.block if each["directive"] == name]

    def all(self, name: str) -> list[Directive]:
        """Those that hold here: the innermost block that has any."""
        found = self.own(name)
        return found if found or self.outer is None else self.outer.all(name)

    def one(self, name: str) -> list[str]:
        """The arguments of the last that holds here, or none."""
        found = self.all(name)
        return list(found[-1]["args"]) if found else []

    def everywhere(self, name: str) -> Iterator[Directive]:
        """Those of this block and all around it, the outermost first."""
        if self.outer is not None:
            yield from self.outer.everywhere(name)
        yield from self.own(name)


@dataclass(slots=True)
class Rest:
    """What blocks outside of servers define."""

    zones: dict[str, str] = field(default_factory=dict)  # limit_req_zone: rate
    groups: dict[str, Directive] = field(default_factory=dict)
    credentials: set[str] = field(default_factory=set)  # variables that a map makes of a credential


def parsed(text: str) -> tuple[list[Directive], list[tuple[int, str]]]:
    """The directives, and what crossplane could not read."""
    try:
        crossplane = importlib.import_module("crossplane")
    except ImportError:
        raise StartError("nginx's syntax is read by crossplane, which is not installed", "pip install 'mcpproxy[import]'") from None
    descriptor = os.memfd_create("nginx.conf")  # it reads files only, and the text may hold secrets
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(text.encode("utf-8", "replace"))
        payload = crossplane.parse(f"/proc/self/fd/{descriptor}", single=True, check_ctx=False, check_args=False, comments=False)
    except RecursionError:
        raise Unusable("nested too deeply") from None
    finally:
        os.close(descriptor)
    config = payload["config"][0]
    errors = [(int(each.get("line") or 0), re.sub(r" in /proc/self/fd/\S*", "", str(each.get("error", "")))) for each in config["errors"]]
    return config["parsed"], errors


def read(text: str) -> Found:
    """Every server of the file."""
    found = Found("an nginx configuration")
    directives, errors = parsed(text)
    for line, _ in errors:
        found.note(f"line {line}", "cannot be read; braces and semicolons?")
    outside = Scope(directives)
    https = [each for each in directives if each["directive"] == "http"]
    inside = [Scope(each["block"], outside) for each in https] or [Scope(directives)]
    rest = Rest()
    for scope in inside:
        _gather(found, scope, rest)
    for scope in inside:
        servers = scope.own("server")
        for server in servers:
            if "block" in server:
                _Site(found, Scope(server["block"], scope), rest, server["line"]).read()
        if not servers and (scope.own("location") or scope.own("proxy_pass")):
            _Site(found, Scope(scope.block), rest, 1, fragment=True).read()
        _unknown(found, scope, whole=bool(servers))
    for each in directives:
        if each["directive"] in ("stream", "mail"):
            found.note(f"line {each['line']}", f"{each['directive']}: only HTTP is served here")
    if not found.routes and not found.notes:
        raise Unusable("no proxy_pass is in it")
    return found


def _gather(found: Found, scope: Scope, rest: Rest) -> None:
    for each in scope.block:
        name, args, place = each["directive"], each["args"], f"line {each['line']}"
        if name == "upstream" and args:
            rest.groups[args[0]] = each
        elif name == "limit_req_zone" and args:
            values = dict(arg.partition("=")[::2] for arg in args[1:])
            rate = re.fullmatch(r"([1-9][0-9]{0,6})r/([sm])", values.get("rate", ""))
            if rate:
                rest.zones[values.get("zone", "").partition(":")[0]] = f"{rate[1]}/{rate[2]}"
            if args[0] not in ("$binary_remote_addr", "$remote_addr"):
                found.note(place, "limit_req_zone: rate counts by caller, or by address where nobody is named; [limit.NAME] has other keys")
        elif name == "map" and len(args) > 1 and CREDENTIALS.search(args[0]):
            rest.credentials.add(args[1])
        elif name == "geo":
            found.note(place, "geo: allow_from and deny_from name ranges")


def _unknown(found: Found, scope: Scope, *, whole: bool) -> None:
    for each in scope.block:
        name = each["directive"]
        if name not in SILENT and not (whole and name in ("http", "stream", "mail")) and name not in BLOCKS:
            found.note(f"line {each['line']}", f"{name[:60]}: no equivalent")
        elif name == "include" and not re.search(
            r"mime\.types|fastcgi|modules-enabled|proxy_params|options-ssl-nginx", " ".join(each["args"])
        ):
            found.note(f"line {each['line']}", "include: other files are not read; import them, too")


class _Site:
    """One server block, or a fragment that stands for one."""

    def __init__(self, found: Found, scope: Scope, rest: Rest, line: int, *, fragment: bool = False) -> None:
        self.found, self.scope, self.rest, self.fragment = found, scope, rest, fragment
        self.place = f"line {line}"
        self.names = [name for each in scope.own("server_name") for name in each["args"]]
        self.listeners: list[Listener] = []

    def read(self) -> None:
        """Into `found`."""
        secure = self._listen()
        regular = [name for name in self.names if name.startswith("~")]
        if regular:
            self.found.note(self.place, "server_name: regular expressions have no equivalent")
        self.hosts = sites.hosts(self.found, self.place, [name for name in self.names if not name.startswith("~")])
        redirects = list(self._redirects(self.scope))
        serves = any(True for _ in _passes(self.scope.block))
        if redirects and not secure and not serves:
            for listener in self.listeners:
                listener.redirect = True
        else:
            for listener in self.listeners:
                listener.used = True
            for each in redirects if secure else []:
                self.found.note(f"line {each['line']}", "return: only plain HTTP is redirected here, to https")
        self._block(self.scope, "/")

    def _redirects(self, scope: Scope) -> Iterator[Directive]:
        for each in scope.block:
            args = each["args"]
            target = args[-1] if args else ""
            if (
                each["directive"] == "return"
                and (args[:1] in (["301"], ["302"], ["307"], ["308"]) or len(args) == 1)
                and target.startswith("https://")
            ) or (each["directive"] == "rewrite" and len(args) > 1 and args[1].startswith("https://")):
                yield each
            elif each["directive"] in ("if", "location") and "block" in each:
                yield from self._redirects(Scope(each["block"], scope))

    # -- listeners ---------------------------------------------------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Is it served by TLS?"""
        given = self.scope.own("listen")
        secure = False
        if not given and not self.fragment:
            given = [{"directive": "listen", "args": ["80"], "line": self.place}]
        for each in given:
            args, place = each["args"], f"line {each['line']}"
            if "quic" in args:
                self.found.note(place, "listen quic: HTTP/3 is not spoken here")
                continue
            address = valid(names.address, _address(args[0] if args else ""))
            if address is None:
                self.found.note(place, "listen: no address of this machine")
                continue
            listener = self.found.listener(address)
            self.listeners.append(listener)
            tls = "ssl" in args or self.scope.one("ssl") == ["on"]
            secure = secure or tls
            if tls:
                self._certificates(listener, place)
            if "proxy_protocol" in args:
                ranges = [
                    r for r in (valid(names.network, d["args"][0]) for d in self.scope.everywhere("set_real_ip_from") if d["args"]) if r
                ]
                if ranges:
                    listener.keys |= {"proxy_protocol": True, "trusted_proxies": ranges}
                else:
                    self.found.note(place, "listen proxy_protocol: needs trusted_proxies, the addresses of the load balancers")
        ranges = [
            r
            for r in (valid(names.network, d["args"][0].removesuffix(":")) for d in self.scope.everywhere("set_real_ip_from") if d["args"])
            if r
        ]
        for listener in self.listeners:
            if ranges:
                listener.keys["trusted_proxies"] = list(dict.fromkeys(ranges))
        return secure

    def _certificates(self, listener: Listener, place: str) -> None:
        certs, keys = self.scope.all("ssl_certificate"), self.scope.all("ssl_certificate_key")
        for cert, key in zip(certs, keys, strict=False):
            pair: Keys = {"cert": (cert["args"] or [""])[0], "key": (key["args"] or [""])[0]}
            if any(
                "$" in str(each) or not each or str(each).startswith(("data:", "engine:", "~")) or "\0" in str(each)
                for each in pair.values()
            ):
                self.found.note(f"line {cert['line']}", "ssl_certificate: is put together from variables; name the files")
            elif pair not in listener.certificates:
                listener.certificates.append(pair)
        if not listener.certificates:
            listener.dev = True
            self.found.note(place, 'no certificate is named: tls = "dev" stands there, a development certificate')
        if self.scope.one("ssl_protocols") == ["TLSv1.3"]:
            listener.tls["min_version"] = "1.3"
        authority, verify = self.scope.one("ssl_client_certificate"), self.scope.one("ssl_verify_client")
        if authority and verify and verify[0] in ("on", "optional") and "$" not in authority[0]:
            listener.tls |= {"client_ca": authority[0], "client_cert": "required" if verify[0] == "on" else "optional"}
        elif verify and verify[0] not in ("off",):
            self.found.note(place, f"ssl_verify_client {verify[0][:30]}: client_ca names the authority of client certificates")

    # -- locations ---------------------------------------------------------------------------------------------------------------------------------

    def _block(self, scope: Scope, path: str | None) -> None:
        """A server or location: its own proxy_pass, then the locations in it."""
        if path is not None and scope.own("proxy_pass"):
            self._pass(scope, path, scope.own("proxy_pass")[-1])
        elif path is not None and scope.own("return") and path != "/" and not scope.own("location"):
            self._answer(scope, path, scope.own("return")[-1])
        _unknown(self.found, scope, whole=False)
        for each in scope.block:
            if each["directive"] == "location" and "block" in each:
                for inner in self._paths(each):
                    self._block(Scope(each["block"], scope), inner)
            elif each["directive"] == "if" and "block" in each:
                self._condition(each)

    def _paths(self, location: Directive) -> list[str | None]:
        args, place = location["args"], f"line {location['line']}"
        modifier, path = (args[0], args[1]) if len(args) > 1 else ("", args[0] if args else "")
        passes = any(True for _ in _passes(location["block"]))
        if not passes and (
            ".well-known/acme-challenge" in path or any(each["directive"] in ("root", "alias", "try_files") for each in location["block"])
        ):
            self.found.note(
                place, "location with files: none are served here" + ("; certificates come by tls.acme" if "acme" in path else "")
            )
            return []
        if path.startswith("@"):
            if passes:
                self.found.note(place, "location @name: no equivalent")
            return []
        if modifier in ("~", "~*"):
            simple = re.fullmatch(
                r"\^(/[A-Za-z0-9_/-]*?)/?(?:\(/\|\$\)|\(/\.\*\)\?|\(\.\*\)|/\.\*|\.\*|/\(\.\*\)|\(/\|\$\)\(\.\*\))?\$?", path
            )
            either = re.fullmatch(r"\^/\(([A-Za-z0-9_|-]+)\)(?:\(?/.*)?\$?", path)
            if simple:
                return [simple[1] or "/"]
            if either:
                return [f"/{each}" for each in either[1].split("|") if each]
            if passes:
                self.found.note(place, "location with a regular expression: give a route for each path")
            return []
        if modifier == "=" and passes:
            self.found.note(place, "location =: a route takes what is below its path, too")
        return [path]

    def _condition(self, each: Directive) -> None:
        condition = " ".join(each["args"])
        block = Scope(each["block"])
        if list(self._redirects(block)) or "$request_method" in condition or self._refuses(each):
            return
        self.found.note(f"line {each['line']}", "if: no equivalent")

    def _refuses(self, each: Directive) -> bool:
        """Does it turn away who shows no credential?"""
        condition = " ".join(each["args"])
        known = CREDENTIALS.search(condition) or any(re.search(re.escape(name) + r"\b", condition) for name in self.rest.credentials)
        return bool(known) and any(
            inner["directive"] == "return" and inner["args"][:1] and inner["args"][0] in REFUSE for inner in each["block"]
        )

    def _answer(self, scope: Scope, path: str, answer: Directive) -> None:
        status = (answer["args"] or [""])[0]
        place = f"line {answer['line']}"
        ours = valid(names.path, path.rstrip("/") or "/")
        if status == "200" and ours and re.search(r"health|ready|live|status|ping", path) and "health" not in self.found.top:
            self.found.top["health"] = ours
        elif status not in ("404", "403", "444") and not list(self._redirects(scope)):
            self.found.note(place, 'return: no answers of our own but the health check (health = "/healthz")')

    def _pass(self, scope: Scope, path: str, directive: Directive) -> None:
        found, place = self.found, f"line {directive['line']}"
        split = _target(self._substituted(scope, (directive["args"] or [""])[0]))
        if split is None:
            found.note(place, "proxy_pass: its address is put together from variables, or is none: left out")
            return
        scheme, authority, uri = split
        for each in scope.own("rewrite"):
            stripped = re.fullmatch(r"\^?(/[^()]*?)/?(?:\(/\|\$\))?\(\.\*\)\$?", each["args"][0] if each["args"] else "")
            if (
                stripped
                and len(each["args"]) > 1
                and each["args"][1] in ("/$1", "/$2", "$1")
                and stripped[1].rstrip("/") == path.rstrip("/")
                and uri is None
            ):
                uri = "/"
            else:
                found.note(f"line {each['line']}", "rewrite: no equivalent but strip_prefix")
        said = sites.path_to(found, place, path, uri)
        if said is None:
            return
        keys = self._upstream(scope, scheme, authority, place)
        if keys is None:
            return
        inner = said.pop("upstream", None)
        if isinstance(inner, dict):
            keys |= inner
        wanted = authority if authority in self.rest.groups else sites.slug(authority)
        for each in scope.all("proxy_set_header"):
            self._field(each, wanted, keys)
        part = sites.part_of(found, place, wanted, keys)
        route: Keys = {
            **({"host": self.hosts if len(self.hosts) > 1 else self.hosts[0]} if self.hosts else {}),
            **said,
            "upstream": part.name,
        }
        self._said(scope, route)
        found.route(place, route)

    def _substituted(self, scope: Scope, text: str) -> str:
        values = {each["args"][0]: each["args"][1] for each in scope.everywhere("set") if len(each["args"]) > 1}
        for _ in range(4):
            for name in sorted(values, key=len, reverse=True):
                text = text.replace("${" + name[1:] + "}", values[name]).replace(name, values[name])
            if len(text) > 2000:
                return ""
        return re.sub(r"\$(?:request_uri|uri\$is_args\$args|uri)$", "", text)

    def _upstream(self, scope: Scope, scheme: str, authority: str, place: str) -> Keys | None:
        keys: Keys
        group = self.rest.groups.get(authority) or self.rest.groups.get(authority.rpartition(":")[0])
        if group is not None:
            keys = _group(self.found, group, scheme)
        else:
            url = valid(names.url, authority if authority.startswith("unix:") else f"{scheme}://{authority}")
            keys = {"urls": [url]} if url else {}
        if not keys.get("urls"):
            self.found.note(place, "proxy_pass: no address that can be an upstream: left out")
            return None
        for name, key in (("proxy_connect_timeout", "connect_timeout"), ("proxy_read_timeout", "response_timeout")):
            given = sites.duration((scope.one(name) or [""])[0])
            if given:
                keys[key] = given
        if scheme == "https":
            if scope.one("proxy_ssl_verify") != ["on"]:
                keys["verify"] = False
                self.found.note(
                    place, "proxy_pass https: nginx does not check the server's certificate by itself: verify = false; better: ca"
                )
            elif scope.one("proxy_ssl_trusted_certificate"):
                keys["ca"] = scope.one("proxy_ssl_trusted_certificate")[0]
            cert, key_file = scope.one("proxy_ssl_certificate"), scope.one("proxy_ssl_certificate_key")
            if cert and key_file and "$" not in cert[0] + key_file[0]:
                keys |= {"cert": cert[0], "key": key_file[0]}
        return keys

    def _field(self, each: Directive, owner: str, keys: Keys) -> None:
        name, value = (each["args"] + ["", ""])[:2]
        place = f"line {each['line']}"
        if name.lower() == "host":
            sites.upstream_host(
                self.found, place, keys, value, keep=("$host", "$http_host", "$host:$server_port"), own=("$proxy_host", "$upstream_host")
            )
        else:
            passed = value.lower() == "$http_" + name.lower().replace("-", "_")
            if not passed and not (value == "" and name.lower() == "authorization"):
                sites.sent_field(self.found, owner, place, keys, name, value, variable="$" in value)

    # -- what a route can say ----------------------------------------------------------------------------------------------------------------------

    def _said(self, scope: Scope, route: Keys) -> None:
        given = sites.duration((scope.one("proxy_read_timeout") or [""])[0])
        if given:
            route["idle_timeout"] = given
        body = scope.one("client_max_body_size")
        if body:
            size = sites.size(body[0])
            if size:
                route["max_body"] = size
            else:
                self.found.note(
                    f"line {scope.all('client_max_body_size')[-1]['line']}", "client_max_body_size: a route has a bound (max_body)"
                )
        self._rate(scope, route)
        self._network(scope, route)
        self._answers(scope, route)
        self._auth(scope, route)

    def _rate(self, scope: Scope, route: Keys) -> None:
        for number, each in enumerate(scope.all("limit_req")):
            values = dict(arg.partition("=")[::2] for arg in each["args"])
            rate = self.rest.zones.get(values.get("zone", ""))
            place = f"line {each['line']}"
            if rate is None:
                self.found.note(place, "limit_req: its limit_req_zone is not in this file")
            elif number:
                self.found.note(place, f'limit_req: a second one: [limit.NAME] with rate = "{rate}", and limits in the route')
            else:
                burst = values.get("burst", "")
                route["rate"] = rate + (f" burst {int(burst)}" if burst.isdigit() and 0 < int(burst) < 10**8 else "")
        for each in scope.all("limit_conn"):
            self.found.note(f"line {each['line']}", "limit_conn: [limit.NAME] with concurrent")

    def _network(self, scope: Scope, route: Keys) -> None:
        block: Scope | None = scope
        while block is not None and not (block.own("allow") or block.own("deny")):
            block = block.outer
        allowed: list[str] = []
        denied: list[str] = []
        closed = False
        for each in [] if block is None else [each for each in block.block if each["directive"] in ("allow", "deny")]:
            what = (each["args"] or [""])[0]
            if what == "all":
                closed = each["directive"] == "deny"
                break
            given = "unix" if what == "unix:" else valid(names.network, what)
            if given is None:
                self.found.note(f"line {each['line']}", f"{each['directive']}: no address range")
                closed = closed or each["directive"] == "allow"
            elif each["directive"] == "deny":
                denied.append(given)
                if allowed:
                    self.found.note(f"line {each['line']}", "deny after allow: deny_from wins here whatever comes first")
            else:
                allowed.append(given)
        if closed:
            route["allow_from"] = list(dict.fromkeys(allowed)) or ["unix"]
            if not allowed:
                self.found.note(self.place, 'deny all without an address that may: allow_from = ["unix"] is nobody from the network')
        if denied:
            route["deny_from"] = list(dict.fromkeys(denied))

    def _answers(self, scope: Scope, route: Keys) -> None:
        hide = [each["args"][0] for each in scope.all("proxy_hide_header") if each["args"] and valid(names.header, each["args"][0])]
        if scope.one("server_tokens") == ["off"] and "Server" not in hide:
            hide.append("Server")
        hide = [name for name in dict.fromkeys(hide) if not name.lower().startswith("access-control-")]
        for each in [*scope.all("add_header"), *(inner for cond in scope.own("if") for inner in Scope(cond["block"]).own("add_header"))]:
            name, value = (each["args"] + ["", ""])[:2]
            lower = name.lower()
            place = f"line {each['line']}"
            if lower in sites.SECURITY:
                route["security_headers"] = True
            elif lower == "access-control-allow-origin":
                if not sites.merge_origins(route, value):
                    self.found.note(place, "add_header Access-Control-Allow-Origin: name the pages in allow_origins, with cors = true")
            elif lower not in sites.STREAMING and not lower.startswith("access-control-") and lower != "vary":
                self.found.note(place, f"add_header {name[:60]}: no such field is added here")
        if hide:
            route["hide_headers"] = hide

    def _auth(self, scope: Scope, route: Keys) -> None:
        asks: list[tuple[int, str]] = []
        for name in ("auth_basic", "auth_request", "auth_jwt"):
            directives = scope.all(name)
            if directives and directives[-1]["args"][:1] != ["off"]:
                asks.append((directives[-1]["line"], name))
        asks += [(each["line"], "if … return 401") for each in scope.everywhere("if") if "block" in each and self._refuses(each)]
        mutual = [listener for listener in self.listeners if listener.tls.get("client_cert") == "required"]
        for line, name in asks[:1]:
            self.found.note(f"line {line}", f"{name}: callers are known in another way here")
            route["auth"] = self.found.ask_for_key(f"line {line}")
        if mutual and not asks:
            self.found.auth.setdefault("machines", {"type": "mtls"})
            route["auth"] = "machines"


def _passes(block: list[Directive]) -> Iterator[Directive]:
    for each in block:
        if each["directive"] == "proxy_pass":
            yield each
        elif "block" in each:
            yield from _passes(each["block"])


def _address(text: str) -> str:
    if text.isdigit():
        return f"0.0.0.0:{text}"
    if text.startswith("unix:") or re.search(r":\d+$", text):
        return re.sub(r"^(?:\*|localhost):", lambda found: "0.0.0.0:" if found[0][0] == "*" else "127.0.0.1:", text)
    return f"{'127.0.0.1' if text == 'localhost' else text}:80"


def _target(text: str) -> tuple[str, str, str | None] | None:
    """Scheme, host and port (or the socket), and the path if there is one."""
    found = re.fullmatch(r"(https?)://(unix:[^:]+|[^/\s?#]+)(?::(?=/)|(?=/)|$)(/[^\s?#]*)?", text)
    if found is None or "$" in text:
        return None
    return found[1], found[2], found[3]


def _group(found: Found, group: Directive, scheme: str) -> Keys:
    urls: list[str] = []
    keys: Keys = {"urls": urls}
    endpoints: dict[str, Keys] = {}
    for each in group["block"]:
        name, args, place = each["directive"], each["args"], f"line {each['line']}"
        if name == "server" and args:
            url = valid(names.url, args[0] if args[0].startswith("unix:") else f"{scheme}://{args[0]}")
            if url is None:
                found.note(place, "server: no address that can be an upstream")
            elif "backup" in args[1:]:
                found.note(place, "server … backup: every address is used (weight, state); this one is left out")
            elif url not in urls:
                urls.append(url)
                own = _endpoint(found, args[1:], place)
                if own:
                    endpoints[url] = own
        elif name == "keepalive" and args and args[0].isdigit() and int(args[0]) < 1 << 31:
            keys["keepalive"] = int(args[0])
        elif name == "least_conn":
            keys["balance"] = "least-busy"
        elif name in ("ip_hash", "hash", "sticky"):
            found.note(place, f'{name}: MCP sessions stay with their server by themselves (affinity = "auto")')
        elif name not in ("zone", "keepalive_timeout", "keepalive_requests", "keepalive_time", "resolver"):
            found.note(place, f"{name[:60]}: no equivalent")
    if endpoints:
        keys["endpoints"] = endpoints
    return keys


def _endpoint(found: Found, args: list[str], place: str) -> Keys:
    keys: Keys = {}
    for arg in args:
        name, _, value = arg.partition("=")
        if name == "weight" and value.isdigit() and int(value) != 1:
            keys["weight"] = min(max(int(value), 1), 100)
        elif name == "max_conns" and value.isdigit() and 64 <= int(value) < 1 << 31:
            keys["max_connections"] = int(value)
        elif name == "down":
            keys["state"] = "disabled"
        elif name in ("max_fails", "fail_timeout", "max_conns"):
            found.note(
                place,
                f"server … {name}: "
                + ("[upstream.NAME.breaker]" if name != "max_conns" else "max_connections, at least one for each worker"),
            )
        elif name not in ("weight", "resolve"):
            found.note(place, f"server … {name[:40]}: no equivalent")
    return keys
