"""What is asked every time is asked on every way a request can come: whole in one read, in pieces, again and again on one connection."""

import json
from pathlib import Path

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.keys import Keys
from tests.support.talk import WAYS, Talk, listen
from tests.support.upstream import ScriptedUpstream, answer

CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"%b","arguments":{}}}'


@pytest.mark.parametrize("way", WAYS)
def test_a_rule_is_asked_for_every_call(way: str, run: Run, tmp_path: Path, certificate: Certificate) -> None:
    keys = Keys(tmp_path)
    key = keys.add("agent-alpha")
    tools = {"allow": [{"who": ["agent-alpha"], "tools": ["add"]}]}
    with ScriptedUpstream(answer()) as upstream:
        route = {"auth": "keys", "tools": tools}
        daemon = run(upstream.url, listen=listen(way, certificate), auth={"keys": keys.auth()}, route=route)
        with Talk(daemon, way, certificate) as talk:
            for _ in range(5):
                assert talk.ask([("X-API-Key", key)], body=CALL % b"add").status == 200
                refused = talk.ask([("X-API-Key", key)], body=CALL % b"del")
                assert (refused.status, json.loads(refused.body)["id"]) == (403, 7)
        assert {json.loads(request.body)["params"]["name"] for request in upstream.requests()} == {"add"}


@pytest.mark.parametrize("way", WAYS)
def test_a_limit_counts_every_call(way: str, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"rate": "1/h burst 5"})
        with Talk(daemon, way, certificate) as talk:
            statuses = [talk.ask().status for _ in range(12)]
        assert statuses == [200] * 6 + [429] * 6, "one and the burst, and no more"


@pytest.mark.parametrize("way", WAYS)
def test_our_credential_is_shown_with_every_call(way: str, run: Run, tmp_path: Path, certificate: Certificate) -> None:
    keys = Keys(tmp_path)
    key = keys.add("agent-alpha")
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(
            upstream.url, listen=listen(way, certificate), auth={"keys": keys.auth()}, route={"auth": "keys"}, upstream={"identity": {}}
        )
        with Talk(daemon, way, certificate) as talk:
            for number in range(8):
                assert talk.ask([("X-API-Key", key)], body=b"x" * (number // 2)).status == 200
        assert [len(request.all("x-mcp-identity")) for request in upstream.requests()] == [1] * 8
