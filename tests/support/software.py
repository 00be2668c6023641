"""Real programs, started on a free port and ended by their own PID.

    with sdk1_server() as server: ... server.origin ...           a server: waits until it accepts
    with Driver(*TOURS["sdk1"]) as driver: driver.ask(job)         a client program: one JSON line in, one out

What they need lies where install_real.py put it. Output is kept in `said`, and a failing test shows its end.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support.daemon import dial
from tests.support.install_real import HOME, node, npm_package, python
from tests.support.ports import free_port
from tests.support.waiting import until

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY / "tests" / "real"
START_S = 60.0  # Node and pydantic on two cores that have other work; only reached by a test that fails
ANSWER_S = 35.0  # a client gives up after 30 by itself


class Program:
    """A child process. `argv` words may hold {port}."""

    def __init__(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_PROXY": "*", **(env or {})},
        )
        self.readers = [threading.Thread(target=self._read, args=(pipe, take), daemon=True) for pipe, take in self._pipes()]
        for reader in self.readers:
            reader.start()

    def _pipes(self) -> list[tuple[IO[bytes] | None, Any]]:
        return [(self.process.stdout, self.said.append), (self.process.stderr, self.said.append)]

    @staticmethod
    def _read(pipe: IO[bytes], take: Any) -> None:
        with pipe:
            for line in pipe:
                take(line.decode("utf-8", "backslashreplace").rstrip("\n"))

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:  # a server that waits for its streams
            self.process.kill()
            self.process.wait(5)
        for reader in self.readers:
            reader.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if error is not None:
            error.add_note("\n".join(["program said:", *self.said[-20:]]))


class Server(Program):
    """A program that listens on a loopback port; it is ready once the constructor returns."""

    def __init__(self, *argv: str | Path, port: int = 0, **options: Any) -> None:
        self.port = port or free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        env = {"PORT": str(self.port), **options.pop("env", {})}
        super().__init__(*(str(word).replace("{port}", str(self.port)) for word in argv), env=env, **options)
        until(
            partial(self._accepts, f"127.0.0.1:{self.port}"), lambda: f"{argv[0]} to accept; it said {self.said[-20:]}", deadline_s=START_S
        )

    def _accepts(self, address: str) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
        try:
            dial(address).close()
        except OSError:
            return False
        return True


class Driver(Program):
    """A client program that answers every line it is given."""

    def __init__(self, *argv: str | Path, **options: Any) -> None:
        self.answers: queue.Queue[str] = queue.Queue()
        self.is_lost = False  # an answer is overdue: what comes next would be taken for another job's
        super().__init__(*argv, stdin=subprocess.PIPE, **options)
        assert self._answer("ready", START_S) == {"ready": True}

    def _pipes(self) -> list[tuple[IO[bytes] | None, Any]]:
        return [(self.process.stdout, self.answers.put), (self.process.stderr, self.said.append)]

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(str(job), ANSWER_S)

    def _answer(self, what: str, deadline_s: float) -> dict[str, Any]:
        try:
            return dict(json.loads(self.answers.get(timeout=deadline_s)))
        except queue.Empty:
            self.is_lost = True
            raise AssertionError(f"no answer to {what} within {deadline_s:g} s: {self.said[-20:]}") from None


# --- servers


def sdk2_server() -> Server:
    return Server(sys.executable, REAL / "servers" / "sdk2.py", "{port}")


def sdk1_server() -> Server:
    return Server(python("mcp1"), REAL / "servers" / "sdk1.py", "{port}")


def fast_server() -> Server:
    return Server(python("fastmcp"), REAL / "servers" / "fast.py", "{port}")


def guarded_server(issuer: str) -> Server:
    """An OAuth resource: it takes tokens of this issuer."""
    return Server(python("fastmcp"), REAL / "servers" / "guarded.py", "{port}", issuer)


def everything_server(mode: str = "streamableHttp") -> Server:
    """`mode`: streamableHttp (/mcp) or sse (/sse and /message)."""
    return Server(node(), npm_package("server-everything") / "dist" / "index.js", mode)


def conformance_server() -> Server:
    return Server(sys.executable, REAL / "servers" / "conformance.py", "{port}")


def uvicorn_server(keep_alive_s: float) -> Server:
    return Server(sys.executable, REAL / "servers" / "plain.py", "{port}", str(keep_alive_s))


def node_server(keep_alive_s: float) -> Server:
    return Server(node(), REAL / "servers" / "plain.mjs", "{port}", str(keep_alive_s))


# --- clients

TOURS: dict[str, tuple[Sequence[str | Path], Path]] = {
    "sdk2": ([sys.executable, REAL / "clients" / "sdk2.py"], REPOSITORY),
    "sdk1": ([python("mcp1"), REAL / "clients" / "sdk1.py"], REPOSITORY),
    "fast": ([python("fastmcp"), REAL / "clients" / "fast.py"], REPOSITORY),
    "ts1": ([node(), REAL / "clients" / "tour.mjs", "sdk1"], HOME / "npm"),
    "ts2": ([node(), REAL / "clients" / "tour.mjs", "sdk2"], HOME / "npm"),
}


def trusting(ca: Path) -> dict[str, str]:
    """The environment in which Python and Node clients trust `ca`."""
    return {"SSL_CERT_FILE": str(ca), "REQUESTS_CA_BUNDLE": str(ca), "NODE_EXTRA_CA_CERTS": str(ca), "CURL_CA_BUNDLE": str(ca)}


def client_program(kind: str, ca: Path) -> Driver:
    argv, cwd = TOURS[kind]
    return Driver(*argv, cwd=cwd, env=trusting(ca))


def visitor(kit: str, ca: Path) -> Driver:
    """A person who logs in with a TypeScript SDK: sdk1 or sdk2."""
    return Driver(node(), REAL / "clients" / "oauth.mjs", kit, cwd=HOME / "npm", env=trusting(ca))


def conformance_cli(url: str, revision: str, results: Path, ca: Path) -> Program:
    """The official suite against `url`; it writes results/<scenario>-<time>/checks.json."""
    entry = npm_package("conformance") / "dist" / "index.js"
    return Program(node(), entry, "server", "--url", url, "--requirements", revision, "-o", results, env=trusting(ca))
