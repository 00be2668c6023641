"""The demo's MCP server as a child process: started, awaited, ended.

1. The parent binds the port, so it is known before the child lives and nobody can take it in between.
2. The child lives in its own process group: Ctrl-C in the terminal reaches the proxy alone, which drains before the child goes.
3. The child ends when its stdin does. Even `kill -9` of the parent leaves nothing behind.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mcpproxy.errors import StartError

END_S = 3.0  # what the child gets to end by itself, then again after SIGTERM


class DemoServer:
    """A context: inside it the server serves at `url`; `died` is called if it ends before we end it."""

    def __init__(self, died: Callable[[int], None]) -> None:
        self._died = died
        self._ending = False
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mcpproxy.demo.server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.__exit__(None, None, None)
            raise StartError("the demo's MCP server did not start", "what it said stands above")
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()

    def _watch(self) -> None:
        status = self._process.wait()
        if not self._ending:
            self._died(status)
