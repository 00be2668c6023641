"""A small valid configuration, and one question: which mistakes does this text have?"""

from pathlib import Path

from mcpproxy.config.load import ConfigErrors, Mistake, read

GOOD = """\
[[listen]]
address = "127.0.0.1:8000"
[upstream.search]
urls = ["http://127.0.0.1:9000"]
[[route]]
upstream = "search"
"""


def mistakes(source: str | Path) -> list[Mistake]:
    """All of them; none when it loads."""
    try:
        read(source)
    except ConfigErrors as errors:
        return errors.mistakes or [Mistake("", None, "refused without a mistake")]
    return []


def only(source: str | Path) -> Mistake:
    """The one mistake of a text."""
    found = mistakes(source)
    assert len(found) == 1, list(map(str, found))
    return found[0]


def with_listen(line: str) -> str:
    """GOOD with another line in its listener."""
    return GOOD.replace('8000"\n', f'8000"\n{line}\n')


def with_upstream(line: str) -> str:
    """GOOD with another line in its upstream."""
    return GOOD.replace('9000"]\n', f'9000"]\n{line}\n')


def with_route(line: str) -> str:
    """GOOD with another line in its route."""
    return GOOD + line + "\n"
