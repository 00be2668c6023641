"""The programs a configuration starts as MCP servers (`[upstream.NAME] command`): are they there?

broken(config)      directories they are to run in that are missing
unwise(config)      programs that cannot be started as things are: a warning, because they may come later and nothing else waits for them
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from mcpproxy.config.mistakes import Finding
from mcpproxy.config.model import Config, Upstream

SANDBOXES = {"bwrap": "bwrap", "systemd": "systemd-run"}  # the program each needs


def broken(config: Config) -> Iterator[Finding]:
    """What would stop the start."""
    for name, upstream in config.upstream.items():
        if upstream.cwd is not None and not os.path.isdir(upstream.cwd):
            yield Finding(("upstream", name, "cwd"), f"{upstream.cwd}: there is no such directory")


def unwise(config: Config) -> Iterator[Finding]:
    """What will not start."""
    for name, upstream in config.upstream.items():
        if not upstream.command:
            continue
        if said := _missing(upstream, config.state_dir):
            yield Finding(("upstream", name, "command", 0), said)
        tool = SANDBOXES.get(upstream.sandbox)
        if tool is not None and shutil.which(tool) is None:
            yield Finding(("upstream", name, "sandbox"), f"{tool} is in no directory of PATH: the server will not be started")


def _missing(upstream: Upstream, home: str) -> str:
    """Why the program cannot be started; empty: it can."""
    program, path = upstream.command[0], upstream.env.get("PATH", "")
    if "/" in program:
        file = os.path.join(upstream.cwd or home, program)
        return "" if os.path.isfile(file) and os.access(file, os.X_OK) else f"{file}: there is no such program"
    if path.startswith(("env:", "file:")):  # it is no secret, and not ours to read now
        return ""
    return "" if shutil.which(program, path=path or None) else f"{program}: no directory of PATH has this program"
