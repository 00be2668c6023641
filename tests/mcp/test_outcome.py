"""How a call ended is known from the response as it passes, wherever it is cut."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.mcp.outcome import ANSWER, ANSWERS, LIST, NONE, OK, TOOL_ERROR, UNKNOWN, Outcome, Watch, outcome_of

DONE = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": 'a "isError":true b'}], "isError": False}}
FAILED = {"result": {"content": [], "isError": True}, "jsonrpc": "2.0", "id": "x"}
ERROR = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32602, "message": "no", "data": {"code": 1}}}
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 0, "result": {}}}
ASKS = {"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {}}


def compact(told: object) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def event(told: object, end: bytes = b"\n") -> bytes:
    return b"event: message" + end + b"data: " + compact(told) + end + end


def cuts(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    yield from ([data[:place], data[place:]] for place in range(1, len(data)))


def watched(pieces: list[bytes], *, stream: bool = True, wanted: bool = False) -> tuple[Outcome, Watch]:
    watch = Watch(stream=stream, wanted=wanted)
    for piece in pieces:
        watch.feed(piece)
    return watch.end(), watch


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (compact(DONE), OK),
        (json.dumps(DONE, indent=1).encode(), OK),
        (compact(FAILED), TOOL_ERROR),
        (compact(ERROR), Outcome("error", -32602)),
        (compact({"id": 1, "result": {}}), OK),
        (compact({"id": 1, "result": []}), OK),
        (compact({"id": 1, "result": None}), OK),
        (compact({"id": 1, "result": {"isError": "true"}}), OK),
        (compact({"id": 1, "result": {"isError": None}}), OK),
        (compact({"id": 1, "result": {}, "error": None}), OK),
        (compact({"id": None, "error": {"code": 403}}), Outcome("error", 403)),
        (compact({"id": None, "error": {"code": "x"}}), Outcome("error", None)),
        (compact({"id": None, "error": {"code": 10**400}}), Outcome("error", None)),
        (compact({"id": None, "error": "x"}), Outcome("error", None)),
        (compact([DONE, ERROR]), OK),
        (compact([PROGRESS, FAILED]), TOOL_ERROR),
        (compact(PROGRESS), NONE),
        (b"", NONE),
        (b" \n", NONE),
        (b"[]", NONE),
        (b"<html>Not Found</html>", UNKNOWN),
        (compact(DONE)[:-1], UNKNOWN),
        (b"[" * 100_000, UNKNOWN),
        (b'{"result":' + b"[" * 100_000, UNKNOWN),
    ],
)
def test_a_json_body(body: bytes, outcome: Outcome) -> None:
    assert outcome_of(body) == outcome
    for pieces in cuts(body) if len(body) < 300 else []:
        assert watched(pieces, stream=False)[0] == outcome


STREAMS = [
    (event(DONE), OK),
    (event(PROGRESS) + event(FAILED), TOOL_ERROR),
    (b": ping\r\n\r\n" + event(PROGRESS, b"\r\n") + event(ERROR, b"\r\n"), Outcome("error", -32602)),
    (event(PROGRESS, b"\r") + b":\r\r" + event(DONE, b"\r"), OK),
    (b"\xef\xbb\xbfdata:" + compact(FAILED) + b"\n\n", TOOL_ERROR),
    (b"id: 1\ndata: \nretry: 5\n\nid: 2\ndata: " + compact(ERROR) + b"\n\n", Outcome("error", -32602)),
    (b"data: " + json.dumps(FAILED, indent=1).encode().replace(b"\n", b"\ndata: ") + b"\r\n\n", TOOL_ERROR),
    (b"data\ndata:" + compact(FAILED) + b"\ndata\n\n", TOOL_ERROR),
    (event(ASKS) + event(PROGRESS), NONE),
    (event(DONE)[:-1], NONE),
    (b"data: x" + event(DONE)[-2:] + event(DONE), OK),
    (b"database: 1\ndatum: " + compact(DONE) + b"\n\n", NONE),
    (event([DONE, ERROR]), OK),
    (b"data: not json\n\n", UNKNOWN),
    (b"", NONE),
    (b"\n\n\r\r\n", NONE),
    (b"event: endpoint\ndata: /messages?session_id=1\n\n", UNKNOWN),
]


@pytest.mark.parametrize(("stream", "outcome"), STREAMS, ids=range(len(STREAMS)))
def test_a_stream_cut_anywhere(stream: bytes, outcome: Outcome) -> None:
    answers = watched([stream])[1].answers
    for pieces in cuts(stream):
        found, watch = watched(pieces)
        assert found == outcome
        assert watch.answers == answers


@given(st.lists(st.sampled_from([DONE, FAILED, ERROR, PROGRESS, ASKS]), max_size=4), st.data())
def test_any_stream_cut_anywhere(messages: list[dict[str, object]], data: st.DataObject) -> None:
    ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
    extras = st.sampled_from([b"", b": ping\n\n", b"id: 5\n", b"retry: 1\r\n", b"event: x\n"])
    stream = b"".join(data.draw(extras) + event(message, data.draw(ends)) for message in messages)
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    watch = watched(pieces)[1]
    expected = {1: OK, "x": TOOL_ERROR, 0: Outcome("error", -32602)}
    assert watch.answers == [(compact(each["id"]), expected[each["id"]]) for each in messages if "method" not in each]  # type: ignore[index]


def test_every_answer_of_a_batch_is_known_by_its_id() -> None:
    assert watched([event([DONE, FAILED]) + event(ERROR)])[1].answers == [
        (b"1", OK),
        (b'"x"', TOOL_ERROR),
        (b"0", Outcome("error", -32602)),
    ]
    assert len(watched([compact([DONE] * 500)], stream=False)[1].answers) == ANSWERS


@pytest.mark.parametrize("stream", [False, True])
def test_the_list_of_tools_is_kept_when_it_is_asked_for(stream: bool) -> None:
    tools = {"tools": [{"name": "a", "annotations": {"readOnlyHint": True}}] * 9000}
    told = {"jsonrpc": "2.0", "id": 1, "result": tools}
    body = event(PROGRESS) + event(told) if stream else compact(told)
    assert len(body) > ANSWER
    pieces = [body[place : place + 60_000] for place in range(0, len(body), 60_000)]
    assert watched(pieces, stream=stream)[0] == UNKNOWN
    outcome, watch = watched(pieces, stream=stream, wanted=True)
    assert (outcome, watch.result) == (OK, compact(tools))
    assert watched([body[:50]], stream=stream, wanted=True)[1].result is None


def held(watch: Watch) -> int:
    return sum(map(len, watch._line)) + sum(map(len, watch._data))


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("shape", ["json", "a line", "many lines", "a comment", "lines and a line"])
def test_memory_is_bounded_and_what_comes_after_is_read(shape: str, wanted: bool) -> None:
    limit = LIST if wanted else ANSWER
    watch = Watch(stream=shape != "json", wanted=wanted)
    piece = {"json": b"x" * 60_000, "a line": b"x" * 60_000, "many lines": b"data: " + b"x" * 59_993 + b"\n"}.get(shape, b"x" * 60_000)
    watch.feed(
        {"a line": b"data: ", "a comment": b": ", "lines and a line": b"data: " + b"x" * (limit - 1000) + b"\ndata: "}.get(shape, b"")
    )
    for _ in range(limit // 60_000 * 2):
        watch.feed(piece)
        assert held(watch) <= limit
    if shape != "json":
        watch.feed(b"\n\n")
        assert held(watch) == 0
        assert watch.end() == UNKNOWN
        watch.feed(event(DONE))
        assert watch.end() == OK
    assert watch.end() == (UNKNOWN if shape == "json" else OK)


def test_an_answer_of_exactly_the_bound_is_known() -> None:
    told = compact({"id": 1, "result": {"isError": True, "x": ""}})
    whole = told.replace(b'"x":""', b'"x":"%b"' % (b"y" * (ANSWER - len(told))))
    assert len(whole) == ANSWER
    assert outcome_of(whole) == TOOL_ERROR
    assert outcome_of(whole + b" ") == UNKNOWN
    assert watched([b"data:" + whole + b"\n\n"])[0] == TOOL_ERROR
    assert watched([b"data:", whole[5:], b"\n\n"])[0] == UNKNOWN, "no JSON"
