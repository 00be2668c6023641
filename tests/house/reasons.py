"""The table of slugs in docs/operations.md, written from http/replies: `python -m tests.house.reasons` rewrites it, a test compares."""

from mcpproxy.http.replies import MESSAGES
from tests.house.tree import ROOT

FILE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- reasons -->\n", "<!-- /reasons -->"


def table() -> str:
    """Slug and sentence, in the order of the source."""
    rows = [f"| `{kind}` | {message} |\n" for kind, message in MESSAGES.items()]
    return "| reason | sentence |\n|---|---|\n" + "".join(rows)


def with_table(text: str) -> str:
    """`text` with the present table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    FILE.write_text(with_table(FILE.read_text()))
