"""The calls of a body: ordinary ones are found quickly, odd ones carefully, and those that can be read in two ways not at all."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.mcp.call import BATCH, ID_LIMIT, IMPLIED, VERSION_KEY, Call, _short, calls_of, ids_of
from mcpproxy.mcp.jsonrpc import CallError, Words

META = {"progressToken": 0, VERSION_KEY: "2026-07-28"}


def compact(told: object) -> bytes:
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def message(method: str = "tools/call", params: object = None, **others: object) -> dict[str, object]:
    told: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": method, **others}
    return told if params is None else told | {"params": params}


def only(body: bytes) -> Call:
    (call,) = calls_of(body)
    return call


def refused(body: bytes) -> CallError:
    with pytest.raises(CallError) as caught:
        calls_of(body)
    return caught.value


ORDINARY = [
    message(params={"name": "search", "arguments": {"q": "a", "name": "b"}, "_meta": META}),
    message(params={"name": "search"}),
    message(params={"arguments": {}, "name": ""}),
    message("resources/read", {"uri": "file:///a"}),
    message("tools/list"),
    message("tools/list", {}),
    {"method": "notifications/initialized", "jsonrpc": "2.0"},
    {"method": "tools/call", "params": {"_meta": {}, "name": "x"}, "jsonrpc": "2.0", "id": "a b"},
]


@pytest.mark.parametrize("told", ORDINARY, ids=str)
def test_an_ordinary_body_takes_the_short_way_and_any_other_layout_says_the_same(told: dict[str, Any]) -> None:
    call = _short(compact(told))
    assert call is not None
    params = told.get("params", {})
    assert (call.method, call.name) == (told["method"], params.get("name", params.get("uri")))
    assert call.id == (compact(told["id"]) if "id" in told else b"")
    for layout in (compact(told), json.dumps(told).encode(), json.dumps(told, indent=2).encode(), b"\r\n\t " + compact(told) + b"\n"):
        other = only(layout)
        assert (other.id, other.method, other.name) == (call.id, call.method, call.name)
        assert (
            other.arguments(Words("q")) == call.arguments(Words("q")) == {k: v for k, v in params.get("arguments", {}).items() if k == "q"}
        )
        assert other.version() == call.version() == params.get("_meta", {}).get(VERSION_KEY)


@pytest.mark.parametrize("id", [b"0", b"-1", b'"x"', b'""', b'"\\u00e4\\n"', b"18446744073709551616", b"1.5", b"null"])
def test_ids_come_back_exactly(id: bytes) -> None:
    for end in (b"}", b' , "trace" : 1 }'):
        call = only(b'{"id":%b,"jsonrpc":"2.0","method":"ping"%b' % (id, end))
        assert call.id == id
        assert call.notification is (id == b"null")
    assert only(b'{"jsonrpc":"2.0","method":"ping"}').notification


@pytest.mark.parametrize("id", [b"true", b"[]", b"{}", b'"%b"' % (b"x" * ID_LIMIT)])
def test_an_id_is_a_short_text_or_a_number(id: bytes) -> None:
    assert refused(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % id).kind == "bad-call"


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a", "uri": "b"}, "a"),
        ("prompts/get", {"name": "a"}, "a"),
        ("resources/read", {"uri": "file:///a", "name": "b"}, "file:///a"),
        ("resources/subscribe", {"uri": "x:y"}, "x:y"),
        ("tasks/get", {"taskId": "t1"}, "t1"),
        ("tasks/cancel", {"taskId": "t1", "name": "b"}, "t1"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}, "p"),
        ("completion/complete", {"ref": {"uri": "x:{y}", "type": "ref/resource"}, "argument": {}}, "x:{y}"),
        ("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}, None),
        ("acme/unknown", {"name": "n"}, None),
    ],
)
def test_what_a_method_acts_on(method: str, params: dict[str, object], name: str | None) -> None:
    assert (only(compact(message(method, params))).method, only(compact(message(method, params))).name) == (method, name)


def test_names_are_read_as_they_are_meant() -> None:
    assert only(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"d\\u0065lete"}}').name == "delete"
    assert only(compact(message(params={"name": "größe😀"}))).name == "größe😀"
    assert only(b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"tools/call","params":{"name":"a"}}'.replace(b"m\\u0065", b"me")).name == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"evil"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","NAME":"evil"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","n\\u0061me":"evil"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"evil"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"evil"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe"},"params":{"name":"evil"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe"},"paramſ":{"name":"evil"}}'.encode(),
        b'{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{},"Arguments":{}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{},"_META":{}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b","Uri":"c:d"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","Name":"b"}}}',
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_refused(body: bytes) -> None:
    error = refused(body)
    assert (error.kind, error.code, error.status) == ("ambiguous-call", -32600, 400)
    assert refused(b" " + body.replace(b",", b" , ")).kind == "ambiguous-call"
    assert refused(b"[%b]" % body).kind == "ambiguous-call"


@pytest.mark.parametrize(
    ("body", "code", "id"),
    [
        (compact(message(params={"name": 5})), -32602, b"1"),
        (compact(message(params={"name": None})), -32602, b"1"),
        (compact(message(params={"name": ["a"]})), -32602, b"1"),
        (compact(message(params={})), -32602, b"1"),
        (compact(message()), -32602, b"1"),
        (compact(message("resources/read", {"name": "a"})), -32602, b"1"),
        (compact(message(params=["a"])), -32600, b"1"),
        (compact(message(params="a")), -32600, b"1"),
        (compact(message("")), -32600, b"1"),
        (compact({"jsonrpc": "2.0", "id": 1, "method": 7}), -32600, b"1"),
        (compact({"jsonrpc": "2.0", "id": 1}), -32600, b"1"),
        (compact({"jsonrpc": "1.0", "id": 1, "method": "ping"}), -32600, b"1"),
        (compact({"id": 1, "method": "ping"}), -32600, b"1"),
        (compact({"jsonrpc": 2.0, "id": 1, "method": "ping"}), -32600, b"1"),
        (compact(message("completion/complete", {})), -32602, b"1"),
        (compact(message("completion/complete", {"ref": {"type": "ref/prompt", "name": "a", "uri": "b"}})), -32602, b"1"),
        (compact(message("completion/complete", {"ref": {"type": "x", "name": "a"}})), -32602, b"1"),
        (b"[]", -32600, b""),
        (b"[[]]", -32600, b""),
        (b"7", -32600, b""),
        (b'"a"', -32600, b""),
        (b"null", -32600, b""),
    ],
)
def test_what_is_no_call_is_refused_with_its_id(body: bytes, code: int, id: bytes) -> None:
    error = refused(body)
    assert (error.kind, error.code, error.id) == ("bad-call", code, id)


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf" + PING,
        PING.decode().encode("utf-16"),
        PING + PING,
        PING + b"\0",
        PING + b"\n" + PING,
        PING.replace(b"1", b"NaN"),
        PING.replace(b"1", b"Infinity"),
        PING.replace(b"1", b"01"),
        PING.replace(b'"ping"', b'"p\xffing"'),
        PING.replace(b"}", b',"x":"\xc0\xa2"}'),
        PING.replace(b"}", b',"x":"\\ud800"}'),
        PING.replace(b"}", b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        compact(message(params={"name": "a", "arguments": {"x": 1}})).replace(b'{"x":1}', b'{"x":' * 50_000 + b"1" + b"}" * 50_000),
        compact(message(params={"name": "a", "arguments": {"x": "y"}})).replace(b"y", b"\xed\xa0\x80"),
        PING[:-1],
        b"[%b,]" % PING,
        b"[%b" % PING,
    ],
    ids=repr,
)
def test_what_is_not_json_in_utf_8_is_refused(body: bytes) -> None:
    error = refused(body)
    assert (error.kind, error.code, error.id) == ("bad-json", -32700, b"")


def test_a_batch_is_judged_item_by_item() -> None:
    told = [message(params={"name": "a"}), {"jsonrpc": "2.0", "method": "notifications/x"}, {"jsonrpc": "2.0", "id": "s", "result": {}}]
    told.append(message("ping", id=0))
    calls = calls_of(json.dumps(told).encode())
    assert [(call.id, call.method, call.name, call.notification, call.response) for call in calls] == [
        (b"1", "tools/call", "a", False, False),
        (b"", "notifications/x", None, True, False),
        (b'"s"', "", None, False, True),
        (b"0", "ping", None, False, False),
    ]
    assert ids_of(calls) == (b"1", b"0")
    assert ids_of(calls[:1]) == b"1"


def test_a_batch_of_a_thousand_is_refused() -> None:
    assert len(calls_of(b"[" + b",".join([PING] * BATCH) + b"]")) == BATCH
    for many in (BATCH + 1, 1000):
        assert refused(b"[" + b",".join([PING] * many) + b"]").kind == "batch-too-large"
    assert refused(b"[" + b"0," * 3_000_000 + b"0]").kind == "batch-too-large"


def test_ten_mebibytes_of_arguments_are_passed_over() -> None:
    told = message(params={"name": "a", "arguments": {"x": "y" * (10 << 20), "n": 5}})
    assert only(compact(told)).arguments(Words("n")) == {"n": 5}
    assert only(json.dumps(told).encode()).name == "a"


def test_answers_of_the_client_have_no_method() -> None:
    for told in ({"result": {"method": "x"}}, {"error": {"code": 1, "message": ""}}):
        call = only(compact({"jsonrpc": "2.0", "id": 3, **told}))
        assert (call.response, call.notification, call.id) == (True, False, b"3")


def test_a_subscription_is_the_calls_it_stands_for() -> None:
    chosen = {"toolsListChanged": True, "resourceSubscriptions": ["a:b", "c:d"], "taskIds": ["t"]}
    calls = calls_of(compact(message("subscriptions/listen", {"notifications": chosen})))
    assert [(call.method, call.name, call.implied) for call in calls] == [
        ("subscriptions/listen", None, False),
        ("resources/subscribe", "a:b", True),
        ("resources/subscribe", "c:d", True),
        ("tasks/get", "t", True),
    ]
    assert ids_of(calls) == b"1"
    assert len(calls_of(compact(message("subscriptions/listen", {"notifications": {}})))) == 1
    for wrong in (["a"] * (IMPLIED + 1), [1], "a:b", {"a": 1}):
        assert refused(compact(message("subscriptions/listen", {"notifications": {"resourceSubscriptions": wrong}}))).kind == "bad-call"
    assert refused(compact(message("subscriptions/listen", {"notifications": {"ResourceSubscriptions": ["a:b"]}}))).kind == "ambiguous-call"


@pytest.mark.parametrize(
    "arguments",
    [b'{"path":1,"path":2}', b'{"Path":1}', b'{"path":1,"p\\u0061th":2}', b'{"x":1,"x":1}', b'{"path ":1}', b"[]", b'"path"', b"5"],
)
def test_arguments_that_can_be_read_in_two_ways_are_refused_when_they_matter(arguments: bytes) -> None:
    call = only(b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a","arguments":%b}}' % arguments)
    with pytest.raises(CallError) as caught:
        call.arguments(Words("path"))
    assert caught.value.id == b"9"


def test_arguments_may_be_missing_or_null() -> None:
    for end in (b"", b',"arguments":null', b',"arguments":{}'):
        call = only(b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a"%b}}' % end)
        assert call.arguments(Words("path")) == {}
        assert call.argument_names() == ()
    assert only(compact(message(params={"name": "a", "arguments": {"b": 1, "é": {}}}))).argument_names() == ("b", "é")


@pytest.mark.parametrize(
    ("meta", "version"),
    [
        (b"{}", None),
        (b"null", None),
        (b'{"io.modelcontextprotocol/protocolVersion":"x"}', "x"),
        (b'{"io.modelcontextprotocol\\/protocolVersion":"x"}', "ambiguous-call"),
        (b'{"io.modelcontextprotocol/protocol\\u0056ersion":"x"}', "ambiguous-call"),
        (b'{"io.modelcontextprotocol/protocolVersion":"x","io.modelcontextprotocol/protocolVersion":"x"}', "ambiguous-call"),
        (b'{"io.modelcontextprotocol/ProtocolVersion":"x"}', "ambiguous-call"),
        (b'{"io.modelcontextprotocol/protocolVersion":1}', "bad-call"),
        (b'{"a":"io.modelcontextprotocol/protocolVersion"}', None),
        (b'{"a":{"io.modelcontextprotocol/protocolVersion":"x"},"io.modelcontextprotocol/protocolVersion":"y"}', "y"),
        (b'{"a":{"io.modelcontextprotocol/protocolVersion":"x"}}', None),
        (b'"io.modelcontextprotocol/protocolVersion"', "bad-call"),
        ('{"io.modelcontextprotocol/protocolVersion":"x","é":"\\n"}'.encode(), "x"),
    ],
)
def test_the_revision_in_meta(meta: bytes, version: str | None) -> None:
    call = only(b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a","_meta":%b}}' % meta)
    if version not in ("ambiguous-call", "bad-call"):
        assert call.version() == version
        return
    with pytest.raises(CallError) as caught:
        call.version()
    assert (caught.value.kind, caught.value.id) == (version, b"9")


KEYS = st.sampled_from(
    ["jsonrpc", "id", "method", "params", "name", "uri", "arguments", "_meta", "Name", "METHOD", "x", "é", "result", "taskId"]
)
LEAVES = (
    st.sampled_from(["2.0", "tools/call", "ping", "resources/read", "a", "b", "", 'q"\\', "é"]) | st.integers() | st.none() | st.booleans()
)
VALUES = st.recursive(
    LEAVES.map(lambda leaf: json.dumps(leaf)),
    lambda inner: (
        st.lists(st.tuples(KEYS, inner, st.booleans()), max_size=4).map(lambda pairs: written(pairs))
        | st.lists(inner, max_size=2).map(lambda each: "[" + ",".join(each) + "]")
    ),
    max_leaves=12,
)


def written(pairs: list[tuple[str, str, bool]], extra: str = "") -> str:
    """An object as some careless or unkind client writes it."""
    return (
        "{" + ",".join(f"{escaped(key) if odd else json.dumps(key, ensure_ascii=False)}:{extra}{value}" for key, value, odd in pairs) + "}"
    )


def escaped(key: str) -> str:
    return '"' + "".join(f"\\u{ord(each):04x}" for each in key) + '"'


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Mostly nearly right, with anything anywhere."""
    odd = st.sampled_from([False] * 12 + [True])
    params = [("name", json.dumps(draw(st.sampled_from(["a", "b", "é", 'q"']))), draw(odd))]
    params += draw(st.lists(st.tuples(KEYS, VALUES, odd), max_size=2))
    pairs = [("jsonrpc", '"2.0"', draw(odd)), ("id", draw(st.sampled_from(["0", '"x"', "null"])), False)]
    pairs += [("method", json.dumps(draw(st.sampled_from(["tools/call", "ping", "x"]))), draw(odd))]
    pairs += [("params", written(draw(st.permutations(params)), draw(st.sampled_from(["", " "]))), draw(odd))]
    pairs += draw(st.lists(st.tuples(KEYS, VALUES, odd), max_size=1))
    return written(draw(st.permutations(pairs)), draw(st.sampled_from(["", "", " "])))


@given(bodies() | VALUES)
@example('{"jsonrpc":"2.0","id":1,"id":1,"method":"ping","params":{"name":"a"}}')
def test_what_is_accepted_is_what_every_parser_reads(body: str) -> None:
    try:
        calls = calls_of(body.encode())
    except CallError:
        return
    pairs: Any = json.loads(body, object_pairs_hook=lambda found: ("object", found))
    messages = [pairs] if isinstance(pairs, tuple) else pairs
    assert len(calls) == len(messages)
    for call, (_, found) in zip(calls, messages, strict=True):
        keys = [key for key, _ in found]
        assert len(keys) == len(set(keys))
        assert "METHOD" not in keys
        told = dict(found)
        assert call.method == told.get("method", "")
        if call.method in ("tools/call", "resources/read"):
            inner = told["params"][1]
            names = [key for key, _ in inner]
            assert len(names) == len(set(names))
            assert "Name" not in names
            assert call.name == dict(inner)["name" if call.method == "tools/call" else "uri"]


def test_the_short_way_and_the_long_way_agree_on_every_single_change() -> None:
    """Whatever is put in anywhere: the short way never takes what the long way refuses."""
    body = compact(message(params={"name": "safe", "arguments": {"a": 1}, "_meta": {}}))
    added = [
        b" ",
        b"\\u0061",
        b'"name":"evil",',
        b'"id":1,',
        b',"name":"evil"',
        b',"method":"x"',
        b'"x":1,',
        b"a",
        b"0",
        b'"',
        b"{}",
        b"\xc3\xa9",
    ]
    for place in range(len(body) + 1):
        for piece in added:
            changed = body[:place] + piece + body[place:]
            try:
                call = _short(changed)
            except CallError:
                continue
            if call is not None:
                told = json.loads(changed, object_pairs_hook=lambda found: ("object", found))[1]
                assert len(told) == len(dict(told)) == 4
                inner = dict(told)["params"][1]
                assert sorted(key for key, _ in inner) == ["_meta", "arguments", "name"]
                assert call.name == dict(inner)["name"] or call.method != "tools/call"
