"""A format is told from the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.cli.import_ import FORMATS
from mcpproxy.migrate.found import Unusable
from mcpproxy.migrate.recognise import READERS, format_of
from tests.migrate.rig import loaded
from tests.migrate.test_caddy import GUIDE as CADDY
from tests.migrate.test_litellm import TEXT as LITELLM
from tests.migrate.test_nginx import GUIDE as NGINX


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('// mine\n{ "mcpServers": {} }', "clients"),
        ('/* x */ {\n // y\n "servers": {} }', "clients"),
        (LITELLM, "litellm"),
        (NGINX, "nginx"),
        ("location /mcp {\n  proxy_pass http://x;\n}", "nginx"),
        ("proxy_pass http://x:1;\nproxy_buffering off;", "nginx"),
        (CADDY, "caddy"),
        ("mcp.example.com {\n\treverse_proxy :8000\n}", "caddy"),
        ("{\n\temail a@b.test\n}\nx.test {\n\treverse_proxy :1\n}", "caddy"),
        ("mcp-proxy --port 8096 uvx x", "mcp-proxy"),
        ("ExecStart=/usr/bin/npx -y mcp-proxy --port 1 x", "mcp-proxy"),
    ],
)
def test_the_formats(text: str, name: str) -> None:
    assert format_of(text) == name


@pytest.mark.parametrize("text", ["", " \n", "hello", "[1]", "a: 1"])
def test_what_is_none_of_them(text: str) -> None:
    with pytest.raises(Unusable):
        format_of(text)


def test_every_reader_can_be_asked_for() -> None:
    assert set(FORMATS) == set(READERS)


NGINX_PIECES = "server { location /mcp proxy_pass http://a:1 ; } listen 443 ssl return 301 https://$host if ( $x ) map upstream allow deny all 10.0.0.0/8"
CADDY_PIECES = "\n # reverse_proxy handle_path /x/* @m path tls internal example.com :80 header -Server"
JSON_PIECES = '{"mcpServers": {"a": "command": "url": "x", ] } mcp-proxy -- --port'
PIECES = st.sampled_from([*NGINX_PIECES.split(" "), *CADDY_PIECES.split(" "), *JSON_PIECES.split(" ")])


@given(st.lists(PIECES, max_size=40).map(" ".join), st.sampled_from(sorted(READERS)))
def test_whatever_is_read_loads_or_is_refused(text: str, name: str) -> None:
    try:
        found = READERS[name](text)
    except Unusable:
        return
    if found.routes:
        loaded(found)
