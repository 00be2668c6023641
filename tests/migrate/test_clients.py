"""mcpServers of many clients: shapes as they are found in the wild."""

import json
from typing import Any

import pytest

from mcpproxy.migrate import clients
from mcpproxy.migrate.found import Unusable
from tests.migrate.rig import everything, loaded, notes


def read(**servers: Any) -> Any:
    return clients.read(json.dumps({"mcpServers": servers}))


def test_claude_desktop() -> None:
    found = read(
        filesystem={"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/srv/data"]},
        github={
            "command": "docker",
            "args": ["run", "-i", "--rm", "-e", "TOKEN=hush", "-e", "OTHER", "mcp/github"],
            "env": {"OTHER": "hush2"},
        },
    )
    config = loaded(found)
    assert config.upstream["filesystem"].command == ("npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv/data")
    assert config.upstream["github"].command == ("docker", "run", "-i", "--rm", "-e", "TOKEN", "-e", "OTHER", "mcp/github")
    assert config.upstream["github"].env == {"OTHER": "env:GITHUB_OTHER", "TOKEN": "env:GITHUB_TOKEN"}
    assert config.upstream["all"].members == ("filesystem", "github")
    assert [route.path for route in config.route] == ["/filesystem", "/github", "/mcp"]
    assert "hush" not in everything(found)


def test_vs_code_with_comments_inputs_and_types() -> None:
    found = clients.read(
        """{
        // asked once
        "inputs": [{"type": "promptString", "id": "gh-token", "password": true}],
        "servers": {
            "github": {"type": "http", "url": "https://api.example.com/mcp/", "headers": {"Authorization": "Bearer ${input:gh-token}"}},
            "events": {"type": "sse", "url": "http://localhost:9000/events", "dev": {"watch": "**"}},
            "sock": {"type": "http", "url": "unix:///run/x.sock#/mcp/sub"},
            "py": {"type": "stdio", "command": "python", "args": ["${workspaceFolder}/server.py"], "cwd": "${workspaceFolder}", "envFile": "x/.env",
                   "env": {"KEY": "${input:gh-token}"}},
        }}"""
    )
    config = loaded(found)
    github = config.upstream["github"]
    assert (github.urls, github.mcp_path) == (("https://api.example.com",), "/mcp")
    assert github.credential is not None
    assert (github.credential.header, github.credential.value) == ("Authorization", "env:GITHUB_AUTHORIZATION")
    events = config.upstream["events"]
    assert (events.bridge, events.transport, events.mcp_path) == (True, "sse", "/events")
    assert (config.upstream["sock"].urls, config.upstream["sock"].mcp_path) == (("unix:/run/x.sock",), "/mcp/sub")
    assert config.upstream["py"].command == ("/bin/sh", "-c", 'exec python "${WORKSPACE_FOLDER}/server.py"')
    assert config.upstream["py"].env["KEY"] == "env:GH_TOKEN"
    assert all(f"servers.{what}" in notes(found) for what in ("py.cwd", "py.envFile", "events.dev"))
    routes = {route.upstream: route for route in config.route}
    assert (routes["github"].path, routes["github"].strip_prefix, routes["events"].strip_prefix) == ("/github", True, False)


def test_cursor_cline_windsurf_and_gemini() -> None:
    found = read(
        a={
            "url": "https://a.test/mcp",
            "headers": {"X-API-Key": "${env:A_KEY}", "X-Team": "t"},
            "disabled": False,
            "autoApprove": ["read"],
        },
        b={"serverUrl": "https://b.test/sse", "alwaysAllow": ["x"], "timeout": 60, "transportType": "sse"},
        c={"httpUrl": "https://c.test/sse", "includeTools": ["one"], "excludeTools": ["two"]},
        d={"type": "streamableHttp", "url": "https://d.test/"},
        off={"command": "x", "disabled": True},
        off2={"command": "x", "enabled": False},
    )
    config = loaded(found)
    assert set(config.upstream) == {"a", "b", "c", "d", "all"}
    assert config.upstream["a"].credential is not None
    assert config.upstream["a"].credential.value == "env:A_KEY"
    assert [config.upstream[name].transport for name in "abcd"] == ["auto", "sse", "auto", "auto"]
    assert config.upstream["all"].member["c"].tools == ("one",)
    tools = next(route.tools for route in config.route if route.upstream == "c")
    assert tools is not None
    assert (tools.allow[0].tools, tools.deny[0].tools) == (("one",), ("two",))
    assert '# tools = { allow = [{ tools = ["read"] }] }' in everything(found)
    for what in ("a.headers.X-Team", "b.timeout", "off: is disabled", "off2: is disabled"):
        assert f"mcpServers.{what}" in notes(found)


def test_windows() -> None:
    found = read(
        a={"command": "cmd", "args": ["/c", "npx", "-y", "server"]},
        b={"command": "C:\\Windows\\System32\\cmd.exe", "args": ["/C", "npx.cmd", "x"]},
        c={"command": "C:\\Program Files\\nodejs\\node.exe", "args": ["D:\\x\\index.js"]},
    )
    config = loaded(found)
    assert config.upstream["a"].command == ("npx", "-y", "server")
    assert config.upstream["b"].command == ("npx.cmd", "x")
    assert config.upstream["c"].command == ("C:\\Program Files\\nodejs\\node.exe", "D:\\x\\index.js")
    assert "mcpServers.c: has a path or program of Windows" in notes(found)
    assert "mcpServers.a" not in notes(found)


def test_programs_that_only_bridge_become_the_server_behind_them() -> None:
    found = read(
        a={
            "command": "npx",
            "args": ["-y", "mcp-remote@latest", "https://a.test/sse", "--header", "Authorization: Bearer ${T}"],
            "env": {"T": "hush"},
        },
        b={
            "command": "uvx",
            "args": ["mcp-proxy", "--transport", "streamablehttp", "http://b.test:8080/mcp"],
            "env": {"API_ACCESS_TOKEN": "hush"},
        },
        c={"command": "mcp-proxy", "args": ["http://c.test/events"]},
        d={"command": "uvx", "args": ["mcp-proxy", "--port", "1", "--", "fetch", "http://not.test"]},
    )
    config = loaded(found)
    assert [config.upstream[name].urls for name in "abc"] == [("https://a.test",), ("http://b.test:8080",), ("http://c.test",)]
    assert [config.upstream[name].transport for name in "abc"] == ["sse", "auto", "sse"]
    assert all(getattr(config.upstream[name].credential, "value", "").endswith("_AUTHORIZATION") for name in "ab")
    assert config.upstream["d"].command[0] == "uvx"
    assert "hush" not in everything(found)


def test_secrets_in_urls_are_nowhere() -> None:
    found = read(
        a={"url": "https://user:hush@a.test/mcp"},
        b={"url": "https://b.test/mcp?api_key=hush"},
        c={"url": "https://c.test/s/0a1b2c3d4e5f60718293a4b5hush/mcp"},
        d={"url": "https://d.test/s/0a1b2c3d4e5f60718293a4b5hush/sse"},
        e={"url": "https://${HOST}/mcp"},
        f={"url": "ws://f.test/hush"},
        g={"url": "https://[hush/"},
    )
    assert "hush" not in everything(found)
    config = loaded(found)
    assert set(config.upstream) == {"a", "b", "c", "all"}
    assert config.upstream["all"].members == ("a", "b")
    assert config.upstream["a"].credential is not None


def test_named_servers_stay_where_mcp_proxy_has_them() -> None:
    text = json.dumps({"mcpServers": {"fetch": {"command": "uvx", "args": ["mcp-server-fetch"], "headerToEnv": {"Authorization": "T"}}}})
    found = clients.read(text, named=True)
    assert [route.path for route in loaded(found).route] == ["/servers/fetch"]
    assert "headerToEnv: a caller's own credential" in notes(found)


@pytest.mark.parametrize(
    "text",
    [
        '{"mcp": {"servers": {"a": {"command": "x"}}}}',
        '{"projects": {"/p": {"mcpServers": {"a": {"command": "x"}}}}, "theme": {}}',
        '{"context_servers": {"a": {"command": {"path": "x", "args": []}}}}',
        '{"a": {"command": "x"}}',
        '{"mcpServers": {"a": {"command": ["x"]}}}',
    ],
)
def test_other_places_of_the_same_table(text: str) -> None:
    assert loaded(clients.read(text)).upstream["a"].command == ("x",)


def test_names_that_come_twice_are_two_servers() -> None:
    found = clients.read('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}')
    assert loaded(found).upstream["a-2"].command == ("y",)


def test_a_server_that_is_called_as_we_call_things() -> None:
    config = loaded(read(all={"command": "x"}, mcp={"command": "y"}))
    assert set(config.upstream) == {"all", "mcp", "all-2"}
    assert {route.path for route in config.route} == {"/all", "/mcp", "/mcp-2"}


ODD = [
    None, 1, [], "x", {}, {"command": 5}, {"command": ""}, {"command": "x", "args": {"a": 1}}, {"command": "x", "args": [1, None]},
    {"command": "x", "args": [[]]}, {"url": 5}, {"url": ""}, {"url": "nonsense"}, {"command": "x", "env": []}, {"command": "x", "cwd": 5},
    {"command": "x", "env": {"a b": "c", "A": None, "B": {}, "C": 5, "D": True, "E": "\0", "F": "env:", "": "x"}}, {"command": "x\0y"},
    {"url": "https://a.test", "headers": {"bad name": "Bearer x", "Authorization": 7}}, {"command": "x", "alwaysAllow": [1, "\n", "*"]},
    {"command": "x", "args": ["\ud800", "\x1b[2J"]}, {"command": "npx"}, {"command": "cmd", "args": ["/c"]}, {"command": "docker", "args": ["run", "-e"]},
]  # fmt: skip


def test_odd_servers_are_told_or_load() -> None:
    found = clients.read(json.dumps({"mcpServers": {f"s{number}\x1b": each for number, each in enumerate(ODD)}}))
    assert loaded(found).upstream
    assert "\x1b[" not in notes(found)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"mcpServers": []}', '{"x": {"y": 1}}'])
def test_without_servers_there_is_nothing_to_do(text: str) -> None:
    with pytest.raises(Unusable, match="no servers"):
        clients.read(text)
