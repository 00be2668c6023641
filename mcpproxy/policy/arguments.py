"""Is an argument what a rule says? Yes, no, or that cannot be said.

It cannot be said where a server may take the value for another one than it is: a text for a number (`"5"`), a number too large for some parsers, a path
that leads elsewhere. An `allow` needs a yes; a `deny` fits unless it is a no. So whoever writes an argument strangely gains nothing by it.

An argument that is null is not there: servers take the two for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import ge, le

from mcpproxy.config.policies import Constraint
from mcpproxy.config.regular import regular

Answer = bool | None  # None: that cannot be said
Condition = Callable[[object], Answer]
MATCHED = 4096  # characters of a text that a pattern is tried on
KEYS = tuple(key for key in Constraint.__struct_fields__ if key != "optional")
YES = frozenset({"true", "t", "yes", "y", "on"})  # what servers that are lenient take for a truth value
NO = frozenset({"false", "f", "no", "n", "off"})


class Constraints:
    """What the arguments of one rule must be."""

    __slots__ = ("_of", "names", "table")

    def __init__(self, table: Mapping[str, Constraint]) -> None:
        self.table, self.names = table, tuple(table)
        self._of = [(name, constraint.optional, _conditions(constraint)) for name, constraint in table.items()]

    def hold(self, arguments: Mapping[str, object]) -> Answer:
        """Are all of them what they must be?"""
        answer: Answer = True
        for name, optional, conditions in self._of:
            value = arguments.get(name)
            if value is None:
                if not optional:
                    return False
                continue
            for condition in conditions:
                said = condition(value)
                if said is False:
                    return False
                if said is None:
                    answer = None
        return answer

    def failing(self, arguments: Mapping[str, object]) -> str:
        """The first condition that does not certainly hold, as it stands in the configuration: `path.inside`, or `path` alone: it is missing. For people."""
        for name, constraint in self.table.items():
            value = arguments.get(name)
            if value is None:
                if not constraint.optional:
                    return name
                continue
            for key in KEYS:
                conditions = _conditions(Constraint(**{key: getattr(constraint, key)}))
                if any(condition(value) is not True for condition in conditions):
                    return f"{name}.{key}"
        return ""


def _conditions(constraint: Constraint) -> list[Condition]:
    found: list[Condition] = []
    if constraint.equals is not None:
        found.append(_one_of((constraint.equals,)))
    if constraint.one_of:
        found.append(_one_of(constraint.one_of))
    if constraint.matches is not None:
        found.append(_matches(constraint.matches))
    if (most := constraint.max_length) is not None:
        found.append(lambda value: len(value) <= most if isinstance(value, str | list | dict) else None)
    if constraint.min is not None:
        found.append(_bounded(partial(le, constraint.min)))
    if constraint.max is not None:
        found.append(_bounded(partial(ge, constraint.max)))
    if constraint.inside is not None:
        found.append(_inside(constraint.inside))
    return found


def _one_of(wanted: tuple[str | float | bool, ...]) -> Condition:
    def condition(value: object) -> Answer:
        answers = [_same(value, each) for each in wanted]
        return True if True in answers else None if None in answers else False

    return condition


def _same(value: object, wanted: str | float | bool) -> Answer:
    """Numbers are compared as numbers (42 is 42.0), and true is not 1."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        if isinstance(value, bool) and isinstance(wanted, bool):
            return value is wanted
    elif isinstance(value, str) and isinstance(wanted, str):
        return value == wanted
    elif isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted if (value == wanted) is (float(value) == float(wanted)) else None
    if not isinstance(value, str | int | float):
        return None
    return None if _loosely(value) == _loosely(wanted) else False


def _loosely(value: str | float | bool) -> object:
    """What a lenient server may take `value` for."""
    if not isinstance(value, str):
        return float(value)
    text = value.strip().lower()
    if text in YES or text in NO:
        return float(text in YES)
    try:
        return float(text)
    except ValueError:
        return text


def _bounded(holds: Callable[[float], bool]) -> Condition:
    """Of numbers, as they are and as parsers see them that know only 64-bit floats."""

    def condition(value: object) -> Answer:
        if value.__class__ is not int and value.__class__ is not float:  # true and false are no numbers
            return None
        answer = holds(value)
        return answer if answer is holds(float(value)) else None

    return condition


def _matches(pattern: str) -> Condition:
    matches = regular(pattern)
    return lambda value: bool(matches(value)) if isinstance(value, str) and len(value) <= MATCHED else None


def _inside(folder: str) -> Condition:
    below = folder.rstrip("/") + "/"

    def condition(path: object) -> Answer:
        if not isinstance(path, str) or not path.startswith("/") or "\\" in path or "\0" in path:
            return None
        plain = path[:-1] if path.endswith("/") else path
        if any(segment in ("", ".", "..") for segment in plain.split("/")[1:]):
            return None
        return path == folder or path.startswith(below)

    return condition
