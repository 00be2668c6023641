"""The syntax of what a configuration names: listening addresses, upstream URLs, host names, paths, Host policies.

Every function takes the text as written and returns its one normal form, or raises Wrong with a sentence for the operator. No file,
socket or resolver is asked: what is accepted here is well-formed, not reachable.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from mcpproxy.config.mistakes import Wrong, nearest
from mcpproxy.config.regular import regular

SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 bytes, one of them the final NUL
HOST_CHARACTERS = 253  # DNS
PATH_CHARACTERS = 1024  # far above any real prefix, far below the 8 KiB of a whole target
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)+")
UPSTREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}|[0-9]{1,10}")
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
DISPUTED = re.compile(r"%(?:2f|5c|00)", re.IGNORECASE)
SLASHES = re.compile(rb"[/\\]+")
ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
DEFAULT_PORTS = {"https": "443", "http": "80"}


def address(text: str) -> str:
    """A listening address: `0.0.0.0:443`, `[::]:443`, `unix:/run/mcpproxy.sock`."""
    if text.startswith("unix:"):
        return "unix:" + socket_path(text[5:])
    if text.startswith(("http://", "https://")):
        raise Wrong(f'a listener has an address, not a URL: "{text.partition("//")[2].rstrip("/")}" (tls = … makes it https)')
    host, colon, digits = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise Wrong('an address is host:port, like "0.0.0.0:443", "[::]:443", or "unix:/run/mcpproxy/mcp.sock"')
    if not host or host == "*":
        raise Wrong(f'say which addresses: "0.0.0.0:{digits}" is every IPv4 address, "[::]:{digits}" every IPv6 address')
    number = port(digits)
    if host == "localhost":
        raise Wrong(f'listen on an address, not a name: "127.0.0.1:{number}" or "[::1]:{number}"')
    try:
        ip = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise Wrong(f'"{host}" is not an IP address (a listener takes no names)') from None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        raise Wrong(f'listen on the IPv4 address itself: "{ip.ipv4_mapped}:{number}"')
    if (ip.version == 6) != host.startswith("[") or (ip.version == 6 and "%" in host):
        raise Wrong(f'an IPv6 address stands in brackets, without a zone: "[::1]:{number}"')
    return f"[{ip}]:{number}" if ip.version == 6 else f"{ip}:{number}"


def url(text: str) -> str:
    """An upstream URL: `http://host[:port]`, `https://host[:port]`, `unix:/path/to.sock`."""
    if not text:
        raise Wrong('the URL is empty; give something like "http://127.0.0.1:8000"')
    if text.startswith("unix:"):
        return "unix:" + socket_path(text[5:])
    if "@" in text:  # asked first: no other message may repeat a password
        raise Wrong("user and password do not belong into an upstream URL")
    scheme, separator, _ = text.partition("://")
    if not separator:
        likely = text.lstrip("/:")
        likely = f"127.0.0.1:{likely}" if likely.isdigit() else likely
        raise Wrong(f'the scheme is missing: "http://{likely}"?', ("http://", "https://", "unix:"))
    if scheme.lower() not in ("http", "https"):
        raise Wrong(f'"{scheme}://" is not a scheme for upstreams{nearest(scheme, ("http", "https"))}', ("http://", "https://", "unix:"))
    if not text.isascii() or any(character <= " " or character == "\x7f" for character in text):
        raise Wrong("a URL has no spaces, control characters or letters beyond ASCII (write an international name in its xn-- form)")
    try:
        parts = urlsplit(text)
        given = parts.port
    except ValueError as error:
        raise Wrong(f"not a URL: {error}") from None
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise Wrong(
            f'an upstream URL ends after the port: "{scheme}://{parts.netloc}"; requests keep their path: '
            f"what is at {parts.path or '/'} there is at {parts.path or '/'} here"
        )
    if given == 0 or parts.netloc.endswith(":"):
        raise Wrong("the port is a number from 1 to 65535")
    name = host(parts.hostname or "", wildcard=False)
    return f"{scheme.lower()}://{name}" + (f":{given}" if given is not None else "")


def host(text: str, *, wildcard: bool = True) -> str:
    """A host name in lower case: `mcp.example.com`, `*.example.com`, `192.0.2.1`, `[2001:db8::1]`."""
    name = text.lower()
    if not name:
        raise Wrong("the host name is empty")
    if name == "*":
        raise Wrong("any host is what a route without `host` takes: leave it out")
    if "/" in name:
        raise Wrong("a host is a name without scheme and path")
    if not name.isascii():
        raise Wrong(f"write an international name in its xn-- form{_punycode(name)}")
    try:
        ip = ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        pass
    else:
        if "%" in name:
            raise Wrong(f'an IPv6 zone means something on one machine only: "{name.partition("%")[0].strip("[")}"')
        return f"[{ip}]" if ip.version == 6 else str(ip)
    if ":" in name:
        raise Wrong(f'a host has no port here (requests to any port are meant): "{name.rpartition(":")[0]}"')
    if name.endswith(".") and name != ".":
        raise Wrong(f'write it without the final dot: "{name[:-1]}"')
    plain = name.removeprefix("*.") if wildcard else name
    if "*" in plain:
        raise Wrong('a wildcard is one "*." at the left: "*.example.com"' if wildcard else "no wildcard can stand here")
    if len(plain) > HOST_CHARACTERS or not all(LABEL.fullmatch(label) for label in plain.split(".")):
        raise Wrong("not a host name (letters, digits, hyphens; labels of at most 63 characters joined by dots)")
    if plain.rpartition(".")[2].isdigit():
        raise Wrong(f'"{plain}" looks like an IPv4 address but is none')
    return name


def host_policy(text: str) -> str:
    """The Host an upstream gets: `upstream`, `keep`, or a name with an optional port."""
    if text in ("upstream", "keep"):
        return text
    ours, colon, digits = text.rpartition(":")
    if colon and not text.endswith("]") and (ours.startswith("[") or ":" not in ours):
        return f"{host(ours, wildcard=False)}:{port(digits)}"
    return host(text, wildcard=False)


def path(text: str) -> str:
    """A path prefix: `/` or `/mcp/search`."""
    if not text.startswith("/"):
        raise Wrong(f'a path starts with "/": "/{text}"')
    if text == "/":
        return text
    if "?" in text or "#" in text:
        raise Wrong("a path has no query and no fragment")
    if text.endswith("/"):
        raise Wrong(f'write it without the final slash: "{text.rstrip("/") or "/"}" also takes everything below it')
    if "*" in text:
        raise Wrong(f'a path is a prefix and takes everything below it; leave the "*" out: "{text.partition("*")[0].rstrip("/") or "/"}"')
    if len(text) > PATH_CHARACTERS or not PATH.fullmatch(text):
        raise Wrong("not a path as it stands in a request: no empty segments, no spaces; other characters percent-encoded in UTF-8")
    if DISPUTED.search(text):
        raise Wrong("an encoded slash, backslash or NUL cannot stand in a path: servers disagree about what it means")
    if any(segment in (b".", b"..") for segment in plain_path(text.encode()).split(b"/")):
        raise Wrong('a path has no "." and ".." segments')
    return text


def plain_path(raw: bytes) -> bytes:
    """The path with percent-encoded unreserved characters decoded: the same resource by RFC 3986 §6.2.2.2. For comparing only."""
    if b"%" not in raw:
        return raw
    return ESCAPE.sub(_decode_unreserved, raw)


def _decode_unreserved(found: re.Match[bytes]) -> bytes:
    value = int(found[1], 16)
    return bytes((value,)) if value in UNRESERVED else found[0].upper()


def generous_path(raw: bytes) -> bytes:
    """The path as a generous server may read it: all decoded, a backslash for a slash, parameters (`;x`) cut off, slashes merged, dots resolved."""
    decoded = ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), raw)
    segments: list[bytes] = []
    for segment in SLASHES.split(decoded):
        segment = segment.partition(b";")[0]
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def port(digits: str) -> int:
    """A listening port, 0 (the kernel chooses) to 65535."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise Wrong(f'"{digits}" is not a port: a number from 1 to 65535')
    return int(digits)


def socket_path(text: str) -> str:
    """The path of a unix socket: absolute, so that it means the same wherever the daemon is started."""
    if text.startswith("///"):  # unix:///run/x.sock, as a URL has it
        text = text[2:]
    if not text.startswith("/") or text.startswith("//") or text.endswith("/") or "\0" in text:
        raise Wrong('a unix socket is given by its absolute path: "unix:/run/mcpproxy/mcp.sock"')
    if len(text.encode()) > SOCKET_PATH_BYTES:
        raise Wrong(f"the path of a unix socket has at most {SOCKET_PATH_BYTES} bytes")
    return text


def upstream_name(text: str) -> str:
    """The name of an upstream, as logs and routes use it."""
    if not UPSTREAM_NAME.fullmatch(text):
        raise Wrong("a name has 1 to 64 letters, digits, dots, hyphens or underscores and begins with a letter or digit")
    return text


def account(text: str) -> str:
    """A user or group of this machine, by name or number."""
    if not ACCOUNT.fullmatch(text):
        raise Wrong("the name of a user or group, or its number")
    return text


def _punycode(name: str) -> str:
    try:
        return f': "{name.encode("idna").decode()}"'
    except UnicodeError:
        return ""


def network(text: str) -> str:
    """An address range: `10.0.0.0/8`, `2001:db8::/32`, or one address; or `unix`, who comes by a unix socket."""
    if text == "unix":
        return text
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        loose = text.strip("[]")
        try:
            hint = f': "{ipaddress.ip_network(loose, strict=False)}"'
        except ValueError:
            hint = ""
        raise Wrong(f"not an address range ({error}){hint}" if hint else "not an address range, like 10.0.0.0/8 or 2001:db8::/32") from None
    if "%" in text:
        raise Wrong(f'an IPv6 zone means something on one machine only: "{text.partition("%")[0]}"')
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:
        raise Wrong(f'give the IPv4 addresses themselves: "{ipaddress.ip_network((mapped, found.prefixlen - 96))}"')
    return str(found)


def origin(text: str) -> str:
    """Who may call from a browser: `https://app.example.com`, `https://*.example.com`, `http://localhost:*`, or `*` for anybody.

    In the words browsers use: lower case, and without the port that the scheme has by itself.
    """
    if text == "*":
        return text
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if text.lower() == "null":
        raise Wrong("null is what every sandboxed page and local file says: it is never let in")
    if not separator or scheme not in DEFAULT_PORTS:
        raise Wrong('an origin is a scheme and a host: "https://app.example.com"', ('"https://…"', '"http://…"', '"*"'))
    if "/" in rest:
        raise Wrong(f'an origin ends after host and port: "{scheme}://{rest.partition("/")[0]}"')
    name, colon, digits = rest.rpartition(":") if not rest.endswith("]") and ":" in rest else (rest, "", "")
    if ":" in name and not name.startswith("["):
        raise Wrong('an IPv6 address stands in brackets: "http://[::1]:6274"')
    if name == "*":
        raise Wrong('every page is "*" alone; pages below a name are "https://*.example.com"')
    name = host(name)
    if not colon or digits == DEFAULT_PORTS[scheme]:
        return f"{scheme}://{name}"
    if digits != "*" and not port(digits):
        raise Wrong("the port is a number from 1 to 65535")
    return f"{scheme}://{name}:{digits if digits == '*' else port(digits)}"


def shown_url(text: str) -> str:
    """A URL where people read it: what its query says may be a key."""
    return re.sub(r"([?&][^=&]*=)[^&]+", r"\1…", text)


def https_url(text: str) -> str:
    """A URL that is asked or named: `https://login.example.com/oauth2/token`. Plain http only for this machine."""
    if not text.isascii() or any(character <= " " or character == "\x7f" for character in text) or "#" in text:
        raise Wrong("a URL has no spaces, control characters, fragments or letters beyond ASCII")
    if "@" in text:  # asked before anything is said: no message may repeat a password
        raise Wrong("user and password do not belong into a URL")
    try:
        parts = urlsplit(text)
        given = parts.port
    except ValueError as error:
        raise Wrong(f"not a URL: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise Wrong('the scheme is missing: "https://…"', ("https://",))
    if given == 0 or parts.netloc.endswith(":"):
        raise Wrong("the port is a number from 1 to 65535")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise Wrong(
            "over plain http anybody on the way could answer: https:// (http:// only for this machine: 127.0.0.1, [::1], localhost)"
        )
    host(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname, wildcard=False)
    return text


def is_loopback(name: str) -> bool:
    """Is this host name or address this machine, whatever a resolver says?"""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost" or name.lower().endswith(".localhost")


def header(text: str) -> str:
    """The name of a header field."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text):
        raise Wrong("not the name of a header field")
    return text


def pattern(text: str) -> str:
    """A regular expression of Python's `re`, matched against the whole value."""
    try:
        re.compile(text)
    except re.error as error:
        raise Wrong(f"not a regular expression: {error}") from None
    return text


def whole_pattern(text: str) -> str:
    """A regular expression that is matched against texts of callers, from end to end."""
    regular(text)
    return text


def words(text: str) -> str:
    """Any text of one line that is not empty."""
    if not text or not text.isprintable() or len(text) > 1024:
        raise Wrong("must be one line of text")
    return text


def email(text: str) -> str:
    """An address as authorities take it: `ops@example.com`."""
    local, _, domain = text.rpartition("@")
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local):
        raise Wrong('not an email address: "ops@example.com"')
    return f"{local}@{host(domain, wildcard=False)}"


def key_set(text: str) -> str:
    """Where a JWKS is: a URL, or `file:` and an absolute path."""
    if not text.startswith("file:") and ":" not in text:
        raise Wrong('the scheme is missing: "https://…", or "file:/etc/mcpproxy/jwks.json" with an absolute path')
    if not text.startswith("file:"):
        return https_url(text)
    if not text.startswith("file:/") or text.startswith("file://") or "\0" in text:
        raise Wrong('a key set in a file is given by its absolute path: "file:/etc/mcpproxy/jwks.json"')
    return text


def folder(text: str) -> str:
    """A folder of a server, in its own words: absolute, without a final slash."""
    if not text.startswith("/") or "\0" in text or "\\" in text:
        raise Wrong('a folder is given by its absolute path: "/srv/data"')
    plain = text.rstrip("/") or "/"
    if "//" in plain or any(segment in (".", "..") for segment in plain.split("/")):
        raise Wrong('a folder has no "." and ".." segments and no doubled slashes')
    return plain


def public_url(text: str) -> str:
    """The URL clients use for an endpoint, as it stands in tokens: scheme and host in lower case, no query, no fragment, no final slash."""
    if "?" in text:
        raise Wrong("the URL of an endpoint has no query")
    parts = urlsplit(https_url(text))
    netloc = parts.netloc.lower().removesuffix(f":{DEFAULT_PORTS[parts.scheme]}")
    return f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")
