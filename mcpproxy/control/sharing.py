"""What one worker learned and the others should know (`ops/sharing`): hints of tools, in one order for all; habits of callers, as they come."""

from __future__ import annotations

from typing import Any

from mcpproxy.control.switchboard import Switchboard
from mcpproxy.policy.hints import TOOLS

SERVERS = 1000  # that hints are kept of; more come only by reloads, and the oldest are forgotten


class Sharing:
    """A part of the control process."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._hints: dict[str, dict[str, bool]] = {}  # by server and tool
        switchboard.hears["hints"] = self._hint
        switchboard.hears["habits"] = self._habit
        switchboard.joined.append(self._joined)

    async def start(self) -> None:
        """It listens since it was made."""

    async def stop(self) -> None:
        """Nothing is open."""

    def _hint(self, _: int, data: dict[str, Any]) -> None:
        known = self._hints.setdefault(data["server"], {})
        if len(self._hints) > SERVERS:
            del self._hints[next(iter(self._hints))]
        for tool, says in tuple(data["tools"].items()):
            if tool not in known and len(known) >= TOOLS:
                del data["tools"][tool]
                continue
            says = says and (not data["again"] or known.get(tool, True))  # what is said again may be old
            known[tool] = data["tools"][tool] = says
        self._switchboard.tell_all("hints", data)

    def _habit(self, worker: int, data: Any) -> None:
        for other in tuple(self._switchboard.workers):
            if other != worker:
                self._switchboard.tell(other, "habits", data)

    def _joined(self, worker: int) -> None:
        for server, tools in self._hints.items():
            self._switchboard.tell(worker, "hints", {"from": "", "server": server, "tools": tools, "again": False})
