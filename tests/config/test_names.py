"""Addresses, URLs, hosts and paths: normal forms, and refusals that say what to write."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config import names
from mcpproxy.config.mistakes import Wrong
from mcpproxy.http.target import is_authority
from mcpproxy.policy.resource import canonical


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0.0.0.0:443", "0.0.0.0:443"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::]:443", "[::]:443"),
        ("[0:0::1]:8443", "[::1]:8443"),
        ("127.0.0.1:0080", "127.0.0.1:80"),
        ("unix:/run/mcpproxy.sock", "unix:/run/mcpproxy.sock"),
        ("unix:///run/mcpproxy.sock", "unix:/run/mcpproxy.sock"),
    ],
)
def test_addresses(text: str, normal: str) -> None:
    assert normal == names.address(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "host:port"),
        ("443", "host:port"),
        ("::1", "host:port"),
        ("::1:443", "host:port"),
        (":443", '"0.0.0.0:443" is every IPv4'),
        ("*:443", '"0.0.0.0:443" is every IPv4'),
        ("localhost:443", '"127.0.0.1:443"'),
        ("example.com:443", "takes no names"),
        ("0.0.0.0:https", "is not a port"),
        ("0.0.0.0:65536", "is not a port"),
        ("0.0.0.0:-1", "is not a port"),
        ("0.0.0.0:٤٤٣", "is not a port"),
        ("0.0.0.0:", "is not a port"),
        ("256.0.0.1:80", "not an IP address"),
        ("[127.0.0.1]:80", "in brackets"),
        ("[fe80::1%eth0]:80", "without a zone"),
        ("[::ffff:192.0.2.1]:80", '"192.0.2.1:80"'),
        ("http://0.0.0.0:80/", '"0.0.0.0:80"'),
        ("unix:run/x.sock", "absolute path"),
        ("unix://run/x.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_addresses_refused(text: str, said: str) -> None:
    refused(names.address, text, said)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("HTTPS://Tools.Example.COM", "https://tools.example.com"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://mcp_server:8000", "http://mcp_server:8000"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:///run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_urls(text: str, normal: str) -> None:
    assert normal == names.url(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("127.0.0.1:8000", '"http://127.0.0.1:8000"'),
        ("localhost", '"http://localhost"'),
        ("8000", '"http://127.0.0.1:8000"'),
        (":8000", '"http://127.0.0.1:8000"'),
        ("htps://x", 'did you mean "https"'),
        ("ftp://x", "not a scheme"),
        ("http://x:8000/mcp", 'ends after the port: "http://x:8000"; requests keep their path: what is at /mcp there is at /mcp here'),
        ("http://x:8000?a=b", "ends after the port"),
        ("http://x:8000#f", "ends after the port"),
        ("http://x:8000/?", "ends after the port"),
        ("http://user:pass@x", "user and password"),
        ("user:pass@x:8000", "user and password"),
        ("http://user:pa ss@x:99999/y", "user and password"),
        ("http://x:0", "1 to 65535"),
        ("http://x:", "1 to 65535"),
        ("http://x:65536", "not a URL"),
        ("http://x:80a", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://", "empty"),
        ("http://:80", "empty"),
        ("http://a b", "no spaces"),
        ("http://a\r\nX: y", "no spaces"),
        ("http://bücher.example", "beyond ASCII"),
        ("http://*.example.com", "no wildcard"),
        ("http://-x", "not a host name"),
        ("http://x..y", "not a host name"),
        ("http://1.2.3", "looks like an IPv4"),
        ("unix:relative", "absolute path"),
    ],
)
def test_urls_refused(text: str, said: str) -> None:
    refused(names.url, text, said)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("MCP.Example.com", "mcp.example.com"),
        ("*.example.com", "*.example.com"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[2001:db8:0::1]", "[2001:db8::1]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts(text: str, normal: str) -> None:
    assert normal == names.host(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("*", "leave it out"),
        ("*.", "final dot"),
        ("a.*.example", 'one "*."'),
        ("*a.example", 'one "*."'),
        ("*.*.example", 'one "*."'),
        ("example.com:443", 'are meant): "example.com"'),
        ("[::1]:443", 'are meant): "[::1]"'),
        ("https://example.com", "without scheme"),
        ("example.com/mcp", "without scheme"),
        ("example.com.", '"example.com"'),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a" * 64, "not a host name"),
        (".".join(["a" * 60] * 5), "not a host name"),
        ("a b", "not a host name"),
        ("a\n", "not a host name"),
        ("10.0.0.256", "looks like an IPv4"),
        ("fe80::1%eth0", 'zone means something on one machine only: "fe80::1"'),
        ("[::1%\r\nX: y]", "zone"),
    ],
)
def test_hosts_refused(text: str, said: str) -> None:
    refused(names.host, text, said)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("upstream", "upstream"),
        ("keep", "keep"),
        ("API.example", "api.example"),
        ("api.example:8080", "api.example:8080"),
        ("::1", "[::1]"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_host_policies(text: str, normal: str) -> None:
    assert normal == names.host_policy(text)


@pytest.mark.parametrize(
    ("text", "said"), [("*.x", "no wildcard"), ("x:0x", "not a port"), ("a\r\nb: c", "not a"), ("[::1% x]:80", "zone"), ("", "empty")]
)
def test_host_policies_refused(text: str, said: str) -> None:
    refused(names.host_policy, text, said)


@pytest.mark.parametrize("text", ["/", "/mcp", "/a/b/c", "/caf%C3%A9", "/.well-known", "/a:b@c;d=e,f!$&'()+~_-", "/" + "a" * 1000])
def test_paths(text: str) -> None:
    assert text == names.path(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'starts with "/"'),
        ("mcp", '"/mcp"'),
        ("/mcp/", '"/mcp"'),
        ("//", '"/"'),
        ("/mcp/*", 'leave the "*" out'),
        ("/*", '"/"'),
        ("/a//b", "not a path"),
        ("/a b", "not a path"),
        ("/café", "percent-encoded"),
        ("/a%2", "not a path"),
        ("/a?b", "no query"),
        ("/a#b", "no query"),
        ("/a/../b", '".."'),
        ("/a/%2e%2E/b", '".."'),
        ("/a/.", '".."'),
        ("/a%2Fb", "encoded slash"),
        ("/a%5cb", "encoded slash"),
        ("/a%00", "encoded slash"),
        ("/a\n", "not a path"),
        ("/" + "a" * 1024, "not a path"),
    ],
)
def test_paths_refused(text: str, said: str) -> None:
    refused(names.path, text, said)


@pytest.mark.parametrize("text", ["", ".hidden", "-x", "a b", "a" * 65, "ä", "a/b", "a\n"])
def test_names_of_upstreams_refused(text: str) -> None:
    refused(names.upstream_name, text, "1 to 64 letters")


def test_plain_paths_compare_equal() -> None:
    assert names.plain_path(b"/%6Dcp%2f%7e%c3") == b"/mcp%2F~%C3"
    assert names.plain_path(b"/%zz%") == b"/%zz%"


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"/a/../b", b"/b"),
        (b"/../..", b"/"),
        (b"//a\\b%2Fc/.", b"/a/b/c"),
        (b"", b"/"),
        (b"*", b"/*"),
        (b"/%25%32%66", b"/%2f"),
        (b"/a;b/;c/d", b"/a/d"),
        (b"/a%3b%2fb", b"/a/b"),
    ],
)
def test_generous_paths(raw: bytes, read: bytes) -> None:
    assert read == names.generous_path(raw)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
        ("unix", "unix"),
    ],
)
def test_networks(text: str, normal: str) -> None:
    assert normal == names.network(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "like 10.0.0.0/8"),
        ("10", "like 10.0.0.0/8"),
        ("10.0.0.1/8", '"10.0.0.0/8"'),
        ("2001:db8::1/32", '"2001:db8::/32"'),
        ("10.0.0.0/33", "like 10.0.0.0/8"),
        ("10.0.0.0-10.0.0.9", "like 10.0.0.0/8"),
        ("example.com", "like 10.0.0.0/8"),
        ("[::1]", '"::1/128"'),
        ("010.0.0.1", "like 10.0.0.0/8"),
        ("fe80::1%eth0", "zone"),
        ("::ffff:10.0.0.1", '"10.0.0.1/32"'),
        ("::ffff:10.0.0.0/104", '"10.0.0.0/8"'),
        ("UNIX", "like 10.0.0.0/8"),
    ],
)
def test_networks_refused(text: str, said: str) -> None:
    refused(names.network, text, said)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("*", "*"),
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("https://app.example.com:08443", "https://app.example.com:8443"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com:*", "https://*.example.com:*"),
        ("http://localhost:*", "http://localhost:*"),
        ("http://[::1]:6274", "http://[::1]:6274"),
        ("http://[0::1]", "http://[::1]"),
        ("http://127.0.0.1:6274", "http://127.0.0.1:6274"),
    ],
)
def test_origins(text: str, normal: str) -> None:
    assert normal == names.origin(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a scheme and a host"),
        ("app.example.com", "a scheme and a host"),
        ("null", "never let in"),
        ("NULL", "never let in"),
        ("ftp://a.test", "a scheme and a host"),
        ("https:/a.test", "a scheme and a host"),
        ("https://a.test/", 'ends after host and port: "https://a.test"'),
        ("https://a.test:443/x", 'ends after host and port: "https://a.test:443"'),
        ("https://", "empty"),
        ("https://*", '"*" alone'),
        ("https://*:8443", '"*" alone'),
        ("https://a.*.test", "one"),
        ("https://a.test.", "without the final dot"),
        ("https://a.test:", "is not a port"),
        ("https://a.test:0", "1 to 65535"),
        ("https://a.test:x", "is not a port"),
        ("https://b\u00fccher.example", "xn--bcher-kva.example"),
        ("https://me@a.test", "not a host name"),
        ("https://2001:db8::1", "in brackets"),
    ],
)
def test_origins_refused(text: str, said: str) -> None:
    refused(names.origin, text, said)


@pytest.mark.parametrize(
    "text",
    [
        "https://login.example.com",
        "https://login.example.com/realms/a",
        "https://login.example/?a=b",
        "http://127.0.0.1:9000/x",
        "http://[::1]",
        "http://localhost:1",
    ],
)
def test_urls_that_are_asked(text: str) -> None:
    assert text == names.https_url(text)
    assert text == names.key_set(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the scheme is missing"),
        ("login.example.com", "the scheme is missing"),
        ("ftp://login.example.com", "the scheme is missing"),
        ("https://", "the scheme is missing"),
        ("https:///path", "the scheme is missing"),
        ("http://login.example.com", "over plain http"),
        ("http://10.0.0.1", "over plain http"),
        ("http://127.0.0.1.evil.test", "over plain http"),
        ("https://me:secret@login.example.com", "user and password"),
        ("https://me:secret@login.example.com:x", "user and password"),
        ("https://login.example.com:0", "1 to 65535"),
        ("https://login.example.com:", "1 to 65535"),
        ("https://login.example.com:x", "not a URL"),
        ("https://login.example.com#f", "fragments"),
        ("https://login example.com", "no spaces"),
        ("https://login.example.com/\r\nX: y", "no spaces"),
        ("https://b\u00fccher.example", "beyond ASCII"),
        ("https://*.example.com", "no wildcard"),
        ("https://[::1", "not a URL"),
    ],
)
def test_urls_that_are_asked_refused(text: str, said: str) -> None:
    refused(names.https_url, text, said)


def test_a_key_set_may_be_a_file() -> None:
    assert names.key_set("file:/etc/mcpproxy/jwks.json") == "file:/etc/mcpproxy/jwks.json"
    for text in ("file:jwks.json", "file:", "file://etc/jwks.json", "file:/a\0b"):
        refused(names.key_set, text, "absolute path")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com/", "https://mcp.example.com"),
        ("HTTPS://MCP.Example.com:443/Mcp/", "https://mcp.example.com/Mcp"),
        ("https://mcp.example.com:8443/mcp", "https://mcp.example.com:8443/mcp"),
        ("http://localhost:8000/mcp", "http://localhost:8000/mcp"),
    ],
)
def test_public_urls(text: str, normal: str) -> None:
    """As clients write them (RFC 8707 and the MCP specification: lower case)."""
    assert normal == names.public_url(text)
    assert normal == canonical(text)


@pytest.mark.parametrize(
    ("text", "said"), [("https://a.test/mcp?x", "no query"), ("http://a.test", "over plain http"), ("a.test/mcp", "scheme")]
)
def test_public_urls_refused(text: str, said: str) -> None:
    refused(names.public_url, text, said)


@pytest.mark.parametrize(
    ("text", "normal"), [("/srv/data", "/srv/data"), ("/srv/data//", "/srv/data"), ("/", "/"), ("/a b/\u00e9", "/a b/\u00e9")]
)
def test_folders(text: str, normal: str) -> None:
    assert normal == names.folder(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "absolute"),
        ("srv", "absolute"),
        ("/a\\b", "absolute"),
        ("/a\0", "absolute"),
        ("/a//b", "doubled"),
        ("/a/../b", '".."'),
        ("/.", '".."'),
    ],
)
def test_folders_refused(text: str, said: str) -> None:
    refused(names.folder, text, said)


def test_patterns_words_and_fields() -> None:
    assert names.pattern("[0-9]+(?=x)") == "[0-9]+(?=x)"
    refused(names.pattern, "(a", "not a regular expression")
    refused(names.pattern, "a**", "not a regular expression")
    assert names.words("two words") == "two words"
    for text in ("", "a\nb", "a\0", "a" * 1025):
        refused(names.words, text, "one line of text")
    assert names.header("X-API-Key") == "X-API-Key"
    for text in ("", "a b", "a:", "\u00e9", "a\n", "a" * 65):
        refused(names.header, text, "not the name of a header field")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("127.0.0.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("A.localhost", True),
        ("10.0.0.1", False),
        ("localhost.evil.test", False),
        ("", False),
    ],
)
def test_this_machine(name: str, ours: bool) -> None:
    assert names.is_loopback(name) is ours


READERS: list[Callable[[str], str]] = [
    names.address,
    names.url,
    names.host,
    names.host_policy,
    names.path,
    names.socket_path,
    names.upstream_name,
    names.network,
    names.origin,
    names.https_url,
    names.public_url,
    names.header,
]
LIKELY = st.text(alphabet="htps:/[]*.%0123456789abcdef?#@ -_é\0\n", max_size=30)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(text=st.one_of(st.text(), LIKELY, LIKELY.map("http://".__add__), LIKELY.map("/".__add__), LIKELY.map("::1%".__add__)))
def test_a_normal_form_is_its_own_normal_form(reader: Callable[[str], str], text: str) -> None:
    """Also: whatever the text, it is taken or refused, and what is taken has nothing that could break a head or a log line."""
    try:
        normal = reader(text)
    except Wrong:
        return
    assert normal == reader(normal)
    if reader is not names.socket_path and not normal.startswith("unix:"):
        assert normal.isascii()
        assert normal.isprintable()
        assert " " not in normal
    if reader in (names.host, names.host_policy):
        assert is_authority(normal.removeprefix("*.").encode())  # or no request could ever be for it, and no server could take it as Host


def refused(reader: Callable[[str], str], text: str, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        reader(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.test/v1/traces", "https://a.test/v1/traces"),
        ("https://a.test/?key=secret&b=c=d&e=", "https://a.test/?key=…&b=…&e="),
    ],
)
def test_what_a_query_says_is_not_shown(url: str, shown: str) -> None:
    assert names.shown_url(url) == shown
