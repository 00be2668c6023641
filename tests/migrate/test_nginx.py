"""nginx: what guides for MCP servers tell people to write."""

import pytest

from mcpproxy.config.model import Tls
from mcpproxy.migrate import nginx
from tests.migrate.rig import everything, loaded, notes, refusal

GUIDE = """
worker_processes auto;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    map $http_authorization $known { default 0; "Bearer hush1" 1; }
    limit_req_zone $binary_remote_addr zone=mcp:10m rate=10r/s;
    upstream mcp_backend {
        ip_hash;
        server 127.0.0.1:3001 weight=3 max_fails=3 fail_timeout=30s;
        server unix:/run/mcp.sock down;
        server 127.0.0.1:3003 backup;
        keepalive 32;
    }
    server {
        listen 80; listen [::]:80;
        server_name mcp.example.com;
        location /.well-known/acme-challenge/ { root /var/www/certbot; }
        location / { return 301 https://$host$request_uri; }
    }
    server {
        listen 443 ssl http2; listen [::]:443 ssl; listen 443 quic;
        server_name mcp.example.com;
        ssl_certificate /etc/le/fullchain.pem;
        ssl_certificate_key /etc/le/privkey.pem;
        ssl_protocols TLSv1.3;
        client_max_body_size 100M;
        add_header X-Frame-Options DENY always;
        add_header Strict-Transport-Security "max-age=31536000" always;
        add_header Referrer-Policy no-referrer;
        location = /health { access_log off; return 200 "healthy"; }
        location /mcp {
            limit_req zone=mcp burst=20 nodelay;
            if ($known = 0) { return 401; }
            proxy_pass http://mcp_backend;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_cache off;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header Connection '';
            proxy_read_timeout 1h;
            proxy_connect_timeout 3s;
            deny 192.0.2.1;
            allow 10.0.0.0/8;
            deny all;
        }
        location /loki/ { proxy_pass http://localhost:8000/; proxy_set_header X-Api-Key hush2; }
        location /gh { proxy_pass https://inside:3444/mcp; proxy_cache_valid 200 1m; }
        location ~ ^/(sse|messages)/ { set $app app; set $port 8080; proxy_pass http://$app:$port; }
        location /static { alias /srv; }
    }
}
"""


def test_a_whole_guide() -> None:
    found = nginx.read(GUIDE)
    config = loaded(found)
    assert [(listen.address, listen.redirect) for listen in config.listen] == [
        ("0.0.0.0:80", "https"), ("[::]:80", "https"), ("0.0.0.0:443", None), ("[::]:443", None),
    ]  # fmt: skip
    tls = config.listen[2].tls
    assert isinstance(tls, Tls)
    assert (tls.cert, tls.key, tls.min_version) == ("/etc/le/fullchain.pem", "/etc/le/privkey.pem", "1.3")
    assert config.health == "/health"
    group = config.upstream["mcp_backend"]
    assert (group.urls, group.keepalive, group.host) == (("http://127.0.0.1:3001", "unix:/run/mcp.sock"), 32, "keep")
    assert (group.connect_timeout, group.response_timeout) == (3, 3600)
    assert (group.endpoints["http://127.0.0.1:3001"].weight, group.endpoints["unix:/run/mcp.sock"].state) == (3, "disabled")
    routes = {route.path: route for route in config.route}
    mcp = routes["/mcp"]
    assert mcp.rate is not None
    assert (mcp.rate.count, mcp.rate.burst, mcp.max_body, mcp.idle_timeout) == (10, 20, 100 << 20, 3600)
    assert (mcp.allow_from, mcp.deny_from, mcp.auth, mcp.security_headers) == (("10.0.0.0/8",), ("192.0.2.1/32",), ("keys",), True)
    assert all(route.host == ("mcp.example.com",) for route in config.route)
    assert (routes["/loki"].strip_prefix, routes["/loki"].auth) == (True, ())
    inside = config.upstream[routes["/gh"].upstream]
    assert (inside.urls, inside.bridge, inside.mcp_path, inside.verify) == (("https://inside:3444",), True, "/mcp", False)
    assert config.upstream[routes["/sse"].upstream].urls == ("http://app:8080",)
    assert routes["/messages"].upstream == routes["/sse"].upstream


def test_only_what_is_lost_is_told_with_its_line() -> None:
    told = notes(nginx.read(GUIDE))
    for what in (
        "ip_hash",
        "max_fails",
        "backup",
        "quic",
        "Referrer-Policy",
        "proxy_cache_valid",
        "location with files",
        "mcpproxy key add",
        "/gh",
    ):
        assert what in told, what
    for what in ("proxy_buffering", "proxy_cache:", "X-Real-IP", "Connection", "include", "map", "access_log", "events"):
        assert f": {what}" not in told, what
    assert f"line {GUIDE[: GUIDE.index('proxy_cache_valid')].count(chr(10)) + 1}: proxy_cache_valid" in told


def test_secrets_of_the_source_are_nowhere() -> None:
    assert "hush" not in everything(nginx.read(GUIDE))


def test_a_location_alone() -> None:
    config = loaded(
        nginx.read("location /mcp/ {\n proxy_pass http://localhost:3000;\n proxy_buffering off;\n proxy_set_header Host $host;\n}\n")
    )
    assert (config.listen[0].address, config.listen[0].tls, config.route[0].path) == ("127.0.0.1:8443", "dev", "/mcp")


def test_ways_to_ask_for_a_credential_all_close_the_route() -> None:
    for ways in (
        'auth_basic "x"; auth_basic_user_file /x;',
        "auth_request /auth;",
        'if ($http_authorization != "Bearer hush") { return 401; }',
        'if ($http_x_api_key = "") { return 403; }',
    ):
        found = nginx.read(f"server {{ listen 127.0.0.1:80; {ways} location /mcp {{ proxy_pass http://127.0.0.1:1; }} }}")
        assert loaded(found).route[0].auth == ("keys",), ways
        assert "hush" not in everything(found)
    found = nginx.read('server { listen 127.0.0.1:80; auth_basic "x"; location /mcp { auth_basic off; proxy_pass http://127.0.0.1:1; } }')
    assert loaded(found).route[0].auth == ()


def test_client_certificates() -> None:
    config = loaded(
        nginx.read(
            "server { listen 443 ssl; ssl_certificate c; ssl_certificate_key k; ssl_client_certificate ca; ssl_verify_client on;"
            " location / { proxy_pass http://127.0.0.1:1; } }"
        )
    )
    assert (config.auth["machines"].type, config.route[0].auth) == ("mtls", ("machines",))


def test_who_closed_everything_stays_closed() -> None:
    found = nginx.read("server { listen 127.0.0.1:80; deny all; location / { proxy_pass http://127.0.0.1:1; } }")
    assert loaded(found).route[0].allow_from == ("unix",)
    found = nginx.read("server { listen 127.0.0.1:80; allow nonsense; location / { proxy_pass http://127.0.0.1:1; } }")
    assert loaded(found).route[0].allow_from == ("unix",)


def test_pages_and_cors() -> None:
    found = nginx.read(
        "server { listen 127.0.0.1:80; location / { if ($request_method = OPTIONS) { add_header Access-Control-Allow-Origin '*'; return 204; }"
        " add_header Access-Control-Allow-Origin https://app.test always; add_header Access-Control-Allow-Methods GET; proxy_pass http://127.0.0.1:1; } }"
    )
    assert loaded(found).route[0].cors
    assert "if" not in notes(found)


def test_rewrites_that_strip() -> None:
    config = loaded(
        nginx.read("server { listen 127.0.0.1:80; location /x/ { rewrite ^/x/(.*) /$1 break; proxy_pass http://127.0.0.1:1; } }")
    )
    assert (config.route[0].path, config.route[0].strip_prefix) == ("/x", True)


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("location ~ \\.(mcp)$ { proxy_pass http://a:1; }", "regular expression"),
        ("location @x { proxy_pass http://a:1; }", "location @name"),
        ("location /x { proxy_pass http://$host:1; }", "put together from variables"),
        ("location /x { proxy_pass http://a:1/%2f; }", "has no equivalent"),
        ("location /x { if ($args ~ y) { return 500; } proxy_pass http://a:1; }", "if: no equivalent"),
        ("location /x { rewrite ^ /y; proxy_pass http://a:1; }", "rewrite"),
        ("location /x { limit_req zone=none; proxy_pass http://a:1; }", "limit_req_zone is not in this file"),
        ("location /x { client_max_body_size 0; proxy_pass http://a:1; }", "client_max_body_size"),
        ("include other/*.conf;", "include"),
        ("more_set_headers x;", "more_set_headers: no equivalent"),
        ("server_name ~^x$;", "regular expressions"),
        ("return 301 https://elsewhere.test$request_uri;", ""),
        ("listen localhost:0x;", "listen: no address"),
        ("listen 127.0.0.1:81 proxy_protocol;", "trusted_proxies"),
    ],
)
def test_what_is_lost_is_told(inside: str, told: str) -> None:
    found = nginx.read(f"server {{ listen 127.0.0.1:80; location /ok {{ proxy_pass http://127.0.0.1:1; }} {inside} }}")
    assert told in notes(found)
    assert loaded(found).route


@pytest.mark.parametrize(
    "text", ["", "server {", "}", "location / { root /x; }", "a " * 5000, "x { " * 3000, "server { listen 80; " + "location / { " * 2000]
)
def test_what_is_none_is_refused(text: str) -> None:
    assert refusal(nginx.read, text)
