"""The documents and the code say the same words."""

import ast
import re
from pathlib import Path

import pytest

from mcpproxy.config import load
from mcpproxy.http.replies import MESSAGES
from tests.house import metrics
from tests.house.reasons import FILE, with_table
from tests.house.tree import MODULES, PACKAGE, ROOT

DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "certs" / "README.md"])
OPERATIONS = FILE.read_text()
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
ERRORS = {"ProxyError", "HeadError", "FramingError"}


def section(text: str, mark: str) -> str:
    return text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", ["tour.md", "request.md", "security.md"])
def test_files_named_in_the_documents_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"`(?:mcpproxy/)?((?:edge|net|http|mcp|upstream|policy|observe|ops|config|pki|cli)/\w+)(?:\.py)?`", text)
    assert named
    for name in named:
        assert (PACKAGE / f"{name}.py").is_file(), name


def test_the_steps_of_a_request_are_the_words_of_the_code() -> None:
    """Each file that request.md gives a step to names docs/request.md with that step, or the step's word."""
    rows = re.findall(r"^\| (\d) \| (.*?) \| (.*?) \|$", (ROOT / "docs" / "request.md").read_text(), re.MULTILINE)
    assert [number for number, _, _ in rows] == list("123456789")
    for number, words, files in rows:
        texts = [(PACKAGE / f"{name}.py").read_text().lower() for name in re.findall(r"`(\w+/\w+)`", files)]
        keywords = [word for word in re.findall(r"[a-z]+", words.partition("(")[0].lower()) if len(word) > 3]
        assert any(word in text for word in keywords for text in texts), f"step {number}: {words}"


def test_the_tour_visits_every_room() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text()
    rooms = {module.room for module in MODULES if "/" in module.name}
    assert all(f"{room}/" in tour or f"{room}  " in tour for room in rooms), rooms


def slugs_in_code() -> set[str]:
    """The kinds of all errors that are made with a literal."""
    found: set[str] = set()
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ERRORS:
                found |= {part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return found


def test_every_failure_has_its_sentence() -> None:
    assert slugs_in_code() - set(MESSAGES) == set()


def test_every_sentence_has_its_failure() -> None:
    elsewhere = "\n".join(module.text for module in MODULES if module.name != "http/replies")
    assert [kind for kind in MESSAGES if f'"{kind}"' not in elsewhere] == []


def test_the_reasons_are_documented() -> None:
    assert OPERATIONS == with_table(OPERATIONS), "run: python -m tests.house.reasons"


def test_the_metrics_are_documented() -> None:
    assert metrics.with_table(OPERATIONS) == OPERATIONS, "run: python -m tests.house.metrics"


def logged_fields() -> set[str]:
    """Every member a log line can have, read from the bytes and dictionaries that make it."""
    found: set[str] = set()
    for name in ("observe/accesslog", "edge/downstream", "edge/exchange", "edge/plan", "edge/local", "edge/facts"):
        tree = next(module.tree for module in MODULES if module.name == name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
                found |= {member.decode() for member in re.findall(rb'"([a-z_]+)":', node.value)}
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("describe"):
                dictionaries = [part for part in ast.walk(node) if isinstance(part, ast.Dict)]
                found |= {key.value for part in dictionaries for key in part.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
    from mcpproxy.edge.plan import LOGGED_FIELDS

    return found | {label for _, label in LOGGED_FIELDS} | {"session"}


def test_the_log_fields_are_documented() -> None:
    first_cells = re.findall(r"^\| (.*?) \|", section(OPERATIONS, "fields"), re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == logged_fields()


def test_the_ends_are_documented() -> None:
    """Every way an exchange ends, as the code writes it into the row."""
    code = "\n".join(module.text for module in MODULES if module.room == "edge")
    rows = re.findall(r"^\| `([a-z-]+)` \| ", OPERATIONS.partition("| `end` | meaning |")[2].partition("\n\n")[0], re.MULTILINE)
    written = set(re.findall(r'(?:cut|_over|tunnel_over|client_left|_record)\([^)]*?b"([a-z-]+)"', code))
    assert {"done", "client-gone", "stopped"} <= written | {"client-gone"}
    assert written <= set(rows)
    assert all(f'b"{end}"' in code for end in rows)


@pytest.mark.parametrize("page", ["README.md", "docs/config.md"])
def test_configurations_in_the_documents_load(page: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    whole = [block for block in blocks if "listen" in block and "route" in block]
    assert whole
    for block in whole:
        load.load(block)


def test_the_readme_keeps_its_promises() -> None:
    text = (ROOT / "README.md").read_text()
    block = re.findall(r"file of five lines:\n\n```toml\n(.*?)```", text, re.DOTALL)
    assert len(block[0].splitlines()) == 5
    assert "make demo" in text
    assert "make test" in text
    assert "<!-- figures -->" in text


def test_changes_wait_in_files_of_two_lines() -> None:
    for file in (ROOT / "docs" / "changes").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.(feature|fix|change|security)\.md", file.name), file.name
        assert 1 <= len(file.read_text().splitlines()) <= 2, f"{file.name}: two lines"


def test_decisions_have_their_parts() -> None:
    files = sorted((ROOT / "docs" / "decisions").iterdir())
    assert len({file.name[:4] for file in files}) == len(files), "two with one number"
    for file in files:
        text, number = file.read_text(), file.name[:4]
        assert file.name.startswith(f"{int(number):04}-")
        assert text.startswith(f"# {number}. ")
        assert all(f"**{part}**" in text.replace(".**", "**") for part in ("Context", "Choice", "Rejected", "What we gave up")), file.name
        assert len(text.splitlines()) <= 40, f"{file.name}: one page"
