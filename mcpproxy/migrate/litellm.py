"""`mcp_servers` of LiteLLM's proxy configuration (YAML)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mcpproxy.config import names
from mcpproxy.errors import StartError
from mcpproxy.migrate import servers
from mcpproxy.migrate.found import Found, Keys, Part, Unusable, valid

FIELDS = {  # auth_type: the header field, and what stands before the value
    "api_key": ("X-API-Key", ""),
    "bearer_token": ("Authorization", "Bearer "),
    "basic": ("Authorization", "Basic "),
    "token": ("Authorization", "token "),
    "authorization": ("Authorization", ""),
}
SILENT = frozenset(
    "server_name alias description mcp_info transport spec_version url command args env cwd auth_type auth_value authentication_token".split()
)
USED = frozenset("static_headers headers extra_headers allowed_tools disallowed_tools client_id client_secret token_url scopes".split())
ADVICE = {
    "access_groups": "who may call what is said in [route.tools]",
    "mcp_access_groups": "who may call what is said in [route.tools]",
    "allow_all_keys": "a route without auth is open to everybody",
    "allowed_params": "arguments are judged in [[route.tools.allow]] args",
    "spec_path": "no OpenAPI document becomes tools here",
    "authorization_url": "clients log in at the server itself",
    "registration_url": "clients log in at the server itself",
}
SETTINGS = ("litellm_settings", "general_settings")


def parse(text: str) -> Any:
    """YAML → data. Raises Unusable."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise StartError("YAML is read by PyYAML, which is not installed", "pip install 'mcpproxy[import]'") from None
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise Unusable(f"{where}not YAML") from None
    except (ValueError, TypeError, AttributeError):  # a date that is none, a key that can be none
        raise Unusable("not YAML: a value cannot be read") from None


def read(text: str) -> Found:
    """All servers of the file."""
    data = parse(text)
    found = Found("a LiteLLM configuration")
    table = data.get("mcp_servers") if isinstance(data, Mapping) else None
    if not isinstance(table, Mapping) or not table:
        raise Unusable('there is no table "mcp_servers" with servers in it')
    facets: dict[str, Keys] = {}
    for name, server in table.items():
        place = f"mcp_servers.{name}"
        part = _server(found, str(name), server, place)
        if part is not None:
            facets[part.name] = servers.allowed(part, _list(server, "allowed_tools"), _list(server, "disallowed_tools"))
    servers.laid_out(found, facets, {})
    general = data.get("general_settings")
    if found.routes and isinstance(general, Mapping) and general.get("master_key"):
        for route in found.routes:
            route.keys["auth"] = found.ask_for_key("general_settings.master_key")
    settings = data.get("litellm_settings")
    for key in settings if isinstance(settings, Mapping) else ():
        if str(key).startswith("mcp"):
            found.note(f"litellm_settings.{key}", "no equivalent: name the upstream as you like it called")
    return found


def _server(found: Found, name: str, server: Any, place: str) -> Part | None:
    if isinstance(server, str):
        server = {"url": server}
    if not isinstance(server, Mapping):
        found.note(place, "is no table: left out")
        return None
    for key in server:
        if key not in SILENT and key not in USED:
            found.note(f"{place}.{key}", ADVICE.get(str(key), "no equivalent"))
    if server.get("transport") == "stdio" or ("command" in server and "url" not in server):
        args = server.get("args") or []
        if not isinstance(server.get("command"), str) or not isinstance(args, list) or any(isinstance(word, list | dict) for word in args):
            found.note(place, "its command and args are no texts: left out")
            return None
        return servers.child(found, name, place, [server["command"], *map(_text, args)], _texts(server, "env"))
    url = server.get("url")
    if not isinstance(url, str):
        found.note(place, "has neither a url nor a command: left out")
        return None
    headers = {**_texts(server, "headers"), **_texts(server, "static_headers")}
    kind = str(server.get("auth_type") or "none")
    secret = server.get("auth_value") or server.get("authentication_token")
    if kind in FIELDS and secret:
        field, before = FIELDS[kind]
        headers = {key: value for key, value in headers.items() if key.lower() != field.lower()}
        headers[field] = _credential(_text(secret), before)
    part = servers.remote(
        found, name, place, url, headers, "sse" if server.get("transport") == "sse" else "http" if "transport" in server else ""
    )
    if part is not None:
        _other_credentials(found, part, server, kind, place)
    if part is not None and _list(server, "extra_headers"):
        found.note(
            f"{place}.extra_headers",
            "header fields of callers are passed on without being named; Authorization only where the route has no auth",
        )
    return part


def _credential(secret: str, before: str) -> str:
    """With what stands before it. A variable has to hold the whole field then, so it is another one."""
    return secret if not before else f"{before}{secret}"


def _other_credentials(found: Found, part: Part, server: Mapping[str, Any], kind: str, place: str) -> None:
    token_url = server.get("token_url")
    if kind == "oauth2" and isinstance(token_url, str) and valid(names.https_url, token_url) and server.get("client_id"):
        keys: Keys = {
            "type": "client-credentials",
            "token_url": token_url,
            "client_id": _plain(found, part, "client_id", _text(server["client_id"]), place),
            "client_secret": _reference(found, part, "client_secret", _text(server.get("client_secret") or "")),
        }
        scopes = [scope for scope in _list(server, "scopes") if valid(names.words, scope)]
        if scopes:
            keys["scope"] = " ".join(scopes)
        part.keys["credential"] = keys
    elif kind == "oauth2":
        found.note(f"{place}.auth_type", "clients log in at the server itself (their Authorization is passed on)")
    elif kind == "aws_sigv4":
        found.note(f"{place}.auth_type", 'credential = { type = "sigv4", … } does it: see docs/config.md')
    elif kind not in FIELDS and kind != "none":
        found.note(f"{place}.auth_type", "no equivalent")


def _plain(found: Found, part: Part, key: str, value: str, place: str) -> str:
    """A client id is no secret, but it cannot be a reference here."""
    if value.startswith("os.environ/") or not valid(names.words, value):
        found.note(f"{place}.{key}", "came from a variable; write it into the file")
        return "client-id"
    return value


def _reference(found: Found, part: Part, key: str, value: str) -> str:
    if value.startswith("os.environ/"):
        return found.expansion(value.removeprefix("os.environ/"), f"{key} of {part.name}")
    return found.variable(part.name, key, f"{key} of {part.name}")


def _texts(server: Mapping[str, Any], key: str) -> dict[str, str]:
    table = server.get(key)
    return (
        {str(name): _text(value) for name, value in table.items() if not isinstance(value, list | dict)}
        if isinstance(table, Mapping)
        else {}
    )


def _list(server: Any, key: str) -> list[str]:
    given = server.get(key) if isinstance(server, Mapping) else None
    return [each for each in given if isinstance(each, str) and valid(names.words, each)] if isinstance(given, list) else []


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
