"""Secrets whose files change while the daemon runs: temporary keys, tokens that somebody rotates.

    secrets = Secrets();  secrets("file:/run/secrets/token")      the value, read once
    if secrets.changed(): renewed, said = secrets.reload()        every few seconds

The environment of a process never changes, files do. A change counts when two looks in a row saw the same: then nobody is still writing, and secrets that
belong together (a key and its token) are all there. A file that has become unusable changes nothing: the secret read before goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcpproxy.config.files import Stamp, stamp
from mcpproxy.config.secrets import secret
from mcpproxy.errors import StartError


class Secrets:
    """What references stand for now."""

    __slots__ = ("_read", "_seen", "_values")

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._read: dict[str, Stamp | None] = {}  # of files, as they were when they were read
        self._seen: dict[str, Stamp | None] = {}  # at the last look

    def __call__(self, reference: str) -> str:
        """The value. The first time it is read: raises StartError."""
        if reference not in self._values:
            where, _, file = reference.partition(":")
            if where == "file":
                self._read[reference] = self._seen[reference] = stamp(file)
            self._values[reference] = secret(reference)
        return self._values[reference]

    def changed(self) -> bool:
        """Is there something to read again? One stat for each file: cheap enough for every second."""
        before, self._seen = self._seen, {reference: stamp(reference.partition(":")[2]) for reference in self._read}
        return self._seen == before and self._seen != self._read

    def look(self) -> None:
        """`reload` shall not wait until the files have rested."""
        self.changed()

    def keep(self, references: Iterable[str]) -> None:
        """The others are not used any more."""
        wanted = set(references)
        for known in (self._values, self._read, self._seen):
            for reference in known.keys() - wanted:
                del known[reference]

    def reload(self) -> tuple[list[str], list[str]]:
        """Read what changed. The references that have another value now, and what is wrong with those that cannot be used, in words."""
        renewed, said = [], []
        for reference, found in self._seen.items():
            if found == self._read[reference]:
                continue
            self._read[reference] = found
            try:
                value = secret(reference)
            except StartError as error:
                said.append(error.message)
                continue
            if value != self._values[reference]:
                self._values[reference] = value
                renewed.append(reference)
        return renewed, said
