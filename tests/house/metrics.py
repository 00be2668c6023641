"""The table of metrics in docs/operations.md, written from control/metrics: `python -m tests.house.metrics` rewrites it, a test compares."""

from mcpproxy.control.metrics import METRICS
from tests.house.tree import ROOT

FILE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- /metrics -->"


def table() -> str:
    """Name, kind, labels and sentence, in the order of the source."""
    rows = [
        f"| `mcpproxy_{known.name}` | {known.kind} | {', '.join(f'`{label}`' for label in known.labels)} | {known.about} |\n"
        for known in METRICS
    ]
    return "| metric | kind | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)


def with_table(text: str) -> str:
    """`text` with the present table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    FILE.write_text(with_table(FILE.read_text()))
