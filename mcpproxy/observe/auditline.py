"""What an audit line says about a call.

    Entry ──▶ one body for each call: who, what, where, verdict, outcome            (the chain adds number and hash, observe/chain)

 1. No credential, no session id and no argument stands in it. Of arguments there are names and digests, keyed with a secret of this installation: who reads
    the log sees that two values are equal, and cannot find out by trying what they are. Values of arguments that `reveal` names follow in clear, redacted.
 2. Names come from the client: bounded, redacted, JSON-escaped. They repeat, so they are rendered once (a bounded memo).
 3. An argument written twice is read differently by different servers: then the line says so instead of choosing one.

Runs in the audit log's thread, but every microsecond of it is one the loop does not have: beside it nothing is decoded that is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from hashlib import blake2b
from time import gmtime, strftime
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcpproxy.config.policies import Audit
from mcpproxy.mcp.call import Call
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.outcome import Outcome
from mcpproxy.observe.redact import REDACTED, WINDOW, Redactor

ARGUMENTS = 64  # of a call that are told apart; of more there is one digest, and a count
DIGEST = 8  # bytes of a digest: enough that two different values of one installation never look equal
REVEALED_BYTES = 16 * 1024  # a longer value is not decoded to show a few characters of it
NAMES = 2048  # names that are kept rendered
NAME = WINDOW + 1  # characters of a name that matter; the memo stays small whatever clients call their arguments

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_any = msgspec.json.Decoder().decode
_json = msgspec.json.Encoder().encode


class Entry(NamedTuple):
    """The facts of one exchange with its calls."""

    began: float  # monotonic seconds
    ended: float
    request_id: bytes
    client: bytes  # JSON members of the connection, as the access log has them: '"client":"192.0.2.1"'
    who: bytes  # JSON members of the caller, each with its leading comma: ',"principal":"agent-alpha","key":"…"'
    where: bytes  # JSON members of route, upstream and session, each with its leading comma
    trace: bytes  # the 32 digits of the trace id, or nothing
    era: str  # the revision, or nothing
    calls: tuple[Call, ...]  # none: the body could not be read
    verdict: str  # "allowed", "denied", "shadow-denied"
    rule: str
    reason: str
    outcome: Outcome | None  # None: no answer came, or none was expected
    status: int
    bytes_in: int
    bytes_out: int
    answers: Sequence[tuple[bytes, Outcome]] = ()  # of a batch: raw id and outcome of each answer (mcp/outcome)


LINE = b'"time":"%b.%03dZ","type":"call","id":"%b",%b%b%b%b%b%b,"status":%d,"bytes_in":%d,"bytes_out":%d,"ms":%.3f'


class Renderer:
    """Entries → bodies of lines."""

    def __init__(self, settings: Audit, salt: bytes) -> None:
        self._digest = blake2b(key=salt, digest_size=DIGEST).copy
        redactor = Redactor(settings.redact)
        self._shown = redactor.shown
        reveals = _reveals(settings.reveal)

        @lru_cache(NAMES)
        def word(text: str) -> bytes:
            return _json(redactor.shown(text))

        @lru_cache(NAMES)
        def label(text: str) -> str:
            """The name of an argument, up to its digest."""
            return f',{word(text).decode()}:"'

        @lru_cache(NAMES)
        def named(era: str, method: str, name: str | None) -> bytes:
            """What is called."""
            text = b',"era":%b' % word(era) if era else b""
            text += b',"method":%b' % word(method)
            if name is None:
                return text
            return text + b',"%b":%b' % (b"tool" if method == "tools/call" else b"name", word(name))

        @lru_cache(NAMES)
        def judged(verdict: str, rule: str, reason: str, kind: str, code: int | None) -> bytes:
            """What became of it."""
            text = b',"verdict":"%b"' % verdict.encode()
            for label, value in (b"rule", rule), (b"reason", reason), (b"outcome", kind):
                if value:
                    text += b',"%b":%b' % (label, word(value))
            return text if code is None else text + b',"code":%d' % code

        @lru_cache(NAMES)
        def reveal(tool: str, argument: str) -> str:
            """How an argument is shown: "", "clear" or "redacted"."""
            if not reveals(tool, argument):
                return ""
            return "redacted" if redactor.secretive(argument) else "clear"

        self._word, self._label, self._named, self._judged = word, label, named, judged
        self._reveal = reveal if settings.reveal else None
        self._second, self._stamp = -1, b""

    def bodies(self, entry: Entry, offset: float) -> list[bytes]:
        """One for each call. `offset` turns monotonic seconds into Unix time (clock.wall_offset)."""
        calls = entry.calls
        if not calls:
            return [self._body(entry, offset, b',"unread":true', entry.outcome)]
        if len(calls) == 1 and calls[0].method:
            return [self._body(entry, offset, self._call(calls[0], entry.era), entry.outcome)]
        answers = dict(entry.answers)
        batch = b',"batch":%d' % len(calls)
        return [
            self._body(entry, offset, self._call(call, entry.era) + batch, answers.get(call.id) if call.id else None)
            for call in calls
            if call.method  # an answer of the client is no call
        ]

    def _body(self, entry: Entry, offset: float, call: bytes, outcome: Outcome | None) -> bytes:
        began, ended, request_id, client, who, where, trace, _, _, verdict, rule, reason, _, status, bytes_in, bytes_out, _ = entry
        moment = began + offset
        whole = int(moment)
        return LINE % (
            self._stamp if whole == self._second else self._stamp_of(whole),
            (moment - whole) * 1000,
            request_id,
            client,
            who,
            where,
            b',"trace":"%b"' % trace if trace else b"",
            call,
            self._judged(verdict, rule, reason, "", None)
            if outcome is None
            else self._judged(verdict, rule, reason, outcome.kind, outcome.code),
            status,
            bytes_in,
            bytes_out,
            (ended - began) * 1000,
        )

    def word(self, text: str) -> bytes:
        """A text of the client as JSON: bounded and redacted."""
        return self._word(text[:NAME])

    def stamp(self, moment: float) -> bytes:
        """Unix seconds as the log writes them."""
        return b"%b.%03dZ" % (self._stamp_of(int(moment)), moment % 1 * 1000)

    def _stamp_of(self, second: int) -> bytes:
        if second != self._second:
            self._second, self._stamp = second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode()
        return self._stamp

    def _call(self, call: Call, era: str) -> bytes:
        name = call.name
        text = self._named(era[:NAME], call.method[:NAME], name and name[:NAME])
        if call.implied:
            text += b',"implied":true'
        raw = call.raw_arguments
        return text + self._arguments(call, raw) if raw else text

    def _arguments(self, call: Call, raw: Raw) -> bytes:
        try:
            found = _members(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b',"arguments":%b' % self._hashed(raw)
        if len(found) > ARGUMENTS:
            return b',"arguments":%b,"more_args":%d' % (self._hashed(raw), len(found))
        label, copy, text = self._label, self._digest, ""
        size = 1 + 4 * len(found)  # {"name":value,…}
        for name, value in found.items():
            size += len(name) + len(value)
            hashed = copy()
            hashed.update(value)
            text += f'{label(name if len(name) < NAME else name[:NAME])}{hashed.hexdigest()}"'
        if size != len(raw) and _is_ambiguous(call):
            return b',"arguments":%b,"ambiguous":true' % self._hashed(raw)
        line = b',"args":{%b}' % text[1:].encode()
        return line if self._reveal is None else line + self._revealed(call, found)

    def _revealed(self, call: Call, found: Mapping[str, Raw]) -> bytes:
        assert self._reveal is not None
        tool = (call.name or "")[:NAME]
        shown: dict[str, str] = {}
        for name, value in found.items():
            if how := self._reveal(tool, name[:NAME]):
                shown[self._shown(name)] = REDACTED if how == "redacted" else self._value(bytes(value))
        return b',"revealed":%b' % _json(shown) if shown else b""

    def _value(self, raw: bytes) -> str:
        """In clear: a text as it is, anything else as JSON without escapes."""
        if len(raw) > REVEALED_BYTES:
            return REDACTED
        try:
            value = _any(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return REDACTED
        return self._shown(value if isinstance(value, str) else _json(value).decode())

    def _hashed(self, raw: Raw) -> bytes:
        hashed = self._digest()
        hashed.update(raw)
        return b'"%b"' % hashed.hexdigest().encode()


def _is_ambiguous(call: Call) -> bool:
    """May two servers read the arguments differently?"""
    try:
        call.argument_names()
    except CallError:
        return True
    return False


def _reveals(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Is this argument of this tool to be shown? `path` or `search_*.query`, globs in both halves."""
    pairs = [(re.compile(translate(tool)).match, re.compile(translate(argument)).match) for tool, argument in map(_halves, patterns)]
    return lambda tool, argument: any(fits(tool) and also(argument) for fits, also in pairs)


def _halves(pattern: str) -> tuple[str, str]:
    tool, dot, argument = pattern.rpartition(".")
    return (tool, argument) if dot else ("*", argument)
