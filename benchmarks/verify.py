"""Before a contender is measured it proves that it does the same work as the others.

Its answer to the measured call is the upstream's, byte for byte; the head its upstream saw carries the forwarded fields and a fresh request
id; its log holds one JSON line with the facts. A contender that skips work would otherwise win.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time

from benchmarks.lab import ANSWER, Lab, Proxy
from benchmarks.load import BODY, HEADERS

FORWARDED = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "x-forwarded-proto": "https"}
LOG_FIELDS = 15  # the least number of facts a log line holds: no contender may win by writing less
LOG_WAIT_S = 5.0


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def prove(lab: Lab, proxy: Proxy) -> str:
    """Raise AssertionError with what differs; else say which TLS it speaks."""
    if proxy.name in lab.proven:
        return ""
    with (
        socket.create_connection(("127.0.0.1", proxy.plain), 10) as plain,
        client_context().wrap_socket(socket.create_connection(("127.0.0.1", proxy.tls), 10)) as tls,
    ):
        for link in (plain, tls, plain, tls):
            answer = ask(link, "POST /mcp", HEADERS, BODY)
            got = answer.status, answer.read().decode(), answer.getheader("content-type"), answer.will_close
            expect(proxy, "answer", (200, ANSWER, "application/json", False), got)
        spoken = f"{tls.version()} {(tls.cipher() or ('?',))[0]}"
        ids = set()
        for _ in range(2):
            seen = seen_fields(json.loads(ask(tls, "GET /echo", {**HEADERS, "X-Real-IP": "6.6.6.6"}).read()))
            expect(proxy, "forwarded fields", FORWARDED, {name: seen.get(name) for name in FORWARDED})
            expect(proxy, "client's own fields", HEADERS["Authorization"], seen.get("authorization"))
            ids.add(seen.get("x-request-id"))
        expect(proxy, "fresh request ids", True, len(ids) == 2 and None not in ids)
    check_log(proxy, {str(id) for id in ids})
    lab.proven.add(proxy.name)
    return spoken


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


def check_log(proxy: Proxy, ids: set[str]) -> None:
    """Six exchanges were made; their lines must come within the flush time, and the ids the upstream saw must be in them."""
    deadline = time.monotonic() + LOG_WAIT_S
    lines: list[bytes] = []
    while time.monotonic() < deadline and len(lines) < 6:
        time.sleep(0.1)
        lines = (
            [line for line in proxy.log.read_bytes().splitlines() if b'"/mcp"' in line or b'"/echo"' in line] if proxy.log.exists() else []
        )
    expect(proxy, "log lines for six exchanges", 6, len(lines))
    records = [json.loads(line) for line in lines]
    expect(proxy, f"at least {LOG_FIELDS} facts per log line", True, all(len(record) >= LOG_FIELDS for record in records))
    expect(proxy, "request ids in the log", True, all(any(id in line.decode() for line in lines) for id in ids))


def expect(proxy: Proxy, what: str, expected: object, got: object) -> None:
    if expected != got:
        raise AssertionError(f"{proxy.name}: {what}: expected {expected!r}, got {got!r}")
