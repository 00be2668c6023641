"""What must not stand in a log, even where the operator wants an argument in clear.

   shown(text) → at most SHOWN characters of it, with keys, tokens, passwords, e-mail addresses, card and phone numbers replaced

1. Replaced first, shortened then. Only the first WINDOW characters are looked at, cut where a word ends, so that no half of a secret escapes its pattern.
2. Rather too much than too little: any thirteen digits may be a card.
3. The time is bounded by the length: what a pattern of ours repeats never fits in two ways. Patterns of the operator see no more than WINDOW characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcpproxy.config.regular import is_quick, regular

SHOWN = 256  # characters of one value
WINDOW = 1024  # characters that are looked at: under a millisecond for the unkindest text
REDACTED = "[redacted]"
CUT = "…"
MARK = "\0"  # stands for REDACTED until all patterns have been looked for

SECRETIVE = r"passwor[dt]|passwd|passphrase|pwd|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|credential|authorization|cookie|session[_-]?id"
COMMON = (
    r"mcpp_[0-9A-Za-z_-]{6,}",  # our own keys
    r"-----BEGIN [A-Z ]{3,40}-----[^-]*(?:-----END [A-Z ]{3,40}-----)?",
    r"eyJ[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*){0,4}",  # JWT, JWE, and whatever else is an object in base64
    r"(?:(?:[rps]k[-_]|gh[opsur]_|github_pat_|glpat-|xox[abeoprs]-|npm_|hf_|pypi-|dop_v1_|ya29\.|AIza|AKIA|ASIA)[0-9A-Za-z_.-]{8,})",
    r"(?i:\b(?:bearer|basic) +)[0-9A-Za-z._~+/=-]{6,}",
    r"(?i:"
    + SECRETIVE
    + r")[\w-]{0,24}[\"' ]{0,3}[:=] {0,3}(?:(?i:bearer|basic|digest|token) +)?(?:\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s\"',;&}\]]+)",
    r"://[^/\s@]+@",  # credentials in a URL
    r"(?<![^\s\"'<>(),;:=\[\]{}@])[^\s\"'<>(),;:=\[\]{}@]+@[^\s\"'<>(),;:=\[\]{}@]+\.[^\s\"'<>(),;:=\[\]{}@.]+",  # an e-mail address
    r"(?:\d[ -]?){12,}\d",  # a card number
    r"\+\d(?:[ ()./-]{0,2}\d){6,}",  # a phone number
)
_FLAGS = re.compile(r"^(?:\(\?([a-zA-Z]+)\))?(.*)$", re.DOTALL)  # a pattern's own flags hold for itself
_LAST_WORD = re.compile(r"\S*$")
_secretive = re.compile(SECRETIVE, re.IGNORECASE).search


class Redactor:
    """COMMON and the operator's own patterns."""

    __slots__ = ("_patterns", "_slow")

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        # each for itself: groups and flags of one are nothing to another
        self._patterns = [re.compile("|".join(COMMON)), *(re.compile(pattern) for pattern in patterns if is_quick(pattern))]
        self._slow = [regular(f"(?s:.*){_FLAGS.sub(_grouped, pattern)}(?s:.*)") for pattern in patterns if not is_quick(pattern)]

    def shown(self, text: str) -> str:
        """What of `text` may be read by everybody who may read the log."""
        whole = len(text) <= WINDOW
        if not whole:
            text = text[:WINDOW]
            end = _LAST_WORD.search(text)
            text = text[: end.start() if end is not None else 0].rstrip("0123456789 ()+-./") or REDACTED
        for held in self._slow:
            if held(text):
                return REDACTED
        text = text.replace(MARK, "")
        for pattern in self._patterns:
            text = pattern.sub(MARK, text)
        text = text.replace(MARK, REDACTED)
        if whole and len(text) <= SHOWN:
            return text
        return text[: SHOWN - 1] + CUT

    @staticmethod
    def secretive(name: str) -> bool:
        """An argument of this name holds a secret, whatever it looks like."""
        return _secretive(name) is not None


def _grouped(found: re.Match[str]) -> str:
    return f"(?{found[1] or ''}:{found[2]})"
