"""What the server is shown instead of the caller's credential: ours, tokens for each caller, signatures, and who calls."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jwt
import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from tests.scenarios.conftest import Run
from tests.support.authorization import MACHINE, MACHINE_SECRET, RESOURCE_SECRET, RESOURCE_SERVER, Authority
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.h2 import Code
from tests.support.keys import Keys
from tests.support.message import Message
from tests.support.talk import WAYS, Talk, listen
from tests.support.upstream import ScriptedUpstream, answer, response
from tests.support.waiting import until

PUBLIC, RESOURCE = "https://mcp.example/mcp", "http://files.example/mcp"


class House:
    """A route with keys and tokens, an upstream that is shown something else."""

    def __init__(self, run: Run, tmp_path: Path, way: str, certificate: Certificate, authority: Authority) -> None:
        self.run, self.directory, self.way, self.certificate, self.authority = run, tmp_path, way, certificate, authority
        self.keys = Keys(tmp_path)
        self.key = self.keys.add("agent-alpha", "ops")
        self.daemon: Daemon

    def secret(self, name: str, text: str) -> str:
        file = self.directory / name
        file.write_text(text)
        file.chmod(0o600)
        return f"file:{file}"

    def serve(self, upstream: ScriptedUpstream, keys: dict[str, Any] | None = None, **table: Any) -> Talk:
        corp = {"type": "jwt", "issuer": self.authority.issuer, "private": True}
        route = {"auth": ["keys", "corp"], "path": "/mcp", "public_url": PUBLIC}
        self.daemon = self.run(
            upstream.url,
            listen=listen(self.way, self.certificate),
            auth={"keys": self.keys.auth() | (keys or {}), "corp": corp},
            route=route,
            upstream=table,
        )
        return Talk(self.daemon, self.way, self.certificate)

    def client(self, **more: Any) -> dict[str, Any]:
        """The credential table for tokens of our own."""
        return {
            "type": "client-credentials",
            "token_url": f"{self.authority.issuer}/token",
            "client_id": MACHINE,
            "client_secret": self.secret("machine", MACHINE_SECRET),
            "resource": RESOURCE,
            "private": True,
            **more,
        }

    def exchange(self, **more: Any) -> dict[str, Any]:
        return self.client(type="token-exchange", client_id=RESOURCE_SERVER, client_secret=self.secret("exchange", RESOURCE_SECRET), **more)


@pytest.fixture(params=WAYS)
def house(request: pytest.FixtureRequest, run: Run, tmp_path: Path, certificate: Certificate) -> Iterator[House]:
    with Authority(None, audience=PUBLIC) as authority:
        yield House(run, tmp_path, request.param, certificate, authority)


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def tokens(upstream: ScriptedUpstream) -> list[str]:
    shown = []
    for request in upstream.requests():
        [value] = request.all("authorization")
        shown.append(value.decode().removeprefix("Bearer "))
    return shown


def reason(body: bytes) -> str:
    return str(json.loads(body)["error"]["data"]["reason"])


# -- a fixed field ----------------------------------------------------------------------------------------------------------------------------


def test_a_field_of_ours_stands_in_for_the_callers(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream:
        credential = {"type": "header", "value": house.secret("value", "Bearer ours")}
        with house.serve(upstream, credential=credential) as talk:
            for number in range(4):
                assert talk.ask([("X-API-Key", house.key)], body=b"x" * number).status == 200
                assert talk.ask([bearer(house.key)], body=b"x" * number).status == 200
        assert tokens(upstream) == ["ours"] * 8
        assert all(house.key.encode() not in link.received for link in upstream.links)


def test_another_field_of_ours_cannot_be_said_by_the_caller(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream:
        credential = {"type": "header", "header": "X-Backend-Key", "value": house.secret("value", "ours")}
        with house.serve(upstream, credential=credential) as talk:
            lies = [("X-Backend-Key", "theirs"), ("x-bACKEND-kEY", "theirs"), ("X_Backend_Key", "theirs")]
            for _ in range(3):
                assert talk.ask([bearer(house.key), *lies]).status == 200
        for request in upstream.requests():
            assert request.all("x-backend-key") == [b"ours"] and not request.all("authorization") and not request.all("x_backend_key")


def test_passthrough_is_said_and_then_done(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential={"type": "passthrough"}) as talk:
        token = house.authority.token()
        assert talk.ask([bearer(token)]).status == 200
        assert tokens(upstream) == [token]


def test_secrets_that_are_replaced_are_shown_without_a_restart(house: House) -> None:
    """A field, which is part of what is remembered of heads, and keys that sign, which are three files."""
    with ScriptedUpstream(answer()) as upstream:
        credential = {"type": "header", "value": house.secret("value", "Bearer old")}
        with house.serve(upstream, credential=credential) as talk:
            for _ in range(3):
                assert talk.ask([bearer(house.key)]).status == 200
            assert set(tokens(upstream)) == {"old"}
            house.secret("value", "Bearer another")
            until(lambda: talk.ask([bearer(house.key)]).status == 200 and tokens(upstream)[-1] == "another", "the other one")
            assert talk.ask([("X-API-Key", house.key)], path="/mcp?new").status == 200
            assert tokens(upstream)[-1] == "another"
        assert set(tokens(upstream)) == {"old", "another"}
    house.daemon.stop()
    aws = {
        "type": "sigv4",
        "region": "eu-central-1",
        "service": "x",
        **{name: house.secret(name, f"OLD{name}") for name in ("access_key", "secret_key", "session_token")},
    }
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=aws) as talk:
        assert talk.ask([bearer(house.key)]).status == 200
        for name in ("access_key", "secret_key", "session_token"):
            house.secret(name, f"NEW{name}")

        def session() -> list[bytes]:
            assert talk.ask([bearer(house.key)]).status == 200
            return upstream.requests()[-1].all("x-amz-security-token")

        until(lambda: session() == [b"NEWsession_token"], "the new keys")
        assert b"Credential=NEWaccess_key/" in upstream.requests()[-1].all("authorization")[0]


TRAILERS = {
    "principal_header": ("X-Caller", {"principal_header": "X-Caller"}),
    "identity": ("X-Who", {"identity": {"header": "X-Who"}}),
    "credential": ("X-Backend-Key", {"credential": {"type": "header", "header": "X-Backend-Key", "value": "env:HOME"}}),
    "a key": ("X-Agent-Key", {}),
    "a key that passes": ("X-Agent-Key", {"credential": {"type": "passthrough"}}),
}


@pytest.mark.parametrize("which", TRAILERS)
def test_who_calls_cannot_be_said_behind_the_body(which: str, house: House) -> None:
    """Some servers merge trailers into the head."""
    name, table = TRAILERS[which]
    with ScriptedUpstream(answer()) as upstream:
        with house.serve(upstream, keys={"headers": ["X-Agent-Key"]}, **table) as talk:
            for trailers, passes in (
                ([("x-sum", "1")], True),
                ([("x-sum", "1"), (name, "admin")], False),
                ([(name.upper(), "admin")], False),
            ):
                if talk.h2 is not None:
                    lowered = [(name.lower(), value) for name, value in trailers]
                    call = talk.h2.call("POST", "/mcp", b"{}", fields=[("x-agent-key", house.key)], ended=False).end(lowered)
                    assert call.wait().status == 200 if passes else call.wait_reset() == Code.PROTOCOL_ERROR
                else:
                    talk.raw.send(
                        f"POST /mcp HTTP/1.1\r\nHost: a\r\nX-Agent-Key: {house.key}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                    )
                    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
                    talk.raw.send(f"2\r\n{{}}\r\n0\r\n{lines}\r\n".encode())
                    got = talk.raw.response(b"POST")
                    assert got.status == (200 if passes else 400)
                    if not passes:
                        assert reason(got.body) == "bad-trailer"
                        talk.reconnect()
            assert [request.trailers[0][1] for request in upstream.requests()] == [b"1"]
        assert not any(b"admin" in link.received for link in upstream.links)
    refused = house.daemon.wait_records(2, end="refused")
    assert len(refused) == 2


# -- tokens of our own ----------------------------------------------------------------------------------------------------------------------------


def test_a_token_of_our_own_is_fetched_once(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=house.client()) as talk:
        for number in range(6):
            assert talk.ask([bearer(house.key)], body=b"x" * (number // 2)).status == 200
        shown = tokens(upstream)
        assert len(set(shown)) == 1 and house.authority.asked["/token"] == 1
        claims = house.authority.tokens[shown[0]].claims
        assert (claims["aud"], claims["sub"]) == (RESOURCE, MACHINE)


def test_a_token_that_the_server_refuses_is_fetched_anew(house: House) -> None:
    """As soon as it is old enough that another one could do better."""
    refused: set[bytes] = set()

    def script(request: Message) -> bytes:
        [shown] = request.all("authorization")
        return response(b"{}", status="401 Unauthorized") if shown in refused else response()

    with ScriptedUpstream(answer(script)) as upstream, house.serve(upstream, credential=house.client()) as talk:
        assert talk.ask([bearer(house.key)]).status == 200
        refused.add(upstream.requests()[-1].all("authorization")[0])
        assert talk.ask([bearer(house.key)]).status == 401, "the server's own answer"
        until(lambda: talk.ask([bearer(house.key)]).status == 200, "a new token", deadline_s=20)
        assert len(set(tokens(upstream))) == 2 == house.authority.asked["/token"]


@pytest.mark.parametrize(("status", "kind"), [(500, 503), (401, 502)])
def test_where_there_is_no_token_nothing_goes_on(status: int, kind: int, house: House) -> None:
    house.authority.replaced["/token"] = lambda: (status, b'{"error": "invalid_client"}', [])
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=house.client()) as talk:
        for _ in range(3):
            said = talk.ask([bearer(house.key)])
            assert said.status == kind and reason(said.body).startswith("upstream-credential-")
            assert said.first("www-authenticate") is None
        assert not upstream.links, "and the caller's credential stands in for nothing"
        if status == 500:
            del house.authority.replaced["/token"]
            until(lambda: talk.ask([bearer(house.key)]).status == 200, "a token", deadline_s=20)
            assert house.key not in tokens(upstream)
    assert MACHINE_SECRET not in "".join(house.daemon.messages)


# -- a token for each caller ------------------------------------------------------------------------------------------------------------------------


def test_each_caller_has_a_token_of_his_own(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=house.exchange()) as talk:
        first, second = house.authority.token(), house.authority.token()
        before = house.authority.asked["/token"]
        for _ in range(3):
            for token in (first, second):
                assert talk.ask([bearer(token)]).status == 200
        shown = tokens(upstream)
        assert shown == shown[:2] * 3 and len({first, second, *shown}) == 4
        assert house.authority.asked["/token"] == before + 2
        assert {house.authority.tokens[token].claims["aud"] for token in shown} == {RESOURCE}
        said = talk.ask([bearer(house.key)])
        assert (said.status, reason(said.body)) == (403, "exchange-needs-token")


def test_where_nothing_is_exchanged_nothing_goes_on(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=house.exchange()) as talk:
        token = house.authority.token()
        house.authority.replaced["/token"] = lambda: (503, b"", [])
        for _ in range(2):
            assert talk.ask([bearer(token)]).status == 503
        assert not upstream.links


# -- signatures ----------------------------------------------------------------------------------------------------------------------------------

ACCESS, SECRET, REGION, SERVICE = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-west-1", "bedrock-agentcore"
SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)


def signed_by_botocore(request: Message, origin: str) -> str:
    """The signature that botocore makes for what arrived."""
    found = SIGNED.fullmatch(request.all("authorization")[0].decode())
    assert found is not None
    assert (found[1], found[2], found[3]) == (ACCESS, REGION, SERVICE)
    names = found[4].split(";")
    fields = {name: b",".join(request.all(name)).decode() for name in names if name not in ("x-amz-date", "host")}
    made = AWSRequest(request.method.decode(), origin + request.target.decode(), data=request.body, headers=fields)
    made.headers["host"] = (request.first("host") or b"").decode()
    date = (request.first("x-amz-date") or b"").decode()
    with patch("botocore.auth.get_current_datetime", lambda *_, **__: datetime.strptime(date, "%Y%m%dT%H%M%SZ")):
        SigV4Auth(Credentials(ACCESS, SECRET), SERVICE, REGION).add_auth(made)
    return str(made.headers["Authorization"]).rpartition("Signature=")[2]


def test_requests_are_signed_as_they_arrive(house: House) -> None:
    credential = {
        "type": "sigv4",
        "region": REGION,
        "service": SERVICE,
        "access_key": house.secret("access", ACCESS),
        "secret_key": house.secret("secret", SECRET),
    }
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=credential) as talk:
        lies = [("X-Amz-Date", "20200101T000000Z"), ("X-Amz-Security-Token", "theirs"), ("x-amz-content-sha256", "0" * 64)]
        for body in (b'{"a":1}', b'{"b":2}', b"", b"x" * 15_000):
            assert talk.ask([bearer(house.key), *lies], body=body, path="/mcp/a%20b?q=%C3%A4&p=").status == 200
        assert talk.ask([bearer(house.key)], method="GET").status == 200
        for request in upstream.requests():
            assert len(request.all("x-amz-date")) == 1 and request.first("x-amz-date") != b"20200101T000000Z"
            assert not request.all("x-amz-security-token")
            found = SIGNED.fullmatch(request.all("authorization")[0].decode())
            assert found is not None and found[5] == signed_by_botocore(request, upstream.url), request.start
    assert SECRET not in "".join(house.daemon.messages) and SECRET not in json.dumps(house.daemon.records)


# -- who calls --------------------------------------------------------------------------------------------------------------------------------------


def test_the_statement_who_calls_can_be_checked(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream:
        identity = {"header": "X-Who", "audience": "files", "issuer": "the-edge"}
        with house.serve(upstream, identity=identity) as talk:
            for fields in ([bearer(house.key)], [bearer(house.authority.token(scope="a b"))]):
                for _ in range(3):
                    assert talk.ask([*fields, ("X-Who", "eyJ.lie.x")]).status == 200
            published = talk.ask(method="GET", path="/.well-known/mcpproxy-jwks.json")
            assert published.status == 200
        [key] = jwt.PyJWKSet.from_json(published.body.decode()).keys
        said = [
            jwt.decode(request.all("x-who")[0], key, algorithms=["EdDSA"], audience="files", issuer="the-edge")
            for request in upstream.requests()
        ]
        assert [each["sub"] for each in said] == ["agent-alpha"] * 3 + [MACHINE] * 3
        assert (said[0]["auth"], said[0]["roles"], said[3]["auth"], said[3]["scope"]) == ("keys", ["ops"], "corp", "a b")
        assert not any(request.all("authorization") for request in upstream.requests())


def test_statement_and_token_together(house: House) -> None:
    with ScriptedUpstream(answer()) as upstream, house.serve(upstream, credential=house.client(), identity={}) as talk:
        for _ in range(3):
            assert talk.ask([bearer(house.key)]).status == 200
        assert all(len(request.all("x-mcp-identity")) == 1 for request in upstream.requests())
        assert len(set(tokens(upstream))) == 1
