"""Daemons without waiting for imports: a process that has imported mcpproxy forks one whenever a test asks.

The nursery's child becomes the command line itself (`mcpproxy run -c FILE`) with its own pipes, session and environment. It is forked twice, so
that it is nobody's child in the nursery, and the test process, a "subreaper", inherits it: signals, exit status and /proc work as for any
child. This saves a quarter of a second of CPU for each of some 250 daemons in a run.
"""

import array
import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36
NURSE = """
import array, gc, os, socket, sys
import mcpproxy.cli.main, mcpproxy.cli.run, mcpproxy.ops.supervise, mcpproxy.control.admin, mcpproxy.control.metrics
gc.freeze()  # who collects later need not look at it, and it stays one copy for all
door = socket.socket(fileno=int(sys.argv[1]))
while True:
    words, ancillary, _, _ = door.recvmsg(65536, socket.CMSG_LEN(8))
    if not words:
        os._exit(0)
    out, err = array.array("i", ancillary[0][2])
    file, state = words.decode().split("\\0")
    first = os.fork()
    if first == 0:
        pid = os.fork()
        if pid:
            door.send(b"%d" % pid)
            os._exit(0)
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0), os.dup2(out, 1), os.dup2(err, 2)
        os.closerange(3, 64)
        os.environ["STATE_DIRECTORY"] = state
        mcpproxy.cli.main.main(["run", "-c", file])
    os.close(out), os.close(err)
    os.waitpid(first, 0)
    door.send(b"orphaned")
"""


class Born:
    """Looks like subprocess.Popen to those who only signal and wait."""

    def __init__(self, pid: int, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("mcpproxy", timeout)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    def __init__(self) -> None:
        self._nurse: subprocess.Popen[bytes] | None = None
        self._door: socket.socket

    def _open(self) -> None:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._nurse = subprocess.Popen([sys.executable, "-c", NURSE, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT)
        atexit.register(self.close)

    def bear(self, file: str, state: str) -> Born:
        if self._nurse is None:
            self._open()
        pipes = [os.pipe(), os.pipe()]
        theirs = array.array("i", [write for _, write in pipes])
        self._door.sendmsg([f"{file}\0{state}".encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, theirs)])
        for write in theirs:
            os.close(write)
        pid = int(self._door.recv(32))
        self._door.recv(32)  # its first parent is gone: it is ours now
        return Born(pid, os.fdopen(pipes[0][0], "rb"), os.fdopen(pipes[1][0], "rb"))

    def close(self) -> None:
        """Closing the door ends the nurse."""
        self._door.close()
        if self._nurse is not None:
            self._nurse.wait()


nursery = Nursery()
