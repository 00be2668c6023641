"""What is fetched from others is bounded in every way, and comes from where the operator sent us."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from mcpproxy.net.fetch import Bounds, FetchError, Response, allowed, fetch
from mcpproxy.net.resolve import Target
from tests.support.certs import Certificate, make_certificate
from tests.support.ports import black_hole, refusing_port

NAME = "issuer.example"
QUICK = Bounds(head=4096, body=10_000, seconds=0.4)  # for what must run into its limit
PATIENT = Bounds(head=4096, body=10_000, seconds=10)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("issuer"), NAME)


class Server:
    """A TLS server that reads one request per connection and plays a script of it."""

    def __init__(self, certificate: Certificate, play: Callable[[ssl.SSLSocket], None]) -> None:
        self._context = certificate.server()
        self.asked: list[bytes] = []
        self.names: list[str | None] = []
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            link.settimeout(10)
            with contextlib.suppress(OSError), self._context.wrap_socket(link, server_side=True) as secure:
                data = b""
                while b"\r\n\r\n" not in data and (more := secure.recv(65536)):
                    data += more
                self.asked.append(data)
                self._play(secure)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def serve(issuer: Certificate) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: bytes | Callable[[ssl.SSLSocket], None], certificate: Certificate | None = None) -> Server:
        play = answer if callable(answer) else lambda link: link.sendall(answer)
        servers.append(Server(certificate or issuer, play))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ask(issuer: Certificate) -> Callable[..., Response]:
    """Fetch from a server, under the issuer's name."""

    async def run(server: Server, path: str = "/keys", **settings: object) -> Response:
        given = {"private": True, "ca": str(issuer.cert), "bounds": PATIENT, "resolve": told("127.0.0.1"), **settings}
        return await fetch(f"https://{NAME}:{server.port}{path}", **given)  # type: ignore[arg-type]

    return run  # type: ignore[return-value]


def told(*addresses: str) -> Callable[[str, int], object]:
    """A resolver that knows nothing else, and counts how often it was asked."""
    asked = []

    async def resolve(name: str, port: int) -> list[Target]:
        asked.append(name)
        return [Target(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, port)) for address in addresses]

    resolve.asked = asked  # type: ignore[attr-defined]
    return resolve


def answer(body: bytes = b"{}", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *(fields or (b"Content-Length: %d" % len(body),)), b"", body])


async def refused(ask, server, kind: str, **settings: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await ask(server, **settings)
    assert caught.value.kind == kind, caught.value
    return caught.value


# -- what works -------------------------------------------------------------------------------------------------------------------------------


async def test_an_answer_comes_back_and_the_request_is_a_plain_one(serve, ask):
    server = serve(answer(b'{"keys":[]}', b"Content-Length: 11", b"Cache-Control: max-age=60", b"CACHE-control: no"))
    got = await ask(server, "/keys?a=b")
    assert (200, b'{"keys":[]}', "max-age=60") == (got.status, got.body, got.fields["cache-control"])
    assert server.asked[0].startswith(b"GET /keys?a=b HTTP/1.1\r\nHost: issuer.example:%d\r\nConnection: close\r\n" % server.port)
    assert [NAME] == server.names, "the certificate is asked for by name, the connection goes to an address"


def test_it_works_on_the_loop_of_the_daemon(serve, ask, tmp_path: Path):
    fine, dripping, stranger = serve(answer(b"ok")), serve(drip), serve(answer(), make_certificate(tmp_path, NAME))

    async def play() -> None:
        assert b"ok" == (await ask(fine, resolve=told("127.0.0.2", "127.0.0.1"))).body
        await refused(ask, dripping, "timeout", bounds=QUICK)
        await refused(ask, stranger, "tls-failed")
        with pytest.raises(FetchError, match="name-unknown"):
            await fetch("https://no-such-host.invalid/keys")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


async def test_a_post_carries_its_body_and_fields(serve, ask):
    server = serve(answer())
    await ask(server, method="POST", body=b"token=x", headers=[("Authorization", "Basic eDp5"), ("Accept", "application/json")])
    assert server.asked[0].startswith(b"POST /keys ")
    assert b"\r\nAuthorization: Basic eDp5\r\nAccept: application/json\r\nContent-Length: 7\r\n\r\n" in server.asked[0]


@pytest.mark.parametrize(
    ("bytes_", "body"),
    [
        (answer(b"4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"), b"abcdefg"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"ok"), b"ok"),
        (answer(b"", status=b"404 Not Found"), b""),
        (answer(b"", b"X: y", status=b"204 No Content"), b""),
    ],
    ids=["chunked", "until close", "interim", "404", "204"],
)
async def test_every_framing_is_read(serve, ask, bytes_, body):
    assert body == (await ask(serve(bytes_))).body


async def test_another_address_is_tried_when_one_is_down(serve, ask):
    server = serve(answer(b"ok"))
    resolver = told("127.0.0.2", "127.0.0.1")  # nobody listens at the first
    assert b"ok" == (await ask(server, resolve=resolver)).body
    assert [NAME] == resolver.asked, "the name is resolved once"


async def test_nothing_stays_open(serve, ask):
    ended = threading.Event()

    def play(link: ssl.SSLSocket) -> None:
        link.sendall(answer(b"ok"))
        with contextlib.suppress(OSError):
            while link.recv(100):
                pass
        ended.set()

    await ask(serve(play))
    assert await asyncio.to_thread(ended.wait, 10)


# -- bad days ---------------------------------------------------------------------------------------------------------------------------------


async def test_down(ask):
    with refusing_port() as port:
        with pytest.raises(FetchError, match="connect-failed"):
            await fetch(f"https://127.0.0.1:{port}/", private=True)


async def test_a_host_that_drops_packets_ends_in_time():
    with black_hole() as port:
        with pytest.raises(FetchError, match="connect-failed"):
            await fetch(f"https://127.0.0.1:{port}/", private=True, bounds=QUICK)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b", "."])
async def test_a_name_nobody_knows(name):
    with pytest.raises(FetchError, match="name-unknown"):
        await fetch(f"https://{name}/keys")


def drip(link: ssl.SSLSocket) -> None:
    """A byte now and then: every single read succeeds."""
    for byte in answer(b"x" * 5000):
        link.sendall(bytes((byte,)))
        threading.Event().wait(0.01)


async def test_a_server_that_drips_is_given_up(serve, ask):
    await refused(ask, serve(drip), "timeout", bounds=QUICK)


async def test_a_server_that_says_nothing_is_given_up(serve, ask):
    await refused(ask, serve(lambda link: link.recv(1)), "timeout", bounds=QUICK)


async def test_a_handshake_that_never_ends_is_given_up(issuer):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(FetchError, match="timeout"):
            await fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/", private=True, bounds=QUICK)


def endless(start: bytes, more: bytes) -> Callable[[ssl.SSLSocket], None]:
    def play(link: ssl.SSLSocket) -> None:
        link.sendall(start)
        while True:
            link.sendall(more)  # until the other side has had enough

    return play


@pytest.mark.parametrize(
    "script",
    [
        answer(b"", b"Content-Length: 10001"),
        answer(b"", b"Content-Length: 999999999999"),
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
        answer(b"ffffffff\r\n", b"Transfer-Encoding: chunked"),
    ],
    ids=["length", "huge length", "until close", "chunks", "tiny chunks", "fields", "one field", "one chunk"],
)
async def test_what_is_huge_is_given_up(serve, ask, script):
    await refused(ask, serve(script), "too-large")


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See Other", b"307 Temporary Redirect", b"308 Permanent Redirect"])
async def test_redirects_are_not_followed(serve, ask, status):
    server = serve(answer(b"", b"Location: http://169.254.169.254/latest/meta-data/", status=status))
    await refused(ask, server, "redirected")
    assert 1 == len(server.asked)


@pytest.mark.parametrize(
    "script",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 What\r\n\r\n",
        answer(b"", b"Content-Length: -1"),
        answer(b"", b"Content-Length: 5, 5"),
        answer(b"hello", b"Content-Length: 5", b"Content-Length: 5"),
        answer(b"hello", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        answer(b"hello", b"Transfer-Encoding: gzip, chunked"),
        answer(b"0\r\n\r\n", b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0"),
        answer(b"zz\r\n", b"Transfer-Encoding: chunked"),
        answer(b"1\r\nabc", b"Transfer-Encoding: chunked"),
        answer(b"1;" + b"x" * 300 + b"\r\na\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        answer(b"hel", b"Content-Length: 5"),
        answer(b"5\r\nhel", b"Transfer-Encoding: chunked"),
        answer(b"ok", b"Content-Length: 2", b"Content-Encoding: gzip"),
        answer(b"ok", b"Content-Length: 2", b"X-Folded: a", b" b"),
        answer(b"ok", b"No colon here"),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
    ],
)
async def test_garbage_is_an_error(serve, ask, script):
    await refused(ask, serve(script), "bad-response")


async def test_a_certificate_of_somebody_else_is_refused(serve, ask, tmp_path: Path):
    other = make_certificate(tmp_path, "other.example")
    told_so = await refused(ask, serve(answer(), other), "tls-failed")
    assert "self-signed" in told_so.detail or "self signed" in told_so.detail
    same_name = make_certificate(tmp_path / "x", NAME)
    await refused(ask, serve(answer(), same_name), "tls-failed")


async def test_a_certificate_for_another_name_is_refused(serve, issuer):
    server = serve(answer())
    with pytest.raises(FetchError, match="tls-failed"):
        await fetch(f"https://elsewhere.example:{server.port}/", private=True, ca=str(issuer.cert), resolve=told("127.0.0.1"))


@pytest.mark.parametrize("content", [None, "junk"])
async def test_authorities_that_cannot_be_read(tmp_path: Path, content):
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(FetchError, match=r"tls-failed.*ca\.pem"):
        await fetch("https://issuer.example/", ca=str(file))


async def test_a_port_that_speaks_no_tls_is_an_error(issuer):
    def play(listener: socket.socket) -> None:
        link, _ = listener.accept()
        with link:
            link.recv(10)
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=play, args=(listener,))
        thread.start()
        with pytest.raises(FetchError, match="tls-failed"):
            await fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/", private=True, ca=str(issuer.cert), bounds=PATIENT)
        thread.join()


# -- where we do not go -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("10.1.2.3", "::1"), ("169.254.169.254",), ("::ffff:127.0.0.1",), ("64:ff9b::7f00:1",)]
)
async def test_a_name_that_leads_inside_is_not_asked(serve, ask, addresses):
    server = serve(answer())
    told_so = await refused(ask, server, "address-refused", private=False, resolve=told(*addresses))
    assert "private = false" in told_so.detail
    assert [] == server.asked


async def test_of_several_addresses_only_those_that_are_allowed_are_connected_to(serve, ask):
    server = serve(answer(b"ok"))
    assert b"ok" == (await ask(server, resolve=told("169.254.169.254", "127.0.0.1", "0.0.0.0"))).body


@pytest.mark.parametrize(
    ("address", "public", "inside"),
    [
        *[
            (address, True, True)
            for address in ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00::1", "::ffff:8.8.8.8", "64:ff9b::808:808")
        ],
        *[(address, False, True) for address in ("10.0.0.1", "127.0.0.1", "127.255.0.9", "172.31.0.1", "192.168.1.1", "100.64.0.1")],
        *[(address, False, True) for address in ("::1", "fd12::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "::ffff:7f00:1")],
        *[(address, False, False) for address in ("0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "240.0.0.1", "255.255.255.255")],
        *[(address, False, False) for address in ("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "168.63.129.16")],
        *[
            (address, False, False)
            for address in ("::", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "::ffff:169.254.169.254", "::a00:1")
        ],
        *[(address, False, False) for address in ("2002:7f00:1::", "2002:a00:1::", "2002:808:808::", "2001::1", "2001:db8::1", "3fff::1")],
        *[(address, False, False) for address in ("64:ff9b:1::a00:1", "64:ff9b::a9fe:a9fe", "100::1", "not an address", "5f00::1", "")],
    ],
)
def test_which_addresses_are_allowed(address, public, inside):
    assert public == allowed(address, private=False)
    assert inside == allowed(address, private=True)


async def test_plain_http_only_to_this_machine(ask):
    with pytest.raises(FetchError, match="plain http"):
        await fetch("http://issuer.example/", private=True, resolve=told("10.0.0.1"))
    with refusing_port() as port, pytest.raises(FetchError, match="connect-failed"):
        await fetch(f"http://localhost:{port}/", private=True, resolve=told("127.0.0.1"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "keys", "ftp://a.example/", "file:///etc/passwd", "https://", "https://a.example/\r\nX: y", "https://a.example/ü"),
        *("https://user:secret@a.example/", "https://a.example:99999/", "https://[::1/", "https://a.example/" + "x" * 5000, "https://a b/"),
    ],
)
async def test_what_is_no_url_is_an_error(url):
    with pytest.raises(FetchError, match="bad-url"):
        await fetch(url)
