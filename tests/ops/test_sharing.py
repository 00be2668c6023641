"""What a worker learns of servers and callers, said to the others and heard from them."""

import json
from collections import deque
from types import SimpleNamespace

import pytest

from mcpproxy.control.sharing import Sharing as Control
from mcpproxy.ops.sharing import Sharing
from mcpproxy.policy.hints import Hints

URL = "http://127.0.0.1:1"


class Worker:
    """One with a line that can be cut, to a board that may be slow."""

    def __init__(self, board, number, urls=(URL,)):
        self.board, self.number = board, number
        self.joined, self.hears, self.there = [], {}, True
        self.audit = SimpleNamespace(news=deque(), heard=[])
        self.audit.hear = self.audit.heard.append
        self.hints = Hints()
        offices = SimpleNamespace(
            audit=self.audit, hints={"u": self.hints}, config=SimpleNamespace(upstream={"u": SimpleNamespace(urls=urls)})
        )
        ticker = SimpleNamespace(add=lambda tick: None)
        self.sharing = Sharing(self, SimpleNamespace(offices=offices, ticker=ticker))
        board.workers[number] = self
        self.join()

    def join(self):
        for joined in self.joined:
            joined()
        for joined in self.board.joined:
            joined(self.number)

    def say(self, topic, data):
        if self.there:
            self.board.said.append((self.number, topic, json.dumps(data)))
        return self.there

    def learn(self, **tools):
        listed = [{"name": name, "annotations": {"readOnlyHint": says}} for name, says in tools.items()]
        assert self.hints.learn(json.dumps({"tools": listed}).encode())

    def knows(self, *tools):
        return [self.hints.read_only(tool) for tool in tools]


class Board:
    def __init__(self):
        self.hears, self.joined, self.workers, self.said = {}, [], {}, deque()
        self.lines = {}
        Control(self)

    def tell(self, worker, topic, data):
        self.lines.setdefault(worker, deque()).append((topic, json.dumps(data)))

    def tell_all(self, topic, data):
        for worker in self.workers:
            self.tell(worker, topic, data)

    def control(self):
        """It hears what was said."""
        while self.said:
            number, topic, data = self.said.popleft()
            self.hears[topic](number, json.loads(data))

    def settle(self, *numbers):
        """Workers hear what they were told."""
        for number in numbers or self.workers:
            for topic, data in self.lines.pop(number, ()):
                self.workers[number].hears[topic](json.loads(data))


@pytest.fixture
def board():
    return Board()


def test_what_one_learned_all_know_and_who_comes_later_too(board):
    one, two = Worker(board, 0), Worker(board, 1)
    one.learn(a=True, b=False)
    one.sharing.tick()
    board.control()
    board.settle()
    assert one.knows("a", "b", "c") == two.knows("a", "b", "c") == [True, False, None]
    three = Worker(board, 1)
    board.settle()
    assert three.knows("a", "b") == [True, False]
    one.sharing.tick()
    three.sharing.tick()
    assert not board.said  # nothing goes round


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_learned_differently_at_once_comes_to_the_same(board, order):
    workers = [Worker(board, 0), Worker(board, 1)]
    workers[0].learn(a=True)
    workers[1].learn(a=False)
    for number in order:
        workers[number].sharing.tick()
    board.control()
    board.settle()
    assert workers[0].knows("a") == workers[1].knows("a") == [order == (1, 0)]


def test_what_was_learned_since_is_newer_than_what_is_heard(board):
    one, two = Worker(board, 0), Worker(board, 1)
    one.learn(a=True)
    one.sharing.tick()
    board.control()
    one.learn(a=False)  # before our own word comes back
    board.settle()
    assert one.knows("a") == [False]
    one.sharing.tick()
    two.learn(a=True)
    board.settle()
    assert one.knows("a") == [False]
    board.control()
    board.settle()
    assert one.knows("a") == two.knows("a") == [False]


def test_what_could_not_be_said_is_said_later_and_the_worse_word_counts(board):
    one, two = Worker(board, 0), Worker(board, 1)
    one.there = False
    one.learn(a=True)
    one.sharing.tick()
    two.learn(a=False)
    two.sharing.tick()
    board.control()
    one.there = True
    one.join()
    one.sharing.tick()
    board.control()
    board.settle()
    assert one.knows("a") == two.knows("a") == [False]


def test_a_new_control_process_hears_everything_again(board):
    one, two = Worker(board, 0), Worker(board, 1)
    one.learn(a=True)
    one.sharing.tick()
    board.control()
    board.settle()
    Control(board)
    del board.joined[0]  # the one before
    one.join()
    one.sharing.tick()
    board.control()
    three = Worker(board, 1)
    board.settle()
    assert three.knows("a") == one.knows("a") == two.knows("a") == [True]


def test_a_server_in_the_place_of_another_one_has_said_nothing(board):
    one, two = Worker(board, 0), Worker(board, 1, urls=("http://127.0.0.1:2",))
    one.learn(a=True)
    one.sharing.tick()
    board.control()
    board.settle()
    assert two.knows("a") == [None]


def test_habits_are_heard_by_the_others_and_wait_for_the_line(board):
    one, two = Worker(board, 0), Worker(board, 1)
    one.audit.news.append([("agent", "add", 3, 7.5)])
    one.there = False
    one.sharing.tick()
    assert len(one.audit.news) == 1
    one.there = True
    one.sharing.tick()
    board.control()
    board.settle()
    assert two.audit.heard == [[["agent", "add", 3, 7.5]]] and not one.audit.news and not one.audit.heard
