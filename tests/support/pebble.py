"""pebble, Let's Encrypt's test authority, with a resolver (pebble-challtestsrv) for which every name is this machine.

    with Pebble(tmp_path, http=plain_port, tls=tls_port) as pebble:
        config = {"acme": pebble.config, ...}
        context = pebble.trust()                      # a client that trusts what it signs

`stop()` and `start()` take it away and bring it back: it has forgotten everything then, and signs with another root. `refuse(name)` lets a name lead nowhere.
"""

import contextlib
import json
import os
import ssl
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.certs import make_certificate
from tests.support.ports import free_port
from tests.support.waiting import until

EAB = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")


class Pebble:
    def __init__(self, directory: Path, *, http: int, tls: int, eab: bool = False, validity_s: int = 0, **environment: str) -> None:
        self._directory, self.certificate = directory, make_certificate(directory / "pebble", "localhost")
        self._port, self._management, self._dns, self._names = (free_port() for _ in range(4))
        self._environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"} | environment
        settings: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self.certificate.cert),
            "privateKey": str(self.certificate.key),
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab,
            "externalAccountMACKeys": dict([EAB]),
        }
        if validity_s:
            settings["certificateValidityPeriod"] = validity_s
        self._file = directory / "pebble.json"
        self._file.write_text(json.dumps({"pebble": settings}))
        self._resolver: subprocess.Popen[bytes] | None = None
        self._pebble: subprocess.Popen[bytes] | None = None
        self.log = directory / "pebble.log"

    @property
    def config(self) -> dict[str, Any]:
        """For [acme]."""
        return {"directory": f"https://127.0.0.1:{self._port}/dir", "ca": str(self.certificate.cert), "retry": "1s"}

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = ["pebble", "-config", str(self._file), "-dnsserver", f"127.0.0.1:{self._dns}", "-strict"]
            self._pebble = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self._environment)
        until(self._answers, "pebble answers")

    def stop(self) -> None:
        if self._pebble is not None:
            self._pebble.kill()
            self._pebble.wait()
            self._pebble = None

    def _answers(self) -> bool:
        try:
            return bool(self.ask("roots/0"))
        except OSError:
            return False

    def ask(self, path: str) -> bytes:
        """Of its management."""
        with urllib.request.urlopen(
            f"https://127.0.0.1:{self._management}/{path}", context=self.certificate.client(alpn=()), timeout=5
        ) as answer:
            found: bytes = answer.read()
            return found

    def trust(self, *, alpn: tuple[str, ...] = ("http/1.1",), minimum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client that trusts its present root."""
        context = ssl.create_default_context(cadata=self.ask("roots/0").decode())
        context.set_alpn_protocols(list(alpn))
        if minimum is not None:
            context.minimum_version = minimum
        return context

    def refuse(self, name: str) -> None:
        """This name leads to nowhere from now on."""
        self._tell("add-a", {"host": f"{name}.", "addresses": ["127.0.0.99"]})

    def accept(self, name: str) -> None:
        """And here again."""
        self._tell("clear-a", {"host": f"{name}."})

    def _tell(self, what: str, told: dict[str, Any]) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self._names}/{what}", json.dumps(told).encode(), method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    def __enter__(self) -> Self:
        off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
        places = ["-dns01", f"127.0.0.1:{self._dns}", "-management", f"127.0.0.1:{self._names}", "-defaultIPv4", "127.0.0.1"]
        with (self._directory / "resolver.log").open("wb") as log:
            self._resolver = subprocess.Popen(["pebble-challtestsrv", *off, *places], stdout=log, stderr=log)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if self._resolver is not None:
            self._resolver.kill()
            self._resolver.wait()
        if error is not None:
            with contextlib.suppress(OSError):
                error.add_note(f"pebble: {self.log.read_text()[-3000:]}")
