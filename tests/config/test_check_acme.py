"""What `check` says about certificates that come by ACME: names nobody vouches for, challenges nobody answers."""

import pytest

from mcpproxy.config.load import read
from tests.config.samples import mistakes, only

REST = '[upstream.search]\nurls = ["http://127.0.0.1:9000"]\n[[route]]\nupstream = "search"\n'
PLAIN = '[[listen]]\naddress = "0.0.0.0:80"\nredirect = "https"\n'


def text(tls: str, *, address: str = "0.0.0.0:443", plain: bool = True, acme: str = "") -> str:
    table = f"[acme]\n{acme}\n" if acme else ""
    return f'[[listen]]\naddress = "{address}"\ntls = {{ {tls} }}\n' + (PLAIN if plain else "") + REST + table


def hosts(*names: str, more: str = "") -> str:
    return f"hosts = {list(names)!r}, acme = 'ops@example.com'{more}"


@pytest.mark.parametrize(
    "good",
    [
        text(hosts("mcp.example.com", "www.example.com")),
        text(hosts("mcp.example.com"), plain=False),
        text(hosts("mcp.example.com"), plain=False, acme='challenge = "tls-alpn-01"'),
        text(hosts("mcp.example.com"), acme='challenge = "http-01"\nstaging = true'),
        text(hosts("mcp.corp.internal"), acme='directory = "https://ca.corp.internal/dir"'),
        text("acme = 'ops@example.com', certificates = [{ hosts = ['a.example.com'] }, { hosts = ['b.example.com'] }]"),
        text("cert = 'a', key = 'b', acme = 'ops@example.com', certificates = [{ hosts = ['a.example.com'] }]"),
        text(hosts("mcp.example.com", more=", certificates = [{ cert = 'a', key = 'b' }]")),
        text(hosts("mcp.example.com"), acme='eab_key_id = "kid-1"\neab_hmac = "env:HMAC"'),
    ],
)
def test_what_can_be_had(good: str) -> None:
    assert list(map(str, mistakes(good))) == []
    assert read(good).warnings == ()


@pytest.mark.parametrize(
    ("bad", "path", "said"),
    [
        (text(hosts("*.example.com")), "listen[0].tls.hosts[0]", "DNS-01"),
        (text(hosts("192.0.2.1")), "listen[0].tls.hosts[0]", "is an address"),
        (text(hosts("[2001:db8::1]")), "listen[0].tls.hosts[0]", "is an address"),
        (text(hosts("a.example.com", "localhost")), "listen[0].tls.hosts[1]", "nobody owns"),
        (text(hosts("box.lan")), "listen[0].tls.hosts[0]", "acme.directory"),
        (text(hosts("a_b.example.com")), "listen[0].tls.hosts[0]", "underscore"),
        (text(hosts(*(f"h{number}.example.com" for number in range(101)))), "listen[0].tls.hosts", "at most 100"),
        (text("acme = 'ops@example.com'"), "listen[0].tls.acme", "for which names"),
        (text("hosts = ['a.example.com'], acme = 'ops'"), "listen[0].tls.acme", "not an email address"),
        (text("hosts = ['a.example.com'], acme = '@example.com'"), "listen[0].tls.acme", "not an email address"),
        (text(hosts("a.example.com", more=", cert = 'a', key = 'b'")), "listen[0].tls.hosts", "certificates = [{ hosts"),
        (text("cert = 'a', key = 'b', certificates = [{ hosts = ['a.example.com'] }]"), "listen[0].tls.certificates[0].hosts", "who asks"),
        (text("cert = 'a', key = 'b', certificates = [{ cert = 'a' }]"), "listen[0].tls.certificates[0].cert", "key is missing"),
        (text("cert = 'a', key = 'b', certificates = [{}]"), "listen[0].tls.certificates[0]", "either"),
        (
            text("acme = 'ops@example.com', certificates = [{ cert = 'a', key = 'b', hosts = ['a.example.com'] }]"),
            "listen[0].tls.certificates[0]",
            "either",
        ),
        (text(hosts("a.example.com"), plain=False, acme='challenge = "http-01"'), "listen[0].tls.acme", "nobody can answer http-01"),
        (text(hosts("a.example.com"), address="unix:/run/a", acme='challenge = "tls-alpn-01"'), "listen[0].tls.acme", "unix socket"),
        (text(hosts("a.example.com"), address="unix:/run/a", plain=False), "listen[0].tls.acme", "nobody can answer"),
        (text(hosts("a.example.com"), acme='directory = "https://a.example/dir"\nstaging = true'), "acme.staging", "another authority"),
        (text(hosts("a.example.com"), acme='directory = "http://a.example/dir"'), "acme.directory", "plain http"),
        (text(hosts("a.example.com"), acme='eab_key_id = "kid"'), "acme.eab_key_id", "eab_hmac is missing"),
        (text(hosts("a.example.com"), acme='eab_hmac = "env:HMAC"'), "acme.eab_hmac", "eab_key_id is missing"),
        (text(hosts("a.example.com"), acme='eab_key_id = "kid"\neab_hmac = "c2VjcmV0"'), "acme.eab_hmac", "not shown"),
    ],
)
def test_what_cannot(bad: str, path: str, said: str) -> None:
    found = [each for each in mistakes(bad) if each.path == path]
    assert len(found) == 1, list(map(str, mistakes(bad)))
    assert said in str(found[0])
    assert "c2VjcmV0" not in str(found[0])


@pytest.mark.parametrize(
    ("odd", "path"),
    [
        (text(hosts("a.example.com"), address="0.0.0.0:8443", plain=False), "acme"),
        (text(hosts("a.example.com"), address="0.0.0.0:8443", acme='challenge = "tls-alpn-01"'), "acme.challenge"),
        (text(hosts("a.example.com"), acme='challenge = "http-01"').replace("0.0.0.0:80", "0.0.0.0:8080"), "acme.challenge"),
        (text("hosts = ['mcp.test']", address="127.0.0.1:443", acme="staging = true"), "acme"),
    ],
)
def test_what_is_odd(odd: str, path: str) -> None:
    assert [each.path for each in read(odd).warnings] == [path]


def test_a_second_place_for_the_same_key_is_one_mistake() -> None:
    assert only(text(hosts("*.example.com"))).line == 3
