"""What an audit line says, and what it never says."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpproxy.config.policies import Audit
from mcpproxy.mcp.call import Call, calls_of
from mcpproxy.mcp.outcome import NONE, OK, TOOL_ERROR, Outcome
from mcpproxy.observe.auditline import ARGUMENTS, REVEALED_BYTES, Entry, Renderer
from mcpproxy.observe.redact import REDACTED, SHOWN
from tests.house.tree import ROOT
from tests.observe.samples import call, entry

SALT = b"s" * 32
OFFSET = 1_795_000_000.0


def lines(made: Entry, *reveal: str, salt: bytes = SALT) -> list[dict[str, Any]]:
    renderer = Renderer(Audit(file="a", reveal=reveal), salt)
    return [json.loads(b"{%b}" % body) for body in renderer.bodies(made, OFFSET)]


def line(made: Entry, *reveal: str, salt: bytes = SALT) -> dict[str, Any]:
    (found,) = lines(made, *reveal, salt=salt)
    return found


def test_one_call_is_one_line_that_says_everything() -> None:
    found = line(entry(outcome=Outcome("error", -32602), reason="tool-denied", verdict="denied", status=403))
    digests = found.pop("args")
    assert list(digests) == ["query", "path", "limit"] and all(len(bytes.fromhex(digest)) == 8 for digest in digests.values())
    assert found == {
        "time": "2026-11-18T11:08:20.000Z",
        "type": "call",
        "id": "abc-1",
        "client": "192.0.2.1",
        "principal": "agent-alpha",
        "auth": "keys",
        "key": "7h3kq9x2ab",
        "route": "route[0]",
        "upstream": "search",
        "session": "0123456789ab",
        "trace": "0af7651916cd43dd8448eb211c80319c",
        "era": "2025-11-25",
        "method": "tools/call",
        "tool": "search",
        "verdict": "denied",
        "rule": "route[0].tools.allow[0]",
        "reason": "tool-denied",
        "outcome": "error",
        "code": -32602,
        "status": 403,
        "bytes_in": 300,
        "bytes_out": 400,
        "ms": 250.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    made = entry(
        who=b"", trace=b"", era="", rule="", outcome=None, calls=calls_of(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    )
    assert {"principal", "trace", "era", "rule", "reason", "outcome", "code", "tool", "args"}.isdisjoint(line(made))


def test_a_prompt_or_resource_has_a_name_and_what_a_subscription_implies_is_marked() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["file:///a"]}}}'
    listen, implied = lines(entry(calls=calls_of(body)))
    assert "implied" not in listen and listen["batch"] == 2
    assert (implied["method"], implied["name"], implied["implied"]) == ("resources/subscribe", "file:///a", True)


def test_each_call_of_a_batch_has_its_own_line_and_its_own_end() -> None:
    calls = (*call(id=b"1"), *call(tool="fetch", id=b'"x"'), *call(tool="slow", id=b"3"), *calls_of(b'{"jsonrpc":"2.0","method":"ping"}'))
    found = lines(entry(calls=calls, outcome=OK, answers=[(b'"x"', TOOL_ERROR), (b"1", Outcome("error", -32000))]))
    assert [each.get("tool") for each in found] == ["search", "fetch", "slow", None]
    assert [each.get("outcome") for each in found] == ["error", "tool-error", None, None]
    assert [each.get("code") for each in found] == [-32000, None, None, None]
    assert {each["batch"] for each in found} == {4}


def test_an_answer_of_the_client_is_no_call() -> None:
    assert lines(entry(calls=calls_of(b'{"jsonrpc":"2.0","id":1,"result":{"password":"x"}}'))) == []


def test_a_body_that_could_not_be_read_has_a_line_too() -> None:
    assert line(entry(calls=(), outcome=NONE))["unread"] is True


def test_every_member_is_documented() -> None:
    """In docs/operations.md."""
    section = (ROOT / "docs" / "operations.md").read_text().partition("<!-- audit-fields -->")[2].partition("<!-- /audit-fields -->")[0]
    documented = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    subscription = b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["a"]}}}'
    many = json.dumps({f"a{number}": number for number in range(ARGUMENTS + 1)}).encode()
    secure = b'"client":"192.0.2.1","tls":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384"'
    played = [
        *lines(entry(client=secure)),
        *lines(entry(outcome=Outcome("error", 1), reason="tool-denied"), "*"),
        *lines(entry(calls=call(many))),
        *lines(entry(calls=call(b'{"a":1,"a":2}'))),
        *lines(entry(calls=())),
        *lines(entry(calls=calls_of(subscription))),
    ]
    assert documented == {"seq", "hash", "chain"} | {member for each in played for member in each}


# -- arguments -----------------------------------------------------------------------------------------------------------------------------------


def test_equal_values_have_equal_digests_and_another_salt_makes_others() -> None:
    digests = line(entry(calls=call(b'{"a":"secret","b":"secret","c":"other"}')))["args"]
    assert digests["a"] == digests["b"] != digests["c"]
    assert digests["a"] != line(entry(calls=call(b'{"a":"secret"}')), salt=b"t" * 32)["args"]["a"]


@pytest.mark.parametrize("arguments", [b'{"path":"/ok","path":"/etc/shadow"}', b'{"p\\u0061th":"/ok","b":[]}'])
def test_an_argument_that_two_servers_may_read_differently_is_not_chosen_from(arguments: bytes) -> None:
    twice = line(entry(calls=call(arguments)), "*")
    assert twice["ambiguous"] is True and "args" not in twice and "revealed" not in twice


@pytest.mark.parametrize("arguments", [b'{ "path": "/ok", "b": [1, 2] }', '{"path":"/ö","b":"ä","ü":1}'.encode()])
def test_other_ways_to_write_arguments_are_no_trouble(arguments: bytes) -> None:
    found = line(entry(calls=call(arguments)))
    assert "ambiguous" not in found and {"path", "b"} <= set(found["args"])


@pytest.mark.parametrize("arguments", [b"null", b"[1,2]", b'"text"'])
def test_arguments_that_are_no_table_have_one_digest(arguments: bytes) -> None:
    found = line(entry(calls=(Call(b"1", "tools/call", "x", Raw(arguments)),)))
    assert len(found["arguments"]) == 16 and "args" not in found


def test_very_many_arguments_have_one_digest() -> None:
    many = json.dumps({f"a{number}": number for number in range(ARGUMENTS + 1)}, separators=(",", ":")).encode()
    found = line(entry(calls=call(many)), "*")
    assert found["more_args"] == ARGUMENTS + 1 and len(found["arguments"]) == 16 and "args" not in found


# -- in clear --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reveal", "shown"),
    [
        (("path",), {"path": "/a/b"}),
        (("limit",), {"limit": "10"}),
        (("search.path",), {"path": "/a/b"}),
        (("sea*.query", "fetch.path"), {"query": "weather"}),
        (("*",), {"query": "weather", "path": "/a/b", "limit": "10"}),
        (("fetch.*",), None),
        (("Path",), None),
    ],
)
def test_only_what_the_operator_chose_is_in_clear(reveal: tuple[str, ...], shown: dict[str, str] | None) -> None:
    assert line(entry(), *reveal).get("revealed") == shown


def test_what_is_in_clear_is_redacted_and_short() -> None:
    arguments = json.dumps(
        {"text": "mail ada@example.com", "password": "x", "nested": {"token": "a b", "n": [1]}, "long": "word " * 1000}
    ).encode()
    shown = line(entry(calls=call(arguments)), "*")["revealed"]
    assert (shown["text"], shown["password"]) == (f"mail {REDACTED}", REDACTED)
    assert "a b" not in shown["nested"] and len(shown["long"]) == SHOWN


def test_a_huge_value_is_not_decoded_for_a_few_characters_of_it() -> None:
    assert line(entry(calls=call(b'{"text":"%b"}' % (b"x " * REVEALED_BYTES))), "*")["revealed"] == {"text": REDACTED}


def test_secrets_do_not_stand_in_names_either() -> None:
    key = "mcpp_abcdefghij_" + "a" * 38
    text = json.dumps(line(entry(calls=call(b'{"%b":1}' % key.encode(), tool=key), era=key)))
    assert key not in text and text.count(REDACTED) == 3


@given(st.dictionaries(st.text(max_size=20), st.text(min_size=16, max_size=40).filter(lambda text: len(set(text)) > 8), max_size=5))
def test_no_value_is_ever_in_a_line_that_reveals_nothing(arguments: dict[str, str]) -> None:
    raw = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace")
    made = entry(calls=(Call(b"1", "tools/call", "x", Raw(raw)),))
    text = json.dumps(line(made), ensure_ascii=False)
    assert not any(value in text for value in arguments.values())


@given(st.text(), st.text(), st.text())
def test_whatever_a_client_calls_things_it_is_one_line_of_json(tool: str, argument: str, era: str) -> None:
    raw = json.dumps({argument: 1}).encode()
    made = entry(calls=(Call(b"1", "tools/call", tool, Raw(raw)),), era=era)
    (body,) = Renderer(Audit(file="a"), SALT).bodies(made, OFFSET)
    assert b"\n" not in body and b"\r" not in body and json.loads(b"{%b}" % body)["tool"] is not None
