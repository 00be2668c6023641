"""A command of ours as a process: what it says is collected, waiting has a deadline, it is ended by its own PID."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.support.waiting import until

START_S = 30.0  # Python, the proxy, the SDK and its server, on a busy machine


class Command:
    """`mcpproxy ARGUMENTS`, with a state directory of its own."""

    def __init__(self, *arguments: str, state: Path) -> None:
        self.out = self.err = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcpproxy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"STATE_DIRECTORY": str(state), "COLUMNS": "60"},
        )
        self._readers = [threading.Thread(target=self._read, args=(pipe, name)) for pipe, name in self._pipes()]
        for reader in self._readers:
            reader.start()

    def _pipes(self) -> list[tuple[IO[str], str]]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return [(self.process.stdout, "out"), (self.process.stderr, "err")]

    def _read(self, pipe: IO[str], name: str) -> None:
        with pipe:
            for line in pipe:
                setattr(self, name, getattr(self, name) + line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def until_says(self, words: str, where: str = "out") -> None:
        """Wait for `words`; it must not end before it said them."""
        until(
            lambda: words in getattr(self, where) or self.process.poll() is not None,
            lambda: f"{words!r} in {self.told()}",
            deadline_s=START_S,
        )
        assert words in getattr(self, where), self.told()

    def told(self) -> str:
        return f"status {self.process.poll()}, stdout:\n{self.out}\nstderr:\n{self.err}"

    def wait(self) -> int:
        """Its exit status; all it said has been read then."""
        status = self.process.wait(START_S)
        for reader in self._readers:
            reader.join(START_S)
        return status

    def told_to_end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; its exit status."""
        self.process.send_signal(number)
        return self.wait()
