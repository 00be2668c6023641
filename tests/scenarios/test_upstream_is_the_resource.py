"""A route without `auth` before a server that is an OAuth resource itself: clients find its documents under the URL they use, however they come."""

import gzip
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.message import Message
from tests.support.talk import WAYS, Talk, listen
from tests.support.upstream import Link, Script, ScriptedUpstream, response

PLACE = "/.well-known/oauth-protected-resource"
ISSUER = "https://login.example"


class Resource(ScriptedUpstream):
    """A server that names itself by the Host it is asked by."""

    def __init__(self, reply: Callable[["Resource", Message, Link], None] | None = None, at: str = "/mcp") -> None:
        self.at, self.reply = at, reply
        super().__init__(self._script())

    def _script(self) -> Script:
        def script(link: Link) -> None:
            while True:
                request = link.read_request()
                if self.reply is not None:
                    self.reply(self, request, link)
                elif request.target.startswith(PLACE.encode()):
                    link.send(response(self.document(request)))
                else:
                    link.send(response(b"{}", status="401 Unauthorized", extra=f"WWW-Authenticate: {self.challenge(request)}\r\n"))

        return script

    def origin(self, request: Message) -> str:
        return "http://" + (request.first("host") or b"").decode()

    def document(self, request: Message) -> bytes:
        return json.dumps({"resource": self.origin(request) + self.at, "authorization_servers": [ISSUER], "x": 1}).encode()

    def challenge(self, request: Message) -> str:
        return f'Bearer error="invalid_token", resource_metadata="{self.origin(request)}{PLACE}{self.at}"'


def scheme(way: str) -> str:
    return "http" if way == "plain" else "https"


@pytest.mark.parametrize("way", WAYS)
def test_the_world_sees_the_public_url(way: str, run: Run, certificate: Certificate) -> None:
    with Resource() as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            for host in ("mcp.example", "other.example:8443", "mcp.example"):
                for _ in range(3):
                    refused = talk.ask(host=host)
                    assert refused.status == 401 and refused.body == b"{}"
                    assert refused.all("www-authenticate") == [
                        f'Bearer error="invalid_token", resource_metadata="{scheme(way)}://{host}{PLACE}/mcp"'.encode()
                    ]
                    said = talk.ask(method="GET", path=PLACE + "/mcp", host=host)
                    assert said.status == 200
                    assert json.loads(said.body) == {"resource": f"{scheme(way)}://{host}/mcp", "authorization_servers": [ISSUER], "x": 1}
                    assert said.first("content-type") == b"application/json"
                    assert said.first("access-control-allow-origin") == b"*"


def test_what_was_configured_counts_more_than_what_the_client_says(run: Run, certificate: Certificate) -> None:
    with Resource() as upstream:
        daemon = run(upstream.url, route={"public_url": "https://mcp.example/mcp"})
        with Talk(daemon, "plain", certificate) as talk:
            for host in ("evil.example", "mcp.example"):
                assert b'resource_metadata="https://mcp.example' in (talk.ask(host=host).first("www-authenticate") or b"")
                assert json.loads(talk.ask(method="GET", path=PLACE + "/mcp", host=host).body)["resource"] == "https://mcp.example/mcp"


@pytest.mark.parametrize("way", WAYS)
def test_a_prefix_that_is_stripped_is_put_back(way: str, run: Run, certificate: Certificate) -> None:
    with Resource() as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"path": "/files", "strip_prefix": True})
        with Talk(daemon, way, certificate) as talk:
            public = f"{scheme(way)}://localhost{PLACE}/files/mcp"
            assert public.encode() in (talk.ask(path="/files/mcp").first("www-authenticate") or b"")
            said = talk.ask(method="GET", path=PLACE + "/files/mcp")
            assert json.loads(said.body)["resource"] == f"{scheme(way)}://localhost/files/mcp"
        assert [request.target for request in upstream.requests()] == [b"/mcp", PLACE.encode() + b"/mcp"]


def test_a_stranger_who_comes_first_does_not_choose_what_others_are_told(run: Run, certificate: Certificate) -> None:
    """Where the server is sent the client's Host, it names itself by that."""
    with Resource() as upstream:
        daemon = run(upstream.url, route={"public_url": "https://mcp.example/mcp"}, upstream={"host": "keep"})
        with Talk(daemon, "plain", certificate) as talk:
            for host in ("evil.example", "mcp.example", "evil.example", "mcp.example"):
                said = json.loads(talk.ask(method="GET", path=PLACE + "/mcp", host=host).body)
                assert said["resource"] == "https://mcp.example/mcp"


# -- however the server sends it ------------------------------------------------------------------------------------------------------------------


def sent(pieces: Callable[[bytes], list[bytes]], end: str = "") -> Callable[[Resource, Message, Link], None]:
    def reply(resource: Resource, request: Message, link: Link) -> None:
        for piece in pieces(resource.document(request)):
            link.send(piece)
        if end:
            link.close()

    return reply


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def by_length(body: bytes) -> list[bytes]:
    return [HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body[:5], body[5:]]


def in_chunks(body: bytes) -> list[bytes]:
    chunk = b"%x\r\n%b\r\n"
    return [HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk % (7, body[:7]), chunk % (len(body) - 7, body[7:]), b"0\r\n\r\n"]


def at_once(body: bytes) -> list[bytes]:
    return [b"".join(in_chunks(body))]


def until_close(body: bytes) -> list[bytes]:
    return [HEAD + b"\r\n" + body[:9], body[9:]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("pieces", "end"), [(by_length, ""), (in_chunks, ""), (at_once, ""), (until_close, "close")])
def test_a_document_in_any_framing(way: str, pieces: Any, end: str, run: Run, certificate: Certificate) -> None:
    with Resource(sent(pieces, end)) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            for _ in range(2):
                said = talk.ask(method="GET", path=PLACE + "/mcp")
                assert (said.status, json.loads(said.body)["resource"]) == (200, f"{scheme(way)}://localhost/mcp")
        assert len(daemon.wait_records(2, status=200, end="done")) == 2


@pytest.mark.parametrize("way", WAYS)
def test_head_is_told_no_length_that_is_wrong(way: str, run: Run, certificate: Certificate) -> None:
    def reply(resource: Resource, request: Message, link: Link) -> None:
        body = resource.document(request)
        link.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + (b"" if request.method == b"HEAD" else body))

    with Resource(reply) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            whole = talk.ask(method="GET", path=PLACE + "/mcp")
            head = talk.ask(method="HEAD", path=PLACE + "/mcp")
            assert (head.status, head.body, head.first("content-type")) == (200, b"", b"application/json")
            assert head.first("content-length") in (None, b"%d" % len(whole.body))
            assert talk.ask(method="GET", path=PLACE + "/mcp").body == whole.body


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pieces", [by_length, in_chunks, until_close])
def test_what_is_no_such_document_passes_as_it_is(way: str, pieces: Any, run: Run, certificate: Certificate) -> None:
    """A page, another server's document: not ours to change, nor to call JSON."""
    page = b"<html>every path has this page</html>"

    def reply(resource: Resource, request: Message, link: Link) -> None:
        for piece in pieces(page):
            link.send(piece.replace(b"application/json", b"text/html").replace(b"\r\n\r\n", b"\r\nETag: x\r\n\r\n", b"HTTP" in piece))
        if pieces is until_close:
            link.close()

    with Resource(reply) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            said = talk.ask(method="GET", path=PLACE + "/mcp")
            assert (said.status, said.body, said.first("content-type"), said.first("etag")) == (200, page, b"text/html", b"x")


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_compresses_is_not_misread(way: str, run: Run, certificate: Certificate) -> None:
    def reply(resource: Resource, request: Message, link: Link) -> None:
        body = resource.document(request)
        if b"gzip" in (request.first("accept-encoding") or b""):
            link.send(response(gzip.compress(body), extra="Content-Encoding: gzip\r\n"))
        else:
            link.send(response(body))

    with Resource(reply) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            said = talk.ask([("Accept-Encoding", "gzip, br")], method="GET", path=PLACE + "/mcp")
            assert said.first("content-encoding") is None
            assert json.loads(said.body)["resource"] == f"{scheme(way)}://localhost/mcp"


@pytest.mark.parametrize("way", WAYS)
def test_a_document_that_is_not_there_is_not_there(way: str, run: Run, certificate: Certificate) -> None:
    with Resource(lambda _, request, link: link.send(response(b"nothing here", status="404 Not Found"))) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            for path in (PLACE + "/mcp", PLACE, "/.well-known/oauth-authorization-server"):
                said = talk.ask(method="GET", path=path)
                assert (said.status, said.body) == (404, b"nothing here")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pieces", [by_length, in_chunks])
def test_a_document_without_end_is_not_kept_in_memory(way: str, pieces: Any, run: Run, certificate: Certificate) -> None:
    def reply(resource: Resource, request: Message, link: Link) -> None:
        for piece in pieces(b"[" + b"1," * 100_000 + b"1]"):
            link.send(piece)

    with Resource(reply) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            said = talk.ask(method="GET", path=PLACE + "/mcp")
            assert (said.status, json.loads(said.body)["error"]["data"]["reason"]) == (502, "document-too-large")


def test_a_document_that_is_cut_is_no_document(run: Run, certificate: Certificate) -> None:
    with Resource(sent(lambda body: by_length(body)[:2], "close")) as upstream:
        daemon = run(upstream.url)
        with Talk(daemon, "plain", certificate) as talk:
            said = talk.ask(method="GET", path=PLACE + "/mcp")
            assert said.status == 502


@pytest.mark.parametrize("way", WAYS)
def test_several_challenges(way: str, run: Run, certificate: Certificate) -> None:
    def reply(resource: Resource, request: Message, link: Link) -> None:
        lines = f"WWW-Authenticate: Basic realm=x\r\nwww-authenticate: {resource.challenge(request)}\r\n"
        link.send(response(b"{}", status="401 Unauthorized", extra=lines))

    with Resource(reply) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate))
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                basic, bearer = talk.ask().all("www-authenticate")
                assert basic == b"Basic realm=x"
                assert f'resource_metadata="{scheme(way)}://localhost{PLACE}/mcp"'.encode() in bearer


def test_two_listeners_and_two_names_do_not_share_what_they_are_told(run: Run, certificate: Certificate, tmp_path: Any) -> None:
    """The same answer of the server, byte for byte, to clients that know it by different URLs."""

    def reply(resource: Resource, request: Message, link: Link) -> None:
        link.send(
            response(b"{}", status="401 Unauthorized", extra=f'WWW-Authenticate: Bearer resource_metadata="{upstream.url}{PLACE}/mcp"\r\n')
        )

    with Resource(reply) as upstream:
        config = {
            "listen": [listen("plain", certificate), listen("tls", certificate)],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u"}],
        }
        with (
            Daemon(config, tmp_path) as daemon,
            Talk(daemon, "plain", certificate) as plain,
            Talk(daemon, "tls", certificate, number=1) as tls,
        ):
            for _ in range(4):
                for talk, origin in ((plain, "http://a.example"), (tls, "https://a.example"), (plain, "http://b.example")):
                    said = talk.ask(host=origin.partition("://")[2])
                    assert f'"{origin}{PLACE}/mcp"'.encode() in (said.first("www-authenticate") or b"")


def test_many_clients_at_once(run: Run, certificate: Certificate) -> None:
    with Resource() as upstream:
        daemon = run(upstream.url, listen=listen("h2", certificate))
        wrong: list[object] = []

        def one(host: str) -> None:
            with Talk(daemon, "h2", certificate) as talk:
                for _ in range(10):
                    said = talk.ask(method="GET", path=PLACE + "/mcp", host=host)
                    if json.loads(said.body)["resource"] != f"https://{host}/mcp":
                        wrong.append(said)

        threads = [threading.Thread(target=one, args=(f"h{number}.example",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong and not any(thread.is_alive() for thread in threads)
