"""What the tools of a server say of themselves, as the lists that passed here had it.

A hint is the server's word: it is asked for where an operator trusts the server, but not every caller, to change nothing (`read_only`). Lists come in
pages, and differ between callers, so each one adds to what is known; the last word on a tool counts. It is bounded in tools and in the size of a name;
what did not fit is not known.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, field

TOOLS = 4000  # of one server; beyond it nothing more is learnt
NAME = 128  # characters, as the specification allows


class _Annotations(Struct, gc=False):
    read_only: bool | None = field(default=None, name="readOnlyHint")


class _Tool(Struct):
    name: str
    annotations: _Annotations | None = None


class _List(Struct):
    tools: list[_Tool]


_list = msgspec.json.Decoder(_List).decode


class Hints:
    """Of one upstream."""

    __slots__ = ("known", "news")

    def __init__(self) -> None:
        self.known: dict[str, bool] = {}  # does it say that it changes nothing?
        self.news: dict[str, bool] = {}  # of these, what other workers have not been told yet

    def learn(self, result: bytes) -> bool:
        """Take in the result of a tools/list. False: it is not one."""
        try:
            tools = _list(result).tools
        except (msgspec.DecodeError, RecursionError):
            return False
        heard: dict[str, bool] = {}
        for tool in tools:
            says = tool.annotations is not None and tool.annotations.read_only is True
            heard[tool.name] = says and heard.get(tool.name, True)  # one that is there twice is what its worse half is
        for name, says in heard.items():
            if self.told(name, says):
                self.news[name] = says
        return True

    def told(self, name: str, says: bool) -> bool:
        """What a list says of one tool, ours or another worker's. Is that new?"""
        if len(name) > NAME or self.known.get(name) is says or (name not in self.known and len(self.known) >= TOOLS):
            return False
        self.known[name] = says
        return True

    def read_only(self, tool: str) -> bool | None:
        """Does the tool say that it changes nothing? None: nobody has listed it yet."""
        return self.known.get(tool)
