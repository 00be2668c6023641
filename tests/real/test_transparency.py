"""What servers really answer, asked raw: the daemon hands it on as it is, down to the fields and the last byte.

A conversation is a list of requests in the words of an SDK client. It is held with the same server directly and through the daemon, and
both must give the same statuses, fields and bodies: 202 without a body, 405 with `Allow`, 409 for a second stream, 404 or 400 for an unknown
session, 400 for a bad envelope. Only what names one session or one moment may differ.
"""

import json
import re
import ssl
from typing import Any

import httpx
import pytest

from tests.real.conftest import Origin, Proxies
from tests.support.certs import Certificate
from tests.support.software import Server
from tests.support.waiting import until

DEADLINE_S = 10.0
BOTH = "application/json, text/event-stream"
OWN = {"date", "connection", "keep-alive", "mcp-session-id", "x-request-id", "transfer-encoding"}  # of a hop, a moment or a session
VARYING = re.compile(rb"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(_\d+)?")  # sessions and event ids


def client(certificate: Certificate, *, http2: bool = False, **fields: str) -> httpx.Client:
    context: ssl.SSLContext = certificate.client(alpn=("h2",) if http2 else ("http/1.1",))
    return httpx.Client(verify=context, http2=http2, timeout=DEADLINE_S, headers={"accept": BOTH, **fields}, trust_env=False)


def call(method: str, params: dict[str, Any] | None = None, **more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {}), **more}).encode()


def initialize() -> bytes:
    return call("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}, id=0)


def modern(method: str, **fields: str) -> tuple[dict[str, str], bytes]:
    """Fields and body of a 2026-07-28 request."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    own = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "content-type": "application/json"}
    return own | fields, call(method, {"_meta": meta}, id="one")


def told(response: httpx.Response, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    fields = sorted((name, value) for name, value in response.headers.multi_items() if name not in OWN)
    return response.status_code, fields, VARYING.sub(b"<id>", body)


def legacy_conversation(url: str, certificate: Certificate, *, http2: bool = False) -> list[Any]:
    json_type: dict[str, Any] = {"content-type": "application/json"}
    with client(certificate, http2=http2) as http:
        seen: list[Any] = []

        def say(method: str, body: bytes | None = None, **fields: str) -> httpx.Response:
            response = http.request(method, url, content=body, headers=fields)
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            seen.append(told(response, response.content))
            return response

        session: dict[str, Any] = {"mcp-session-id": say("POST", initialize(), **json_type).headers["mcp-session-id"]}
        own = session | {"mcp-protocol-version": "2025-11-25"}
        assert say("POST", call("notifications/initialized"), **own, **json_type).status_code == 202
        say("POST", call("tools/list", {}, id=1), **own, **json_type)
        say("POST", call("tools/call", {"name": "echo", "arguments": {"message": "hi"}}, id="x"), **own, **json_type)
        say("POST", call("no/such/method", {}, id=2), **own, **json_type)
        say("POST", b"{not json", **own, **json_type)
        say("POST", call("tools/list", {}, id=3), **own, **{"content-type": "text/plain"})
        say("POST", call("tools/list", {}, id=4), **own, **json_type, accept="text/html")
        with http.stream("GET", url, headers={**own, "accept": "text/event-stream"}) as stream:  # silent: its head must come all the same
            seen.append((stream.status_code, stream.headers["content-type"]))
            assert say("GET", **own, accept="text/event-stream").status_code == 409
        assert say("POST", call("tools/list", {}, id=5), **json_type, **{"mcp-session-id": "nobody"}).status_code in (400, 404)
        say("PUT", b"{}", **own, **json_type)
        say("DELETE", **own)
        say("DELETE", **own)
    return seen


def modern_conversation(url: str, certificate: Certificate, *, http2: bool = False) -> list[Any]:
    with client(certificate, http2=http2) as http:
        seen = []
        for method, (fields, body) in [
            ("POST", modern("server/discover")),
            ("POST", modern("tools/list")),
            ("POST", modern("ping")),
            ("POST", modern("tools/list", **{"mcp-method": "tools/call"})),  # the mirror lies: 400
            ("POST", modern("tools/list", **{"mcp-protocol-version": "1900-01-01"})),
            ("POST", modern("tools/list", **{"last-event-id": "7", "mcp-session-id": "x", "mcp-param-any": "=?base64?aGk=?="})),
            ("GET", modern("tools/list")),
            ("DELETE", modern("tools/list")),
        ]:
            response = http.request(method, url, content=body if method == "POST" else None, headers=fields)
            seen.append(told(response, response.content))
    return seen


VERSIONS = pytest.mark.parametrize("http2", [False, True], ids=["1.1", "2"])


@VERSIONS
@pytest.mark.parametrize("server", ["sdk2", pytest.param("sdk1", marks=pytest.mark.software("mcp1"))])
def test_the_older_era_sounds_the_same(
    server: str, http2: bool, proxies: Proxies, certificate: Certificate, request: pytest.FixtureRequest
) -> None:
    origin = request.getfixturevalue(server).origin
    directly = legacy_conversation(origin + "/mcp", certificate)
    assert legacy_conversation(proxies.url(origin) + "/mcp", certificate, http2=http2) == directly


@VERSIONS
def test_the_modern_era_sounds_the_same(sdk2: Server, http2: bool, proxies: Proxies, certificate: Certificate) -> None:
    directly = modern_conversation(sdk2.origin + "/mcp", certificate)
    assert {200, 400, 404, 405} <= {status for status, *_ in directly}
    assert modern_conversation(proxies.url(sdk2.origin) + "/mcp", certificate, http2=http2) == directly


@pytest.mark.software("node", "npm")
def test_a_lost_stream_is_resumed_by_its_last_event_id(everything: Server, through: Origin, certificate: Certificate) -> None:
    """The stream breaks after the first event; a GET with Last-Event-ID brings the rest, the answer included."""
    url = through(everything.origin) + "/mcp"
    with client(certificate, **{"content-type": "application/json"}) as http:
        started = http.post(url, content=initialize())
        own = {"mcp-session-id": started.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        http.post(url, content=call("notifications/initialized"), headers=own)
        slow = {"name": "trigger-long-running-operation", "arguments": {"duration": 0.6, "steps": 3}, "_meta": {"progressToken": 9}}
        with http.stream("POST", url, content=call("tools/call", slow, id=7), headers=own) as stream:
            read = ""
            for text in stream.iter_text():
                read += text
                if '"progress":1' in read:
                    break
        # This server replays what was stored, but does not go on: so it must be over. A call that is as long and began later ends later.
        assert http.post(url, content=call("tools/call", slow | {"_meta": {"progressToken": 10}}, id=8), headers=own).status_code == 200
        (last,) = re.findall(r"id: (\S+)\n(?:(?!id: ).|\n)*\"progress\":1", read)[-1:]
        with http.stream("GET", url, headers={**own, "accept": "text/event-stream", "last-event-id": last}) as stream:
            rest = ""
            for text in stream.iter_text():
                rest += text
                if re.search(r'"id":7\b', rest):
                    break
        told = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", rest, re.MULTILINE)]
        assert [each["params"]["progress"] for each in told if each.get("params", {}).get("progressToken") == 9] == [2, 3]
        assert [each["result"]["content"][0]["text"].partition(".")[0] for each in told if each.get("id") == 7] == [
            "Long running operation completed"
        ]
        assert http.delete(url, headers=own).status_code == 200


@pytest.mark.parametrize("upstream", ["plain_uvicorn", pytest.param("plain_node", marks=pytest.mark.software("node"))])
def test_a_client_that_hangs_up_is_missed_upstream_within_a_second(
    upstream: str, through: Origin, certificate: Certificate, request: pytest.FixtureRequest
) -> None:
    origin = through(request.getfixturevalue(upstream).origin)
    with client(certificate) as http:
        before = http.get(origin + "/gone").json()["gone"]
        with http.stream("POST", origin + "/endless") as stream:
            assert next(stream.iter_bytes()).startswith(b"id: 1")
        until(lambda: http.get(origin + "/gone").json()["gone"] == before + 1, "the upstream to notice", deadline_s=1.0)


def test_an_sdk_client_that_resets_after_its_answer_leaves_no_error_behind(sdk2: Server, proxies: Proxies, clients: Any) -> None:
    """The Python SDK closes its connection right after the event it waited for, often before the last chunk."""
    daemon = proxies.before(sdk2.origin)
    past = len(daemon.records)
    for _ in range(3):
        seen = clients("sdk2").ask({"url": proxies.url(sdk2.origin) + "/mcp", "era": "auto", "transport": "http", "big": 1000})
        assert "error" not in seen
    calls = until(lambda: found if len(found := [r for r in daemon.records[past:] if r.get("mcp_name") == "echo"]) == 6 else [], "6 calls")
    assert {record["end"] for record in calls} == {"done"}
    assert not [record for record in daemon.records[past:] if record["status"] >= 500 or record["end"] in ("upstream-gone", "timeout")]
    assert any(record["reused"] for record in calls)
