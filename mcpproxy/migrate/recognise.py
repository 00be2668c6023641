"""Which format a text has, told from the text alone; and the reader for each."""

from __future__ import annotations

import re
from collections.abc import Callable

from mcpproxy.migrate import caddy, clients, commandline, litellm, nginx
from mcpproxy.migrate.found import Found, Unusable

READERS: dict[str, Callable[[str], Found]] = {
    "clients": clients.read,
    "named-servers": lambda text: clients.read(text, named=True),
    "litellm": litellm.read,
    "nginx": nginx.read,
    "caddy": caddy.read,
    "mcp-proxy": lambda text: commandline.read(text),
    "mcp-proxy-pypi": lambda text: commandline.read(text, "pypi"),
    "mcp-proxy-npm": lambda text: commandline.read(text, "npm"),
}
NGINX = re.compile(
    r"^[ \t]*(?:proxy_pass\s[^;{}]{1,999};|(?:server|http|events)\s{0,99}\{|upstream\s[^\s{};]{1,200}\s{0,99}\{|location\s[^{};]{1,999}\{|"
    r"listen\s[^;{}]{1,999};)",
    re.MULTILINE,
)
SEMICOLON = re.compile(r";[ \t]*(?:#.*)?$", re.MULTILINE)


def format_of(text: str) -> str:
    """A name of READERS. Raises Unusable where it is none of them."""
    bare = re.sub(r"\A(?:\s+|//[^\n]*\n|/\*.*?\*/)+", "", text, flags=re.DOTALL)
    if not bare.strip():
        raise Unusable("it is empty")
    if re.search(r"^mcp_servers\s*:", text, re.MULTILINE):
        return "litellm"
    if bare.startswith("{") and re.match(r"\{(?:\s|//[^\n]*\n|/\*.*?\*/)*[\"}]", bare, re.DOTALL):
        return "clients"
    if NGINX.search(text) and SEMICOLON.search(text):
        return "nginx"
    if re.search(r"^[ \t]*(?:reverse_proxy|redir|handle|handle_path)\b", text, re.MULTILINE):
        return "caddy"
    if next(commandline.calls(text), None) is not None:
        return "mcp-proxy"
    raise Unusable(f"its format is not recognised; --from says which it is ({', '.join(READERS)})")
