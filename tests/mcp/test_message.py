"""Messages taken apart and put together: what is not looked at is not changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError

IDS = st.one_of(st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number), st.text(max_size=20).map(message.text))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(IDS, st.text(min_size=1, max_size=20), st.dictionaries(st.sampled_from(["name", "arguments", "other", "x"]), JSON, max_size=4))
def test_a_request_comes_back_as_it_was(id: bytes, method: str, params: dict[str, object]) -> None:
    raw = message.request(id, method, message.put({key: message.encode(each) for key, each in params.items()}))
    found = message.read(raw)
    assert (found.id, found.method, found.is_request) == (id, method, True)
    assert {key: message.plain(each) for key, each in found.params().items()} == params


@pytest.mark.parametrize("id", [b"0", b'"0"', b'""', b"-1", b"123456789012345678901234567890"])
def test_an_id_keeps_its_type_and_spelling(id: bytes) -> None:
    assert message.read(message.response(id, result=b"{}")).id == id


def test_values_are_not_rewritten() -> None:
    raw = b'{"id":1,"params":{"arguments":{"a":1.0,"b": 1e5},"new":"\\u0041"},"method":"m","jsonrpc":"2.0"}'
    assert message.read(raw).params() == {"arguments": b'{"a":1.0,"b": 1e5}', "new": b'"\\u0041"'}


def test_the_three_kinds() -> None:
    note, answer, failure = (
        message.read(each)
        for each in (message.notification("n"), message.response(b"1", result=b"{}"), message.response(None, error=message.error(-1, "x")))
    )
    assert (note.is_request, note.is_response, note.params()) == (False, False, {})
    assert (answer.is_response, answer.result, answer.error) == (True, b"{}", None)
    assert (failure.is_response, failure.id, failure.result) == (True, None, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b'{"jsonrpc":"2.0"}',
        b'{"id":1,"result":{},"error":{}}',
        b'{"id":null,"method":"m"}',
        b'{"id":1.5,"method":"m"}',
        b'{"id":{},"method":"m"}',
        b'{"id":1,"method":2}',
        b'{"id":1,"method":"m","result":{}}',
        b'{"id":1,"method":"m","method":"n"}',
        b'{"id":1,"Method":"m","result":{}}',
        b'{"id":1,"method":"m"} x',
        b'{"id":1,"method":"\xff"}',
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(CallError):
        message.read(raw)


@pytest.mark.parametrize("params", [b"[]", b"1", b'{"name":1,"name":2}', b'{"Name":1}'])
def test_params_are_an_object_that_can_be_read_in_one_way(params: bytes) -> None:
    with pytest.raises(CallError):
        message.read(message.request(b"1", "m", params)).params()


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_parts_and_put_are_each_others_reverse(value: dict[str, object]) -> None:
    raw = message.put({key: message.encode(each) for key, each in value.items()})
    assert message.plain(raw) == value
    assert message.put(message.parts(raw)) == raw


def test_one_line_changes_nothing_but_line_ends_between_tokens() -> None:
    raw = b'{\r\n  "a": "x\\ny",\n  "b": 1.0\n}'
    assert message.one_line(raw) == b'{"a":"x\\ny","b":1.0}'
    assert message.one_line(b'{"a":  1}') == b'{"a":  1}'
