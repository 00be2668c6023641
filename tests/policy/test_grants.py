"""Tokens for upstreams: asked for once, renewed before anybody waits, gone when they are refused; and the bad days of those who grant them."""

import asyncio
import base64
import json
from urllib.parse import parse_qs

import pytest

from mcpproxy.config.policies import Credential
from mcpproxy.errors import ProxyError
from mcpproxy.net.fetch import FetchError, Response
from mcpproxy.policy.grants import (
    ACCESS_TOKEN,
    COOL_S,
    EXCHANGE,
    KEPT,
    LONGEST,
    REFUSED_S,
    UNREACHED_S,
    UNSAID_S,
    Grants,
)
from mcpproxy.policy.verdict import Ask
from tests.policy.minting import NOW, Said

ENDPOINT = "https://login.example/token"
SECRET = "s3:c%ret"
CALLER = b"token.of.alice"


class Desk:
    """Grants, the endpoint, and the endpoint's answer."""

    def __init__(self, kind: str = "client-credentials", **given: object) -> None:
        credential = Credential(type=kind, token_url=ENDPOINT, client_id="mcp proxy", client_secret="env:S", **given)
        self.said = Said()
        self.now = NOW
        self.answer: Response | Exception
        self.says()
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.gate: asyncio.Event | None = None
        self.grants = Grants("files", credential, SECRET, self.fetch, self.said, now=lambda: self.now)

    async def fetch(self, url, *, method="GET", body=None, headers=()):
        self.asked.append((url, method, body, dict(headers)))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def says(self, token="granted", status=200, **more):
        body = {"access_token": token, "token_type": "Bearer", "expires_in": 100, **more}
        self.answer = Response(status, json.dumps({name: value for name, value in body.items() if value is not None}).encode())

    def refuses(self, error, status=400):
        self.answer = Response(status, json.dumps({"error": error}).encode())

    async def line(self, subject=b""):
        """As the edge does: ask what is to be asked, and again."""
        found = self.grants.line(subject, self.now)
        if isinstance(found, Ask):
            await found.question.ask()
            found = self.grants.line(subject, self.now)
        return (found.kind, found.status) if isinstance(found, ProxyError) else found

    async def renew(self):
        """As the edge does every few seconds."""
        question = self.grants.due(self.now)
        if question is not None:
            await question.ask()
        return question is not None

    def form(self):
        return {name: value[0] for name, value in parse_qs(self.asked[-1][2].decode(), strict_parsing=True).items()}


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def exchange():
    return Desk("token-exchange", audience="files", scope="read write", resource="https://files.example/mcp")


GRANTED = b"Authorization: Bearer granted\r\n"
UNAVAILABLE, REFUSED, NOT_FOR_YOU = (
    ("upstream-credential-unavailable", 503),
    ("upstream-credential-refused", 502),
    ("exchange-refused", 403),
)


# -- what is asked --------------------------------------------------------------------------------------------------------------------------------


async def test_our_own_token(desk):
    assert GRANTED == await desk.line()
    [(url, method, _, headers)] = desk.asked
    assert (ENDPOINT, "POST") == (url, method)
    assert {"grant_type": "client_credentials"} == desk.form()
    assert "mcp%20proxy:s3%3Ac%25ret" == base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert "application/x-www-form-urlencoded" == headers["Content-Type"]


async def test_a_callers_token_is_exchanged(exchange):
    assert GRANTED == await exchange.line(CALLER)
    assert {
        "grant_type": EXCHANGE,
        "subject_token": CALLER.decode(),
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": ACCESS_TOKEN,
        "audience": "files",
        "scope": "read write",
        "resource": "https://files.example/mcp",
    } == exchange.form()


async def test_each_caller_has_a_token_of_its_own(exchange):
    lines = {}
    for caller in (b"alice", b"bob", b"carol"):
        exchange.says(f"for-{caller.decode()}")
        lines[caller] = await exchange.line(caller)
    exchange.answer = FetchError("timeout", "")
    assert lines == {caller: await exchange.line(caller) for caller in lines}
    assert 3 == len(exchange.asked)
    assert [b"Authorization: Bearer for-%b\r\n" % caller for caller in lines] == list(lines.values())


# -- how long it serves ---------------------------------------------------------------------------------------------------------------------------


async def test_a_token_serves_until_shortly_before_its_end(desk):
    await desk.line()
    desk.now += 89
    desk.says("second")
    assert GRANTED == await desk.line()
    desk.now += 1
    assert b"Authorization: Bearer second\r\n" == await desk.line()


async def test_it_is_renewed_before_anybody_waits(desk):
    assert await desk.renew(), "at the start"
    assert GRANTED == await desk.line()
    desk.says("second")
    desk.now += 74
    assert not await desk.renew()
    desk.now += 1
    assert await desk.renew()
    assert b"Authorization: Bearer second\r\n" == desk.grants.line(b"", desk.now)
    desk.now += 80
    assert await desk.renew()
    assert 3 == len(desk.asked)


async def test_one_that_nobody_uses_is_not(desk):
    await desk.renew()
    desk.now += 80
    assert not await desk.renew()


async def test_callers_tokens_are_asked_for_again_when_they_are_needed(exchange):
    await exchange.line(CALLER)
    exchange.now += 80
    assert not await exchange.renew()
    exchange.now += 10
    exchange.says("second")
    assert b"Authorization: Bearer second\r\n" == await exchange.line(CALLER)


@pytest.mark.parametrize(("said", "seconds"), [(None, UNSAID_S), (10, 10), ("20", 20), (5.5, 5.5), (10**12, 86_400)])
async def test_how_long_it_lasts(desk, said, seconds):
    desk.says(expires_in=said)
    await desk.line()
    usable = seconds - min(10, seconds / 10)
    desk.now += usable - 0.01
    assert isinstance(desk.grants.line(b"", desk.now), bytes)
    desk.now += 0.02
    assert isinstance(desk.grants.line(b"", desk.now), Ask)


async def test_a_clock_that_is_set_back_makes_us_ask(desk):
    await desk.line()
    desk.now -= 5
    assert GRANTED == desk.grants.line(b"", desk.now), "the edge's clock is a little behind"
    desk.now -= 1000
    assert isinstance(desk.grants.line(b"", desk.now), Ask)


async def test_one_question_for_all_who_wait(desk):
    desk.gate = asyncio.Event()
    questions = [desk.grants.line(b"", NOW).question for _ in range(5)]
    assert 1 == len({question.about for question in questions})
    waiting = [asyncio.ensure_future(question.ask()) for question in questions]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert desk.grants.due(NOW) is None, "it is on its way"
    await asyncio.sleep(0)
    desk.gate.set()
    await asyncio.gather(*waiting[1:])
    assert 1 == len(desk.asked)
    assert GRANTED == desk.grants.line(b"", NOW)


async def test_questions_of_different_callers_differ_and_show_no_token(exchange):
    abouts = {exchange.grants.line(caller, NOW).question.about for caller in (CALLER, b"bob")}
    assert 2 == len(abouts)
    assert CALLER.decode() not in "".join(abouts)


async def test_the_number_of_tokens_is_bounded(exchange):
    await exchange.line(CALLER)
    for number in range(KEPT):
        await exchange.line(b"%d" % number)
    assert KEPT == len(exchange.grants._known)
    assert isinstance(exchange.grants.line(CALLER, NOW), Ask)


# -- an upstream that does not take it --------------------------------------------------------------------------------------------------------------


async def test_a_token_the_upstream_refuses_is_forgotten(desk):
    await desk.line()
    desk.says("second")
    desk.now += COOL_S
    desk.grants.rejected(b"", desk.now)
    assert b"Authorization: Bearer second\r\n" == await desk.line()
    desk.says("third")
    for _ in range(9):
        desk.now += 1
        desk.grants.rejected(b"", desk.now)
        assert b"Authorization: Bearer second\r\n" == await desk.line(), "an upstream that takes none makes us ask little"
    assert 2 == len(desk.asked)
    desk.grants.rejected(b"nobody", desk.now)


# -- bad days -------------------------------------------------------------------------------------------------------------------------------------

BAD_ANSWERS = {
    "down": FetchError("connect-failed", "login.example could not be connected to"),
    "slow": FetchError("timeout", "login.example did not answer within 10 s"),
    "huge": FetchError("too-large", "more than 65536 bytes of body"),
    "private": FetchError("address-refused", "login.example has no address that may be asked"),
    "redirects": FetchError("redirected", "login.example answered 302"),
    "broken": Response(500, b"granted"),
    "busy": Response(429, b"{}"),
    "empty": Response(200, b""),
    "html": Response(200, b"<html>granted</html>"),
    "list": Response(200, b"[]"),
    "deep": Response(200, b"[" * 60_000),
    "not utf-8": Response(200, b'{"access_token":"\xff"}'),
    "surrogate": Response(200, b'{"access_token":"\\ud800","token_type":"Bearer"}'),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_endpoint_that_does_not_work(desk, answer):
    desk.answer = answer
    assert UNAVAILABLE == await desk.line()
    assert [UNAVAILABLE] * 3 == [await desk.line() for _ in range(3)]
    assert 1 == len(desk.asked), "it is left alone for a while"
    [(level, text)] = desk.said.lines
    assert "warning" == level and text.startswith(f"upstream.files.credential: no token from {ENDPOINT}: ")
    assert "granted" not in text and SECRET not in text
    desk.now += UNREACHED_S
    desk.says()
    assert GRANTED == await desk.line()
    assert ("info", "upstream.files.credential: tokens can be had again") == desk.said.lines[-1]


@pytest.mark.parametrize("kind", ["connect-failed", "timeout", "tls-failed"])
async def test_an_endpoint_that_is_down_is_asked_by_one_caller_only(exchange, kind):
    await exchange.line(b"bob")
    exchange.refuses("invalid_grant")
    assert NOT_FOR_YOU == await exchange.line(b"carol")
    exchange.now += REFUSED_S
    exchange.answer = FetchError(kind, "")
    assert [UNAVAILABLE] * 3 == [await exchange.line(caller) for caller in (CALLER, b"carol", CALLER)]
    assert GRANTED == await exchange.line(b"bob"), "who has a token goes on"
    assert 3 == len(exchange.asked)
    exchange.now += UNREACHED_S
    exchange.says()
    assert [GRANTED] * 2 == [await exchange.line(caller) for caller in (b"carol", CALLER)]


async def test_a_caller_who_makes_the_endpoint_stumble_harms_nobody_else(exchange):
    exchange.answer = Response(500, b"")
    assert UNAVAILABLE == await exchange.line(CALLER)
    exchange.says()
    assert GRANTED == await exchange.line(b"bob")


@pytest.mark.parametrize(
    "more",
    [
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "a b"},
        {"access_token": "a\r\nX-Evil: 1"},
        {"access_token": "é"},
        {"access_token": "x" * (LONGEST + 1)},
        {"token_type": None},
        {"token_type": "DPoP"},
        {"token_type": "N_A"},
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": True},
        {"expires_in": "soon"},
        {"expires_in": "9" * 400},
        {"expires_in": [5]},
    ],
    ids=str,
)
async def test_an_answer_that_is_none(desk, more):
    desk.says(**more)
    assert UNAVAILABLE == await desk.line()


async def test_not_a_number_is_no_time(desk):
    desk.answer = Response(200, b'{"access_token":"granted","token_type":"Bearer","expires_in":1e999}')
    assert UNAVAILABLE == await desk.line()


async def test_an_exchange_that_gives_something_else(exchange):
    exchange.says(issued_token_type="urn:ietf:params:oauth:token-type:id_token")
    assert UNAVAILABLE == await exchange.line(CALLER)


@pytest.mark.parametrize("kind", [ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt", None])
async def test_an_exchange_that_gives_an_access_token(exchange, kind):
    exchange.says(issued_token_type=kind, token_type="bearer")
    assert GRANTED == await exchange.line(CALLER)


async def test_we_are_refused(desk):
    desk.refuses("invalid_client", 401)
    assert REFUSED == await desk.line()
    desk.now += REFUSED_S - 1
    assert REFUSED == await desk.line()
    assert 1 == len(desk.asked)
    assert ("warning", f"upstream.files.credential: no token from {ENDPOINT}: the answer is 401 invalid_client") == desk.said.lines[-1]
    desk.now += 1
    desk.says()
    assert GRANTED == await desk.line()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error":5}', b'{"error":"evil\\n' + SECRET.encode() + b'"}'])
async def test_a_refusal_is_not_repeated_in_logs(desk, body):
    desk.answer = Response(400, body)
    assert REFUSED == await desk.line()
    assert f"upstream.files.credential: no token from {ENDPOINT}: the answer is 400" == desk.said.lines[-1][1]


@pytest.mark.parametrize("error", ["invalid_request", "invalid_grant", "invalid_token", "access_denied"])
async def test_a_caller_is_refused(exchange, error):
    exchange.refuses(error)
    assert NOT_FOR_YOU == await exchange.line(CALLER)
    exchange.says()
    assert NOT_FOR_YOU == await exchange.line(CALLER), "believed for a while"
    assert GRANTED == await exchange.line(b"bob"), "others are not"
    assert [] == exchange.said.lines, "the endpoint works"


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "invalid_target", "invalid_scope", "server_error"])
async def test_it_is_not_the_caller_who_is_refused(exchange, error):
    exchange.refuses(error)
    assert REFUSED == await exchange.line(CALLER)


@pytest.mark.parametrize("answer", [FetchError("timeout", ""), Response(401, b'{"error":"invalid_client"}')])
async def test_the_older_token_serves_to_its_end(desk, answer):
    await desk.line()
    desk.answer = answer
    desk.now += 75
    assert await desk.renew()
    assert "; the older token serves to its end" in desk.said.lines[-1][1]
    assert GRANTED == await desk.line()
    assert not await desk.renew(), "not at once"
    desk.now += COOL_S
    assert await desk.renew()
    assert 1 == len(desk.said.lines), "said once"
    assert GRANTED == await desk.line()
    desk.now = NOW + 90
    assert (await desk.line()) in (UNAVAILABLE, REFUSED)


async def test_with_no_token_nobody_asks_in_vain(desk):
    desk.answer = FetchError("timeout", "")
    await desk.renew()
    desk.now += 1000
    assert not await desk.renew(), "until somebody needs it"


def test_nothing_secret_is_shown(desk):
    assert SECRET not in repr(desk.grants)
