"""What a unit relies on: systemd hears how it goes, its sockets are taken and kept, and root is given up."""

import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli.adminclient import AdminClient
from mcpproxy.errors import StartError
from tests.support.client import get
from tests.support.ports import free_port
from tests.support.toml import write_toml
from tests.support.waiting import DEADLINE, until

START_S = 60.0
ROOT = Path(__file__).parents[2]
# What systemd does between fork and exec: descriptors from 3 on, and the number of the process that they are meant for.
LAUNCH = 'export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@"'


class Unit:
    """A daemon that was started by systemd, as far as it can tell."""

    def __init__(self, folder: Path, config: dict[str, Any], *sockets: socket.socket, filtered: bool = False, **environment: str) -> None:
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        (folder / "notify").unlink(missing_ok=True)
        self.ear.bind(str(folder / "notify"))
        (folder / "notify").chmod(0o666)
        self.ear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.ear.settimeout(START_S)
        self.heard: list[bytes] = []
        file = folder / "mcpproxy.toml"
        file.write_text(write_toml({"state_dir": str(folder / "state"), "health": "/healthz", "drain": "5s"} | config))
        given = "".join(f" {3 + number}<&{sock.fileno()}" for number, sock in enumerate(sockets))
        words = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join("web" for _ in sockets),
        }
        under = [sys.executable, str(ROOT / "tests" / "support" / "filtered.py"), str(ROOT / "deploy" / "mcpproxy.service")]
        self.process = subprocess.Popen(
            ["bash", "-c", LAUNCH + given, "bash", *(under if filtered else []), sys.executable, "-m", "mcpproxy", "run", "-c", str(file)],
            pass_fds=[sock.fileno() for sock in sockets],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **words, **environment},
        )

    def __enter__(self) -> "Unit":
        return self

    def __exit__(self, *_: object) -> None:
        self.ear.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.terminate()
            try:
                self.process.communicate(timeout=DEADLINE)
            finally:
                self.process.kill()

    def until(self, *lines: bytes) -> None:
        while not set(lines) <= {line for message in self.heard for line in message.split(b"\n")}:
            self.heard.append(self.ear.recv(4096))

    def hear(self) -> tuple[int, bytes]:
        """Who says what."""
        message, more, _, _ = self.ear.recvmsg(4096, 1024)
        return struct.unpack("iII", more[0][2])[0], message

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=START_S)[1]
        return self.process.returncode, said

    def processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where any user can go."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def served(*addresses: str, **more: Any) -> dict[str, Any]:
    return {
        "listen": [{"address": address} for address in addresses],
        "upstream": {"u": {"urls": ["http://127.0.0.1:1"]}},
        "route": [{"upstream": "u"}],
    } | more


def asked(sock: socket.socket) -> int:
    sock.sendall(get("/healthz"))
    return int(sock.recv(4096).split()[1])


def dialled(where: Any) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    sock.settimeout(START_S)
    sock.connect(where)
    return sock


def test_systemd_hears_how_it_goes(folder: Path) -> None:
    with Unit(folder, served(f"127.0.0.1:{free_port()}", workers=2), WATCHDOG_USEC="200000") as unit:
        unit.until(b"READY=1", b"STATUS=2 workers serve")
        unit.heard.clear()
        for _ in range(3):
            unit.until(b"WATCHDOG=1")
            unit.heard.clear()
        os.kill(unit.processes()[1], signal.SIGKILL)
        unit.until(b"STATUS=1 worker serves of 2", b"STATUS=2 workers serve")
        assert unit.end()[0] == 0
        unit.until(b"STOPPING=1")


def test_only_the_main_process_speaks_and_nobody_but_systemd_is_its_parent(folder: Path) -> None:
    """Of a main process that is another's child systemd does not hear how it ends; and it would kill it where `systemctl stop` should wait for a drain."""
    with Unit(folder, served(f"127.0.0.1:{free_port()}", workers=2)) as unit:
        unit.until(b"READY=1", b"STATUS=2 workers serve")
        unit.process.send_signal(signal.SIGUSR2)
        who, said = unit.hear()
        assert who == unit.process.pid
        found = re.fullmatch(rb"MAINPID=([0-9]+)\nWATCHDOG=1", said)
        assert found, said
        heir = int(found[1])
        try:
            assert int(Path(f"/proc/{heir}/stat").read_text().rpartition(")")[2].split()[1]) != unit.process.pid
            os.kill(heir, signal.SIGTERM)
            heard = [unit.hear()]
            while b"STOPPING=1" not in heard[-1][1]:
                heard.append(unit.hear())
            assert {who for who, _ in heard} == {heir}
            assert unit.process.wait(START_S) == 0
        finally:
            with suppress(ProcessLookupError):
                os.kill(heir, signal.SIGTERM)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_of_systemd_is_served_and_outlives_us(folder: Path, workers: int, kind: str) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET))
        sock.bind(str(folder / "s") if kind == "unix" else ("127.0.0.1", 0))
        sock.listen(16)
        where = sock.getsockname()
        config = served(f"unix:{where}" if kind == "unix" else f"127.0.0.1:{where[1]}", workers=workers)
        with Unit(folder, config, sock) as unit:
            unit.until(b"READY=1")
            assert [asked(stack.enter_context(dialled(where))) for _ in range(10)] == [200] * 10
            code, said = unit.end()
            assert (code, "web" in said) == (0, False)
        waiting = stack.enter_context(dialled(where))  # nobody is there, and nobody is refused
        with Unit(folder, config, sock) as unit:
            assert asked(waiting) == 200


def test_a_socket_that_nobody_wants_stops_the_start(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, Unit(folder, served(f"127.0.0.1:{free_port()}"), sock) as unit:
        said = unit.process.communicate(timeout=START_S)[1]
        assert unit.process.returncode == 1
        assert f"mcpproxy: systemd passed a socket that no listener asks for: 127.0.0.1:{sock.getsockname()[1]} (web)" in said


def answers(client: AdminClient) -> bool:
    try:
        return bool(client.get("status"))
    except StartError:
        return False


def low_port() -> int:
    """One that only root may have."""
    for port in range(700, 1024):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port below 1024 is free")


@pytest.mark.root
def test_root_binds_and_somebody_else_serves(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    (folder / "logs").mkdir()
    os.chown(folder / "logs", nobody.pw_uid, 0)
    log = folder / "logs" / "access.log"
    port = low_port()
    config = served(f"127.0.0.1:{port}", f"unix:{folder}/s", workers=2, user="nobody", log={"access": str(log)})
    with ExitStack() as stack, Unit(folder, config) as unit:
        unit.until(b"READY=1")
        for process in unit.processes():
            status = Path(f"/proc/{process}/status").read_text()
            fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in status.splitlines()}
            assert fields["Uid"] == [str(nobody.pw_uid)] * 4
            assert fields["Gid"] == [str(nobody.pw_gid)] * 4
            assert [int(fields[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 4
            assert fields["NoNewPrivs"] == ["1"]
        assert (folder / "s").stat().st_uid == nobody.pw_uid
        assert asked(stack.enter_context(dialled(("127.0.0.1", port)))) == 200
        assert asked(stack.enter_context(dialled(str(folder / "s")))) == 200
        until(lambda: log.exists() and log.read_bytes().count(b"\n") == 2, "both lines")
        log.rename(folder / "logs" / "access.log.1")
        unit.process.send_signal(signal.SIGUSR1)
        until(log.exists, "a new log")
        assert log.stat().st_uid == nobody.pw_uid
        code, said = unit.end()
        assert code == 0
        assert "warning" not in said


@pytest.mark.root
def test_root_that_stays_root_is_warned(folder: Path) -> None:
    with Unit(folder, served(f"127.0.0.1:{free_port()}")) as unit:
        unit.until(b"READY=1")
        assert "mcpproxy: warning: root serves here" in unit.end()[1]


@pytest.mark.needs("systemd-analyze")
def test_the_system_calls_that_the_unit_allows_are_enough(folder: Path) -> None:
    """For workers, the control process, a reload, and the end: what is not allowed fails with EPERM, as under systemd."""
    log = folder / "access.log"
    config = served(f"127.0.0.1:{free_port()}", f"unix:{folder}/s", workers=2, log={"access": str(log)})
    with ExitStack() as stack, Unit(folder, config, filtered=True, WATCHDOG_USEC="200000") as unit:
        unit.until(b"READY=1", b"STATUS=2 workers serve", b"WATCHDOG=1")
        assert asked(stack.enter_context(dialled(str(folder / "s")))) == 200
        client = AdminClient(f"unix:{folder}/state/admin.sock")
        until(lambda: answers(client), "the control process")
        unit.heard.clear()
        unit.process.send_signal(signal.SIGHUP)
        unit.until(b"RELOADING=1", b"READY=1")
        log.rename(folder / "access.log.1")
        unit.process.send_signal(signal.SIGUSR1)
        until(log.exists, "a new log")
        code, said = unit.end()
        assert code == 0
        assert "Traceback" not in said
        assert "error" not in said
