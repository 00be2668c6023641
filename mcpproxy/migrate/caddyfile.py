"""The syntax of Caddyfiles: words, quotes, heredocs and braces → directives with their blocks, snippets put in where they are imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mcpproxy.migrate.found import Unusable

DEEPEST = 40
MOST = 20_000  # directives after imports: snippets that import snippets must not multiply without end
PLACEHOLDER = re.compile(r"\{\$([A-Za-z_][A-Za-z0-9_]*)(?::([^{}]*))?\}")
HEREDOC = re.compile(r"<<([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, on a line. `quoted`: it is a text, whatever it looks like."""

    text: str
    line: int
    quoted: bool = False
    end: int = 0  # the line it ends on, where that is another one


@dataclass(slots=True)
class Line:
    """A directive (or the addresses of a site) with its arguments, and the block behind it where there is one."""

    words: list[str]
    line: int
    block: list[Line] | None = None

    @property
    def name(self) -> str:
        """Its first word."""
        return self.words[0]

    @property
    def args(self) -> list[str]:
        """The others."""
        return self.words[1:]


@dataclass(slots=True)
class Root:
    """A whole file: global options, snippets, and the rest, imports done. `missing` are imports of other files."""

    options: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    missing: list[Line] = field(default_factory=list)


def tokens(text: str) -> Iterator[Token]:
    """Words with their lines. Braces that stand alone are words of their own."""
    at, line, end = 0, 1, len(text)
    while at < end:
        character = text[at]
        if character == "\n":
            at, line = at + 1, line + 1
        elif character.isspace():
            at += 1
        elif character == "\\" and text[at + 1 : at + 2] == "\n":
            at += 2  # the line goes on: its number is kept for what follows
            yield Token("\\\n", line)
            line += 1
        elif character == "#":
            stop = text.find("\n", at)
            at = end if stop < 0 else stop
        elif character in '"`':
            stop = at + 1
            while stop < end and text[stop] != character:
                stop += 2 if character == '"' and text[stop] == "\\" else 1
            if stop >= end:
                raise Unusable(f"line {line}: a quote is not closed")
            inside = text[at + 1 : stop]
            yield Token(inside.replace('\\"', '"') if character == '"' else inside, line, True, line + inside.count("\n"))
            line += inside.count("\n")
            at = stop + 1
        else:
            stop = at
            while stop < end and not text[stop].isspace():
                stop += 1
            word = text[at:stop]
            heredoc = HEREDOC.fullmatch(word)
            if heredoc:
                close = re.compile(rf"^[ \t]*{re.escape(heredoc[1])}(?=\s|$)", re.MULTILINE).search(text, stop)
                if close is None:
                    raise Unusable(f"line {line}: a heredoc is not closed")
                end_line = line + text.count("\n", stop, close.end())
                yield Token(text[stop : close.start()].strip("\n"), line, True, end_line)
                line = end_line
                at = close.end()
            else:
                yield Token(word, line)
                at = stop


def _lines(text: str) -> list[tuple[list[Token], int]]:
    """Words by lines, continued lines as one."""
    out: list[tuple[list[Token], int]] = []
    current: list[Token] = []
    last, joined = 0, False
    for token in tokens(text):
        if token.text == "\\\n" and not token.quoted:
            joined = True
            continue
        if current and token.line != last and not joined:
            out.append((current, current[0].line))
            current = []
        current.append(token)
        last, joined = token.end or token.line, False
    if current:
        out.append((current, current[0].line))
    return out


def parse(text: str) -> Root:
    """The file. Raises Unusable where braces do not fit."""
    stack: list[list[Line]] = [[]]
    for words, number in _lines(text.replace("\r\n", "\n")):
        rest = list(words)
        while rest and rest[0].text == "}" and not rest[0].quoted:
            if len(stack) == 1:
                raise Unusable(f"line {number}: a brace is closed that was not opened")
            stack.pop()
            del rest[0]
        closes = 0
        while len(rest) > 1 and rest[-1].text == "}" and not rest[-1].quoted and any(t.text == "{" for t in rest):
            closes += 1
            del rest[-1]
        if not rest:
            continue
        opened = next((index for index, token in enumerate(rest) if token.text == "{" and not token.quoted), None)
        line = Line([_placed(token.text) for token in rest[:opened]], number)
        stack[-1].append(line)
        if opened is not None:
            line.block = []
            if len(stack) > DEEPEST:
                raise Unusable("nested too deeply")
            inner = rest[opened + 1 :]
            if inner:
                line.block.append(Line([_placed(token.text) for token in inner], number))
            if closes == 0:
                stack.append(line.block)
    if len(stack) > 1:
        raise Unusable("a brace is not closed")
    return _resolved(stack[0])


def _placed(word: str) -> str:
    """With the default of a variable of the environment, where it has one."""
    return PLACEHOLDER.sub(lambda found: found[2] if found[2] is not None else found[0], word)


def _resolved(lines: list[Line]) -> Root:
    root = Root()
    snippets: dict[str, list[Line]] = {}
    rest: list[Line] = []
    for number, line in enumerate(lines):
        if not line.words:
            if number == 0:
                root.options = line.block or []
            else:
                raise Unusable(f"line {line.line}: a block of nobody")
        elif len(line.words) == 1 and re.fullmatch(r"\([^()]+\)", line.name) and line.block is not None:
            snippets[line.name[1:-1]] = line.block
        else:
            rest.append(line)
    left = [MOST]
    root.lines = list(_imported(rest, snippets, root, left, 0))
    return root


def _imported(lines: list[Line], snippets: dict[str, list[Line]], root: Root, left: list[int], depth: int) -> Iterator[Line]:
    for line in lines:
        left[0] -= 1
        if left[0] < 0 or depth > DEEPEST:
            raise Unusable("its imports have no end")
        if not line.words:
            raise Unusable(f"line {line.line}: a block of nobody")
        if line.name == "import" and line.args:
            if line.args[0] in snippets:
                yield from _imported([_argued(each, line.args[1:]) for each in snippets[line.args[0]]], snippets, root, left, depth + 1)
            else:
                root.missing.append(line)
        elif line.block is not None:
            yield Line(line.words, line.line, list(_imported(line.block, snippets, root, left, depth + 1)))
        else:
            yield line


def _argued(line: Line, args: list[str]) -> Line:
    """A line of a snippet with the arguments of its import."""

    def put(word: str) -> str:
        return re.sub(r"\{args(?:\[(\d)\]|\.(\d))\}", lambda found: (args + [""] * 10)[int(found[1] or found[2])], word)

    block = None if line.block is None else [_argued(each, args) for each in line.block]
    return Line([put(word) for word in line.words] or line.words, line.line, block)
