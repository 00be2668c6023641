"""A file of API keys, changed as `mcpproxy key` changes it."""

import time
from pathlib import Path

from mcpproxy.policy import keyring


class Keys:
    """`keys.add("agent-alpha")` is the key itself."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "keys.jsonl"

    def add(self, name: str, *roles: str, expires: float | None = None) -> str:
        """`expires` in Unix seconds."""
        with keyring.changing(str(self.file)) as entries:
            return keyring.add(entries, name, roles=roles, now=time.time(), expires=expires).text

    def revoke(self, name: str) -> None:
        with keyring.changing(str(self.file)) as entries:
            assert keyring.revoke(entries, name, now=time.time())

    def auth(self, **more: object) -> dict[str, object]:
        """The [auth.NAME] table."""
        return {"type": "api-key", "file": str(self.file), **more}
