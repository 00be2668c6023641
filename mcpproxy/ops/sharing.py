"""What a worker learns of servers and callers, for the others, too (`control/sharing` passes it on).

    "hints"     {"from": us, "server": …, "tools": {name: says}, "again": …}: what tools say of themselves (policy/hints)
    "habits"    [[who, tool, how often, when], …]: what callers did here, where the audit log tells what is unusual (observe/habits)

Hints decide what may be called, so all workers come to the same: control has one order, and tells it to everybody, also to whoever said it. What we said and
have not heard again is newer than what we hear. After the line was lost everything is said again; of two words then the worse one counts. Without a control
process each worker knows what passed through it, and what it does not know is not allowed.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

from mcpproxy.assemble import Runtime
from mcpproxy.ops.line import Line
from mcpproxy.policy.hints import Hints


class Sharing:
    """Of one worker."""

    def __init__(self, line: Line, runtime: Runtime) -> None:
        self._line, self._runtime = line, runtime
        self._us = secrets.token_hex(8)
        self._said: Counter[tuple[str, str]] = Counter()  # server and tool: how often, and not heard again yet
        self._again: set[str] = set()  # servers of which control must hear everything
        line.joined.append(self._joined)
        line.hears["hints"] = self._hints
        line.hears["habits"] = self._habits
        runtime.ticker.add(self.tick)

    def tick(self, _: float = 0.0) -> None:
        """Say what is new."""
        for server, hints in self._servers().items():
            again = server in self._again
            tools = dict(hints.known) if again else hints.news
            if tools and not self._line.say("hints", {"from": self._us, "server": server, "tools": tools, "again": again}):
                return
            self._again.discard(server)
            if tools:
                hints.news = {}
                for tool in tools:
                    self._said[server, tool] += 1
        audit = self._runtime.offices.audit
        if audit is not None:
            while audit.news and self._line.say("habits", audit.news[0]):
                audit.news.popleft()

    def _servers(self) -> dict[str, Hints]:
        """By what they are, not only by name: a reload may put another one in the place."""
        upstreams = self._runtime.offices.config.upstream
        return {" ".join((name, *upstreams[name].urls)): hints for name, hints in self._runtime.offices.hints.items()}

    def _joined(self) -> None:
        self._said.clear()
        self._again = {server for server, hints in self._servers().items() if hints.known}

    def _hints(self, data: dict[str, Any]) -> None:
        server, ours = data["server"], data["from"] == self._us
        hints = self._servers().get(server)
        for tool, says in data["tools"].items():
            if ours and self._said[server, tool] > 0:
                self._said[server, tool] -= 1
            if self._said[server, tool] <= 0:
                del self._said[server, tool]
                if hints is not None and tool not in hints.news:
                    hints.told(tool, says)

    def _habits(self, data: Any) -> None:
        audit = self._runtime.offices.audit
        if audit is not None:
            audit.hear(data)
