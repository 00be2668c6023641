"""What only shows in the whole: refused when it cannot work, warned about when it is legal but unwise."""

import pytest

from mcpproxy.config.check import check_files
from mcpproxy.config.load import load, read
from tests.config.samples import GOOD, mistakes, only, with_listen, with_route, with_upstream


def listeners(*addresses: str) -> str:
    return "".join(f'[[listen]]\naddress = "{address}"\n' for address in addresses) + GOOD[GOOD.index("[upstream") :]


@pytest.mark.parametrize(
    ("text", "path", "line", "said"),
    [
        (GOOD[GOOD.index("[upstream") :], "listen", None, "there is no listener"),
        ("", "listen", None, "there is no listener"),
        ("listen = []\n" + GOOD[GOOD.index("[upstream") :], "listen", 1, "there is no listener"),
        (GOOD[: GOOD.index("[[route]]")], "listen[0]", 1, "nothing is behind this listener"),
        (listeners("127.0.0.1:80", "127.0.0.1:80"), "listen[1].address", 4, "taken by listen[0]"),
        (listeners("127.0.0.1:80", "0.0.0.0:80"), "listen[1].address", 4, "taken by listen[0] (127.0.0.1:80)"),
        (listeners("0.0.0.0:80", "192.0.2.1:80"), "listen[1].address", 4, "taken by listen[0] (0.0.0.0:80)"),
        (listeners("[::]:80", "[::1]:80"), "listen[1].address", 4, "taken by listen[0]"),
        (listeners("[::1]:80", "[0::1]:80"), "listen[1].address", 4, "taken by listen[0]"),
        (listeners("unix:/run/a", "unix:///run/a"), "listen[1].address", 4, "taken by listen[0]"),
        (with_listen('tls = "dev"\nredirect = "https"'), "listen[0].redirect", 4, "nothing to redirect"),
        (with_listen('tls = { cert = "a.pem" }'), "listen[0].tls.cert", 3, "key is missing"),
        (with_listen('tls = { key = "a.pem" }'), "listen[0].tls.key", 3, "cert is missing"),
        (with_listen("tls = {}"), "listen[0].tls", 3, "no certificate"),
        (with_listen('tls = { min_version = "1.3" }'), "listen[0].tls", 3, "no certificate"),
        (with_listen('tls = { cert = "a", key = "b", hosts = ["a.test"] }'), "listen[0].tls.hosts", 3, "mean nothing beside"),
        (GOOD.replace('upstream = "search"', 'upstream = "serch"'), "route[0].upstream", 6, 'did you mean "search"?'),
        (GOOD.replace("[upstream.search]", "[limits]").replace("urls", "#"), "route[0].upstream", 6, "add [upstream.search]"),
        (GOOD + GOOD[GOOD.index("[[route]]") :], "route[1]", 7, 'route[0] has path "/" for any host already'),
        (with_route('path = "/a%2Db"\n[[route]]\nupstream = "search"\npath = "/a-b"'), "route[1]", 8, "already"),
        (
            with_route('name = "a"\npath = "/a"\n[[route]]\nname = "a"\nupstream = "search"\npath = "/b"'),
            "route[1].name",
            10,
            'route[0] is called "a" already',
        ),
        (
            with_route('host = "A.example"\n[[route]]\nupstream = "search"\nhost = ["b.example", "a.example"]'),
            "route[1]",
            8,
            'host "a.example"',
        ),
        (with_route("strip_prefix = true"), "route[0].strip_prefix", 7, "nothing to strip"),
        (with_route('limits = "cals"\n[limit.calls]\nrate = "1/s"'), "route[0].limits[0]", 7, 'did you mean "calls"?'),
        (with_route('limits = ["calls"]'), "route[0].limits[0]", 7, "add [limit.calls]"),
        (GOOD + "[limit.calls]\nper = []\n", "limit.calls", 7, "limits nothing"),
        (GOOD + '[limits]\ntarget = "32KiB"\n', "limits.target", 8, "smaller than limits.head"),
        ('group = "www-data"\n' + GOOD, "group", 1, "goes with user"),
        (GOOD + '[otel]\nendpoint = "http://127.0.0.1:4318/v1/traces"\nsample = 10\n', "otel.sample", 9, "is a share"),
        ("workers = 3\n" + with_upstream("max_connections = 2"), "upstream.search.max_connections", 6, "fewer than workers (3)"),
        ("workers = 3\n" + GOOD + "[limits]\nconnections = 2\n", "limits.connections", 9, "fewer than workers (3)"),
    ],
)
def test_what_cannot_work_is_refused(text: str, path: str, line: int | None, said: str) -> None:
    mistake = only(text)
    assert (mistake.path, mistake.line) == (path, line)
    assert said in str(mistake)


@pytest.mark.parametrize(
    "text",
    [
        listeners("0.0.0.0:80", "[::]:80", "0.0.0.0:81", "unix:/run/a", "unix:/run/b"),
        listeners("127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"),
        '[[listen]]\naddress = "0.0.0.0:80"\nredirect = "https"\n',
        with_listen('tls = { hosts = ["mcp.test"] }'),
        with_listen('tls = { cert = "a", key = "b", certificates = [{ cert = "c", key = "d" }] }'),
        with_route('host = "a.example"\n[[route]]\nupstream = "search"\n'),
        with_route('path = "/a"\nstrip_prefix = true'),
        'health = "/healthz"\n' + GOOD,
    ],
)
def test_what_works_is_taken(text: str) -> None:
    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (GOOD.replace("127.0.0.1:8000", "0.0.0.0:8000"), "listen[0].address", "plain HTTP on a public address"),
        (GOOD.replace("127.0.0.1:8000", "[::]:8000"), "listen[0].address", "plain HTTP on a public address"),
        (GOOD.replace("127.0.0.1:8000", "8.8.8.8:8000"), "listen[0].address", "plain HTTP on a public address"),
        (with_listen('tls = "dev"').replace("127.0.0.1:8000", "0.0.0.0:8000"), "listen[0].tls", "development certificate"),
        (with_listen('tls = { hosts = ["a.test"] }').replace("127.0.0.1:8000", "0.0.0.0:8000"), "listen[0].tls", "development certificate"),
        ('[[listen]]\naddress = "0.0.0.0:80"\nredirect = "https"\n', "listen[0].redirect", "no listener here has tls"),
        (GOOD + '[upstream.spare]\nurls = ["http://h"]\n', "upstream.spare", "no route leads here"),
        (with_upstream("keepalive = 5000"), "upstream.search.keepalive", "more idle connections"),
        (with_upstream("verify = false").replace("http://127", "https://127"), "upstream.search.verify", "not checked"),
        (with_upstream('ca = "/ca.pem"'), "upstream.search.ca", "no url is https"),
        (with_upstream('response_timeout = "1s"'), "upstream.search.response_timeout", "is the unit right?"),
        (with_upstream('host = "kep"'), "upstream.search.host", 'did you mean "keep"?'),
        (with_route('sse_keepalive = "0.5s"'), "route[0].sse_keepalive", "is the unit right?"),
        (with_route("tools = { read_only = true }"), "route[0].tools", "every call is denied"),
        (with_route('idle_timeout = "24s"'), "route[0].idle_timeout", "is the unit right?"),
        ('health = "/"\n' + GOOD, "route[0].path", "answered by the health check"),
    ],
)
def test_the_unwise_is_taken_with_a_warning(text: str, path: str, said: str) -> None:
    (warning,) = read(text).warnings
    assert warning.path == path
    assert warning.line is not None
    assert said in warning.message


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("127.0.0.1:8000", "[::1]:8000"),
        GOOD.replace("127.0.0.1:8000", "10.0.0.1:8000"),
        GOOD.replace("127.0.0.1:8000", "unix:/run/x"),
        with_listen('tls = "dev"'),
        with_listen('tls = { cert = "a", key = "b" }').replace("127.0.0.1:8000", "0.0.0.0:443")
        + '[[listen]]\naddress = "0.0.0.0:80"\nredirect = "https"\n',
        with_upstream('host = "api.example"\nca = "/ca.pem"').replace("http://127", "https://127"),
        with_route('sse_keepalive = "15s"'),
        with_route("tools = { read_only = true, allow = [{}] }"),
        with_route("tools = { shadow = true }"),
    ],
)
def test_the_usual_has_no_warnings(text: str) -> None:
    assert read(text).warnings == ()


def chained(address: str, url: str) -> str:
    return GOOD.replace("127.0.0.1:8000", address).replace("http://127.0.0.1:9000", url)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "https://localhost:8000"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("0.0.0.0:8000", "http://0.0.0.0:8000"),
        ("[::]:8000", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("127.0.0.1:80", "http://127.0.0.1"),
        ("127.0.0.1:443", "https://127.0.0.1"),
        ("unix:/run/a", "unix:/run/a"),
    ],
)
def test_a_server_is_not_the_proxy_itself(address: str, url: str) -> None:
    mistake = only(chained(address, url))
    assert (mistake.path, mistake.line) == ("upstream.search.urls[0]", 4)
    assert f"{url} is this proxy itself (it listens on {address})" in mistake.message


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8001"),
        ("127.0.0.1:8000", "http://127.0.0.2:8000"),
        ("0.0.0.0:8000", "http://192.0.2.1:8000"),
        ("0.0.0.0:8000", "http://[::1]:8000"),
        ("192.0.2.1:8000", "http://localhost:8000"),
        ("127.0.0.1:443", "http://127.0.0.1"),
        ("0.0.0.0:8000", "http://box:8000"),
        ("127.0.0.1:0", "http://127.0.0.1:8000"),
        ("unix:/run/a", "unix:/run/b"),
        ("unix:/run/a", "http://localhost:8000"),
    ],
)
def test_a_server_that_may_be_another_one_is_taken(address: str, url: str) -> None:
    assert mistakes(chained(address, url)) == []


def test_files_are_looked_at_only_when_asked() -> None:
    config = load(with_listen('tls = { cert = "/none.pem", key = "/none.key" }'))
    assert [str(mistake) for mistake in check_files(config)] == [
        "listen[0].tls.cert: /none.pem: No such file or directory",
        "listen[0].tls.key: /none.key: No such file or directory",
    ]
