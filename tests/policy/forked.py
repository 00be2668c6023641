"""Real processes: fork, do something, tell it, be gone."""

import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Child:
    pid: int
    tells: int  # a descriptor

    def read(self, count: int = 1 << 16) -> bytes:
        """What it tells next; nothing at its end."""
        return os.read(self.tells, count)

    def wait(self) -> bytes:
        """All it told, and its end, which must be a good one."""
        told = b"".join(iter(self.read, b""))
        os.close(self.tells)
        assert os.waitpid(self.pid, 0)[1] == 0
        return told

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.tells)


def fork(act: Callable[[Callable[[bytes], None]], None]) -> Child:
    """Runs `act(tell)` in a child, and nothing of pytest after it."""
    tells, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        return Child(pid, tells)
    status = 1
    try:
        os.close(tells)
        act(lambda text: (os.write(told, text), None)[1])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
