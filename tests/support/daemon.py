"""The real daemon, as a subprocess, started with a configuration and watched from outside.

    with Daemon({"upstream": {"u": {"urls": [upstream.url]}}, ...}, tmp_path) as daemon:
        daemon.client().exchange(post())
        record = daemon.record(path="/mcp")

Its access log (stdout) arrives as parsed lines in `records`, its messages (stderr) in `messages`. Readiness is learned by connecting to
every listener, and from the kernel: it hears signals.
It is ended by its own PID, and a daemon that was not told to end but did fails the test with what it said.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support.client import RawClient
from tests.support.nursery import Born, nursery
from tests.support.ports import free_port
from tests.support.toml import write_toml
from tests.support.waiting import DEADLINE, until

Record = dict[str, Any]
START_S = 60.0  # an import of everything on a busy machine


def simple_config(*urls: str, port: int = 0, **changes: Any) -> dict[str, Any]:
    """One plain listener, one upstream "u", one route; `changes` go into listen=, upstream=, route=; `more` are further routes; others are top-level."""
    config: dict[str, Any] = {
        "listen": [{"address": f"127.0.0.1:{port or free_port()}"} | changes.pop("listen", {})],
        "upstream": {"u": {"urls": list(urls)} | changes.pop("upstream", {})},
        "route": [{"upstream": "u"} | changes.pop("route", {}), *changes.pop("more", ())],
        "drain": "5s",
    }
    return config | changes


COMMAND = (sys.executable, "-m", "mcpproxy", "run", "-c")


def spawn(*command: str, state: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "STATE_DIRECTORY": state, "PYTHONUNBUFFERED": "1"}
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=root, env=environment)


class Daemon:
    """`config`: data for write_toml, or TOML text (then the first listener's address must be given as `address`).

    It has one worker unless the data say otherwise: tests look into its process, and expect to find there what an earlier request left.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        directory: Path,
        *,
        nofile: int = 0,
        prefix: Sequence[str] = (),
        addresses: Sequence[str] = (),
        ready: bool = True,
    ) -> None:
        self.text = config if isinstance(config, str) else write_toml({"workers": 1, **config})
        self.addresses = list(addresses) if isinstance(config, str) else [listen["address"] for listen in config["listen"]]
        self.file = directory / "mcpproxy.toml"
        self.file.write_text(self.text)
        self.records: list[Record] = []
        self.messages: list[str] = []
        self.not_json: list[str] = []
        self._told_to_end = False
        limited = ["prlimit", f"--nofile={nofile}:{nofile}"] if nofile else []
        state = str(directory / "state")
        if prefix or limited:
            self.process: subprocess.Popen[bytes] | Born = spawn(*prefix, *limited, *COMMAND, str(self.file), state=state)
        else:
            self.process = nursery.bear(str(self.file), state)
        self._readers = [self._reader(self.process.stdout, self._logged), self._reader(self.process.stderr, self.messages.append)]
        if ready:
            self.wait_ready()

    @staticmethod
    def _reader(pipe: IO[bytes] | None, take: Callable[[str], None]) -> threading.Thread:
        assert pipe is not None

        def run() -> None:
            with pipe:
                for line in pipe:
                    take(line.decode("utf-8", "backslashreplace").rstrip("\n"))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _logged(self, line: str) -> None:
        try:
            self.records.append(json.loads(line))
        except ValueError:
            self.not_json.append(line)

    # --- life

    def wait_ready(self) -> None:
        for address in self.addresses:
            until(partial(self._accepts, address), f"listener {address}", deadline_s=START_S)
        until(self._hears_signals, "its loop runs", deadline_s=START_S)

    def _accepts(self, address: str) -> bool:
        if self.process.poll() is not None:
            self._readers[1].join(5)
            raise AssertionError(f"the daemon ended with {self.process.returncode}: {self.messages}")
        try:
            dial(address).close()
        except OSError:
            return False
        return True

    def _hears_signals(self) -> bool:
        """Its addresses accept before its first worker does: that one obeys once it lets SIGTERM through and ignores SIGUSR1."""
        for pid in self.workers[:1]:
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                blocked, ignored = (int(status.partition(name)[2].split()[0], 16) for name in ("SigBlk:", "SigIgn:"))
                return not blocked & 1 << signal.SIGTERM - 1 and bool(ignored & 1 << signal.SIGUSR1 - 1)
        return False

    def signal(self, number: int) -> None:
        self._told_to_end |= number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE) -> int:
        """Its exit code, once it ended by itself or after a signal; all its output has been read then."""
        self._told_to_end = True
        code = self.process.wait(deadline_s)
        for reader in self._readers:
            reader.join(5)
        return code

    def stop(self, patience_s: float = 0.5) -> int:
        """Two signals: drain, and after `patience_s` end now."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                return self.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGINT)
            try:
                return self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
                raise AssertionError("two signals did not end the daemon") from None
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        died = self.process.poll() is not None and not self._told_to_end
        self.stop(0.02)
        if kind is not None:
            error_notes = [f"daemon log: {line}" for line in [*self.messages[-20:], *map(str, self.records[-5:])]]
            assert error is not None
            for note in error_notes:
                error.add_note(note)
            return
        assert not died, f"the daemon died: {self.process.returncode} {self.messages}"
        assert not self.not_json, f"log lines that are not JSON: {self.not_json}"
        assert not any("Traceback" in message for message in self.messages), "\n".join(self.messages)

    # --- talking to it

    def port(self, index: int = 0) -> int:
        return int(self.addresses[index].rpartition(":")[2])

    def client(self, index: int = 0, **options: Any) -> RawClient:
        return RawClient(_split(self.addresses[index]), **options)

    # --- looking at it

    def processes(self) -> dict[str, int]:
        """Its children by the names they give themselves: `mcpproxy:0` is the first worker, `mcpproxy:ctl` serves no client."""
        pid, found = self.process.pid, {}
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                found[Path(f"/proc/{each}/comm").read_text().strip()] = int(each)
        return found

    @property
    def workers(self) -> list[int]:
        """The processes that serve."""
        return [pid for name, pid in sorted(self.processes().items()) if name.removeprefix("mcpproxy:").isdecimal()]

    @property
    def worker(self) -> int:
        """The first of them."""
        return until(lambda: self.workers, "a worker")[0]

    def wait_records(self, count: int, deadline_s: float = DEADLINE, **fields: Any) -> list[Record]:
        """At least `count` records with these fields."""
        return until(
            lambda: found if len(found := self.select(**fields)) >= count else [],
            lambda: f"{count} log lines with {fields}; have {self.records[-5:]}",
            deadline_s=deadline_s,
        )

    def record(self, deadline_s: float = DEADLINE, **fields: Any) -> Record:
        """The one record with these fields."""
        found = self.wait_records(1, deadline_s, **fields)
        assert len(found) == 1, f"{len(found)} log lines with {fields}: {found}"
        return found[0]

    def select(self, **fields: Any) -> list[Record]:
        return [record for record in list(self.records) if all(record.get(name) == value for name, value in fields.items())]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def resting(self) -> int:
        """How many descriptors it has when nothing happens: the count, once it has not changed for a while."""
        count, since = self.descriptors(), time.monotonic()
        while time.monotonic() - since < 0.15:
            time.sleep(0.01)
            if (now := self.descriptors()) != count:
                count, since = now, time.monotonic()
        return count

    def rss(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS") * 1024

    def peak_rss(self) -> int:
        return self._status("VmHWM") * 1024

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.worker}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise LookupError(name)

    def cpu_s(self) -> float:
        """User plus system time used so far."""
        parts = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def _split(address: str) -> str | tuple[str, int]:
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    return host.strip("[]").replace("0.0.0.0", "127.0.0.1") or "127.0.0.1", int(port)


def dial(address: str) -> socket.socket:
    where = _split(address)
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    link = socket.socket(family)
    link.settimeout(2)
    try:
        link.connect(where)
    except OSError:
        link.close()
        raise
    return link


def run_to_end(
    config: Mapping[str, Any] | str, directory: Path, *, prefix: Sequence[str] = (), deadline_s: float = START_S
) -> tuple[int, str]:
    """Start a daemon that is expected to refuse: its exit code and all it wrote to stderr."""
    daemon = Daemon(config, directory, prefix=prefix, ready=False)
    try:
        code = daemon.wait(deadline_s)
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.wait()
    return code, "\n".join(daemon.messages)
