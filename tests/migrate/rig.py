"""What readers found, as the configuration that would be served."""

from collections.abc import Callable

from mcpproxy.config.load import load
from mcpproxy.config.model import Config
from mcpproxy.migrate.found import Found, Unusable
from mcpproxy.migrate.toml import settled


def loaded(found: Found) -> Config:
    """The TOML that is written, read by who serves it."""
    return load(settled(found, "a test"))


def notes(found: Found) -> str:
    """All notes, a line each."""
    return "\n".join(f"{note.place}: {note.text}" for note in found.notes)


def everything(found: Found) -> str:
    """All that anybody gets to see."""
    return "\n".join([settled(found, found.source), notes(found), *(f"{name}: {about}" for name, about in found.variables.items())])


def refusal(reader: Callable[[str], Found], text: str) -> str:
    """Why nothing comes of a text; empty where something does."""
    try:
        found = reader(text)
    except Unusable as error:
        return str(error)
    return notes(found) if not found.routes else ""
