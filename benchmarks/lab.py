"""The table everything stands on: a work directory, ports, a certificate, the two upstreams, and one contender at a time.

A contender is started fresh for each measurement and ended by its own process id, so no figure depends on what was measured before it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks import machine
from benchmarks.callers import Callers, make_callers

HERE = Path(__file__).resolve().parent
ANSWER = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello hello hello hello"}],"isError":false}}'
START_LIMIT_S = 60.0
OPEN_LIMIT_S = 60.0  # for thousands of TLS handshakes
OURS = "mcpproxy"
COMMAND = [str(Path(sys.executable).with_name("mcpproxy")), "run", "-c", "{config}"]
CONTENDERS = (OURS, "nginx", "haproxy")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running contender."""

    name: str
    pid: int
    tls: int
    plain: int
    log: Path
    guards: bool = False  # callers must be known

    def cpu_ns(self) -> int:
        return machine.cpu_ns(self.pid)

    def rss_kib(self) -> int:
        return machine.rss_kib(self.pid)


@dataclass(slots=True)
class Lab:
    directory: Path
    fixed: int  # port of the nginx with the fixed answer
    origin: int  # port of our own upstream: streams, bulk, echo
    ours: list[str]  # the command of our daemon, {config} stands for its file
    callers: Callers
    fixed_pid: int = 0
    origin_pid: int = 0
    variants_ns: int = 0  # CPU of those that ran beside a contender and are over
    proven: set[tuple[str, bool]] = field(default_factory=set)

    @contextmanager
    def contender(self, name: str, *, guards: bool = False, workers: int = 0) -> Iterator[Proxy]:
        """Start it on the proxy's core with an empty log; end it afterwards. `guards`: as conf/guard-* says, callers must be known. `workers`: so many
        processes, on all cores; else it is one on the core of proxies."""
        tls, plain = free_port(), free_port()
        log = self.directory / f"{name}.log"
        log.unlink(missing_ok=True)
        command = self._command(name, tls, plain, "guard-" if guards else "", workers or 1)
        with ExitStack() as stack:
            output = (
                stack.enter_context(log.open("wb"))
                if name == "haproxy"
                else stack.enter_context((self.directory / f"{name}.out").open("wb"))
            )
            process = stack.enter_context(running(command, None if workers else machine.cores()[0], output.fileno()))
            for port in (tls, plain):
                wait_for_port(port, process, self.directory / f"{name}.out")
            yield Proxy(name, process.pid, tls, plain, log, guards)

    @contextmanager
    def variant(self, kind: str, *, everywhere: bool = False, **values: object) -> Iterator[Proxy]:
        """Our daemon with another configuration, conf/KINDmcpproxy.toml, beside the contender. `everywhere`: on all cores."""
        tls, plain = free_port(), free_port()
        config = self.render(f"{kind}mcpproxy.toml", TLS=tls, PLAIN=plain, **values)
        own = config.rename(self.directory / f"{kind}{tls}.toml")
        said = self.directory / f"{kind}{tls}.out"
        with said.open("wb") as output:
            with running(
                [word.replace("{config}", str(own)) for word in self.ours], None if everywhere else machine.cores()[0], output.fileno()
            ) as process:
                for port in (tls, plain):
                    wait_for_port(port, process, said)
                try:
                    yield Proxy(OURS, process.pid, tls, plain, self.directory / f"{kind}{tls}.log")
                finally:
                    self.variants_ns += machine.cpu_ns(process.pid)

    def _command(self, name: str, tls: int, plain: int, kind: str, workers: int) -> list[str]:
        if name == "nginx":
            return nginx_command(self.render(f"{kind}nginx.conf", TLS=tls, PLAIN=plain, WORKERS=workers), self.directory)
        if name == "haproxy":
            return ["haproxy", "-db", "-f", str(self.render(f"{kind}haproxy.cfg", TLS=tls, PLAIN=plain))]
        config = str(self.render(f"{kind}mcpproxy.toml", TLS=tls, PLAIN=plain, WORKERS=workers))
        return [word.replace("{config}", config) for word in self.ours]

    def render(self, name: str, **values: object) -> Path:
        """conf/NAME with its @WORDS@ filled in."""
        text = (HERE / "conf" / name).read_text()
        user = "user root;" if os.geteuid() == 0 else ""  # a master that is root would otherwise drop to a user who cannot write here
        for word, value in {
            "DIR": self.directory,
            "FIXED": self.fixed,
            "ORIGIN": self.origin,
            "ANSWER": ANSWER,
            "USER": user,
            **values,
        }.items():
            text = text.replace(f"@{word}@", str(value))
        target = self.directory / name
        target.write_text(text)
        return target


@contextmanager
def open_lab(ours: str = "") -> Iterator[Lab]:
    """Everything but the contender, up and answering."""
    raise_open_files()
    with tempfile.TemporaryDirectory(prefix="mcpproxy-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        make_certificate(directory)
        lab = Lab(directory, free_port(), free_port(), shlex.split(ours) or COMMAND, make_callers(directory))
        errors = stack.enter_context((directory / "upstream.out").open("wb"))
        upstream = stack.enter_context(running(nginx_command(lab.render("upstream.conf"), directory), machine.cores()[1], errors.fileno()))
        origin_command = [sys.executable, "-m", "benchmarks.origin", str(lab.origin)]
        origin = stack.enter_context(running(origin_command, machine.cores()[1], errors.fileno()))
        wait_for_port(lab.fixed, upstream, directory / "upstream.out")
        wait_for_port(lab.origin, origin, directory / "upstream.out")
        lab.fixed_pid, lab.origin_pid = upstream.pid, origin.pid
        yield lab


def raise_open_files() -> None:
    """Up to what 5 000 streams need, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = machine.OPEN_FILES if hard == resource.RLIM_INFINITY else min(machine.OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def nginx_command(conf: Path, directory: Path) -> list[str]:
    return ["nginx", "-p", str(directory), "-c", str(conf), "-e", str(directory / f"{conf.stem}.err")]


@contextmanager
def running(
    command: list[str], core: int | None, output: int, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=HERE.parent,
        env=environment or machine.environment(),
        preexec_fn=machine.take_place(core),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    said = output.read_text(errors="replace") if output.exists() else ""
    raise RuntimeError(f"{' '.join(map(str, process.args))}: nothing listens on port {port}\n{said[-2000:]}")  # type: ignore[arg-type]


def make_certificate(directory: Path) -> None:
    """One self-signed ECDSA P-256 certificate, the same for every contender."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    cert = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "cert.pem").write_bytes(cert)
    for filename, content in (("key.pem", secret), ("both.pem", cert + secret)):
        target = directory / filename
        target.touch(0o600)
        target.write_bytes(content)
