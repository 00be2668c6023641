"""An authority with moods that pebble does not have: pebble answers, and somebody between may answer instead, or change what it says.

with Meddler(pebble) as between:
    between.instead = lambda asked: Said(429, {...}, {"Retry-After": "60"}) if asked.path == "/order-plz" else None
    between.offer_renewal_info(window)            # RFC 9773, which Debian's pebble does not know
    config = {"acme": between.config, ...}
    between.asked                                 # everything that was asked, with the payload that was signed
"""

import base64
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.pebble import Pebble

PASSED = ("Replay-Nonce", "Location", "Link", "Content-Type", "Retry-After")


@dataclass
class Asked:
    method: str
    path: str
    payload: Any  # that was signed; None where nothing was


@dataclass
class Said:
    status: int
    body: Any  # bytes, or for JSON
    fields: dict[str, str] = field(default_factory=dict)


def problem(kind: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, **more}


class Meddler:
    def __init__(self, pebble: Pebble) -> None:
        self._pebble = pebble
        self._behind = urlsplit(pebble.config["directory"])
        self.asked: list[Asked] = []
        self.instead: Callable[[Asked], Said | None] = lambda _: None
        self.changed: Callable[[Asked, Said], Said] = lambda _, said: said
        meddler = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, self.path, _payload(body))
                meddler.asked.append(asked)
                said = meddler.instead(asked) or meddler.changed(asked, meddler.forward(self, body))
                told = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                nonce = {"Replay-Nonce": meddler.nonce()} if self.command == "POST" and "Replay-Nonce" not in said.fields else {}
                self.send_response(said.status)
                for name, value in {**nonce, **said.fields, "Content-Length": str(len(told))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(told if self.command != "HEAD" else b"")

            do_GET = do_HEAD = do_POST = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.certificate.cert, pebble.certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.base = f"https://127.0.0.1:{self._server.server_port}"

    @property
    def config(self) -> dict[str, Any]:
        """For [acme]."""
        return self._pebble.config | {"directory": f"{self.base}/dir"}

    def nonce(self) -> str:
        """One that pebble will take."""
        return self._ask("HEAD", "/nonce-plz", b"", {"User-Agent": "meddler"}).fields["Replay-Nonce"]

    def forward(self, request: BaseHTTPRequestHandler, body: bytes) -> Said:
        """As the client asked: pebble signs for the address in Host."""
        fields = {"Host": request.headers["Host"], "Content-Type": request.headers.get("Content-Type", ""), "User-Agent": "meddler"}
        return self._ask(request.command, request.path, body, fields)

    def _ask(self, method: str, path: str, body: bytes, fields: dict[str, str]) -> Said:
        context = self._pebble.certificate.client(alpn=())
        link = HTTPSConnection(self._behind.hostname or "", self._behind.port, context=context, timeout=30)
        link.request(method, path, body, fields)
        answer = link.getresponse()
        told = answer.read()
        link.close()
        return Said(answer.status, told, {name: value for name in PASSED if (value := answer.getheader(name)) is not None})

    def offer_renewal_info(self, answer: Callable[[str], Said]) -> None:
        """`answer`: to who asks about the certificate with this name (RFC 9773 §4.1)."""
        instead, changed = self.instead, self.changed

        def about(asked: Asked) -> Said | None:
            if asked.path.startswith("/renewal-info/"):
                return answer(asked.path.rpartition("/")[2])
            return instead(asked)

        def offered(asked: Asked, said: Said) -> Said:
            if asked.path == "/dir":
                return Said(said.status, {**json.loads(said.body), "renewalInfo": f"{self.base}/renewal-info/"}, {})
            return changed(asked, said)

        self.instead, self.changed = about, offered

    def orders(self) -> list[Any]:
        return [each.payload for each in self.asked if each.path == "/order-plz"]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def _payload(body: bytes) -> Any:
    try:
        told = json.loads(body)["payload"]
        return json.loads(base64.urlsafe_b64decode(told + "=" * (-len(told) % 4)) or b"null")
    except (ValueError, KeyError):
        return None
