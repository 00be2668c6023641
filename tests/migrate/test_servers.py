"""Programs and URLs of servers, and where they are served."""

import pytest

from mcpproxy.migrate import servers
from mcpproxy.migrate.found import Found
from tests.migrate.rig import loaded


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("npx -y mcp-remote@0.1.2 https://x", "mcp-remote"),
        ("/usr/bin/npx --yes @scope/server", "server"),
        ("uvx --from git+https://x mcp-proxy", "mcp-proxy"),
        ("uv tool run mcp-proxy==1.0 a", "mcp-proxy"),
        ("pnpm dlx thing", "thing"),
        ("npx", ""),
        ("/opt/x/server --flag", "server"),
    ],
)
def test_the_program_behind_its_runner(words: str, what: str) -> None:
    assert servers.program(words.split())[0] == what


def test_one_server_has_no_hub_and_no_key_that_means_nothing() -> None:
    found = Found("a test")
    servers.remote(found, "a", "p", "https://a.test/api/mcp", {}, "http")
    servers.laid_out(found, {}, {})
    config = loaded(found)
    assert (set(config.upstream), config.upstream["a"].mcp_path) == ({"a"}, "/mcp")
    assert found.routes[0].remarks == ["For clients: https://…/a/api/mcp"]


def test_rules_of_a_route_follow_the_list_of_tools() -> None:
    assert servers.rules({}) == {}
    assert servers.rules({"tools": ["a"]}) == {"allow": [{"tools": ["a"]}]}
    assert servers.rules({"hide": ["b"]}) == {"allow": [{}], "deny": [{"tools": ["b"]}]}


def test_harmless_variables_of_a_container_stay() -> None:
    found = Found("a test")
    part = servers.child(found, "a", "p", ["docker", "run", "--env=MODE=stdio", "-e", "K=hush", "x"], {})
    assert part is not None
    assert part.keys["command"] == ["docker", "run", "-e", "MODE=stdio", "-e", "K", "x"]
    assert part.keys["env"] == {"K": "env:A_K"}
