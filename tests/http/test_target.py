from ipaddress import IPv6Address

import pytest

from mcpproxy.http.target import host_of, is_authority, reduced

GOOD_HOSTS = {
    b"localhost": b"localhost",
    b"LOCALHOST": b"localhost",
    b"mcp.example.com:443": b"mcp.example.com",
    b"Mcp.Example.com.": b"mcp.example.com",
    b"a_b-c~1.example:0": b"a_b-c~1.example",
    b"127.0.0.1:8000": b"127.0.0.1",
    b"[::1]": b"[::1]",
    b"[2001:DB8::1]:8443": b"[2001:db8::1]",
    b"[::ffff:7F00:1]": b"[%b]" % str(IPv6Address("::ffff:127.0.0.1")).encode(),  # newer Pythons write it in the mixed form
    b"[::ffff:127.0.0.1]": b"[%b]" % str(IPv6Address("::ffff:127.0.0.1")).encode(),
    b"[2001:0db8:0:0:0:0:0:1]": b"[2001:db8::1]",
    b"localhost:65535": b"localhost",
}
BAD_HOSTS = (
    b"", b" ", b".", b"..", b"a..b", b".a", b":", b":80", b"/", b"@", b"*", b"%", b"%61", b"a b", b"a\tb", b"a/", b"a/b", b"u@a",
    b"a@b", b"a,b",
    b"a;b", b"a=b", b"a:x", b"a:-1", b"a:+80", b"a:80:80", b"a:8 0", b"a:80/", b"a:65536", b"a:99999", b"a:000080", b"a:", b"[::1",
    b"::1]", b"::1",
    b"[::1]x", b"[]", b"[x]", b"[:]", b"[::1%25eth0]", b"[::1]:x", b"[1:2:3]", b"[::1]]", b"[[::1]]", b"a#", b"a?", b"a\\b", b'"a"',
    b"<a>",
    b"http://a", b"a{b}", b"a|b", b"a^b", b"a`b", b"\xc3\xb6", b"a\xa0b", b"a\0", b"a\n", b"a" * 300,
)  # fmt: skip


@pytest.mark.parametrize("authority", GOOD_HOSTS)
def test_hosts_that_are_hosts(authority: bytes) -> None:
    assert is_authority(authority)
    assert host_of(authority) == GOOD_HOSTS[authority]


@pytest.mark.parametrize("authority", BAD_HOSTS)
def test_hosts_that_are_none(authority: bytes) -> None:
    assert not is_authority(authority)


@pytest.mark.parametrize(
    "target",
    [
        b"/", b"/mcp", b"/a/b?c=d", b"/?", b"//", b"//a//b", b"/a%20b", b"/a;b=c,d", b"/:@!$&'()*+,;=-._~", b"/...",
        b"/.well-known/x", b"/a..b/c.", b"/..a",
        b"/%2E%2Ea", b"/a%2Fb", b"/a%5cb", b"/?../", b"/a?b=/../", b"/a?100%", b"/a?%00", b"/\"<>^`{|}[]", b"/%ff", b"/%25",
    ],
)  # fmt: skip
def test_paths_pass_as_they_are(target: bytes) -> None:
    assert reduced(b"GET", target, b"localhost") == target


@pytest.mark.parametrize(
    "target",
    [
        b"/..", b"/.", b"/../", b"/./", b"/a/../b", b"/a/.", b"/a/..", b"/%2e", b"/%2E%2e/x", b"/.%2e/", b"/%2e./", b"/a/%2e%2e?b",
        b"/..;/admin", b"/..%3b/x",
        b"/a%2f..%2fb", b"/a%2F%2e%2E/b", b"/..%5cb", b"/a%5C..",
        b"/a#b", b"/#", b"/\\", b"/a\\..\\b", b"/?\\", b"/?a#b", b"/%", b"/%z", b"/%0", b"/%zz", b"/%%20",
        b"/%00", b"/%0d%0aX:y", b"/%1f", b"/%7f", b"/a b", b"/\xc3\xbc", b"/a\x7f", b"/a\0", b"/a\t",
        b"", b"*", b"a", b"?a", b"#a", b".", b"..", b":80", b"!", b"localhost", b"localhost:80", b"\\a",
        b"ftp://localhost/", b"file:///etc/passwd", b"javascript:alert(1)", b"http:///a", b"http://", b"http:/localhost/",
        b"http:localhost",
        b"http://user@localhost/", b"http://localhost:80/", b"http://localhost:/", b"http://evil/", b"http://localhost.evil/",
        b"http://localhost,evil/",
        b"http://localhost\\evil/", b"http://localhost/../", b"http://localhost/%2e", b"http://localhost#a", b"//localhost\\",
        b"https:localhost/",
    ],
)  # fmt: skip
def test_targets_that_could_mean_something_else_are_refused(target: bytes) -> None:
    assert reduced(b"GET", target, b"localhost") is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://localhost/a?b", b"/a?b"),
        (b"https://localhost/", b"/"),
        (b"HTTP://LocalHost/", b"/"),
        (b"http://localhost", b"/"),
        (b"http://localhost?a", b"/?a"),
        (b"http://localhost?", b"/?"),
        (b"http://localhost/?a?b//", b"/?a?b//"),
    ],
)
def test_absolute_form_is_reduced_to_its_path(target: bytes, expected: bytes) -> None:
    assert reduced(b"GET", target, b"LOCALhost") == expected


def test_absolute_form_agrees_with_the_port_too() -> None:
    assert reduced(b"GET", b"http://[::1]:81/a", b"[::1]:81") == b"/a"
    assert reduced(b"GET", b"http://[::1]:81/a", b"[::1]:82") is None


def test_asterisk_only_with_options() -> None:
    assert reduced(b"OPTIONS", b"*", b"a") == b"*"
    assert reduced(b"OPTIONS", b"http://a", b"a") == b"*"
    assert reduced(b"OPTIONS", b"http://a/", b"a") == b"/"
    assert reduced(b"OPTIONS", b"**", b"a") is None
    assert reduced(b"OPTIONS", b"*/a", b"a") is None
