"""The syntax of Caddyfiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.migrate.caddyfile import parse, tokens
from mcpproxy.migrate.found import Unusable


def test_words_quotes_heredocs_and_continued_lines() -> None:
    text = 'a "b c" `d"e` # no\nrespond <<END\n  x }\n  END 200\nlong \\\n  line\nhash#inside {$HOST:x.test} {$NONE}\n'
    root = parse(text)
    assert [line.words for line in root.lines] == [
        ["a", "b c", 'd"e'],
        ["respond", "  x }", "200"],
        ["long", "line"],
        ["hash#inside", "x.test", "{$NONE}"],
    ]
    assert [line.line for line in root.lines] == [1, 2, 5, 7]


def test_blocks_options_and_snippets() -> None:
    root = parse(
        "{\n email a@b.test\n}\n(s) {\n header {args[0]} 1\n}\nx.test {\n import s X-A\n import other/*\n tls { protocols tls1.3 }\n}\n"
    )
    assert [line.name for line in root.options] == ["email"]
    block = root.lines[0].block
    assert block is not None
    assert [line.words for line in block] == [["header", "X-A", "1"], ["tls"]]
    assert [line.words for line in block[1].block or []] == [["protocols", "tls1.3"]]
    assert [line.args for line in root.missing] == [["other/*"]]


BOMB = "".join(f"({name}) {{\n" + f" import {following}\n" * 200 + "}\n" for name, following in ("ab", "bc")) + "(c) {\n x\n}\nimport a"


@pytest.mark.parametrize(
    "text",
    ["a {", "}", 'a "b', "a <<X\nb", "a {\n" * 100, "(s) {\n import s\n}\nimport s", "a\n{\n b\n}\n", BOMB],
    ids=lambda text: text[:12],
)
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        parse(text)


@given(st.text(alphabet='ab{}"`\\\n #<$@', max_size=60))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        list(tokens(text))
        parse(text)
    except Unusable:
        pass
