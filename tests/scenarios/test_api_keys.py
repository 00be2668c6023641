"""Keys in front of a server that knows nothing of them: who is let in, what the server and the log see, and how soon a change counts."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.keys import Keys
from tests.support.talk import WAYS, Answer, Talk, listen
from tests.support.upstream import ScriptedUpstream, answer
from tests.support.waiting import until

UNKNOWN = "mcpp_0123456789_" + "a" * 38
NOTICED_S = 4.0  # seconds in which a change of the file counts: two are promised


class House:
    """A daemon with a route that asks for keys, and what it is asked with."""

    def __init__(
        self, run: Run, upstream: ScriptedUpstream, keys: Keys, way: str, certificate: Certificate, changes: dict[str, Any]
    ) -> None:
        route = {"auth": "keys", "path": "/mcp"} | changes.pop("route", {})
        self.keys, self.upstream, self.way, self.certificate = keys, upstream, way, certificate
        self.daemon: Daemon = run(
            upstream.url, listen=listen(way, certificate), auth={"keys": keys.auth(**changes.pop("auth", {}))}, route=route, **changes
        )

    def talk(self) -> Talk:
        return Talk(self.daemon, self.way, self.certificate)

    def ask(self, *fields: tuple[str, str], **more: Any) -> Answer:
        with self.talk() as talk:
            return talk.ask(fields, **more)

    def everything_logged(self) -> str:
        return json.dumps(self.daemon.records) + "\n".join(self.daemon.messages)


@pytest.fixture(params=WAYS)
def house(request: pytest.FixtureRequest, run: Run, tmp_path: Path, certificate: Certificate) -> Iterator[Any]:
    """`house(auth={…}, route={…}, upstream={…})`, once per way."""
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream(answer()))

        def build(**changes: Any) -> House:
            keys = Keys(tmp_path)
            keys.add("somebody")
            return House(run, upstream, keys, request.param, certificate, changes)

        yield build


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


# -- who is let in ------------------------------------------------------------------------------------------------------------------------------


def test_a_key_lets_in_and_nothing_of_it_goes_on_or_is_written_down(house: Any) -> None:
    it = house(upstream={"principal_header": "X-Agent"})
    key = it.keys.add("agent-alpha", "ops")
    until(lambda: it.ask(("X-API-Key", key)).status == 200, "the new key", deadline_s=NOTICED_S)
    with it.talk() as talk:
        for fields in ([bearer(key)], [("X-API-Key", key)], [bearer(key), ("x-api-key", key)], [("AUTHORIZATION", f"bEARER  {key}")]):
            for number in range(4):  # compiled, a template, remembered
                assert talk.ask([*fields, ("Cookie", "sid=1")], path="/mcp/good", body=b"x" * number).status == 200
    for request in [request for request in it.upstream.requests() if request.target == b"/mcp/good"]:
        names = {name.lower() for name, _ in request.fields}
        assert not names & {b"authorization", b"x-api-key", b"cookie"}
        assert request.all("x-agent") == [b"agent-alpha"]
    assert all(key.encode() not in link.received for link in it.upstream.links)
    records = it.daemon.wait_records(16, path="/mcp/good")
    assert {(record["principal"], record["auth"], record["key"]) for record in records} == {("agent-alpha", "keys", key[5:15])}
    assert key[16:] not in it.everything_logged()


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ([], 401, "no-credential"),
        ([bearer(UNKNOWN)], 401, "key-unknown"),
        ([("X-API-Key", "nonsense")], 401, "key-unknown"),
        ([bearer("eyJhbGciOiJub25lIn0.e30.")], 401, "credential-unknown"),
        ([("Authorization", "Basic YTpi")], 401, "no-credential"),
        ([bearer(UNKNOWN), bearer(UNKNOWN)], 400, "several-credentials"),
        ([("Authorization", "Basic YTpi"), bearer(UNKNOWN)], 400, "several-credentials"),
        ([bearer(UNKNOWN), ("X-API-Key", "other")], 400, "several-credentials"),
        ([("X-API-Key", UNKNOWN), ("x-api-key", UNKNOWN)], 400, "several-credentials"),
        ([("Authorization", "Bearer")], 400, "bad-credential"),
        ([("Authorization", "Bearer a b")], 400, "bad-credential"),
    ],
    ids=str,
)
def test_others_are_told_what_is_wrong_and_reach_nobody(house: Any, fields: list[tuple[str, str]], status: int, reason: str) -> None:
    it = house()
    with it.talk() as talk:
        for _ in range(3):
            said = talk.ask(fields)
            assert (said.status, json.loads(said.body)["error"]["data"]["reason"]) == (status, reason)
            assert said.first("cache-control") == b"no-store"
            if status == 401:
                challenge = said.first("www-authenticate")
                assert challenge is not None and challenge.startswith(b"Bearer ")
                assert b"resource_metadata" not in challenge, "there is no authorization server to be found"
                assert (b"error=" in challenge) == (reason != "no-credential")
    assert not it.upstream.requests()
    for record in it.daemon.wait_records(3):
        assert (record["status"], record["reason"]) == (status, reason)
    assert UNKNOWN[16:] not in it.everything_logged()


@pytest.mark.parametrize(
    "target",
    [
        "/mcp?api_key={key}",
        "/mcp?Access_Token=x",
        "/mcp?a=1&x%2Dapi%2Dkey=x",
        "/mcp?a=1;token[]=x",
        "/mcp/{key}",
        "/mcp/%6dcpp_{tail}",
        "/mcp?q={key}",
    ],
)
def test_a_key_in_the_url_is_refused_and_not_written_down(house: Any, target: str) -> None:
    it = house()
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(bearer(key)).status == 200, "the new key", deadline_s=NOTICED_S)
    before = len(it.upstream.requests())
    said = it.ask(bearer(key), path=target.format(key=key, tail=key[5:]))
    assert (said.status, json.loads(said.body)["error"]["data"]["reason"]) == (400, "credential-in-url")
    assert len(it.upstream.requests()) == before
    assert it.daemon.record(reason="credential-in-url")["path"] is None
    assert key[16:] not in it.everything_logged()


def test_a_field_of_your_own_for_keys(house: Any) -> None:
    it = house(auth={"headers": ["X-Agent-Key"]})
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(("X-Agent-Key", key)).status == 200, "the new key", deadline_s=NOTICED_S)
    assert it.ask(bearer(key)).status == 401
    assert it.ask(("X-API-Key", key)).status == 401
    assert it.ask(("x-aGENT-kEY", key), ("X-API-Key", "of somebody else")).status == 200
    for request in it.upstream.requests():
        assert not request.all("x-agent-key") and not request.all("x-api-key"), "no key of any kind goes on"


def test_who_calls_is_never_said_by_the_client(house: Any) -> None:
    it = house(upstream={"principal_header": "X-Agent", "identity": {"header": "X-Who"}})
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(bearer(key)).status == 200, "the new key", deadline_s=NOTICED_S)
    lies = [("X-Agent", "admin"), ("x-aGENT", "root"), ("X_Agent", "admin"), ("X-WHO", "eyJ.admin"), ("x_who", "eyJ")]
    with it.talk() as talk:
        for number in range(4):
            assert talk.ask([bearer(key), *lies], path="/mcp/lies", body=b"x" * number).status == 200
    for request in [request for request in it.upstream.requests() if request.target == b"/mcp/lies"]:
        assert request.all("x-agent") == [b"agent-alpha"]
        [statement] = request.all("x-who")
        assert b"admin" not in statement and statement.count(b".") == 2
        assert not [name for name, _ in request.fields if b"_" in name]


def test_cookies_go_on_where_the_upstream_wants_them(house: Any) -> None:
    it = house(upstream={"cookies": True})
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(bearer(key), ("Cookie", "a=1")).status == 200, "the new key", deadline_s=NOTICED_S)
    assert it.upstream.requests()[-1].all("cookie") == [b"a=1"]


def test_a_client_that_is_refused_keeps_its_connection(house: Any) -> None:
    it = house()
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(bearer(key)).status == 200, "the new key", deadline_s=NOTICED_S)
    with it.talk() as talk:
        before = talk.raw
        assert [talk.ask(fields).status for fields in ([], [bearer(UNKNOWN)], [bearer(key)])] == [401, 401, 200]
        assert talk.raw is before


# -- how soon a change counts ---------------------------------------------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_soon_on_connections_that_are_open(house: Any) -> None:
    it = house()
    key, other = it.keys.add("agent-alpha"), it.keys.add("agent-beta")
    until(lambda: it.ask(bearer(other)).status == 200, "the new key", deadline_s=NOTICED_S)
    with it.talk() as talk, it.talk() as idle:
        for number in range(6):
            assert talk.ask([bearer(key)], body=b"x" * (number // 3)).status == 200
        assert idle.ask([("X-API-Key", key)]).status == 200
        it.keys.revoke("agent-alpha")
        until(lambda: talk.ask([bearer(key)]).status == 401, "the key to be refused", deadline_s=NOTICED_S)
        for _ in range(3):
            said = idle.ask([("X-API-Key", key)])
            assert (said.status, json.loads(said.body)["error"]["data"]["reason"]) == (401, "key-revoked")
            assert key.split("_")[1] not in repr(said)  # it is for the log alone
            assert talk.ask([bearer(other)]).status == 200
    line = it.daemon.wait_records(1, reason="key-revoked")[0]
    assert (line["principal"], line["key"]) == ("agent-alpha", key.split("_")[1])


def test_a_new_key_is_known_soon_where_it_was_refused_before(house: Any) -> None:
    it = house()
    with it.talk() as talk:
        key = it.keys.add("agent-alpha")
        until(lambda: talk.ask([bearer(key)]).status == 200, "the key to be known", deadline_s=NOTICED_S)
        it.keys.revoke("agent-alpha")
        again = it.keys.add("agent-alpha")
        until(lambda: talk.ask([bearer(again)]).status == 200, "the next key to be known", deadline_s=NOTICED_S)
        assert talk.ask([bearer(key)]).status == 401


def test_a_file_that_is_broken_changes_nothing(house: Any) -> None:
    it = house()
    key = it.keys.add("agent-alpha")
    until(lambda: it.ask(bearer(key)).status == 200, "the new key", deadline_s=NOTICED_S)
    good = it.keys.file.read_bytes()
    it.keys.file.write_bytes(good + b"{ nonsense\n")
    until(lambda: any("the keys read before go on" in line for line in it.daemon.messages), "a message")
    assert it.ask(bearer(key)).status == 200
    it.keys.file.write_bytes(good)
    it.keys.revoke("agent-alpha")
    until(lambda: it.ask(bearer(key)).status == 401, "the key to be refused", deadline_s=NOTICED_S)


def test_a_key_ends_when_it_was_made_to_end(house: Any) -> None:
    it = house()
    end = time.time() + 5.0
    key = it.keys.add("agent-alpha", expires=end)
    with it.talk() as talk:
        until(lambda: talk.ask([bearer(key)]).status == 200 or time.time() > end, "the new key")
        until(lambda: talk.ask([bearer(key)]).status == 401, "its end", deadline_s=NOTICED_S + 5.0)
        assert time.time() >= int(end)
        assert json.loads(talk.ask([bearer(key)]).body)["error"]["data"]["reason"] == "key-expired"
