"""Command lines of the two programs called mcp-proxy: sparfenyuk's (PyPI: `--named-server`, `--sse-port`) and punkpeye's (npm: `--endpoint`, `--server`).

A text may hold several lines, as a shell, a unit file or a README has them; each is a proxy with an address of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mcpproxy import units
from mcpproxy.config import names
from mcpproxy.migrate import servers
from mcpproxy.migrate.found import Found, Part, Unusable, valid

CALL = re.compile(r"(?:^|[\s/])mcp-proxy(?:@\S*|:\S*)?(?=\s|$)")
PYPI_WORDS = {"--headers": 2, "-H": 2, "--env": 2, "-e": 2, "--named-server": 2}
PYPI_ONE = "--transport --cwd --log-level --named-server-config --port --host --sse-port --sse-host --client-id --client-secret --token-url".split()
PYPI_FLAGS = "--pass-environment --no-pass-environment --debug --no-debug --stateless --no-stateless --no-verify-ssl --verify-ssl".split()
NPM_FLAGS = "debug stateless shell tunnel modern eventStore".split()
NPM_SILENT = "debug stateless modern eventStore eventStoreMaxEvents keepAliveTimeout corsAddAllowedHeader server endpoint streamEndpoint sseEndpoint".split()
NPM_ONLY = re.compile(
    r"--(?:endpoint|server|api-?key|stream-?endpoint|sse-?endpoint|shell|tunnel|request-?timeout|upstream-?protocol|ssl-?cert)\b", re.I
)
PYPI_ONLY = re.compile(r"--(?:named-server|pass-environment|sse-port|sse-host|allow-origin|transport|headers|env)\b|\s-[eH]\s")
DURATIONS = {
    "requestTimeout": ("call_timeout", 300_000),
    "connectionTimeout": ("start_timeout", 60_000),
    "gracefulShutdownTimeout": ("stop_grace", 5_000),
    "sessionIdleTimeout": ("session_ttl", 1_800_000),
}


@dataclass(slots=True)
class Call:
    """One command line, taken apart: options with their values, and the command behind them."""

    place: str
    options: list[tuple[str, list[str]]] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def one(self, *wanted: str) -> str | None:
        """The last value of an option that has one of these names."""
        return next((values[-1] for name, values in reversed(self.options) if name in wanted and values), None)

    def all(self, *wanted: str) -> Iterator[list[str]]:
        """The values of each."""
        return (values for name, values in self.options if name in wanted)

    def has(self, *wanted: str) -> bool:
        """Is there one?"""
        return any(name in wanted for name, _ in self.options)


def calls(text: str) -> Iterator[tuple[str, list[str], dict[str, str], bool]]:
    """Every command line of such a program: place, its arguments, variables set before it, and whether npm's runner starts it."""
    joined = text.replace("\r\n", "\n")
    number = 0
    for block in re.split(r"(?<!\\)\n", joined):
        first = number + 1
        number += block.count("\n") + 1
        line = re.sub(r"\\\n\s*", " ", block).strip()
        line = re.sub(r"^(?:\$|>|ExecStart=-?)\s*", "", line)
        if not line or line.startswith("#") or not CALL.search(line):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            raise Unusable(f"line {first}: a quote is not closed") from None
        at = next((index for index, word in enumerate(words) if re.fullmatch(r"(?:.*/)?mcp-proxy(?:@.*|:.*)?", word)), None)
        if at is None:
            continue
        env = {
            name: value
            for name, equals, value in (word.partition("=") for word in words[:at])
            if equals and re.fullmatch(r"[A-Za-z_]\w*", name)
        }
        rest = [word for word in words[at + 1 :] if word != "&"]
        yield f"line {first}", rest, env, any(word in ("npx", "bunx", "pnpm", "yarn", "npm") for word in words[:at])


def read(text: str, flavour: str = "") -> Found:
    """All of its lines. `flavour`: "pypi" or "npm", else it is told from the options."""
    found = Found("command lines of mcp-proxy")
    count = 0
    for place, words, env, node in calls(text):
        line = " ".join([" ", *words, " "])
        npm = flavour == "npm" or (not flavour and (bool(NPM_ONLY.search(line)) or (node and not PYPI_ONLY.search(line))))
        (_npm if npm else _pypi)(found, _taken_apart(words, place, env, npm=npm), alone=count == 0)
        count += 1
    if not count:
        raise Unusable("no command line with mcp-proxy is in it")
    return found


def _taken_apart(words: Sequence[str], place: str, env: dict[str, str], *, npm: bool) -> Call:
    call = Call(place, env=env)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            call.command += words[at:]
            break
        if not word.startswith("-") or word == "-":
            call.command += [word, *words[at:]]
            break
        name, equals, value = word.partition("=")
        if npm:
            name = re.sub(r"-([a-z])", lambda part: part[1].upper(), name.lstrip("-"))
            boolean = name in NPM_FLAGS or (name.startswith("no") and name[2:3].isupper())
            count = 0 if boolean else 1
            if boolean and at < len(words) and words[at] in ("true", "false") and not equals:
                value, at = words[at], at + 1
        elif name == "--allow-origin":
            count = 0 if equals else next((n for n, each in enumerate(words[at:]) if each.startswith("-")), len(words) - at)
        else:
            count = PYPI_WORDS.get(name, 1 if name in PYPI_ONE else 0)
        values = [value] if equals or value else []
        while len(values) < count and at < len(words):
            values.append(words[at])
            at += 1
        call.options.append((name, values))
    call.command = [word for number, word in enumerate(call.command) if not (word == "--" and number == 1)]
    return call


def _listen(found: Found, call: Call, host: str | None, port: str | None) -> None:
    """The address it served."""
    host = {"localhost": "127.0.0.1", None: "127.0.0.1", "": "127.0.0.1"}.get(host, host)
    host = f"[{host}]" if host is not None and ":" in host and not host.startswith("[") else host
    if port is None or not port.isdigit():
        found.note(call.place, "says no port; a listener of ours has one")
        return
    address = valid(names.address, f"{host}:{port}")
    if address is None:
        found.note(call.place, f"{host}:{port} is no address to listen at: 127.0.0.1:{port} was taken")
        address = valid(names.address, f"127.0.0.1:{port}")
    if address is not None:
        found.listener(address).used = True


def _serve(found: Found, part: Part | None, path: str, place: str) -> Part | None:
    return None if part is None else found.route(place, {"path": path, "upstream": part.name})


def _pypi(found: Found, call: Call, *, alone: bool) -> None:
    url = next((word for word in call.command[:1] if re.match(r"https?://", word)), None)
    if url is not None:
        headers = {values[0]: values[1] for values in call.all("-H", "--headers") if len(values) > 1}
        if call.env.get("API_ACCESS_TOKEN"):
            headers.setdefault("Authorization", "Bearer " + call.env["API_ACCESS_TOKEN"])
        part = servers.remote(found, "server", call.place, url, headers, call.one("--transport") or "sse")
        if part is not None:
            part.keys["bridge"] = True
            _serve(found, part, "/mcp" if alone else f"/{part.name}", call.place)
            found.note(call.place, "it was a program that a client starts: this is a server with a URL; mcpproxy connect is such a program")
        return
    _listen(found, call, call.one("--host", "--sse-host"), call.one("--port", "--sse-port"))
    env = {values[0]: values[1] for values in call.all("-e", "--env") if len(values) > 1}
    routes: list[Part | None] = []
    if call.command:
        part = servers.child(found, _name(call.command), call.place, call.command, env)
        cwd = call.one("--cwd")
        if part is not None and cwd and "command" in part.keys:
            if cwd.startswith("/"):
                part.keys["cwd"] = cwd
            else:
                found.note(call.place, "--cwd is no absolute path: set cwd yourself")
        routes.append(_serve(found, part, "/" if alone else f"/{part.name}" if part else "/", call.place))
    if call.has("--named-server-config"):
        found.note(call.place, "--named-server-config: import that file, too: mcpproxy import --from named-servers FILE")
    else:
        for values in call.all("--named-server"):
            if len(values) == 2:
                part = servers.child(found, values[0], call.place, _split(values[1]), {})
                routes.append(_serve(found, part, f"/servers/{part.name}" if part else "", call.place))
    if call.has("--pass-environment"):
        found.note(call.place, "--pass-environment: name the variables a server needs in `inherit`")
    origins = [origin for values in call.all("--allow-origin") for origin in values]
    _origins(found, call, origins, routes)
    for name, _ in call.options:
        if name not in (*PYPI_WORDS, *PYPI_ONE, *PYPI_FLAGS, "--allow-origin"):
            found.note(call.place, f"{name[:40]}: no equivalent")
    if not call.command and not call.has("--named-server", "--named-server-config"):
        found.note(call.place, "names no server")


def _origins(found: Found, call: Call, origins: list[str], routes: list[Part | None]) -> None:
    good = list(dict.fromkeys(each for each in (valid(names.origin, origin) for origin in origins) if each))
    if len(good) < len(set(origins)):
        found.note(call.place, "--allow-origin: one of its origins is none (https://host)")
    for route in routes:
        if route is not None and good:
            route.keys |= {"allow_origins": good, "cors": True}


def _npm(found: Found, call: Call, *, alone: bool) -> None:
    if call.command and re.match(r"https?://", call.command[0]):
        found.note(call.place, "a URL where a command is expected: left out")
        return
    host, port = call.one("host") or "::", call.one("port") or "8080"
    _listen(found, call, host, port)
    part = servers.child(found, _name(call.command), call.place, call.command, {})
    if part is None:
        return
    if call.has("shell") and call.one("shell") != "false" and "command" in part.keys:
        part.remarks.append("--shell: its words were read by a shell; here they are not.")
        found.note(call.place, "--shell: no shell reads a command here, unless it is the command")
    for name, (key, default) in DURATIONS.items():
        given = call.one(name)
        if given is not None and given.isdigit() and 0 < int(given) < 30_000_000_000 and int(given) != default:
            part.keys[key] = units.show_duration(int(given) / 1000)
            if key == "call_timeout" and int(given) > 3_600_000:
                part.keys["call_ceiling"] = part.keys[key]
    era = call.one("upstreamProtocol")
    if era in ("legacy", "modern"):
        part.keys["era"] = era
    route = _serve(found, part, "/" if alone else f"/{part.name}", call.place)
    size = call.one("maxBodySize")
    if route is not None and size and size.isdigit() and 0 < int(size) < 1 << 50:
        route.keys["max_body"] = units.show_size(int(size))
    if route is not None and (call.has("apiKey") or "MCP_PROXY_API_KEY" in call.env):
        route.keys["auth"] = found.ask_for_key(call.place)
    _certificate(found, call, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if call.has("tunnel") and call.one("tunnel") != "false":
        found.note(call.place, "--tunnel: nothing is served through somebody else's host")
    known = {
        *NPM_SILENT,
        *NPM_FLAGS,
        *DURATIONS,
        *"host port upstreamProtocol maxBodySize apiKey sslCert sslKey sslCa tunnelSubdomain noEventStore noModern".split(),
    }
    for name, _ in call.options:
        if name not in known:
            found.note(call.place, f"--{name[:40]}: no equivalent")
    found.note(call.place, "it let every web page call (CORS): name those that may in allow_origins, with cors = true")


def _certificate(found: Found, call: Call, address: str) -> None:
    listener = found.listeners.get(valid(names.address, address) or "")
    cert, key = call.one("sslCert"), call.one("sslKey")
    if listener is not None and cert and key:
        listener.certificates.append({"cert": cert, "key": key})
        if call.one("sslCa"):
            found.note(call.place, "--sslCa: callers with certificates: client_ca and [auth.NAME] of type mtls")


def _name(command: Sequence[str]) -> str:
    """What a server is called that had no name: its program, or the package that a runner fetches."""
    what, rest = servers.program(servers.unwrapped(command)) if command else ("", [])
    script = next((word for word in rest if re.search(r"\.(?:py|js|ts|mjs|cjs)$", word)), "")
    if what in ("node", "python", "python3", "tsx", "deno", "bun", "ts-node") and script:
        what = re.sub(r"\.\w+$", "", re.split(r"[\\/]", script)[-1])
    return what or "server"


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
