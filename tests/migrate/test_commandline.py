"""Command lines of both programs called mcp-proxy."""

import pytest

from mcpproxy.migrate import commandline
from mcpproxy.migrate.found import Found, Unusable
from tests.migrate.rig import everything, loaded, notes


def test_pypi_with_named_servers_and_a_default() -> None:
    found = commandline.read(
        "# start it\n$ mcp-proxy --port=8080 --host 0.0.0.0 --pass-environment --allow-origin https://a.test 'https://b.test' \\\n"
        "    -e API_KEY hush --cwd /srv --named-server fetch 'uvx mcp-server-fetch --timeout 10' -- python /srv/tool.py --port 1\n"
    )
    config = loaded(found)
    assert [listen.address for listen in config.listen] == ["0.0.0.0:8080"]
    assert (config.upstream["tool"].command, config.upstream["tool"].cwd) == (("python", "/srv/tool.py", "--port", "1"), "/srv")
    assert config.upstream["tool"].env == {"API_KEY": "env:TOOL_API_KEY"}
    assert config.upstream["fetch"].command == ("uvx", "mcp-server-fetch", "--timeout", "10")
    assert [(route.path, route.upstream) for route in config.route] == [("/", "tool"), ("/servers/fetch", "fetch")]
    assert all(route.allow_origins == ("https://a.test", "https://b.test") and route.cors for route in config.route)
    assert "line 2: --pass-environment" in notes(found)
    assert "hush" not in everything(found)


def test_pypi_with_its_old_options_in_a_container() -> None:
    config = loaded(
        commandline.read(
            "docker run -t ghcr.io/sparfenyuk/mcp-proxy:v0.3.2-alpine --pass-environment --sse-port 8096 --sse-host 0.0.0.0 uvx mcp-server-fetch"
        )
    )
    assert config.listen[0].address == "0.0.0.0:8096"
    assert config.upstream["mcp-server-fetch"].command == ("uvx", "mcp-server-fetch")


def test_pypi_as_a_client() -> None:
    found = commandline.read(
        "API_ACCESS_TOKEN=hush mcp-proxy --transport streamablehttp http://a.test:8080/mcp\nmcp-proxy -H Authorization 'Bearer hush' https://b.test/sse"
    )
    config = loaded(found)
    assert [(part.urls, part.transport, part.bridge) for part in config.upstream.values()] == [
        (("http://a.test:8080",), "auto", True),
        (("https://b.test",), "sse", True),
    ]
    assert all(part.credential for part in config.upstream.values())
    assert "mcpproxy connect" in notes(found)
    assert "hush" not in everything(found)


def test_npm() -> None:
    found = commandline.read(
        "npx -y mcp-proxy --port 9090 --host 127.0.0.1 --endpoint /sse --api-key hush --requestTimeout 7200000 --connection-timeout=5000 --maxBodySize 1048576 "
        "--upstreamProtocol modern --no-eventStore --stateless true --tunnel tsx server.js --port 1"
    )
    config = loaded(found)
    assert config.listen[0].address == "127.0.0.1:9090"
    part = config.upstream["server"]
    assert (part.command, part.call_timeout, part.call_ceiling, part.start_timeout, part.era) == (
        ("tsx", "server.js", "--port", "1"),
        7200,
        7200,
        5,
        "modern",
    )
    assert (config.route[0].auth, config.route[0].max_body) == (("keys",), 1 << 20)
    assert "--tunnel" in notes(found)
    assert "hush" not in everything(found)


def test_npm_with_certificates_and_its_defaults() -> None:
    config = loaded(commandline.read("mcp-proxy --server stream --sslCert c.pem --sslKey k.pem -- node dist/index.js", "npm"))
    assert config.listen[0].address == "[::]:8080"
    assert getattr(config.listen[0].tls, "cert", None) == "c.pem"
    assert list(config.upstream) == ["index"]


def test_further_lines_have_paths_of_their_own() -> None:
    config = loaded(commandline.read("mcp-proxy --port 1001 one\nsleep 1\nmcp-proxy --port 1002 two\n"))
    assert [route.path for route in config.route] == ["/", "/two"]
    assert len(config.listen) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mcp-proxy --port 1 --named-server-config /x.json", "import that file, too"),
        ("mcp-proxy --port 1", "names no server"),
        ("mcp-proxy uvx x", "says no port"),
        ("mcp-proxy --port 1 --host example.com uvx x", "no address to listen at"),
        ("mcp-proxy --port 1 --unknown -- uvx x", "--unknown: no equivalent"),
        ("mcp-proxy --port 1 --allow-origin nonsense -- uvx x", "one of its origins is none"),
        ("npx mcp-proxy --port 1 --frobnicate x -- y", "--frobnicate: no equivalent"),
        ("npx mcp-proxy --port 1 https://x", "a URL where a command"),
        ("npx mcp-proxy --port 1 --shell x y", "--shell"),
        ("mcp-proxy --port 99999 x", "no address to listen at"),
        ("mcp-proxy --port", "says no port"),
    ],
)
def test_what_is_lost_is_told(line: str, told: str) -> None:
    found = commandline.read(line)
    assert told in notes(found)
    assert isinstance(found, Found)


@pytest.mark.parametrize("text", ["", "echo mcp-proxyish", "# mcp-proxy x", "mcp-proxy 'x"])
def test_what_is_no_command_line_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        commandline.read(text)
