"""Before a contender is measured it proves that it does the same work as the others.

Its answer to the measured call is the upstream's, byte for byte, over HTTP/1.1 and HTTP/2; the head its upstream saw carries the
forwarded fields and a fresh request id; its log holds one JSON line with the facts. A contender that skips work would otherwise win.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time

from benchmarks import frames
from benchmarks.lab import ANSWER, Lab, Proxy
from benchmarks.load import BODY, HEADERS

FORWARDED = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "x-forwarded-proto": "https", "x-forwarded-host": "127.0.0.1"}
FORGED = {**HEADERS, "X-Real-IP": "6.6.6.6"}
LOG_FIELDS = 15  # the least number of facts a log line holds: no contender may win by writing less
LOG_WAIT_S = 5.0


def client_context(alpn: str = "http/1.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


def prove(lab: Lab, proxy: Proxy) -> str:
    """Raise AssertionError with what differs; else say which TLS it speaks."""
    if proxy.name in lab.proven:
        return ""
    with (
        socket.create_connection(("127.0.0.1", proxy.plain), 10) as plain,
        client_context().wrap_socket(socket.create_connection(("127.0.0.1", proxy.tls), 10)) as tls,
        frames.Client(proxy.tls, client_context("h2")) as multiplexed,
    ):
        for link in (plain, tls, plain, tls):
            answer = ask(link, "POST /mcp", HEADERS, BODY)
            got = answer.status, answer.read().decode(), answer.getheader("content-type"), answer.will_close
            expect(proxy, "answer", (200, ANSWER, "application/json", False), got)
        spoken = f"{tls.version()} {(tls.cipher() or ('?',))[0]}"
        echoes = [ask(tls, "GET /echo", FORGED).read() for _ in range(2)]
        if multiplexed.speaks:  # one that does not is refused by the works over HTTP/2 only
            for _ in range(2):
                multiplexed.ask("POST", "/mcp", HEADERS, BODY.encode())
                status, fields, body = multiplexed.answer()
                expect(proxy, "answer over HTTP/2", (200, ANSWER, "application/json"), (status, body.decode(), fields["content-type"]))
                multiplexed.ask("GET", "/echo", FORGED)
                echoes.append(multiplexed.answer()[2])
    ids = {check_echo(proxy, seen_fields(json.loads(echo))) for echo in echoes}
    expect(proxy, "fresh request ids", len(echoes), len(ids))
    check_log(proxy, ids, 4 + len(echoes) + 2 * multiplexed.speaks)
    lab.proven.add(proxy.name)
    return f"{spoken}, {'HTTP/1.1 and HTTP/2' if multiplexed.speaks else 'HTTP/1.1 only'}"


def check_echo(proxy: Proxy, seen: dict[str, str]) -> str:
    """What the upstream saw is what it has to see; the request id."""
    expect(proxy, "forwarded fields", FORWARDED, {name: seen.get(name) for name in FORWARDED})
    expect(proxy, "client's own fields", HEADERS["Authorization"], seen.get("authorization"))
    expect(proxy, "a request id", True, "x-request-id" in seen)
    return seen["x-request-id"]


def ask(link: socket.socket, what: str, fields: dict[str, str], body: str = "") -> http.client.HTTPResponse:
    """One request in one piece: an upstream that answers before it has the body ends the connection, rightly, and that is not the question."""
    lines = [f"{what} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in fields.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    link.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    answer = http.client.HTTPResponse(link, method=what.split(maxsplit=1)[0])
    answer.begin()
    return answer


def seen_fields(lines: list[str]) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in lines[1:]]
    return {name.lower(): value for name, value in pairs}


def check_log(proxy: Proxy, ids: set[str], exchanges: int) -> None:
    """Their lines must come within the flush time, and the ids the upstream saw must be in them."""
    deadline = time.monotonic() + LOG_WAIT_S
    lines: list[bytes] = []
    while time.monotonic() < deadline and len(lines) < exchanges:
        time.sleep(0.1)
        lines = (
            [line for line in proxy.log.read_bytes().splitlines() if b'"/mcp"' in line or b'"/echo"' in line] if proxy.log.exists() else []
        )
    expect(proxy, "log lines, one for each exchange", exchanges, len(lines))
    records = [json.loads(line) for line in lines]
    expect(proxy, f"at least {LOG_FIELDS} facts per log line", True, all(len(record) >= LOG_FIELDS for record in records))
    expect(proxy, "request ids in the log", True, all(any(id in line.decode() for line in lines) for id in ids))


def expect(proxy: Proxy, what: str, expected: object, got: object) -> None:
    if expected != got:
        raise AssertionError(f"{proxy.name}: {what}: expected {expected!r}, got {got!r}")
