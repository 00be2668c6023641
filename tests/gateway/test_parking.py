"""Parked calls, and who finds them again."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from mcpproxy.gateway.parking import LAST_S, MOST_OF_ONE, Lot, Rounds, digest
from mcpproxy.gateway.parts import Answer
from mcpproxy.mcp import message

PARAMS = {"name": b'"ask"', "arguments": b'{"a":1,"b":[2]}', "_meta": b'{"progressToken":1}'}


class Waiting:
    """A call."""

    def __init__(self, principal: str = "ada") -> None:
        self.principal = principal
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def parked(lot: Lot, principal: str = "ada", now: float = 0.0) -> tuple[Rounds, str]:
    rounds = Rounds(Waiting(principal), "tools/call", dict(PARAMS))
    return rounds, lot.park(rounds, now)


def test_the_retry_finds_its_call_once() -> None:
    lot = Lot("files")
    rounds, state = parked(lot)
    retry = {**PARAMS, "_meta": b"{}", "inputResponses": b"{}", "requestState": b'"x"', "arguments": b'{ "b": [2], "a": 1 }'}
    assert lot.take(state, "ada", "tools/call", retry) is rounds
    assert lot.take(state, "ada", "tools/call", retry) is None
    assert lot.bytes == 0 and not lot.of


@pytest.mark.parametrize(
    ("caller", "method", "params"),
    [
        ("bob", "tools/call", PARAMS),
        ("", "tools/call", PARAMS),
        ("ada", "prompts/get", PARAMS),
        ("ada", "tools/call", {**PARAMS, "name": b'"other"'}),
        ("ada", "tools/call", {**PARAMS, "arguments": b'{"a":2,"b":[2]}'}),
        ("ada", "tools/call", {**PARAMS, "more": b"1"}),
    ],
)
def test_for_others_it_opens_nothing(caller: str, method: str, params: dict[str, bytes]) -> None:
    lot = Lot("files")
    rounds, state = parked(lot)
    assert lot.take(state, caller, method, params) is None
    assert lot.take(state, "ada", "tools/call", PARAMS) is rounds


def test_one_byte_changed_opens_nothing() -> None:
    """Every bit of it, and every other way to write the same bytes."""
    lot = Lot("files")
    rounds, state = parked(lot)
    text = state.removeprefix(lot.mark)
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert lot.take(lot.mark + urlsafe_b64encode(changed).rstrip(b"=").decode(), "ada", "tools/call", PARAMS) is None
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for spelling in (text + "=", text + "A", text[:-1], text + "\n", " " + text, "", "é", *(text[:-1] + each for each in alphabet)):
        if spelling != text:
            assert lot.take(lot.mark + spelling, "ada", "tools/call", PARAMS) is None, spelling
    assert lot.take(state, "ada", "tools/call", PARAMS) is rounds


def test_another_process_or_upstream_knows_nothing_of_it() -> None:
    _, state = parked(Lot("files"))
    assert Lot("files").take(state, "ada", "tools/call", PARAMS) is None


def test_an_older_round_opens_nothing() -> None:
    lot = Lot("files")
    rounds, first = parked(lot)
    lot.take(first, "ada", "tools/call", PARAMS)
    second = lot.park(rounds, 0.0)
    assert lot.take(first, "ada", "tools/call", PARAMS) is None
    assert lot.take(second, "ada", "tools/call", PARAMS) is rounds


async def test_who_does_not_come_again_is_answered_for_and_then_cancelled() -> None:
    lot = Lot("files", ttl=100.0)
    rounds, state = parked(lot)
    asked = rounds.ask(b"{}")
    assert asked is not None
    lot.sweep(99.0)
    assert not asked[1].done()
    lot.sweep(101.0)
    assert asked[1].result().error is not None
    assert lot.take(state, "ada", "tools/call", PARAMS) is None and rounds.ask(b"{}") is None
    call = rounds.call
    assert isinstance(call, Waiting) and not call.cancelled
    lot.sweep(101.0 + LAST_S + 1)
    assert call.cancelled and not lot.parked and not lot.bytes and not lot.of


def test_there_is_room_for_so_many_and_so_much() -> None:
    lot = Lot("files", limit=MOST_OF_ONE + 10)
    for _ in range(MOST_OF_ONE):
        assert lot.room("ada", 100)
        parked(lot)
    assert not lot.room("ada", 100) and lot.room("bob", 100) and not lot.room("bob", 1 << 40)
    for _ in range(10):
        parked(lot, "bob")
    assert not lot.room("carol", 100)


async def test_answers_go_to_their_questions() -> None:
    rounds = Rounds(Waiting(), "tools/call", PARAMS)
    first, second = rounds.ask(b"{}"), rounds.ask(b"{}")
    assert first is not None and second is not None
    rounds.answer("nobody", Answer(b"{}"))
    rounds.answer(second[0], Answer(b'{"b":1}'))
    rounds.answer(second[0], Answer(b'{"c":1}'))
    assert second[1].result().result == b'{"b":1}' and not first[1].done() and list(rounds.open) == [first[0]]


def test_states_of_servers_are_not_ours_also_where_they_are_what_we_are() -> None:
    lot = Lot("files")
    _, state = parked(lot)
    assert lot.made(message.text(state))
    for other in (None, b'"asked"', b"1", b'"mcpproxy-x"', message.text(parked(Lot("files"))[1])):
        assert not lot.made(other)


def test_what_no_decoder_takes_is_compared_as_it_is() -> None:
    assert digest({"a": b"1" * 5000}) != digest({"a": b"1" * 5001})
