"""Regular expressions that take no longer than the text is long.

Python's `re` tries one way after another, and a text written for it can make `(a+)+b` try for years; the texts here come from callers, and everybody
else would wait. So a pattern is either of a shape that leaves `re` at most about one way per character (`_ways`), or it is matched by following all ways
at once (Thompson 1968): the set of places in the pattern where the text so far may have led is the state, each step is worked out once and remembered.
A text then costs one look-up per character, and a new step no more than the pattern is long.

Only whether a pattern matches a text from end to end is asked, so greedy and lazy are the same, and groups hold nothing. What needs more than the set of
places (back references, looking ahead or behind, atomic groups) is refused; `^` and `$` are the ends of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from mcpproxy.config.mistakes import Wrong

PLACES = 2000  # in a pattern, its repetitions written out: a step takes at most so long
STEPS = 20_000  # remembered for one pattern, a few MiB; then they are worked out again
WAYS = 64  # at each character that `re` may try

Matcher = Callable[[str], object]  # true or a match, or not
ONE = {_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN}
REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT}
STARTS = {_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING}
ENDS = {_constants.AT_END, _constants.AT_END_STRING}
BORDERS = {_constants.AT_BOUNDARY: True, _constants.AT_NON_BOUNDARY: False}


def regular(pattern: str) -> Matcher:
    """Does a text match `pattern` from end to end? Raises Wrong."""
    try:
        compiled = re.compile(pattern)
        tree = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Wrong(f"not a regular expression: {error}") from None
    if compiled.flags & re.MULTILINE:
        raise Wrong("(?m) means nothing here: a text is matched from end to end")
    machine = Machine(tree, compiled.flags)
    return compiled.fullmatch if _is_quick(tree) else machine.matches


def is_quick(pattern: str) -> bool:
    """May `re` look for it in any text? It takes no more ways than the text is long, from each of its characters on."""
    return _is_quick(_parser.parse(pattern))


def _is_quick(nodes: Iterable[Any]) -> bool:
    degree, ways = _ways(nodes)
    return degree <= 1 and ways <= WAYS


def _ways(nodes: Iterable[Any]) -> tuple[float, float]:
    """How many ways `re` may try: the power of the length of the text, and how often that."""
    degree, ways = 0.0, 1.0
    for kind, about in nodes:
        if kind is _constants.SUBPATTERN:
            inner, times = _ways(about[3])
        elif kind is _constants.BRANCH:
            each = [_ways(branch) for branch in about[1]]
            inner, times = max(power for power, _ in each), sum(number for _, number in each)
        elif kind in REPEATS:
            least, most, repeated = about
            inner, times = _ways(repeated)
            if least != most and most != 1:
                inner, times = (1.0, 1.0) if (inner, times) == (0, 1) else (float("inf"), 1.0)
            elif least != most:
                times += 1
            else:
                inner, times = inner * most, times ** min(most, 64)
        else:
            continue
        degree += inner
        ways *= times
    return degree, ways


class Place:
    """A place in a pattern, and where it leads: over a character that passes `test`, or, without one, to all of `ways` if the border is there."""

    __slots__ = ("border", "test", "ways")

    def __init__(self, ways: tuple[Place, ...], test: Callable[[str], object] | None = None, border: object = None) -> None:
        self.ways, self.test, self.border = ways, test, border


class State:
    """The places where the text so far may have led, and whether its last character is one of a word. `steps` are those worked out."""

    __slots__ = ("at_start", "in_word", "places", "steps", "whole")

    def __init__(self, places: frozenset[Place], in_word: bool, at_start: bool) -> None:
        self.places, self.in_word, self.at_start = places, in_word, at_start
        self.steps: dict[str, State] = {}
        self.whole: bool | None = None  # may the text end here? None: not asked yet


class Machine:
    """A pattern whose ways are followed all at once."""

    def __init__(self, tree: Any, flags: int) -> None:
        self._count = 0
        self._tests: dict[str, Callable[[str], object]] = {}
        self._is_word = re.compile(r"\w", flags & re.ASCII).fullmatch
        self._goal = Place(())
        self._first = frozenset({self._built(tree, flags, self._goal)})
        self._forget()

    def matches(self, text: str) -> bool:
        """From end to end."""
        state = self._start
        for character in text:
            found = state.steps.get(character)
            state = self._step(state, character) if found is None else found
        if state.whole is None:
            state.whole = self._goal in self._reached(state, None)
        return state.whole

    def _forget(self) -> None:
        self._start = State(self._first, False, True)
        self._states: dict[tuple[frozenset[Place], bool], State] = {}
        self._known = 0

    def _step(self, state: State, character: str) -> State:
        if self._known >= STEPS:
            self._forget()
            state = State(state.places, state.in_word, state.at_start)
        self._known += 1 + len(state.places) // 16  # they take memory too
        passed: dict[Callable[[str], object], bool] = {}
        places = set()
        for place in self._reached(state, character):
            if (test := place.test) is not None:
                if test not in passed:
                    passed[test] = test(character) is not None
                if passed[test]:
                    places.add(place.ways[0])
        key = frozenset(places), self._is_word(character) is not None
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = State(*key, False)
        state.steps[character] = found
        return found

    def _reached(self, state: State, character: str | None) -> set[Place]:
        """All places from which a character leads on, and the goal; `character` comes next, or the end."""
        border = state.in_word is not (character is not None and self._is_word(character) is not None)
        seen: set[Place] = set()
        waiting = list(state.places)
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            if place.test is not None:
                continue
            asked = place.border
            if asked is None or (state.at_start if asked in STARTS else character is None if asked in ENDS else BORDERS[asked] is border):
                waiting.extend(place.ways)
        return seen

    def _place(self, *given: Any) -> Place:
        self._count += 1
        if self._count > PLACES:
            raise Wrong("repeats too much: written out, it is too long")
        return Place(*given)

    def _built(self, nodes: Iterable[Any], flags: int, goal: Place) -> Place:
        """The place where `nodes` begin, when `goal` comes after them."""
        for kind, about in reversed(list(nodes)):
            if kind in ONE:
                goal = self._place((goal,), self._test((kind, about), flags))
            elif kind is _constants.BRANCH:
                goal = self._place(tuple(self._built(branch, flags, goal) for branch in about[1]))
            elif kind is _constants.SUBPATTERN:
                _, added, removed, inner = about
                goal = self._built(inner, (flags | added) & ~removed, goal)
            elif kind in REPEATS:
                least, most, repeated = about
                goal = self._repeated(least, most, repeated, flags, goal)
            elif kind is _constants.AT and (about in STARTS or about in ENDS or about in BORDERS):
                goal = self._place((goal,), None, about)
            else:
                raise Wrong("back references, looking ahead or behind, and atomic groups cannot be used here")
        return goal

    def _repeated(self, least: int, most: Any, inner: Any, flags: int, goal: Place) -> Place:
        if most is _constants.MAXREPEAT:
            loop = self._place(())
            loop.ways = (self._built(inner, flags, loop), goal)
            goal = loop
        else:
            after = goal
            for _ in range(most - least):
                goal = self._place((self._built(inner, flags, goal), after))
        for _ in range(least):
            goal = self._built(inner, flags, goal)
            self._count += 1
        return goal

    def _test(self, node: Any, flags: int) -> Callable[[str], object]:
        """One character, as `re` has it. Equal ones are one."""
        key = repr((node, flags))
        if key not in self._tests:
            state = _parser.State()
            state.flags = flags
            state.str = ""
            self._tests[key] = _compiler.compile(_parser.SubPattern(state, [node]), flags).fullmatch
        return self._tests[key]
