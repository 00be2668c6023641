"""What the world is asked is asked once, for all who wait, and for no more than can wait."""

import asyncio
import gc

import pytest

from mcpproxy.edge import questions as room
from mcpproxy.edge.questions import Questions
from mcpproxy.errors import ProxyError
from mcpproxy.policy.verdict import Question


class World:
    """It answers when it is told to."""

    def __init__(self, steps):
        self.steps, self.asked, self.answers = steps, [], {}

    def question(self, about="keys", fails=False):
        async def ask():
            self.asked.append(about)
            self.answers[about] = asyncio.get_running_loop().create_future()
            await self.answers[about]
            if fails:
                raise RuntimeError("a bug of ours")

        return Question(about, ask)

    def answer(self, about="keys"):
        self.steps.until(lambda: about in self.answers, "the question")
        self.answers.pop(about).set_result(None)
        self.steps.turn(5)


@pytest.fixture
def world(steps):
    return World(steps)


def test_who_waits_for_the_same_waits_for_one_answer(steps, world):
    questions, heard = Questions(steps.loop), []
    for number in range(5):
        questions.ask(world.question(), lambda number=number: heard.append(number))
    assert heard == []
    world.answer()
    assert (heard, world.asked) == ([0, 1, 2, 3, 4], ["keys"])
    questions.ask(world.question(), lambda: heard.append("again"))
    world.answer()
    assert (heard[-1], world.asked) == ("again", ["keys", "keys"])


def test_different_questions_are_asked_side_by_side(steps, world):
    questions, heard = Questions(steps.loop), []
    for about in ("one", "two"):
        questions.ask(world.question(about), lambda about=about: heard.append(about))
    world.answer("two")
    world.answer("one")
    assert heard == ["two", "one"]


def test_who_cancelled_is_not_called(steps, world):
    questions, heard = Questions(steps.loop), []
    first = questions.ask(world.question(), lambda: heard.append(1))
    questions.ask(world.question(), lambda: heard.append(2))
    first.cancel()
    world.answer()
    assert heard == [2]


def test_nobody_is_called_from_within_his_own_call(steps):
    """Who asks is in the middle of something."""
    questions, heard = Questions(steps.loop), []

    async def known():
        pass

    questions.ask(Question("known", known), lambda: heard.append(1))
    assert heard == []
    steps.turn(5)
    assert heard == [1]


def test_there_are_bounds_and_they_are_given_back(steps, world, monkeypatch):
    monkeypatch.setattr(room, "QUESTIONS", 2)
    monkeypatch.setattr(room, "WAITERS", 4)
    questions, heard = Questions(steps.loop), []
    waiters = [questions.ask(world.question(about), lambda: heard.append(1)) for about in ("one", "two", "one")]
    with pytest.raises(ProxyError, match="too-many-questions") as caught:
        questions.ask(world.question("three"), lambda: None)
    assert caught.value.status == 503
    questions.ask(world.question("two"), lambda: heard.append(1))
    with pytest.raises(ProxyError):
        questions.ask(world.question("two"), lambda: None)
    waiters[0].cancel()  # the place is kept until the answer
    world.answer("one")
    world.answer("two")
    assert heard == [1, 1, 1]
    for about in ("three", "four", "three", "four"):
        questions.ask(world.question(about), lambda: heard.append(2))
    world.answer("three")
    world.answer("four")
    assert heard == [1, 1, 1, 2, 2, 2, 2]


def test_one_address_has_an_eighth_of_the_places_and_gets_it_back(steps, world, monkeypatch):
    monkeypatch.setattr(room, "QUESTIONS", 16)
    monkeypatch.setattr(room, "WAITERS", 32)
    questions, heard = Questions(steps.loop), []
    here, there = b"\x7f\0\0\1", b"\x7f\0\0\2"
    for _ in range(2):
        for about in ("one", "two"):
            questions.ask(world.question(about), lambda: heard.append(1), here)
        with pytest.raises(ProxyError, match="too-many-questions"):
            questions.ask(world.question("three"), lambda: None, here)
        questions.ask(world.question("three"), lambda: heard.append(2), there)
        for about in ("one", "three"):  # one that is asked already takes no question, but a place to wait
            questions.ask(world.question(about), lambda: heard.append(1), here)
        with pytest.raises(ProxyError, match="too-many-questions"):
            questions.ask(world.question("two"), lambda: None, here)
        questions.ask(world.question("two"), lambda: heard.append(2), there)
        for about in ("one", "two", "three"):
            world.answer(about)
        assert sorted(heard) == [1, 1, 1, 1, 2, 2]
        heard.clear()


def test_a_question_that_breaks_leaves_nobody_waiting(steps, world):
    questions, heard = Questions(steps.loop), []
    questions.ask(world.question(fails=True), lambda: heard.append(1))
    world.answer()
    assert heard == [1]
    questions.ask(world.question(), lambda: heard.append(2))
    world.answer()
    assert heard == [1, 2]
    gc.collect()
    assert [str(each["exception"]) for each in steps.trouble] == ["a bug of ours"], "the operator hears of it"
    steps.trouble.clear()
