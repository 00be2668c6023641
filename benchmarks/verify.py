"""Before a contender is measured it proves that it does the same work as the others.

Its answer to the measured call is the upstream's, byte for byte, over HTTP/1.1 and HTTP/2; the head its upstream saw carries the
forwarded fields and a fresh request id; its log holds one JSON line with the facts. A contender that skips work would otherwise win.
Where callers must be known it also proves that a wrong key is refused, that the key ends here while the caller's name goes on, and that limits limit.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from pathlib import Path

from benchmarks import frames
from benchmarks.callers import CALLER
from benchmarks.lab import ANSWER, OURS, Lab, Proxy
from benchmarks.load import BODY, HEADERS

FORWARDED = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "x-forwarded-proto": "https", "x-forwarded-host": "127.0.0.1"}
FORGED = {**HEADERS, "X-Real-IP": "6.6.6.6"}
PROTECTING = ("Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options")
BURST = 5  # calls that /mcp/few lets through at once
DENIED_BODY = BODY.replace("echo", "drop")
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
    if (proxy.name, proxy.guards) in lab.proven:
        return ""
    said = prove_guards(lab, proxy) if proxy.guards else prove_forwarding(proxy)
    lab.proven.add((proxy.name, proxy.guards))
    return said


def prove_forwarding(proxy: Proxy) -> str:
    """Where everybody may come in."""
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
    return f"{spoken}, {'HTTP/1.1 and HTTP/2' if multiplexed.speaks else 'HTTP/1.1 only'}"


def prove_guards(lab: Lab, proxy: Proxy) -> str:
    """Where callers must be known."""
    key = lab.callers.key
    bare = {name: value for name, value in HEADERS.items() if name != "Authorization"}
    known = {**bare, "X-API-Key": key}
    with client_context().wrap_socket(socket.create_connection(("127.0.0.1", proxy.tls), 10)) as tls:
        for fields, status in ((bare, 401), (known, 200), ({**bare, "X-API-Key": key[:-1] + "~"}, 401), (known, 200)):
            for path in ("headers", "audit"):
                answer = ask(tls, f"POST /mcp/{path}", fields, BODY)
                expect(proxy, f"answer to {fields.get('X-API-Key')}", status, answer.status)
                expect(proxy, "fields that protect browsers", True, all(answer.getheader(name) for name in PROTECTING))
                expect(proxy, "the upstream's answer", status == 200, answer.read().decode() == ANSWER)
        seen = seen_fields(json.loads(ask(tls, "GET /echo", known).read()))
        expect(proxy, "what the upstream is told", (False, CALLER), ("x-api-key" in seen or key in seen.values(), seen.get("x-agent")))
        statuses = [(answer.status, answer.read())[0] for answer in (ask(tls, "POST /mcp/few", known, BODY) for _ in range(3 * BURST))]
        expect(proxy, f"{3 * BURST} calls where {BURST} are allowed", BURST * [200] + 2 * BURST * [429], statuses)
        if proxy.name == OURS:
            expect(proxy, "a tool that is not allowed", 403, ask(tls, "POST /mcp/audit", known, DENIED_BODY).status)
            check_audit(lab, proxy)
    who = [line for line in log_lines(proxy, (b"/mcp/headers", b"/echo"), 5) if f'"principal":"{CALLER}"'.encode() in line]
    expect(proxy, "log lines that say who it was", 3, len(who))
    return "keys, limits and security headers"


def check_audit(lab: Lab, proxy: Proxy) -> None:
    """Three calls of somebody known, the last of them denied."""
    lines = [json.loads(line) for line in wait_for_lines(lab.directory / "audit.log", (b'"tool":"', b'"name":"'), 3)]
    expect(proxy, "callers in the audit log", [CALLER] * 3, [line["principal"] for line in lines])
    expect(proxy, "verdicts in the audit log", ["allowed", "allowed", "denied"], [line["verdict"] for line in lines])


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
    lines = log_lines(proxy, (b'"/mcp"', b'"/echo"'), exchanges)
    expect(proxy, "log lines, one for each exchange", exchanges, len(lines))
    expect(proxy, "request ids in the log", True, all(any(id in line.decode() for line in lines) for id in ids))


def log_lines(proxy: Proxy, words: tuple[bytes, ...], least: int) -> list[bytes]:
    """Lines of the access log with one of these words, each with enough facts."""
    lines = wait_for_lines(proxy.log, words, least)
    expect(proxy, f"at least {LOG_FIELDS} facts per log line", True, all(len(json.loads(line)) >= LOG_FIELDS for line in lines))
    return lines


def wait_for_lines(file: Path, words: tuple[bytes, ...], least: int) -> list[bytes]:
    """Lines with one of these words, once there are enough, or after the longest flush time."""
    deadline = time.monotonic() + LOG_WAIT_S
    lines: list[bytes] = []
    while time.monotonic() < deadline and len(lines) < least:
        time.sleep(0.1)
        if file.exists():
            lines = [line for line in file.read_bytes().splitlines() if any(word in line for word in words)]
    return lines


def expect(proxy: Proxy, what: str, expected: object, got: object) -> None:
    if expected != got:
        raise AssertionError(f"{proxy.name}: {what}: expected {expected!r}, got {got!r}")
