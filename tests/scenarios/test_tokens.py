"""OAuth in front of a server that knows nothing of it, with a real authorization server: who waits for it, who is let in, and what others are told."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.authorization import MACHINE, RESOURCE_SECRET, RESOURCE_SERVER, Answer, Authority
from tests.support.certs import Certificate
from tests.support.client import post
from tests.support.daemon import Daemon
from tests.support.h2 import H2Client, request_fields, speak
from tests.support.keys import Keys
from tests.support.talk import WAYS, Talk, listen
from tests.support.upstream import ScriptedUpstream, answer
from tests.support.waiting import until

PUBLIC = "https://mcp.example/mcp"
PLACE = "/.well-known/oauth-protected-resource/mcp"
BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}'


@pytest.fixture
def authority() -> Iterator[Authority]:
    with Authority(None, audience=PUBLIC) as made:
        yield made


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(answer()) as made:
        yield made


class Gate:
    """An answer of the authority that waits until it is opened."""

    def __init__(self, authority: Authority, path: str) -> None:
        self.opened, self.authority, self.path = threading.Event(), authority, path
        self.asked = 0
        authority.replaced[path] = self._answer

    def _answer(self) -> Answer:
        self.asked += 1
        assert self.opened.wait(20)
        return 200, json.dumps({"keys": [key.as_dict(private=False) for key in self.authority.keys]}).encode(), []

    def open(self) -> None:
        self.opened.set()


Serve = Callable[..., Daemon]


@pytest.fixture
def serve(run: Run, upstream: ScriptedUpstream, authority: Authority, certificate: Certificate, tmp_path: Path) -> Serve:
    """`serve(way, auth={…}, route={…})`: JWT, or introspection where the authority is `opaque`."""

    def start(
        way: str = "plain", auth: dict[str, Any] | None = None, route: dict[str, Any] | None = None, other_auth: Any = None, **more: Any
    ) -> Daemon:
        table: dict[str, Any] = {"type": "jwt", "issuer": authority.issuer, "private": True}
        if authority.opaque:
            secret = tmp_path / "secret"
            secret.write_text(RESOURCE_SECRET)
            secret.chmod(0o600)
            table |= {"type": "introspection", "client_id": RESOURCE_SERVER, "client_secret": f"file:{secret}"}
        changes = {"auth": "corp", "path": "/mcp", "public_url": PUBLIC} | (route or {})
        more = {"listen": listen(way, certificate)} | more
        return run(upstream.url, auth={"corp": table | (auth or {}), **(other_auth or {})}, route=changes, **more)

    return start


def shown(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def reason(body: bytes) -> str:
    return str(json.loads(body)["error"]["data"]["reason"])


# -- the first request waits --------------------------------------------------------------------------------------------------------------------


def line(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


def test_requests_wait_for_the_keys_however_they_come(serve: Serve, authority: Authority, upstream: ScriptedUpstream) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve()
    token = authority.token()
    whole, pieces, chunked, expects, bare = (daemon.client() for _ in range(5))
    request = post(BODY, extra=line(token))
    whole.send(request)
    pieces.send(request[:-20])
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n" % token.encode()
    chunked.send(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n" % BODY[:5])
    expects.send(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    bare.send(b"GET" + head[4:] + b"\r\n")
    until(lambda: gate.asked, "the question")
    pieces.send(request[-20:])
    chunked.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 5, BODY[5:]))
    assert not upstream.links
    gate.open()
    for client in (whole, pieces, chunked):
        got = client.response(b"POST")
        assert (got.status, got.body) == (200, BODY)
    assert bare.response().status == 200
    expects.send(BODY)
    got = expects.response(b"POST")
    assert (got.status, got.body) == (200, BODY)
    assert gate.asked == 1, "one question for all who wait"
    assert sorted(request.body for request in upstream.requests()) == [b""] + [BODY] * 4
    assert not any(request.all("authorization") for request in upstream.requests())
    assert len(daemon.wait_records(5, principal=MACHINE, status=200)) == 5
    for client in (whole, pieces, chunked, expects, bare):
        client.close()


def test_an_expecting_client_is_told_to_go_on_by_the_server(serve: Serve, authority: Authority, upstream: ScriptedUpstream) -> None:
    """Not by us, and not before it is known who it is."""
    gate = Gate(authority, "/keys")

    def script(link: Any) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert link.read_exact(len(BODY)) == BODY
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.scripts = (script,)
    daemon = serve()
    token = authority.token()
    with daemon.client() as client:
        client.send(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % (token.encode(), len(BODY))
        )
        until(lambda: gate.asked, "the question")
        assert not client.buffer
        gate.open()
        client.read_until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(BODY)
        assert client.response(b"POST").body == b"ok"


def test_streams_wait_side_by_side(serve: Serve, authority: Authority, upstream: ScriptedUpstream, certificate: Certificate) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve("h2")
    fields = [("authorization", f"Bearer {authority.token()}")]
    with H2Client(daemon.client(tls=certificate.client(alpn=("h2",)))) as client:
        whole = client.call("POST", "/mcp", BODY, fields=fields)
        parts = client.call("POST", "/mcp", BODY[:5], fields=fields, ended=False)
        known = client.open(request_fields(fields=fields, length=len(BODY)), ended=False).send(BODY[:7])
        gone = client.call("POST", "/mcp", BODY, fields=fields)
        bare = client.call("GET", "/mcp", fields=fields)
        until(lambda: gate.asked, "the question")
        client.ping()
        parts.send(BODY[5:], ended=True)
        known.send(BODY[7:], ended=True)
        client.send(b"\0\0\4\3\0" + gone.number.to_bytes(4) + (8).to_bytes(4))  # CANCEL
        gone.left = True
        client.ping()
        assert not upstream.links
        gate.open()
        for call in (whole, parts, known):
            assert (call.wait().status, call.body) == (200, BODY)
        assert bare.wait().status == 200
    assert gate.asked == 1
    assert daemon.record(status=499)["end"] == "client-gone"
    assert len(upstream.requests()) == 4


def test_who_leaves_while_the_question_is_open_is_forgotten(serve: Serve, authority: Authority, upstream: ScriptedUpstream) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve()
    token = authority.token()
    closed, reset, half = (daemon.client() for _ in range(3))
    closed.send(post(BODY, extra=line(token)))
    reset.send(post(BODY, extra=line(token)))
    half.send(post(BODY, extra=line(token))[:-5])
    until(lambda: gate.asked, "the question")
    closed.close()
    reset.reset()
    assert len(daemon.wait_records(2, status=499, end="client-gone")) == 2
    gate.open()
    half.send(BODY[-5:])
    assert half.response(b"POST").body == BODY
    half.reset()
    assert len(upstream.requests()) == 1
    with daemon.client() as client:
        assert client.exchange(post(BODY, extra=line(token))).status == 200


def test_a_client_that_leaves_with_half_a_request_is_noticed(serve: Serve, authority: Authority, upstream: ScriptedUpstream) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve()
    client = daemon.client()
    client.send(post(BODY, extra=line(authority.token()))[:-5])
    until(lambda: gate.asked, "the question")
    client.reset()
    gate.open()
    assert daemon.record(status=499)["end"] == "client-gone"
    assert not upstream.requests()


def test_who_is_refused_after_the_question_is_told_at_once(serve: Serve, authority: Authority, upstream: ScriptedUpstream) -> None:
    """With half a request still to come: the answer does not wait for it, and what comes is not taken for another request."""
    gate = Gate(authority, "/keys")
    daemon = serve()
    claims = {"iss": authority.issuer, "sub": "alice", "aud": PUBLIC, "exp": int(time.time()) + 600}
    good = authority.sign(claims)
    forged = good[:-8] + ("AAAAAAAA" if good[-8:] != "AAAAAAAA" else "BBBBBBBB")
    with daemon.client() as half, daemon.client() as whole:
        half.send(post(BODY, extra=line(forged))[:-10])
        whole.send(post(BODY, extra=line(forged)) + post(BODY, extra=line(good)))
        until(lambda: gate.asked, "the question")
        gate.open()
        got = half.response(b"POST")
        assert (got.status, got.first("connection")) == (401, b"close")
        half.try_send(BODY[-10:] + post(BODY, extra=line(good)))
        assert half.read_to_end() == b""
        assert [whole.response(b"POST").status for _ in range(2)] == [401, 200]
    assert len(upstream.requests()) == 1


def test_a_stream_that_is_refused_after_the_question(
    serve: Serve, authority: Authority, upstream: ScriptedUpstream, certificate: Certificate
) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve("h2")
    claims = {"iss": authority.issuer, "sub": "alice", "aud": PUBLIC, "exp": int(time.time()) + 600}
    good = authority.sign(claims)
    forged = good[:-8] + ("AAAAAAAA" if good[-8:] != "AAAAAAAA" else "BBBBBBBB")
    with H2Client(daemon.client(tls=certificate.client(alpn=("h2",)))) as client:
        half = client.call("POST", "/mcp", BODY[:9], fields=[("authorization", f"Bearer {forged}")], ended=False)
        whole = client.call("POST", "/mcp", BODY, fields=[("authorization", f"Bearer {good}")])
        until(lambda: gate.asked, "the question")
        gate.open()
        assert half.wait().status == 401 and half.wait_reset() == 0
        assert whole.wait().status == 200
        for _ in range(40):  # windows: what was refused has been given back
            assert client.call("POST", "/mcp", b"x" * 16_000, fields=[("authorization", f"Bearer {forged}")]).wait().status == 401
        assert client.call("POST", "/mcp", BODY, fields=[("authorization", f"Bearer {good}")]).wait().status == 200
    assert len(upstream.requests()) == 2


def test_the_end_of_the_daemon_does_not_wait_for_an_issuer(serve: Serve, authority: Authority) -> None:
    gate = Gate(authority, "/keys")
    daemon = serve(drain="1s")
    with daemon.client() as client:
        client.send(post(BODY, extra=line(authority.token())))
        until(lambda: gate.asked, "the question")
        daemon.signal(15)
        assert daemon.wait() == 0
        gate.open()
    assert daemon.record(status=499)["end"] == "stopped"


# -- an issuer that is asked about each token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_many_unknown_tokens_on_one_connection(way: str, serve: Serve, authority: Authority, certificate: Certificate) -> None:
    """Each is asked about once, and none is counted against the next."""
    authority.opaque = True
    daemon = serve(way)
    tokens = [authority.token() for _ in range(6)]
    with Talk(daemon, way, certificate) as talk:
        for token in tokens * 2:
            assert talk.ask([shown(token)], body=BODY).status == 200
        assert authority.asked["/introspect"] == 6
        said = talk.ask([shown("not-one-of-them")])
        assert (said.status, reason(said.body)) == (401, "token-inactive")
        assert b'error="invalid_token"' in (said.first("www-authenticate") or b"")


@pytest.mark.parametrize("way", WAYS)
def test_an_issuer_that_is_down_is_a_503_and_no_outage_for_ever(
    way: str, serve: Serve, authority: Authority, certificate: Certificate
) -> None:
    authority.opaque = True
    authority.replaced["/introspect"] = lambda: (500, b"", [])
    daemon = serve(way)
    token = authority.token()
    with Talk(daemon, way, certificate) as talk:
        for _ in range(3):
            said = talk.ask([shown(token)])
            assert (said.status, reason(said.body)) == (503, "issuer-unreachable")
            assert int(said.first("retry-after") or 0) > 0
            assert said.first("www-authenticate") is None, "nothing is wrong with the token: clients must not log in again"
        del authority.replaced["/introspect"]
        until(lambda: talk.ask([shown(token)]).status == 200, "the issuer to be asked again")
    for told in ("tokens cannot be introspected", "can be introspected again"):
        until(lambda told=told: any(told in line for line in daemon.messages), told)  # type: ignore[misc]


def test_keys_that_cannot_be_had_are_a_503_and_no_outage_for_ever(serve: Serve, authority: Authority, certificate: Certificate) -> None:
    authority.replaced["/keys"] = lambda: (500, b"", [])
    daemon = serve()
    token = authority.token()
    with Talk(daemon, "plain", certificate) as talk:
        said = talk.ask([shown(token)])
        assert (said.status, reason(said.body)) == (503, "issuer-unreachable")
        assert int(said.first("retry-after") or 0) > 0
        del authority.replaced["/keys"]
        until(lambda: talk.ask([shown(token)]).status == 200, "the keys to be asked for again", deadline_s=20)


BAD_DAYS: dict[str, tuple[Answer, str]] = {
    "broken": ((500, b"", []), "answered 500"),
    "huge": ((200, b" " * 300_000, []), "too-large"),
    "redirecting": ((302, b"", [("location", "http://169.254.169.254/")]), "redirected"),
    "garbage": ((200, b"\xff<html>", []), "not JSON"),
    "inside": ((200, b"{}", []), "address-refused"),
}


@pytest.mark.parametrize("day", BAD_DAYS)
@pytest.mark.parametrize("way", WAYS)
def test_a_bad_day_of_the_issuer_is_a_503_with_a_message_and_nobody_elses(
    day: str, way: str, serve: Serve, authority: Authority, certificate: Certificate, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Callers whom somebody else knows go on as if nothing was; nothing is asked where a redirect or the metadata point to."""
    replies, message = BAD_DAYS[day]
    authority.replaced["/keys"] = lambda: replies
    if day == "inside":
        metadata = json.dumps({**authority.metadata(), "jwks_uri": "https://169.254.169.254/latest"}).encode()
        authority.replaced["/.well-known/oauth-authorization-server"] = lambda: (200, metadata, [])
    keys = Keys(tmp_path)
    key = keys.add("agent-alpha")
    daemon = serve(way, route={"auth": ["keys", "corp"]}, other_auth={"keys": keys.auth()})
    with Talk(daemon, way, certificate) as talk:
        for _ in range(3):
            said = talk.ask([shown(authority.token())])
            assert (said.status, reason(said.body)) == (503, "issuer-unreachable")
            assert talk.ask([("X-API-Key", key)]).status == 200
    assert len(upstream.requests()) == 3
    assert any("auth.corp: the key set cannot be had" in line and message in line for line in daemon.messages), daemon.messages


def test_an_issuer_that_does_not_get_to_the_point_keeps_only_its_own_callers_waiting(
    serve: Serve, authority: Authority, certificate: Certificate, tmp_path: Path
) -> None:
    gate = Gate(authority, "/keys")
    keys = Keys(tmp_path)
    key = keys.add("agent-alpha")
    daemon = serve(route={"auth": ["keys", "corp"]}, other_auth={"keys": keys.auth()})
    with daemon.client() as waits, Talk(daemon, "plain", certificate) as talk:
        waits.send(post(BODY, extra=line(authority.token())))
        until(lambda: gate.asked, "the question")
        assert [talk.ask([("X-API-Key", key)]).status for _ in range(20)] == [200] * 20
        said = waits.response(b"POST", deadline_s=25)
        assert (said.status, reason(said.body)) == (503, "issuer-unreachable")
    gate.open()
    until(lambda: any("did not answer within" in line for line in daemon.messages), "a warning")


def test_a_revoked_token_works_no_longer_than_its_answer_is_believed(serve: Serve, authority: Authority, certificate: Certificate) -> None:
    authority.opaque = True
    daemon = serve(auth={"cache": "1s"})
    token = authority.token()
    with Talk(daemon, "plain", certificate) as talk:
        for _ in range(3):
            assert talk.ask([shown(token)]).status == 200
        authority.revoke(token)
        until(lambda: talk.ask([shown(token)]).status == 401, "the end of the answer")
        assert reason(talk.ask([shown(token)]).body) == "token-inactive"


# -- tokens that end, keys that change ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_token_that_ends_while_it_is_remembered(way: str, serve: Serve, authority: Authority, certificate: Certificate) -> None:
    daemon = serve(way, auth={"skew": "0s"})
    end = int(time.time()) + 4
    claims = {"iss": authority.issuer, "sub": "alice", "aud": PUBLIC, "iat": end - 60, "exp": end}
    token = authority.sign(claims)
    with Talk(daemon, way, certificate) as talk:
        asked = [talk.ask([shown(token)], body=b"x" * number).status for number in (1, 1, 1, 2, 3)]
        assert asked == [200] * 5 or time.time() > end
        until(lambda: talk.ask([shown(token)], body=b"x").status == 401, "its end")
        assert time.time() >= end
        said = talk.ask([shown(token)], body=b"x")
        assert (said.status, reason(said.body)) == (401, "token-expired")
        challenge = said.first("www-authenticate") or b""
        assert b'error="invalid_token"' in challenge
        assert b'resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/mcp"' in challenge
        fresh = authority.sign({**claims, "exp": end + 600})
        assert talk.ask([shown(fresh)]).status == 200


def test_keys_that_change(serve: Serve, authority: Authority, certificate: Certificate, tmp_path: Path) -> None:
    """A new key counts soon, and one that is not published any more ends what was signed with it, also where it is remembered."""
    file = tmp_path / "jwks.json"

    def publish() -> None:
        file.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in authority.keys]}))

    publish()
    daemon = serve(auth={"jwks": f"file:{file}"})
    claims = {"iss": authority.issuer, "sub": "alice", "aud": PUBLIC, "exp": int(time.time()) + 600}
    old = authority.sign(claims)
    authority.rotate("ES256")
    new = authority.sign(claims)
    with Talk(daemon, "plain", certificate) as talk:
        for _ in range(3):
            assert talk.ask([shown(old)]).status == 200
        said = talk.ask([shown(new)])
        assert (said.status, reason(said.body)) == (401, "token-key-unknown")
        authority.withdraw()
        publish()
        until(lambda: talk.ask([shown(new)]).status == 200, "the new key", deadline_s=25)
        until(lambda: talk.ask([shown(old)]).status == 401, "the end of the old key", deadline_s=45)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aud": "https://other.example/mcp"}, "token-audience"),
        ({"iss": "https://login.example"}, "token-issuer"),
        ({"exp": 1}, "token-expired"),
        ({"nbf": 1 << 33}, "token-not-yet-valid"),
    ],
)
def test_a_token_for_somebody_else(change: dict[str, Any], why: str, serve: Serve, authority: Authority, certificate: Certificate) -> None:
    daemon = serve()
    claims = {"iss": authority.issuer, "sub": "alice", "aud": PUBLIC, "exp": int(time.time()) + 600}
    with Talk(daemon, "plain", certificate) as talk:
        assert talk.ask([shown(authority.sign(claims))]).status == 200
        said = talk.ask([shown(authority.sign({**claims, **change}))])
        assert (said.status, reason(said.body)) == (401, why)


def test_a_scope_that_is_missing_is_named(serve: Serve, authority: Authority, upstream: ScriptedUpstream, certificate: Certificate) -> None:
    daemon = serve(route={"scopes": ["files:read", "files:write"]})
    with Talk(daemon, "plain", certificate) as talk:
        said = talk.ask([shown(authority.token(scope="files:read"))])
        challenge = said.first("www-authenticate") or b""
        assert (said.status, reason(said.body)) == (403, "insufficient-scope")
        assert b'error="insufficient_scope"' in challenge and b'scope="files:read files:write"' in challenge
        assert b"resource_metadata=" in challenge
        missing = talk.ask()
        assert missing.status == 401 and b'scope="files:read files:write"' in (missing.first("www-authenticate") or b"")
        assert not upstream.requests()
        assert talk.ask([shown(authority.token(scope="files:write files:read more"))]).status == 200


# -- how clients find out ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_document_is_there_for_everybody(
    way: str, serve: Serve, authority: Authority, upstream: ScriptedUpstream, certificate: Certificate
) -> None:
    daemon = serve(way, route={"scopes": ["files:read"]})
    with Talk(daemon, way, certificate) as talk:
        for fields in ([], [shown("nonsense")], [("Origin", "https://evil.example")]):
            said = talk.ask(fields, method="GET", path=PLACE)
            assert (said.status, said.first("access-control-allow-origin"), said.first("content-type")) == (200, b"*", b"application/json")
            document = json.loads(said.body)
            assert document["resource"] == PUBLIC
            assert document["authorization_servers"] == [authority.issuer]
            assert document["scopes_supported"] == ["files:read"]
        head = talk.ask(method="HEAD", path=PLACE)
        assert (head.status, head.body, head.first("content-length")) == (200, b"", b"%d" % len(said.body))
        options = talk.ask([("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")], method="OPTIONS", path=PLACE)
        assert (options.status, options.first("access-control-allow-origin")) == (200, b"*")
        assert b"GET" in (options.first("access-control-allow-methods") or b"")
        assert talk.ask(method="POST", path=PLACE).status == 405
        for nowhere in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/other"):
            assert talk.ask(method="GET", path=nowhere).status == 404
        for issuer in ("/.well-known/oauth-authorization-server/mcp", "/.well-known/openid-configuration"):
            assert talk.ask(method="GET", path=issuer).status == 404
    assert not upstream.requests()


def test_the_document_of_a_route_without_a_public_url_names_the_url_that_was_used(
    run: Run, authority: Authority, upstream: ScriptedUpstream
) -> None:
    corp = {"type": "jwt", "issuer": authority.issuer, "private": True, "audience": "urn:files"}
    daemon = run(upstream.url, auth={"corp": corp}, route={"auth": "corp", "path": "/files"})
    with daemon.client() as client:
        for host in ("box.lan:8000", "other.lan"):
            got = client.exchange(f"GET /.well-known/oauth-protected-resource/files HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert json.loads(got.body)["resource"] == f"http://{host}/files"
            refused = client.exchange(post(path="/files", host=host))
            place = f'resource_metadata="http://{host}/.well-known/oauth-protected-resource/files"'
            assert place.encode() in (refused.first("www-authenticate") or b"")


def test_where_only_keys_open_there_is_no_document(run: Run, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.add("agent-alpha")
    daemon = run(upstream.url, auth={"keys": keys.auth()}, route={"auth": "keys", "path": "/mcp"})
    with daemon.client() as client:
        for method in ("GET", "HEAD", "OPTIONS"):
            got = client.exchange(f"{method} {PLACE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert got.status == 404 and got.first("www-authenticate") is None
    assert not upstream.requests()


def test_keys_and_tokens_on_one_route(
    run: Run, upstream: ScriptedUpstream, authority: Authority, tmp_path: Path, certificate: Certificate
) -> None:
    keys = Keys(tmp_path)
    key = keys.add("agent-alpha")
    corp = {"type": "jwt", "issuer": authority.issuer, "private": True}
    daemon = run(
        upstream.url,
        auth={"keys": keys.auth(), "corp": corp},
        route={"auth": ["keys", "corp"], "path": "/mcp", "public_url": PUBLIC, "scopes": ["a"]},
    )
    with Talk(daemon, "plain", certificate) as talk:
        assert talk.ask([shown(key)]).status == 200
        assert talk.ask([shown(authority.token(scope="a"))]).status == 200
        assert talk.ask([shown(authority.token(scope="b"))]).status == 403
        assert talk.ask([shown("mcpp_0123456789_" + "a" * 38)]).status == 401
    assert {record["auth"] for record in daemon.wait_records(2, status=200)} == {"keys", "corp"}
    assert authority.asked["/introspect"] == 0


# -- roles and scopes -----------------------------------------------------------------------------------------------------------------------------

OF_ROLES = {
    "allow": [{"who": "role:ops", "tools": ["deploy"]}, {"who": "scope:files:*", "tools": ["read"]}, {"who": "alice", "tools": ["echo"]}]
}


@pytest.mark.parametrize("way", WAYS)
def test_names_roles_and_scopes_open_tools(way: str, serve: Serve, authority: Authority, certificate: Certificate, tmp_path: Path) -> None:
    """A name and roles from claims of a token, its scopes; the roles of a key, and those of everybody who is known in one way."""
    keys = Keys(tmp_path)
    shows = {
        "a key with the role": [("X-API-Key", keys.add("agent-alpha", "ops"))],
        "a key without": [("X-API-Key", keys.add("alice"))],
    }
    for name, claims in {
        "a token with the role": {"realm_access": {"roles": ["x", "ops"]}},
        "a token with a role like it": {"realm_access": {"roles": ["ops2"]}, "roles": ["ops"], "role": "ops"},
        "a token with the scope": {"scope": "x files:read"},
        "a token with a scope like it": {"scope": "file files"},
        "a token with the name": {"email": "alice"},
    }.items():
        whole = {"iss": authority.issuer, "sub": "somebody", "email": "other", "aud": PUBLIC, "exp": int(time.time()) + 600, **claims}
        shows[name] = [shown(authority.sign(whole))]
    daemon = serve(
        way,
        auth={"roles_claim": "realm_access.roles", "name_claim": "email"},
        route={"auth": ["keys", "corp"], "tools": OF_ROLES},
        other_auth={"keys": keys.auth()},
    )
    opened: dict[str, list[str]] = {}
    with Talk(daemon, way, certificate) as talk:
        for _ in range(3):  # judged, then known
            for name, fields in shows.items():
                asked = {tool: talk.ask(fields, body=BODY.replace(b"add", tool.encode())).status for tool in ("deploy", "read", "echo")}
                assert set(asked.values()) <= {200, 403}
                opened[name] = [tool for tool, status in asked.items() if status == 200]
    assert opened == {
        "a key with the role": ["deploy"],
        "a key without": ["echo"],
        "a token with the role": ["deploy"],
        "a token with a role like it": [],
        "a token with the scope": ["read"],
        "a token with a scope like it": [],
        "a token with the name": ["echo"],
    }


# -- tokens that somebody makes up ----------------------------------------------------------------------------------------------------------------


def counted(daemon: Daemon) -> Any:
    """`failed_credentials`, as SIGUSR1 tells it."""
    before = len(daemon.messages)
    daemon.signal(signal.SIGUSR1)
    [line] = until(lambda: [each for each in daemon.messages[before:] if "failed_credentials" in each], "the counts")
    return json.loads(line[line.index("{") :])["failed_credentials"]


def made_up(authority: Authority, token: str, number: int) -> str:
    if authority.opaque:
        return f"made-up-{number}"
    return token[:-20] + f"{number:08d}" + token[-12:]  # of the signature


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_flood_of_made_up_tokens_costs_little_and_hurts_nobody_else(
    way: str, opaque: bool, serve: Serve, authority: Authority, upstream: ScriptedUpstream, certificate: Certificate
) -> None:
    """The known caller at the same address is served, and the neighbour."""
    authority.opaque = opaque
    where = listen(way, certificate) | {"trusted_proxies": ["127.0.0.1"]}
    daemon = serve(way, listen=where, limits={"failed_credentials": "1/h burst 9"})
    known, other = authority.token(), authority.token()
    here, there = ("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2")
    with Talk(daemon, way, certificate) as talk:
        assert talk.ask([shown(known), here]).status == 200
        answers = [talk.ask([shown(made_up(authority, other, number)), here]) for number in range(40)]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 30
        assert reason(answers[-1].body) == "too-many-failed-credentials"
        assert 3500 < int(answers[-1].first("retry-after") or b"0") <= 3600
        for path_of_the_known in ("", "?a=1", "?a=2"):  # also with another head
            assert talk.ask([shown(known), here], path="/mcp" + path_of_the_known).status == 200
        assert talk.ask([shown(other), here]).status == 429
        assert talk.ask([shown(other), there]).status == 200
        assert talk.ask([shown(other), here]).status == 200, "now it is known"
        assert talk.ask([shown(made_up(authority, other, 99)), there]).status == 401
    assert counted(daemon) == {"verified": 11, "unseen": 31}
    assert authority.asked["/introspect"] == (13 if opaque else 0)
    assert len(upstream.requests()) == 6
    assert len(until(lambda: [each for each in daemon.messages if "were answered 429" in each], "a warning")) == 1


def test_made_up_tokens_that_keep_the_issuer_busy_keep_nobody_else_out(serve: Serve, authority: Authority) -> None:
    """A token that was good is asked about again in time, while one address has all the questions open that it may have."""
    authority.opaque = True
    truth, opened, lies, again = authority.answer, threading.Event(), [0], [0]

    def hangs(request: Any) -> Answer:
        if b"made-up" in request.body:
            lies[0] += 1
            opened.wait(20)
        elif request.url.endswith("/introspect"):
            again[0] += 1
        return truth(request)

    authority.answer = hangs  # type: ignore[method-assign]
    daemon = serve(listen=listen("plain", None) | {"trusted_proxies": ["127.0.0.1"]}, auth={"cache": "1s"})  # type: ignore[arg-type]
    known, other = authority.token(), authority.token()
    there = ("X-Forwarded-For", "192.0.2.2")
    with Talk(daemon, "plain", None) as talk, speak(daemon) as flood:  # type: ignore[arg-type]
        assert talk.ask([shown(known), there]).status == 200
        for number in range(80):
            fields = [("authorization", f"Bearer made-up-{number}"), ("x-forwarded-for", "192.0.2.1")]
            flood.open(request_fields("POST", "/mcp", fields=fields, length=0))
        flood.ping()
        until(lambda: lies[0] == 32, "as many as may be on their way")
        waits = threading.Thread(target=lambda: answers.append(talk_too.ask([shown(other), there], deadline_s=30).status))
        answers: list[int] = []
        with Talk(daemon, "plain", None) as talk_too:  # type: ignore[arg-type]
            waits.start()
            asked = again[0]
            until(lambda: talk.ask([shown(known), there]).status == 200 and again[0] >= asked + 2, "it is asked about again")
            assert lies[0] == 32
            opened.set()
            waits.join()
        assert answers == [200], "a new one from elsewhere waits its turn"


@pytest.mark.parametrize("way", WAYS)
def test_the_address_is_the_connections_where_no_proxy_is_trusted(
    way: str, serve: Serve, authority: Authority, certificate: Certificate
) -> None:
    daemon = serve(way, limits={"failed_credentials": "1/h burst 2"})
    known = authority.token()
    with Talk(daemon, way, certificate) as talk:
        answers = [talk.ask([shown(made_up(authority, known, number)), ("X-Forwarded-For", f"192.0.2.{number}")]) for number in range(9)]
    with Talk(daemon, way, certificate) as talk:
        assert talk.ask([shown(known)]).status == 429
    assert [answer.status for answer in answers] == [401] * 3 + [429] * 6
