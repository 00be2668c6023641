"""`mcpServers`, as Claude Desktop, Cursor and their kin have it; and what has the same form: `servers` of VS Code, the `--named-server-config` of mcp-proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcpproxy.config import names
from mcpproxy.migrate import jsonc, servers
from mcpproxy.migrate.found import Found, Keys, Part, Unusable, valid

SILENT = frozenset(
    "type transport transportType name description icon gallery version disabled enabled trust tags title $schema id".split()
)
ALLOWED = ("tools", "includeTools", "enabledTools")
HIDDEN = ("excludeTools", "disabledTools")
UNASKED = ("alwaysAllow", "autoApprove", "autoallow")
URLS = ("url", "serverUrl", "httpUrl", "uri", "endpoint")
USED = frozenset({"command", "args", "env", "environment", "cwd", "headers", *URLS, *ALLOWED, *HIDDEN, *UNASKED})
ADVICE = {
    "timeout": "call_timeout says it here; its unit is the client's own",
    "envFile": "put its variables into the environment of the daemon, and their names into `inherit`",
    "headersHelper": "a program that makes header fields has no equivalent: credential = client-credentials asks for tokens",
    "oauth": "clients log in at the server itself; or credential = client-credentials",
    "auth": "clients log in at the server itself; or credential = client-credentials",
    "headerToEnv": 'a caller\'s own credential does not become a variable of a program: mode = "per-principal" separates callers',
    "sandboxEnabled": 'sandbox = "bwrap"',
    "sandbox": 'sandbox = "bwrap"',
    "dev": "nothing is restarted when files change: mcpproxy reload",
}


def read(text: str, *, named: bool = False) -> Found:
    """All servers of the file. `named`: served where mcp-proxy serves them, at /servers/NAME."""
    data = jsonc.parse(text)
    found = Found("a named-server-config" if named else "mcpServers")
    tables = list(server_tables(data))
    if not tables:
        raise Unusable('there are no servers in it: an object "mcpServers" or "servers" is looked for')
    facets: dict[str, Keys] = {}
    hints: dict[str, list[str]] = {}
    for where, table in tables:
        for name, server in table.pairs if isinstance(table, jsonc.Object) else table.items():
            place = f"{where}.{name}" if where else name
            part = _server(found, name, server, place)
            if part is not None:
                facets[part.name] = servers.allowed(part, _names(server, ALLOWED), _names(server, HIDDEN))
                hints[part.name] = _names(server, UNASKED)
    servers.laid_out(found, facets, hints, "/servers" if named else "")
    return found


def server_tables(data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table of servers in it, with its path."""
    if not isinstance(data, Mapping):
        return
    for key in ("mcpServers", "servers", "mcp.servers", "context_servers"):
        if isinstance(data.get(key), Mapping):
            yield key, data[key]
    inner: Any = data.get("mcp")
    if isinstance(inner, Mapping):
        for key in ("servers", "mcpServers"):
            if isinstance(inner.get(key), Mapping):
                yield f"mcp.{key}", inner[key]
    projects = data.get("projects")
    if isinstance(projects, Mapping):
        for name, project in projects.items():
            if isinstance(project, Mapping) and isinstance(project.get("mcpServers"), Mapping):
                yield f"projects.{name}.mcpServers", project["mcpServers"]
    if data and all(isinstance(each, Mapping) and ("command" in each or any(url in each for url in URLS)) for each in data.values()):
        yield "", data


def _server(found: Found, name: str, server: Any, place: str) -> Part | None:
    if not isinstance(server, Mapping):
        found.note(place, "is no object: left out")
        return None
    if server.get("disabled") is True or server.get("enabled") is False:
        found.note(place, "is disabled: left out")
        return None
    for key in server:
        if key not in USED and key not in SILENT:
            found.note(f"{place}.{key}", ADVICE.get(key, "no equivalent"))
    url = next((server[key] for key in URLS if isinstance(server.get(key), str)), None)
    kind = next((server[key] for key in ("type", "transport", "transportType") if isinstance(server.get(key), str)), "")
    kind = kind if kind else "streamable-http" if "httpUrl" in server else ""
    if url is not None and kind != "stdio":
        return servers.remote(found, name, place, url, _texts(found, server, "headers", place), _kind(kind))
    words = _words(found, server, place)
    if words is None:
        return None
    env = {**_texts(found, server, "environment", place), **_texts(found, server, "env", place)}
    part = servers.child(found, name, place, words, env)
    cwd = server.get("cwd")
    if part is not None and isinstance(cwd, str) and cwd and "command" in part.keys:
        if cwd.startswith("/") and "${" not in cwd and "\0" not in cwd:
            part.keys["cwd"] = cwd
        else:
            found.note(f"{place}.cwd", "is no absolute path of this machine: set cwd yourself")
    return part


def _words(found: Found, server: Mapping[str, Any], place: str) -> list[str] | None:
    command: Any = server.get("command")
    args: Any = server.get("args", [])
    if isinstance(command, Mapping):  # Zed
        command, args = command.get("path"), command.get("args", [])
    if isinstance(command, list):
        command, args = (command[0] if command else ""), [*command[1:], *(args if isinstance(args, list) else [])]
    if not isinstance(command, str) or not command.strip():
        found.note(place, "has neither a command nor a url: left out")
        return None
    if not isinstance(args, list):
        args = args.split() if isinstance(args, str) else []
        found.note(f"{place}.args", "is no list; was read as words")
    words = [str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in args]
    if not all(isinstance(word, str) for word in words):
        found.note(f"{place}.args", "has something that is no text: left out")
        return None
    whole = (
        command.split() if " " in command and not args and not command.startswith(("/", "\\", '"')) and ":\\" not in command else [command]
    )
    return [*whole, *words]


def _texts(found: Found, server: Mapping[str, Any], key: str, place: str) -> dict[str, str]:
    table = server.get(key)
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        found.note(f"{place}.{key}", "is no object: left out")
        return {}
    out: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, str):
            out[name] = value
        elif isinstance(value, bool):
            out[name] = "true" if value else "false"
        elif isinstance(value, int | float):
            out[name] = str(value)
        elif value is not None:
            found.note(f"{place}.{key}.{name}", "is no text: left out")
    return out


def _names(server: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Tools named by one of these keys; `*` is all, so nothing."""
    given = [name for key in keys if isinstance(server.get(key), list) for name in server[key] if isinstance(name, str)]
    return [] if "*" in given else list(dict.fromkeys(name for name in given if valid(names.words, name)))


def _kind(kind: str) -> str:
    return {"streamablehttp": "streamable-http"}.get(kind.lower().replace("_", "-"), kind.lower().replace("_", "-"))
