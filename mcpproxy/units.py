"""How durations and sizes are written: "24h", "1m30s", "1.5s" and "10MiB" to numbers, and numbers back to the shortest such text.

1. A bare number is refused: nobody should have to know whether 30 means seconds or milliseconds. The refusal says what to write.
2. Durations are seconds, sizes are whole bytes. Units of a compound duration go from large to small, each at most once.
3. duration(show_duration(s)) == s for every s of whole milliseconds; size(show_size(n)) == n for every n.
4. Sizes count in 1024s and say so (KiB); "10MB" is refused with the KiB-style text it probably meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
FEWEST = {"d": 2, "m": 2}  # people say 24h and 60s
LONGEST_TEXT = 40  # characters; no sensible value is longer, and int() of a long text is slow
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile("".join(rf"(?:({NUMBER}){unit})?" for unit in MILLISECONDS))
_SIZE = re.compile(rf"({NUMBER})({'|'.join(BYTES)})")
_ALMOST_SIZE = re.compile(rf"({NUMBER})\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_BARE = re.compile(NUMBER)


def duration(text: object) -> float:
    """Seconds. Raises ValueError with a sentence for the operator."""
    if isinstance(text, str) and 0 < len(text) <= LONGEST_TEXT:
        found = _DURATION.fullmatch(text)
        if found is not None:
            total = sum(float(number) * factor for number, factor in zip(found.groups(), MILLISECONDS.values(), strict=True) if number)
            return total / 1000
    bare = _bare_number(text)
    if bare:
        raise ValueError(f'a duration needs a unit: "{bare}s" for seconds (ms, s, m, h, d)')
    raise ValueError('a duration is a number with a unit, like "1.5s", "90s", "1m30s" or "24h" (ms, s, m, h, d)')


def size(text: object) -> int:
    """Bytes. Raises ValueError with a sentence for the operator."""
    if isinstance(text, str) and 0 < len(text) <= LONGEST_TEXT:
        found = _SIZE.fullmatch(text)
        if found is not None:
            number, unit = found.groups()
            count = float(number) * BYTES[unit] if "." in number else int(number) * BYTES[unit]
            if count != int(count):
                raise ValueError(f"{text} is not a whole number of bytes")
            return int(count)
        almost = _ALMOST_SIZE.fullmatch(text)
        if almost is not None and almost[2]:
            raise ValueError(f'sizes are written in B, KiB, MiB, GiB: "{almost[1]}{almost[2].upper()}iB"')
    bare = _bare_number(text)
    if bare:
        raise ValueError(f'a size needs a unit: "{bare}B" for bytes (B, KiB, MiB, GiB)')
    raise ValueError('a size is a number with a unit, like "512B", "32KiB" or "10MiB" (B, KiB, MiB, GiB)')


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` per `period` seconds, evenly; `burst` more than that may come at once (0: none)."""

    count: int
    period: float
    burst: int = 0


PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RATE = re.compile(rf"([1-9][0-9]{{0,8}})/([{''.join(PERIODS)}])(?: +burst +(0|[1-9][0-9]{{0,8}}))?")


def rate(text: object) -> Rate:
    """A Rate. Raises ValueError with a sentence for the operator."""
    found = _RATE.fullmatch(text) if isinstance(text, str) and len(text) <= LONGEST_TEXT else None
    if found is None:
        raise ValueError('a rate is a number per unit of time, like "30/m", "5/s" or "30/m burst 10" (s, m, h, d)')
    return Rate(int(found[1]), PERIODS[found[2]], int(found[3] or 0))


def show_rate(given: Rate) -> str:
    """The text rate() reads as `given`."""
    unit = next(unit for unit, period in PERIODS.items() if period == given.period)
    return f"{given.count}/{unit}" + (f" burst {given.burst}" if given.burst else "")


def many(count: int, what: str) -> str:
    """1 line, 2 lines."""
    return f"{count} {what}{'s' * (count != 1)}"


def show_duration(seconds: float) -> str:
    """A text duration() reads as `seconds` (to the millisecond), in the largest unit that needs no fraction: 24h, 75s, 60s, 1.5s."""
    count = round(seconds * 1000)
    for unit, factor in MILLISECONDS.items():
        if count % factor == 0 and count >= factor * FEWEST.get(unit, 1):
            return f"{count // factor}{unit}" if unit != "ms" or count < 1000 else f"{count / 1000:.3f}".rstrip("0") + "s"
    return "0s"


def show_size(count: int) -> str:
    """The shortest text size() reads as `count`."""
    unit = next((unit for unit, factor in BYTES.items() if count % factor == 0), "B") if count else "B"
    return f"{count // BYTES[unit]}{unit}"


def _bare_number(value: object) -> str:
    """The value as text when it is a number without a unit, else nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if 0 <= value < 1e15 else ""
    return value if isinstance(value, str) and len(value) <= LONGEST_TEXT and _BARE.fullmatch(value) else ""
