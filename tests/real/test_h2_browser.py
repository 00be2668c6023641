"""A browser (Chromium, headless) reads a stream of events over HTTP/2, by EventSource and by fetch, makes calls beside it, and talks to a WebSocket.

The page is served through the daemon, says what it saw by POST /report, and lets the server go on to the next event by POST /seen: an event
that were held back would end the play. The browser itself says which protocol it spoke.
"""

import base64
import hashlib
import json
import struct
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.scenarios.test_h2_upgrades import switch
from tests.support.certs import Certificate
from tests.support.daemon import Daemon, simple_config
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.software import Program
from tests.support.upstream import Link, ScriptedUpstream, response

pytestmark = pytest.mark.needs("chromium")
DEADLINE_S = 40.0  # its first start on a busy machine
EVENTS = ["one", "grüße, 世界", "three"]
PAGE = """<!doctype html><meta charset="utf-8"><title>events</title><script>
const post = (path, body) => fetch(path, {method: "POST", body});
const bySource = () => new Promise((resolve) => {
  const seen = [], source = new EventSource("/events?source");
  source.onerror = () => { source.close(); resolve(seen); };  // the end of the stream, too
  source.onmessage = async ({data}) => { seen.push(data); await post("/seen", data); };
});
const byFetch = async () => {
  const seen = [], decoder = new TextDecoder(), response = await fetch("/events?fetch");
  let text = "";
  for await (const piece of response.body) {
    text += decoder.decode(piece, {stream: true});
    for (let end; (end = text.indexOf("\\n\\n")) >= 0; text = text.slice(end + 2)) {
      seen.push(text.slice(6, end));
      await post("/seen", text.slice(6, end));
    }
  }
  return seen;
};
const bySocket = () => new Promise((resolve) => {
  const socket = new WebSocket(`wss://${location.host}/socket`);
  socket.onopen = () => socket.send("grüße");
  socket.onmessage = ({data}) => { resolve(data); socket.close(); };
  socket.onclose = () => resolve("closed");
});
(async () => {
  const said = {source: await bySource(), fetch: await byFetch()};
  said.calls = (await Promise.all(Array.from({length: 30}, (_, i) => post("/echo", `${i}`).then((answer) => answer.text())))).join();
  said.socket = await bySocket();
  const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  said.protocols = [...new Set(entries.map((entry) => entry.nextHopProtocol))];
  await post("/report", JSON.stringify(said));
})();
</script>"""


class Play:
    def __init__(self) -> None:
        self.seen = {"source": threading.Semaphore(0), "fetch": threading.Semaphore(0)}
        self.kind = "source"
        self.report: dict[str, object] = {}
        self.reported = threading.Event()

    def __call__(self, link: Link) -> None:
        while True:
            request = link.read_request()
            path, _, query = request.target.decode().partition("?")
            if path == "/":
                link.send(response(PAGE.encode(), content_type="text/html; charset=utf-8"))
            elif path == "/events":
                self.events(link, query)
            elif path == "/seen":
                self.seen[self.kind].release()
                link.send(response(b""))
            elif path == "/report":
                self.report = json.loads(request.body)
                link.send(response(b""))
                self.reported.set()
            elif path == "/socket":
                return echo_socket(link, request)
            elif path == "/echo":
                link.send(response(request.body))
            else:
                link.send(response(b"", status="404 Not Found"))

    def events(self, link: Link, kind: str) -> None:
        """The next one goes only when the last was seen."""
        self.kind = kind
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n")
        for text in EVENTS:
            data = f"data: {text}\n\n".encode()
            link.send(b"%x\r\n%b\r\n" % (len(data), data))
            assert self.seen[kind].acquire(timeout=10), f"{kind}: {text} was not seen"
        link.send(b"0\r\n\r\n")


def echo_socket(link: Link, request: Message) -> None:
    """One text frame of the client (masked, RFC 6455 §5.3) comes back as one of ours."""
    link.send(switch(request))
    (size,) = struct.unpack("!xB", link.read_exact(2))
    mask = link.read_exact(4)
    text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(link.read_exact(size & 0x7F)))
    link.send(b"\x81" + bytes([len(text)]) + text)
    link.read_until_closed()


def fingerprint(certificate: Certificate) -> str:
    key = x509.load_pem_x509_certificate(certificate.cert.read_bytes()).public_key()
    return base64.b64encode(hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()).decode()


def test_a_browser_reads_events_as_they_come(tmp_path: Path, certificate: Certificate) -> None:
    play = Play()
    tls = {"address": f"127.0.0.1:{free_port()}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}
    with ScriptedUpstream(play) as upstream, Daemon(simple_config(upstream.url, listen=tls), tmp_path) as daemon:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
        words += [
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        words += [f"--ignore-certificate-errors-spki-list={fingerprint(certificate)}"]
        with Program("chromium", *words, f"https://localhost:{daemon.port()}/", env={"HOME": str(tmp_path)}):
            assert play.reported.wait(DEADLINE_S), "the page reports"
        assert play.report["source"] == EVENTS
        assert play.report["fetch"] == EVENTS
        assert play.report["calls"] == ",".join(map(str, range(30)))
        assert play.report["socket"] == "grüße"
        assert daemon.record(path="/socket")["protocol"] == "HTTP/2"  # RFC 8441, on the connection that is there
        assert play.report["protocols"] == ["h2"]
        assert {record["protocol"] for record in daemon.wait_records(30, path="/echo")} == {"HTTP/2"}
