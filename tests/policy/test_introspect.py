"""Tokens only the issuer can read: asked once, believed for a while, never for longer than they last."""

import asyncio
import base64
import json
from urllib.parse import parse_qs

import pytest

from mcpproxy.net.fetch import FetchError, Response
from mcpproxy.policy import introspect as module
from mcpproxy.policy.apikey import new_key
from mcpproxy.policy.bearer import LONGEST
from mcpproxy.policy.buckets import Buckets
from mcpproxy.policy.failures import Failures
from mcpproxy.policy.introspect import FLYING, NO_S, UNREACHED_S, WAITING, Introspected, Introspection, basic
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Refused
from mcpproxy.units import Rate
from tests.policy.minting import ISSUER, NOW, RESOURCE, Said, bearer, good, settings

ENDPOINT = "https://login.example/introspect"


class Gate:
    """An authenticator, its issuer, and the issuer's answer."""

    def __init__(self, **given):
        given = {"type": "introspection", "introspection": ENDPOINT, "client_id": "mcp proxy", **given}
        self.said = Said()
        self.now = NOW
        self.answer = Response(200, json.dumps({"active": True, **good()}).encode())
        self.asked = []
        self.gate = None
        self.auth = settings(**given)
        self.source = Introspection("corp", self.auth, "s3:c%ret", self.fetch, self.said, now=lambda: self.now)
        self.introspected = Introspected("corp", self.auth, (RESOURCE,), self.source)

    async def fetch(self, url, *, method="GET", body=None, headers=()):
        self.asked.append((url, method, body, dict(headers)))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def says(self, **claims):
        self.answer = Response(200, json.dumps({"active": True, **good(**claims)}).encode())

    def judge(self, token=b"opaque", now=None, payer=None):
        return self.introspected.judge(bearer(token), self.now if now is None else now, payer)

    async def settle(self, token=b"opaque", payer=None):
        """As the edge does: ask what is to be asked, once, and judge again."""
        judged = self.judge(token, payer=payer)
        if isinstance(judged, Ask):
            await judged.question.ask()
            judged = self.judge(token, payer=payer)
        return judged

    async def kind(self, token=b"opaque"):
        judged = await self.settle(token)
        return judged.kind if isinstance(judged, Refused) else type(judged).__name__


@pytest.fixture
def gate():
    return Gate()


async def test_the_issuer_is_asked_as_rfc_7662_says(gate):
    judged = await gate.settle(b"abc.def~+/==")
    assert isinstance(judged, Accepted)
    assert ("alice", {"files:read", "mail"}) == (judged.principal.name, judged.principal.scopes)
    [(url, method, body, headers)] = gate.asked
    assert (ENDPOINT, "POST") == (url, method)
    assert {"token": ["abc.def~+/=="], "token_type_hint": ["access_token"]} == parse_qs(body.decode())
    assert "application/x-www-form-urlencoded" == headers["Content-Type"]
    assert "mcp%20proxy:s3%3Ac%25ret" == base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()


def test_odd_characters_in_our_secret_are_form_encoded():
    assert basic("a b~-_.", "c:d") == "Basic " + base64.b64encode(b"a%20b~-_.:c%3Ad").decode()


async def test_an_answer_is_believed_for_a_while(gate):
    assert NOW + 60 == (await gate.settle()).until
    gate.now = NOW + 59
    assert "Accepted" == await gate.kind()
    assert 1 == len(gate.asked)
    gate.now = NOW + 60
    gate.answer = Response(200, b'{"active":false}')
    assert "token-inactive" == await gate.kind(), "revoked meanwhile"
    assert 2 == len(gate.asked)


async def test_never_past_the_tokens_own_end(gate):
    gate.says(exp=NOW + 10)
    assert NOW + 40 == (await gate.settle()).until
    gate.now = NOW + 40
    assert "token-expired" == await gate.kind()


async def test_no_is_believed_shortly(gate):
    gate.answer = Response(200, b'{"active":false}')
    assert "token-inactive" == await gate.kind()
    gate.says()
    gate.now = NOW + NO_S - 1
    assert "token-inactive" == await gate.kind()
    gate.now = NOW + NO_S
    assert "Accepted" == await gate.kind()
    assert 2 == len(gate.asked)


async def test_the_edges_clock_may_be_behind(gate):
    gate.now = NOW + 0.5
    await gate.settle()
    assert isinstance(gate.judge(now=NOW), Accepted)
    gate.answer = FetchError("timeout", "")
    await gate.settle(b"other")
    assert "issuer-unreachable" == gate.judge(b"other", NOW).kind, "not a question for ever"


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ({"aud": "https://other.example/mcp"}, "token-audience"),
        ({"aud": None}, "token-audience"),
        ({"iss": "https://evil.example"}, "token-issuer"),
        ({"exp": NOW - 60}, "token-expired"),
        ({"nbf": NOW + 60}, "token-not-yet-valid"),
        ({"sub": None}, "token-claims"),
        ({"cnf": {"jkt": "x"}}, "token-bound"),
        ({"token_type": "DPoP"}, "token-type"),
        ({"token_type": "refresh_token"}, "token-type"),
        ({"token_type": ["Bearer"]}, "token-type"),
        ({"iss": None, "exp": None, "token_type": "Bearer"}, "Accepted"),
        ({"token_type": "access_token"}, "Accepted"),
    ],
)
async def test_what_the_issuer_says_is_judged(gate, claims, kind):
    gate.says(**claims)
    assert kind == await gate.kind()


@pytest.mark.parametrize(
    "answer",
    [
        FetchError("timeout", "slow"),
        FetchError("address-refused", "inside"),
        FetchError("redirected", "elsewhere"),
        FetchError("too-large", "huge"),
        Response(401, b"{}"),
        Response(500, b'{"active":true}'),
        Response(200, b"<html>"),
        Response(200, b"[]"),
        Response(200, b"{}"),
        Response(200, b'{"active":"true"}'),
        Response(200, b'{"active":1}'),
        Response(200, b"[" * 50_000),
    ],
)
async def test_an_issuer_that_cannot_be_asked(gate, answer):
    gate.answer = answer
    judged = await gate.settle()
    assert ("issuer-unreachable", 503) == (judged.kind, judged.status)
    await gate.settle()
    assert 1 == len(gate.asked), "not again at once"
    assert [("warning", True)] == [(level, text.startswith("auth.corp: tokens cannot be introspected")) for level, text in gate.said.lines]
    await gate.settle(b"another")
    assert 1 == len(gate.said.lines), "said once"
    gate.says()
    gate.now = NOW + UNREACHED_S
    assert "Accepted" == await gate.kind()
    assert "info" == gate.said.lines[-1][0]


async def test_an_answer_that_has_grown_old_does_not_serve_while_the_issuer_is_down(gate):
    await gate.settle()
    gate.answer = FetchError("timeout", "slow")
    gate.now = NOW + 61
    assert "issuer-unreachable" == await gate.kind()


async def test_one_token_is_asked_about_once_and_one_who_waits_may_leave(gate):
    gate.gate = asyncio.Event()
    judged = [gate.judge() for _ in range(5)]
    assert 1 == len({each.question.about for each in judged})
    assert b"opaque" not in judged[0].question.about.encode(), "what names a question may be logged"
    asking = [asyncio.create_task(each.question.ask()) for each in judged]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    gate.gate.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert "Accepted" == await gate.kind()
    assert 1 == len(gate.asked)


async def test_a_flood_of_tokens_does_not_drown_the_issuer(gate):
    gate.gate = asyncio.Event()
    judged = [gate.judge(b"token%d" % number) for number in range(WAITING)]
    asking = [asyncio.create_task(each.question.ask()) for each in judged]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert FLYING == len(gate.asked)
    assert 503 == gate.judge(b"one-more").status
    assert isinstance(gate.judge(b"token1"), Ask), "one can wait for what is on its way"
    gate.gate.set()
    await asyncio.gather(*asking)
    assert WAITING == len(gate.asked)
    assert isinstance(gate.judge(b"one-more"), Ask)


async def test_what_was_good_does_not_wait_behind_what_is_made_up(gate):
    assert isinstance(await gate.settle(b"mine"), Accepted)
    gate.now += 61
    gate.gate = asyncio.Event()
    flood = [asyncio.create_task(gate.judge(b"token%d" % number).question.ask()) for number in range(WAITING)]
    await asyncio.sleep(0)
    mine = gate.judge(b"mine")
    assert isinstance(mine, Ask)
    flood.append(asyncio.create_task(mine.question.ask()))
    for _ in range(3):
        await asyncio.sleep(0)
    assert FLYING + 2 == len(gate.asked), "it is on its way at once"
    gate.gate.set()
    await asyncio.gather(*flood)


INACTIVE = Response(200, b'{"active":false}')


async def test_vain_questions_are_paid_for_and_beyond_the_budget_nobody_is_asked(gate):
    account = Failures(Rate(1, 10.0, burst=4), Buckets()).payer(b"\x7f\0\0\1")
    assert isinstance(await gate.settle(b"mine", account), Accepted)
    gate.answer = INACTIVE
    kinds = [(await gate.settle(b"made-up-%d" % number, account)).kind for number in range(40)]
    assert kinds == ["token-inactive"] * 5 + ["too-many-failed-credentials"] * 35
    assert len(gate.asked) == 6
    gate.says()
    gate.now += 9
    assert (await gate.settle(b"new", account)).status == 429
    gate.now += 51
    assert isinstance(gate.judge(b"mine", payer=account), Ask), "it is time to ask again"
    gate.now -= 51
    for number in range(5):
        gate.now += 10
        assert isinstance(await gate.settle(b"new-%d" % number, account), Accepted), "what is good costs nothing"


async def test_a_token_that_was_good_is_asked_about_again_from_a_flooded_address(gate):
    account = Failures(Rate(1, 3600.0), Buckets()).payer(b"\x7f\0\0\1")
    assert isinstance(await gate.settle(b"mine", account), Accepted)
    gate.answer = INACTIVE
    assert (await gate.settle(b"made-up", account)).kind == "token-inactive"
    assert (await gate.settle(b"another", account)).status == 429
    gate.says()
    gate.now += 61
    assert isinstance(await gate.settle(b"mine", account), Accepted)
    assert (await gate.settle(b"another", account)).status == 429


@pytest.mark.parametrize("said", [FetchError("timeout", "slow"), Response(200, json.dumps({"active": True, **good()}).encode())])
async def test_questions_on_their_way_are_paid_for_until_they_turn_out_good_or_unanswered(gate, said):
    failures = Failures(Rate(1, 3600.0, burst=9), Buckets())
    account = failures.payer(b"\x7f\0\0\1")
    gate.gate, gate.answer = asyncio.Event(), said
    asking = [asyncio.create_task(gate.judge(b"token%d" % number, payer=account).question.ask()) for number in range(10)]
    await asyncio.sleep(0)
    assert (failures.failed, gate.judge(b"one-more", payer=account).status) == (10, 429)
    assert isinstance(gate.judge(b"token1", payer=account), Ask), "one can wait for what is on its way"
    gate.gate.set()
    await asyncio.gather(*asking)
    assert failures.failed == 0
    assert isinstance(gate.judge(b"one-more", payer=account), Ask)


async def test_what_is_remembered_is_bounded_and_made_up_tokens_push_nothing_out(gate, monkeypatch):
    monkeypatch.setattr(module, "ANSWERS", 8)
    assert "Accepted" == await gate.kind(b"mine")
    gate.answer = Response(200, b'{"active":false}')
    for number in range(50):
        assert "token-inactive" == await gate.kind(b"made-up-%d" % number)
    assert 8 == len(gate.source._inactive)
    assert "Accepted" == await gate.kind(b"mine")
    gate.says()
    for number in range(50):
        assert "Accepted" == await gate.kind(b"good-%d" % number)
    assert 8 == len(gate.source._active)


@pytest.mark.parametrize("token", [b"", b"a b", b"a\r\nb", b"\xff", b'a"b', b"a=b", b"a,b"])
async def test_what_is_no_token_asks_nobody(gate, token):
    assert "token-malformed" == await gate.kind(token)
    assert [] == gate.asked


async def test_our_own_keys_are_not_told_to_the_issuer(gate):
    assert gate.judge(new_key().text.encode()) is None
    assert gate.judge(b"mcpp_mistyped") is None


async def test_what_is_too_large_asks_nobody(gate):
    assert "token-too-large" == await gate.kind(b"a" * (LONGEST + 1))
    assert gate.introspected.judge(Credential("key", b"opaque", b"x-api-key"), NOW) is None


async def test_the_endpoint_comes_from_the_issuers_metadata():
    gate = Gate(introspection=None)
    answer = gate.answer
    metadata = {"issuer": ISSUER, "introspection_endpoint": "https://login.example/elsewhere"}

    async def fetch(url, *, method="GET", body=None, headers=()):
        gate.asked.append(url)
        return Response(200, json.dumps(metadata).encode()) if "well-known" in url else answer

    gate.source = Introspection("corp", gate.auth, "s", fetch, gate.said, now=lambda: NOW)
    gate.introspected = Introspected("corp", gate.auth, (RESOURCE,), gate.source)
    assert "Accepted" == await gate.kind()
    assert "https://login.example/elsewhere" == gate.asked[-1]
    del metadata["introspection_endpoint"]
    gate.source = Introspection("corp", gate.auth, "s", fetch, gate.said, now=lambda: NOW)
    gate.introspected = Introspected("corp", gate.auth, (RESOURCE,), gate.source)
    assert "issuer-unreachable" == await gate.kind()
    assert "name no introspection endpoint" in gate.said.lines[0][1]


async def test_the_issuer_is_asked_with_the_secret_of_now(gate):
    await gate.settle(b"one")
    gate.source.renew("another")
    await gate.settle(b"two")
    shown = [base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode() for _, _, _, headers in gate.asked]
    assert shown == ["mcp%20proxy:s3%3Ac%25ret", "mcp%20proxy:another"]
