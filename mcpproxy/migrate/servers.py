"""MCP servers as clients name them, as upstreams: a program to be started, or a URL; and where each of them, and all together, are served.

The servers of one file become one upstream and one route each, and, where there are several, one more that has them all as members.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from mcpproxy.config import names
from mcpproxy.migrate import hidden
from mcpproxy.migrate.found import Found, Keys, Part, valid

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|.*\.(?:exe|cmd|bat|ps1)$", re.IGNORECASE)
SHELLS = ("cmd", "cmd.exe")
RUNNERS = {
    "npx": ("-y", "--yes", "-q", "--quiet"),
    "bunx": ("--bun", "-y"),
    "uvx": (),
    "pipx": ("run",),
    "pnpm": ("dlx",),
    "yarn": ("dlx",),
    "uv": ("tool", "run"),
}
BRIDGES = ("mcp-remote", "mcp-proxy")  # programs that only reach another server by its URL
SSE = ("sse", "sse-only", "sse-first")
STREAMABLE = ("http", "streamable-http", "streamable_http", "streamablehttp", "http-only", "http-first", "streamable")


def child(found: Found, name: str, place: str, argv: Sequence[str], env: Mapping[str, str]) -> Part | None:
    """A server that is started: an upstream with `command`; or the server at a URL, where the program would only be a bridge to it."""
    words = unwrapped(argv)
    if not words or not words[0].strip():
        found.note(place, "no program is named: left out")
        return None
    bridged = _bridged(found, name, place, words, env)
    if bridged is not None:
        return bridged
    given = {key: value for key, value in env.items() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", key) and "\0" not in value}
    for key in env.keys() - given.keys():
        found.note(f"{place}.env", f'"{key[:40]}" is no variable a program can have')
    words = [word.replace("\0", "") for word in words]
    words, inherit = _docker(words, given)
    part = found.upstream(name, place, {})
    command, secret = hidden.words(found, part.name, words, place)
    part.keys["command"] = command
    variables = {key: hidden.environment(found, part.name, key, value, f"{place}.env") for key, value in given.items()}
    if variables or secret:
        part.keys["env"] = {**variables, **secret}
    if inherit:
        part.keys["inherit"] = inherit
    if any(WINDOWS.match(word) for word in words):
        part.remarks.append("A path or program of Windows: name the one of this machine.")
        found.note(place, "has a path or program of Windows: name the one of this machine")
    return part


def unwrapped(argv: Sequence[str]) -> list[str]:
    """Without the shell that Windows needs before npx."""
    words = list(argv)
    if words and re.split(r"[\\/]", words[0].lower())[-1] in SHELLS and len(words) > 2 and words[1].lower() == "/c":
        return words[2:]
    return words


def program(words: Sequence[str]) -> tuple[str, list[str]]:
    """What is run in the end, without its runner (`npx -y`), path and version; and its arguments."""
    rest = list(words)
    runner = RUNNERS.get(_base(rest[0])) if rest else None
    if runner is not None:
        del rest[0]
        while rest and (rest[0] in runner or rest[0] in ("-p", "--package", "--from", "--python")):
            del rest[: 1 if rest[0] in runner else 2]
    if not rest:
        return "", []
    return re.sub(r"(?<=.)(?:@|==).*$", "", _base(rest[0])), rest[1:]


def _base(word: str) -> str:
    base = re.split(r"[\\/]", word)[-1]
    return re.sub(r"\.(?:exe|cmd)$", "", base, flags=re.IGNORECASE)


def _bridged(found: Found, name: str, place: str, words: Sequence[str], env: Mapping[str, str]) -> Part | None:
    what, rest = program(words)
    url = next((word for word in rest if re.match(r"https?://", word)), None)
    if what not in BRIDGES or url is None or "--" in rest[: rest.index(url)]:
        return None
    headers: dict[str, str] = {}
    transport = "sse" if what == "mcp-proxy" else ""
    for number, word in enumerate(rest):
        following = rest[number + 1 :]
        key, colon, value = (following[0] if following else "").partition(":")
        if word == "--header" and colon:
            headers[key.strip()] = value.strip()
        elif word in ("-H", "--headers") and len(following) > 1:
            headers[following[0]] = following[1]
        elif word == "--transport" and following:
            transport = following[0]
        elif word.startswith("--transport="):
            transport = word.partition("=")[2]
    if env.get("API_ACCESS_TOKEN"):
        token = env["API_ACCESS_TOKEN"]
        headers.setdefault("Authorization", f"Bearer {token}")
    for key in env.keys() - {"API_ACCESS_TOKEN"}:
        headers = {field: _filled(value, key, env[key]) for field, value in headers.items()}
    return remote(found, name, place, url, headers, transport)


def _filled(value: str, key: str, given: str) -> str:
    """With a variable of its own environment put in: only whether it is a variable or a secret matters, nobody sees it."""
    return value if hidden.EXPANSION.search(given) else value.replace("${" + key + "}", given)


def _docker(words: list[str], env: dict[str, str]) -> tuple[list[str], list[str]]:
    """Variables of a container (`-e NAME=value`) become those of docker itself, which hands them on by name."""
    if _base(words[0]) not in ("docker", "podman", "nerdctl") or "run" not in words[:3]:
        return words, []
    out, inherit, at = words[:1], [], 1
    while at < len(words):
        word = words[at]
        at += 1
        given = ""
        if word in ("-e", "--env") and at < len(words):
            given, at = words[at], at + 1
        elif word.startswith("--env="):
            given = word[6:]
        else:
            out.append(word)
            continue
        name, equals, value = given.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name) or (equals and hidden.harmless(name, value)):
            out += ["-e", given]
            continue
        out += ["-e", name]
        if equals:
            env.setdefault(name, value)
        elif name not in env and name not in inherit:
            inherit.append(name)
    return out, inherit


def remote(found: Found, name: str, place: str, url: str, headers: Mapping[str, str], transport: str) -> Part | None:
    """A server that is reached by its URL."""
    split = _url(found, place, url)
    if split is None:
        return None
    origin, path, userinfo = split
    sse = transport in SSE or (transport not in STREAMABLE and path.endswith("/sse"))
    keys: Keys = {"urls": [origin]}
    secret = hidden.secret_value(path)
    if secret and sse:
        found.note(f"{place}.url", "its path holds a secret, and mcp_path is no reference: left out")
        return None
    if secret:
        found.note(
            f"{place}.url",
            "its path holds a secret, which is not written here: clients give it behind the route's path; it is no member of others",
        )
    elif path != "/mcp":
        keys["mcp_path"] = path
    if sse:
        keys |= {"bridge": True, "transport": "sse"}
    part = found.upstream(name, place, keys)
    part.alone = secret
    if userinfo and "Authorization" not in headers:
        headers = {**headers, "Authorization": "Basic"}
    _headers(found, part, place, headers)
    return part


def _url(found: Found, place: str, url: str) -> tuple[str, str, bool] | None:
    """Origin, path, and whether somebody's name stood in it."""
    if hidden.EXPANSION.search(url) or "{" in url:
        found.note(f"{place}.url", "is put together from variables: write it into urls yourself; left out")
        return None
    if url.startswith("unix:"):
        file, _, behind = url.partition("#")
        socket = valid(names.url, file)
        return None if socket is None else (socket, valid(names.path, behind) or "/mcp", False)
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    origin = valid(names.url, f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}") if host else None
    path = valid(names.path, parts.path.rstrip("/") or "/")
    if origin is None or path is None:
        found.note(f"{place}.url", "is no http or https URL that can be an upstream: left out")
        return None
    if parts.query:
        found.note(f"{place}.url", "its query (what follows the ?, not shown) is not sent: upstreams have none; is there a header for it?")
    if parts.username or parts.password:
        found.note(f"{place}.url", 'the user and password in it are a header field here: "Basic " and base64 of user:password')
    return origin, path, bool(parts.username or parts.password)


def _headers(found: Found, part: Part, place: str, headers: Mapping[str, str]) -> None:
    """One field can be a credential; others have no place."""
    secret = [
        name for name in headers if hidden.secret_name(name) or hidden.secret_value(headers[name]) or hidden.EXPANSION.search(headers[name])
    ]
    secret.sort(key=lambda name: name.lower() != "authorization")
    usable = [name for name in secret if valid(names.header, name)]
    if usable:
        part.keys["credential"] = {
            "type": "header",
            "header": usable[0],
            "value": hidden.credential(found, part.name, usable[0], headers[usable[0]]),
        }
    for name in headers:
        if name not in usable[:1]:
            found.note(f"{place}.headers.{name}", "one field can be set for a server (credential); this one is not sent")


def allowed(part: Part, tools: Sequence[str], hide: Sequence[str]) -> Keys:
    """What a list of tools means: keys of the member and of the route."""
    facet: Keys = {}
    if tools:
        facet["tools"] = list(tools)
    if hide:
        facet["hide"] = list(hide)
    return facet


def rules(facet: Keys) -> Keys:
    """The same for a route of its own."""
    keys: Keys = {"allow": [{"tools": facet["tools"]} if "tools" in facet else {}]}
    if not facet:
        return {}
    if "hide" in facet:
        keys["deny"] = [{"tools": facet["hide"]}]
    return keys


def laid_out(found: Found, facets: Mapping[str, Keys], hints: Mapping[str, Sequence[str]], folder: str = "") -> None:
    """A route for each upstream, and one for all of them."""
    for part in list(found.upstreams):
        keys: Keys = {"path": f"{folder}/{part.name}"}
        plain = "urls" in part.keys and not part.keys.get("bridge")
        if plain:
            keys["strip_prefix"] = True
        keys["upstream"] = part.name
        table = rules(facets.get(part.name, {}))
        if table:
            keys["tools"] = table
        route = found.route(part.name, keys)
        if route is not None:
            if plain:
                route.remarks.append(f"For clients: https://…{keys['path']}{'/…' if part.alone else part.keys.get('mcp_path', '/mcp')}")
            route.remarks += list(_hint(hints.get(part.name, ())))
    members = [part.name for part in found.upstreams if not part.alone]
    if len(members) > 1:
        hub = found.upstream(_free("all", members), "", {"members": members})
        facet = {name: keys for name, keys in facets.items() if keys}
        if facet:
            hub.keys["member"] = facet
        path = _free("/mcp", [str(route.keys.get("path")) for route in found.routes])
        route = found.route("", {"path": path, "upstream": hub.name})
        if route is not None:
            route.remarks.append("All of them as one server; the names of tools begin with the server's.")
        return
    for part in found.upstreams:
        if not part.keys.get("bridge"):
            part.keys.pop("mcp_path", None)  # only members and bridges have use for it


def _free(wanted: str, taken: Sequence[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name


def _hint(tools: Sequence[str]) -> Iterator[str]:
    if tools:
        listed = ", ".join(f'"{tool}"' for tool in tools[:50])
        yield "Tools the source calls without asking (that is the client's to decide). To allow these and no others:"
        yield f"tools = {{ allow = [{{ tools = [{listed}] }}] }}"
