"""What one worker learned all others hear, in one order."""

import pytest

from mcpproxy.control.sharing import SERVERS, Sharing
from mcpproxy.policy.hints import TOOLS


class Board:
    """A switchboard of two workers without lines."""

    def __init__(self):
        self.hears, self.joined, self.told = {}, [], []
        self.workers = {0: None, 1: None}

    def tell(self, worker, topic, data):
        self.told.append((worker, topic, data))

    def tell_all(self, topic, data):
        for worker in self.workers:
            self.tell(worker, topic, data)

    def hear(self, worker, topic, data):
        self.told.clear()
        self.hears[topic](worker, data)
        return self.told


@pytest.fixture
def board():
    board = Board()
    Sharing(board)
    return board


def hint(again=False, server="s", **tools):
    return {"from": "us", "server": server, "tools": tools, "again": again}


def test_hints_are_told_to_everybody_and_to_who_comes_later(board):
    assert board.hear(0, "hints", hint(a=True)) == [(worker, "hints", hint(a=True)) for worker in (0, 1)]
    board.hear(1, "hints", hint(b=False))
    board.told.clear()
    for joined in board.joined:
        joined(1)
    assert board.told == [(1, "hints", {"from": "", "server": "s", "tools": {"a": True, "b": False}, "again": False})]


def test_the_last_word_counts_but_not_one_that_is_said_again(board):
    board.hear(0, "hints", hint(a=True))
    board.hear(1, "hints", hint(a=False))
    assert board.hear(0, "hints", hint(again=True, a=True, b=True))[0][2]["tools"] == {"a": False, "b": True}
    assert board.hear(0, "hints", hint(a=True))[0][2]["tools"] == {"a": True}


def test_habits_are_for_the_others(board):
    assert board.hear(1, "habits", [["agent", "add", 3, 7.5]]) == [(0, "habits", [["agent", "add", 3, 7.5]])]


def test_servers_that_reloads_took_away_are_forgotten(board):
    for number in range(SERVERS + 10):
        board.hear(0, "hints", hint(server=str(number), a=True))
    board.told.clear()
    board.joined[0](0)
    assert len(board.told) == SERVERS and board.told[0][2]["server"] == "10"


def test_a_server_that_makes_up_tools_fills_no_memory(board):
    """Each worker bounds what it learns; together they might say more."""
    for worker in range(3):
        board.hear(worker, "hints", hint(**{f"t{worker}-{number}": True for number in range(TOOLS - 1)}))
    board.hear(0, "hints", hint(**{"t0-0": False}))
    board.told.clear()
    board.joined[0](0)
    tools = board.told[0][2]["tools"]
    assert len(tools) == TOOLS
    assert tools["t0-0"] is False
