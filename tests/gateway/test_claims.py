"""Fields that mirror arguments."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.gateway.claims import Claims, same
from mcpproxy.gateway.mirrored import Tools
from mcpproxy.gateway.parts import Answer, Call
from mcpproxy.http.fields import Field
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from tests.support.faces import faces

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {"type": "object", "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
    },
}
LIST = message.encode({"tools": [{"name": "run", "inputSchema": SCHEMA}, {"name": "other", "inputSchema": {}}]})


def fields(**said: str) -> tuple[Field, ...]:
    return tuple((f"Mcp-Param-{name}".encode(), f"mcp-param-{name}".lower().encode(), value.encode()) for name, value in said.items())


@pytest.mark.parametrize(
    ("arguments", "said", "fits"),
    [
        ({"region": "eu"}, {"Region": "eu"}, True),
        ({"region": "eu"}, {"region": "eu", "Unknown": "x"}, True),
        ({"region": "eu"}, {}, False),
        ({"region": "eu"}, {"Region": "EU"}, False),
        ({"region": "ü"}, {"Region": "=?base64?w7w=?="}, True),
        ({"region": "ü"}, {"Region": "=?base64?w7w?="}, False),
        ({"region": None}, {}, True),
        ({}, {"Region": "eu"}, False),
        ({"deep": {"count": 42}}, {"Count": "42.0"}, True),
        ({"deep": {"count": 42}}, {"Count": "43"}, False),
        ({"deep": {"count": 2**53 + 1}}, {"Count": str(2**53)}, False),
        ({"deep": 5}, {}, True),
        ({"deep": {"count": 2**53 + 1}}, {}, True),  # what no client can say exactly it need not say
        ({"deep": {"count": 1.5}}, {}, True),
        ({"deep": {"count": [1]}}, {}, True),
        ({"deep": {"count": [1]}}, {"Count": "[1]"}, False),
        (None, {}, True),
    ],
)
def test_what_the_head_says_is_what_the_arguments_say(arguments: Any, said: dict[str, str], fits: bool) -> None:
    claims = Claims()
    claims.learn(LIST)
    raw = None if arguments is None else message.encode(arguments)
    claims.check("other", raw, fields(Region="anything"), b"1")
    if fits:
        claims.check("run", raw, fields(**said), b"1")
    else:
        with pytest.raises(CallError) as caught:
            claims.check("run", raw, fields(**said), b"1")
        assert (caught.value.code, caught.value.id) == (-32020, b"1")


PLAIN = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | some.text()


@given(PLAIN | some.lists(PLAIN, max_size=2))
def test_what_we_say_to_servers_we_take_from_clients(value: Any) -> None:
    """Both ways are one rule."""
    tools, claims = Tools(), Claims()
    schema = {"type": "object", "properties": {"v": {"type": "string", "x-mcp-header": "V"}}}
    listed = message.encode({"tools": [{"name": "run", "inputSchema": schema}]})
    tools.learn(listed), claims.learn(listed)
    arguments = message.encode({"v": value})
    lines = tools.fields("tools/call", {"name": b'"run"', "arguments": arguments}).split(b"\r\n")
    said = tuple((name, name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines) if name)
    claims.check("run", arguments, said, b"1")


def test_a_field_that_is_there_twice() -> None:
    claims = Claims()
    claims.learn(LIST)
    with pytest.raises(CallError):
        claims.check("run", b'{"region":"eu"}', fields(Region="eu") * 2, b"1")


def test_schemas_that_change_are_learned_anew() -> None:
    claims = Claims()
    claims.learn(b"no json x-mcp-header")
    claims.learn(LIST)
    claims.learn(b'{"tools":[{"name":"run","inputSchema":{}}]}')
    claims.check("run", b'{"region":"eu"}', (), b"1")


def test_numbers_are_numbers() -> None:
    assert same("1e2", 100) and not same("x", 1) and not same("1", True) and same("true", True) and not same(None, 1)


async def test_a_call_whose_head_says_something_else_is_refused() -> None:
    async with faces() as rig:

        async def listing(call: Call) -> Answer:
            return Answer(LIST)

        original = rig.service._ask
        rig.service._ask = listing  # type: ignore[method-assign]
        await rig.modern(1, "tools/list")
        rig.service._ask = original  # type: ignore[method-assign]
        call = {"name": "run", "arguments": {"region": "eu"}}
        reply = await rig.modern(2, "tools/call", call, fields={"Mcp-Param-Region": "us"})
        assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (400, 2, -32020)
        assert len(rig.service.calls) == 1
        await rig.modern(3, "tools/call", call, fields={"Mcp-Param-Region": "eu"})
        assert len(rig.service.calls) == 2
