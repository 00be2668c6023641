"""The source tree as the house tests see it: modules, their rooms, their imports."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mcpproxy"


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path

    @property
    def name(self) -> str:
        """`http/head`, `clock`, `edge/__init__`."""
        return self.path.relative_to(PACKAGE).with_suffix("").as_posix()

    @property
    def room(self) -> str:
        """The folder it is in; for a file at the top its own name."""
        return self.name.partition("/")[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def theory(self) -> str:
        """Its docstring."""
        return ast.get_docstring(self.tree) or ""

    def imports(self) -> Iterator[str]:
        """Every module it imports anywhere, also inside functions: `mcpproxy.net.link`, `asyncio`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{self.name}: imports are absolute"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def rooms_used(self) -> set[str]:
        """The rooms of ours it imports from, its own excepted."""
        parts = (name.split(".") for name in self.imports())
        return {part[1] for part in parts if part[0] == "mcpproxy" and len(part) > 1} - {self.room}


MODULES = sorted((Module(path) for path in PACKAGE.rglob("*.py")), key=lambda module: module.name)
