"""The gateway process in the real daemon: it serves what workers send it, is replaced, reloaded by parts, and leaves nobody behind."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon import Daemon
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.toml import write_toml
from tests.support.waiting import until

TOOLS = Path(__file__).parents[1] / "support" / "children" / "tools.py"
VERSION = "2025-11-25"


def program(*tools: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-ISE", str(TOOLS), *tools], "era": "legacy"}


def config(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "upstream": {"a": program("read", "write"), "b": program("read", "wait"), "all": {"members": ["a", "b"]}},
        "route": [{"path": "/all", "upstream": "all"}, {"path": "/a", "upstream": "a"}],
        "drain": "5s",
    }
    return found | changes


class Session:
    """A client of the older era."""

    def __init__(self, daemon: Daemon, path: str = "/all", **headers: str) -> None:
        self.url = f"http://127.0.0.1:{daemon.port()}{path}"
        self.http = httpx.Client(timeout=20, headers={"Accept": "application/json, text/event-stream", **headers})
        said = self.post("initialize", protocolVersion=VERSION, capabilities={}, clientInfo={"name": "t", "version": "1"})
        assert said.status_code == 200, said.text
        self.http.headers.update({"Mcp-Session-Id": said.headers["mcp-session-id"], "Mcp-Protocol-Version": VERSION})
        self.http.post(self.url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})

    def post(self, method: str, **params: Any) -> httpx.Response:
        return self.http.post(self.url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    def ask(self, method: str, **params: Any) -> Any:
        said = self.post(method, **params)
        assert said.status_code == 200, (said.status_code, said.text)
        assert "mcpproxy-member" not in said.headers
        text = said.text if said.headers["content-type"].startswith("application/json") else said.text.rpartition("data: ")[2]
        return json.loads(text)

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.ask("tools/list")["result"]["tools"]]

    def call(self, name: str, **arguments: Any) -> int:
        return int(self.ask("tools/call", name=name, arguments=arguments)["result"]["content"][0]["text"])

    @contextmanager
    def listening(self) -> Iterator[Iterator[str]]:
        with self.http.stream("GET", self.url, headers={"Accept": "text/event-stream"}) as response:
            assert response.status_code == 200
            yield response.iter_lines()


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda of: stack.enter_context(Daemon(of, tmp_path))


def reload(daemon: Daemon, of: dict[str, Any]) -> None:
    before = sum("configuration reloaded" in line for line in daemon.messages)
    daemon.file.write_text(write_toml({"workers": 1, **of}))
    daemon.signal(signal.SIGHUP)
    until(lambda: sum("configuration reloaded" in line for line in daemon.messages) > before, "the reload")


def gateway(daemon: Daemon) -> int:
    return until(lambda: daemon.processes().get("mcpproxy:gw"), "the gateway process")


def test_members_are_one_server_and_the_log_tells_which_of_them_answered(start: Any) -> None:
    daemon = start(config())
    session = Session(daemon)
    assert ["a_read", "a_write", "b_read", "b_wait"] == session.tools()
    one, other = session.call("a_read"), session.call("b_read")
    assert one != other
    assert one == Session(daemon, "/a").call("read"), "a member with a route of its own is the same process"
    assert daemon.record(member="a", path="/all")["upstream"] == "gateway"
    assert alive(one) and daemon.stop() == 0
    until(lambda: not alive(one) and not alive(other), "its children are gone")


def test_callers_see_what_the_rules_let_them_call(start: Any, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    shown = {name: keys.add(name, role) for name, role in (("ada", "readers"), ("bob", "writers"))}
    rules = [{"who": "role:readers", "tools": "*_read"}, {"who": "role:writers", "tools": ["a_*"]}]
    of = config(auth={"keys": keys.auth()})
    of["route"] = [{"path": "/all", "upstream": "all", "auth": "keys", "tools": {"allow": rules}}]
    daemon = start(of)
    ada, bob = (Session(daemon, Authorization=f"Bearer {shown[name]}") for name in ("ada", "bob"))
    assert (["a_read", "b_read"], ["a_read", "a_write"]) == (ada.tools(), bob.tools())
    assert ada.post("tools/call", name="a_write", arguments={}).status_code == 403
    stolen = bob.http.headers["Mcp-Session-Id"]
    ada.http.headers["Mcp-Session-Id"] = stolen
    assert 404 == ada.post("tools/list").status_code


def test_a_gateway_process_that_was_killed_is_replaced_and_its_children_are_gone(start: Any) -> None:
    daemon = start(config())
    session = Session(daemon)
    child, first = session.call("a_read"), gateway(daemon)
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(child) and not alive(first), "it is gone, and its children are")
    assert 404 == session.post("tools/list").status_code, "clients begin again, and never see a 502"
    assert alive(Session(daemon).call("a_read"))
    assert first != gateway(daemon)


def test_nothing_outlives_a_supervisor_that_was_killed(start: Any) -> None:
    daemon = start(config())
    child, process = Session(daemon).call("b_read"), gateway(daemon)
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not alive(child) and not alive(process), "nothing is left")


def test_a_reload_touches_only_what_is_another_one(start: Any) -> None:
    of = config()
    daemon = start(of)
    session, alone = Session(daemon), Session(daemon, "/a")
    kept, replaced = session.call("a_read"), session.call("b_read")
    with session.listening() as lines, alone.listening():
        of["upstream"]["b"] = program("read", "more")
        reload(daemon, of)
        assert any("notifications/tools/list_changed" in line for line in lines)
        until(lambda: not alive(replaced), "the former process is gone")
        assert ["a_read", "a_write", "b_read", "b_more"] == session.tools()
        assert kept == session.call("a_read") == alone.call("read")
        assert replaced != session.call("b_read")
        assert not daemon.select(method="GET"), "streams are open"
        of["upstream"]["all"]["members"] = ["a"]
        del of["upstream"]["b"]
        reload(daemon, of)
        until(lambda: ["a_read", "a_write"] == session.tools(), "the member is gone")
        assert kept == session.call("a_read")


def test_the_first_makes_the_process_and_the_last_ends_it(start: Any) -> None:
    with_them, without = config(), config()
    without["upstream"] = {"plain": {"urls": ["http://127.0.0.1:1"]}}
    without["route"] = [{"path": "/", "upstream": "plain"}]
    without["listen"] = with_them["listen"]
    daemon = start(without)
    assert "mcpproxy:gw" not in daemon.processes()
    reload(daemon, with_them)
    child, process = Session(daemon).call("a_read"), gateway(daemon)
    reload(daemon, without)
    until(lambda: not alive(child) and not alive(process), "nothing of it is left")
    until(lambda: "mcpproxy:gw" not in daemon.processes(), "it is not replaced")


def test_a_stop_lets_calls_come_to_their_end(start: Any) -> None:
    daemon = start(config())
    session = Session(daemon)
    session.call("b_read")
    request = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "b_wait", "arguments": {"seconds": 1}}}
    with session.http.stream("POST", session.url, json=request) as response, session.listening() as lines:
        daemon.signal(signal.SIGTERM)
        assert [] == [line for line in lines if line.startswith("data") and "method" in line], "it ended politely"
        assert b"result" in response.read()
    assert 0 == daemon.wait()


def test_a_client_cannot_say_who_it_is_to_the_gateway_process(start: Any) -> None:
    daemon = start(config())
    assert ["a_read", "a_write", "b_read", "b_wait"] == Session(daemon, **{"Mcpproxy-Call": "x;a;0;"}).tools()
    assert not any("secret" in str(record).lower() for record in daemon.records)
