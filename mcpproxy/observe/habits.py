"""What is unusual for a caller: a tool it never called, or ten times as many calls as it is used to. Nobody is stopped for it.

A caller is known after KNOWN calls; before that everything is new and nothing is told. Of each caller there are its tools and the calls it makes in a minute
in which it calls at all, averaged so that the last few dozen such minutes count. It is kept in the state directory (`audit-habits.json`), bounded: who was away
the longest is forgotten first.

Where several processes serve, each hears what callers did elsewhere (`heard`, half a second late), so all have the same habits and any of them may keep them.

Unix time comes in. Used by the thread of the audit log.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct, field

FILE = "audit-habits.json"
NEW_TOOL, MANY_CALLS = "new-tool", "many-calls"
KNOWN = 50  # calls until a caller has habits
TIMES = 10.0  # as many as it is used to
LEAST = 50  # calls in a minute below which nothing is much
MINUTES = 10  # with calls, until it is known what is usual
SHARE = 1 / 32  # of the newest minute in the average
QUIET = 3600.0  # seconds until the same caller's rate is told again
CALLERS = 2000
TOOLS = 500  # of one caller
NAME = 256  # characters of a tool's name that count


class _Caller(Struct):
    calls: int = 0
    seen: float = 0.0  # when it called last
    tools: dict[str, float] = field(default_factory=dict)  # when it was called last
    minute: int = 0
    count: int = 0  # in this minute
    minutes: int = 0  # with calls
    usual: float = 0.0  # calls in a minute
    told: float = 0.0  # when its rate was told of


class Habits:
    """Of all callers."""

    def __init__(self, directory: Path) -> None:
        self._place = directory / FILE
        self._callers: dict[str, _Caller] = {}
        self._changed = False
        try:
            self._callers = msgspec.json.decode(self._place.read_bytes(), type=dict[str, _Caller])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            pass  # none, or a broken one: they are learned anew

    def called(self, who: str, tool: str, now: float) -> list[tuple[str, str]]:
        """One call. Returns what is unusual about it: kind, and JSON members that say more."""
        caller = self._caller(who, now)
        found: list[tuple[str, str]] = []
        if tool[:NAME] not in caller.tools and caller.calls >= KNOWN:
            found.append((NEW_TOOL, f',"calls":{caller.calls}'))
        self._note(caller, tool, 1, now)
        if self._much(caller, now):
            found.append((MANY_CALLS, f',"calls_per_minute":{caller.count},"usual":{caller.usual:.1f}'))
        return found

    def heard(self, who: str, tool: str, count: int, now: float) -> None:
        """Calls that another process served; with `count` 0 `tool` is the kind of what it told of them."""
        caller = self._caller(who, now)
        if count:
            self._note(caller, tool, count, now)
        elif tool == MANY_CALLS:
            caller.told = max(caller.told, now)

    def _caller(self, who: str, now: float) -> _Caller:
        caller = self._callers.get(who)
        if caller is None:
            caller = self._callers[who] = _Caller()
            if len(self._callers) > CALLERS:
                del self._callers[min(self._callers, key=lambda each: self._callers[each].seen or now)]
        self._changed = True
        return caller

    @staticmethod
    def _note(caller: _Caller, tool: str, count: int, now: float) -> None:
        tool = tool[:NAME]
        if tool not in caller.tools and len(caller.tools) >= TOOLS:
            del caller.tools[min(caller.tools, key=caller.tools.__getitem__)]
        caller.tools[tool] = caller.seen = now
        caller.calls += count
        minute = int(now // 60)
        if not caller.minute - 1 <= minute <= caller.minute:  # what is heard late counts as now; a clock that was set back does not
            if caller.count:
                caller.minutes += 1
                caller.usual += (caller.count - caller.usual) * max(SHARE, 1 / caller.minutes)
            caller.minute, caller.count = minute, 0
        caller.count += count

    @staticmethod
    def _much(caller: _Caller, now: float) -> bool:
        much = caller.minutes >= MINUTES and caller.count >= max(LEAST, TIMES * caller.usual) and now - caller.told >= QUIET
        if much:
            caller.told = now
        return much

    def save(self) -> None:
        """Keep it. Raises OSError."""
        if not self._changed:
            return
        beside = self._place.with_name(f".{FILE}.{os.getpid()}")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(self._callers))
        beside.replace(self._place)
        self._changed = False
