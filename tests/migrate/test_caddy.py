"""Caddyfiles: what guides for MCP servers tell people to write."""

import pytest

from mcpproxy.config.model import Tls
from mcpproxy.migrate import caddy
from tests.migrate.rig import everything, loaded, notes, refusal

GUIDE = """
{
	email ops@example.com
	order rate_limit before basic_auth
	servers {
		trusted_proxies static private_ranges
	}
}

(security) {
	header {
		X-Frame-Options DENY
		-Server
		X-XSS-Protection "1; mode=block"
	}
}

mcp.example.com, www.example.com {
	import security
	encode gzip
	request_body {
		max_size 10MB
	}
	@denied not remote_ip 10.0.0.0/8 private_ranges
	respond @denied 403

	handle_path /git/* {
		reverse_proxy localhost:3000 {
			flush_interval -1
			header_up Host {upstream_hostport}
			header_up X-Real-IP {remote_host}
			header_up Authorization "Bearer hush1"
			lb_policy least_conn
			health_uri /health
			health_interval 10s
			transport http {
				read_timeout 24h
				response_header_timeout 1h
			}
		}
	}
	@mcp path /mcp /mcp/* /sse*
	reverse_proxy @mcp 127.0.0.1:8080 127.0.0.1:8081
	handle /app* {
		basic_auth {
			user $2a$14$hush2
		}
		reverse_proxy https://up.example.com
	}
	rate_limit {
		zone x {
			key static
		}
	}
	respond /healthz 200
	log {
		output file /x
	}
}
"""


def test_a_whole_guide() -> None:
    found = caddy.read(GUIDE)
    config = loaded(found)
    tls = config.listen[0].tls
    assert isinstance(tls, Tls)
    assert (config.listen[0].address, tls.acme) == ("0.0.0.0:443", "ops@example.com")
    assert {host for each in tls.identities for host in each.hosts} == {"mcp.example.com", "www.example.com"}
    assert (config.listen[1].address, config.listen[1].redirect) == ("0.0.0.0:80", "https")
    assert config.health == "/healthz"
    routes = {route.path: route for route in config.route}
    assert set(routes) == {"/git", "/mcp", "/sse", "/app"}
    git = config.upstream[routes["/git"].upstream]
    assert (git.urls, git.host, git.balance, git.response_timeout) == (("http://localhost:3000",), "upstream", "least-busy", 3600)
    assert git.health is not None
    assert (git.health.path, git.health.every) == ("/health", 10)
    assert routes["/git"].strip_prefix
    assert not routes["/mcp"].strip_prefix
    assert config.upstream[routes["/mcp"].upstream].urls == ("http://127.0.0.1:8080", "http://127.0.0.1:8081")
    assert config.upstream[routes["/mcp"].upstream].host == "keep"
    assert [path for path, route in routes.items() if route.auth] == ["/app"]
    for route in config.route:
        assert (route.security_headers, route.hide_headers, route.max_body) == (True, ("Server",), 10_000_000)
        assert "10.0.0.0/8" in route.allow_from
        assert route.host == ("mcp.example.com", "www.example.com")
    assert "hush" not in everything(found)


def test_only_what_is_lost_is_told() -> None:
    told = notes(caddy.read(GUIDE))
    for what in ("servers (global option)", "X-XSS-Protection", "rate_limit", "basic_auth", "mcpproxy key add"):
        assert what in told, what
    for what in ("flush_interval", "X-Real-IP", "encode", "log", "email", "read_timeout", "transport"):
        assert f": {what}" not in told, what


@pytest.mark.parametrize(
    ("site", "address", "kind"),
    [
        ("localhost", "0.0.0.0:443", "dev"),
        (":8080", "0.0.0.0:8080", "plain"),
        ("http://mcp.example.com", "0.0.0.0:80", "plain"),
        ("https://mcp.example.com:8443", "0.0.0.0:8443", "acme"),
        ("192.0.2.7", "0.0.0.0:443", "dev"),
        ("box.local", "0.0.0.0:443", "dev"),
        ("*.example.com", "0.0.0.0:443", "dev"),
        ("{$DOMAIN:mcp.example.com}", "0.0.0.0:443", "acme"),
    ],
)
def test_addresses_of_sites(site: str, address: str, kind: str) -> None:
    config = loaded(caddy.read(f"{site} {{\n reverse_proxy :9000\n}}\n"))
    tls = config.listen[0].tls
    assert config.listen[0].address == address
    assert ("plain" if tls is None else "dev" if tls == "dev" else "acme") == kind


@pytest.mark.parametrize(("tls", "kind"), [("internal", "dev"), ("/c.pem /k.pem", "/c.pem"), ("me@example.com", "me@example.com")])
def test_tls(tls: str, kind: str) -> None:
    got = loaded(caddy.read(f"mcp.example.com {{\n tls {tls}\n reverse_proxy :9000\n}}\n")).listen[0].tls
    assert kind == (got if isinstance(got, str) else got and (got.acme or got.cert))


def test_an_address_for_the_authority_is_made_up_and_told() -> None:
    found = caddy.read("mcp.example.com\nreverse_proxy :9000\n")
    assert getattr(loaded(found).listen[0].tls, "acme", None) == "hostmaster@mcp.example.com"
    assert "made up" in notes(found)


def test_a_token_that_a_matcher_asks_for_closes_the_route() -> None:
    for text in (
        '@no not header Authorization "Bearer {$T}"\nrespond @no 401\nreverse_proxy :1',
        '@yes header Authorization "Bearer hush"\nhandle @yes {\n reverse_proxy :1\n}\nrespond 401',
        "@no expression `{header.X-Api-Key} != 'hush'`\nerror @no 401\nreverse_proxy :1",
        "forward_auth :2 {\n uri /a\n}\nreverse_proxy :1",
    ):
        found = caddy.read(f":8080 {{\n{text}\n}}\n")
        assert loaded(found).route[0].auth == ("keys",), text
        assert "hush" not in everything(found)


def test_nested_handles_that_strip() -> None:
    config = loaded(
        caddy.read(
            ":8080 {\nhandle_path /a/* {\n handle /b/* {\n reverse_proxy :1\n }\n}\nroute /c/* {\n uri strip_prefix /c\n reverse_proxy :2\n}\n}"
        )
    )
    assert {(route.path, route.strip_prefix) for route in config.route} >= {("/c", True)}


def test_a_fragment_without_a_site() -> None:
    config = loaded(caddy.read("handle /mcp* {\n\treverse_proxy mcp-server:8000 {\n\t\tflush_interval -1\n\t}\n}\n"))
    assert (config.listen[0].tls, config.route[0].path, config.upstream["mcp-server"].urls) == ("dev", "/mcp", ("http://mcp-server:8000",))


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("@x header X-Y z\nreverse_proxy @x :2", "its matcher says what no route can"),
        ("reverse_proxy /y {$UP}", "no upstream"),
        ("file_server", "no files"),
        ("redir /a /b", "redir"),
        ("import other", "import"),
        ("php_fastcgi :2", "no files"),
        ("reverse_proxy /y h2c://a:1", "no upstream"),
        ("uri strip_prefix /q", "strip_prefix"),
        ("reverse_proxy /y :2 {\n lb_policy ip_hash\n}", "affinity"),
        ("reverse_proxy /y :2 {\n max_fails 3\n}", "breaker"),
        ("reverse_proxy /y :2 {\n header_up X-Team a\n}", "X-Team"),
        ("tls {\n dns cloudflare hush\n}", "tls dns"),
        ("frobnicate", "frobnicate: no equivalent"),
    ],
)
def test_what_is_lost_is_told(inside: str, told: str) -> None:
    found = caddy.read(f"localhost {{\nreverse_proxy /ok :1\n{inside}\n}}\n")
    assert told in notes(found)
    assert loaded(found).route
    assert "hush" not in everything(found)


@pytest.mark.parametrize("text", ["", "x.test", "x.test {\n file_server\n}", "{\n email a@b.test\n}", "x.test {\n reverse_proxy\n}"])
def test_what_has_no_proxy_is_refused(text: str) -> None:
    assert refusal(caddy.read, text)
