"""What servers say about themselves is held against the lock file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.config import lockfile
from mcpproxy.config.model import Upstream
from mcpproxy.gateway import guarded as module
from mcpproxy.gateway import warden
from mcpproxy.gateway.guarded import GuardedMember, Operator
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE, NOT_APPROVED, Answer, Call, Era, Unavailable
from mcpproxy.gateway.shelf import Offer
from mcpproxy.gateway.warden import Warden
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.message import INTERNAL_ERROR
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, names, tool
from tests.support.gateway import SomeClient, SomeHub, call


class Place:
    """A server behind a warden, with a lock file of what it said at first."""

    def __init__(self, directory: Path, drift: str, lists: dict[str, Any] | None = None, **more: Any) -> None:
        given = {"tools": [tool("a"), tool("b")], "prompts": [{"name": "p"}], "resourceTemplates": [{"uriTemplate": "x://{id}"}]}
        self.server = SomeServer(lists or given, **more)
        self.said: list[str] = []
        self.ears = SomeHub()
        self.warden = Warden("m", self.ears, lambda level, text: self.said.append(text))
        self.file = directory / "mcp.lock"
        self.member = GuardedMember(SomeMember("m", self.server), self.warden)
        self.settings = Upstream(command=("x",), lock=str(self.file), drift=drift, suspicious="off")  # type: ignore[arg-type]

    async def lock(self) -> Place:
        lockfile.write(str(self.file), {"m": await self.member.catalogue()})
        self.warden.become(self.settings)
        self.server.asked.clear()
        return self

    async def ask(self, method: str, params: Any = None, client: Any = None) -> Any:
        made = call(method, params, client=client or SomeClient())
        answer = await (await self.member.conversation(made.client)).ask(made)
        return json.loads(answer.result if answer.result is not None else answer.error or b"")

    def pull(self, **more: Any) -> None:
        """The rug."""
        self.server.lists["tools"] = [tool("a", **{"description": "<IMPORTANT>", **more}), tool("b")]
        self.warden.heard("m", None, "notifications/tools/list_changed", {})


async def test_nothing_is_read_without_a_lock(tmp_path: Path) -> None:
    place = Place(tmp_path, "log")
    place.server.answers["tools/list"] = lambda call, params: Answer(b"no list at all")
    conversation = await place.member.conversation(SomeClient())
    assert (await conversation.ask(call("tools/list"))).result == b"no list at all"


@pytest.mark.parametrize("drift", ["log", "hide", "block"])
async def test_what_is_as_it_was_approved_passes_as_it_is(tmp_path: Path, drift: str) -> None:
    place = await Place(tmp_path, drift).lock()
    raw = b'{"tools": [ {"inputSchema":{"type":"object"}, "description":"does a","name":"a"} ], "new": 1.00}'
    place.server.answers["tools/list"] = lambda call, params: Answer(raw)
    conversation = await place.member.conversation(SomeClient())
    assert (await conversation.ask(call("tools/list"))).result is raw
    assert "content" in await place.ask("tools/call", {"name": "a"})
    assert "content" in await place.ask("resources/read", {"uri": "x://1"})
    assert "content" in await place.ask("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}})
    assert place.warden.state()["drift"] == 0
    assert place.said == ["m: tool b is in the lock file, but not offered any more (mcpproxy lock m shows the difference)"]


async def test_drift_is_said_once_and_counted(tmp_path: Path) -> None:
    place = await Place(tmp_path, "log").lock()
    place.pull()
    for _ in range(2):
        assert (await place.ask("tools/list"))["tools"][0]["description"] == "<IMPORTANT>"
        assert "content" in await place.ask("tools/call", {"name": "a"})
    assert place.said == ["m: tool a is not as it was approved (mcpproxy lock m shows the difference)"]
    assert place.warden.state() == {"drift": 1, "not_approved": {"tools/a": "is not as it was approved"}, "suspicious": 0, "refused": {}}
    place.server.lists["tools"] = [tool("a"), tool("b")]
    await place.ask("tools/list")
    assert place.warden.state()["drift"] == 0


async def test_hidden_is_neither_seen_nor_called(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide").lock()
    place.pull()
    assert names(await place.ask("tools/list")) == ["b"]
    assert await place.ask("tools/call", {"name": "a"}) == {"code": INVALID_PARAMS, "message": "Unknown tool: a"}
    assert "content" in await place.ask("tools/call", {"name": "b"})
    assert place.server.count("tools/call") == 1


async def test_blocked_is_seen_as_it_was_approved_and_refused_with_the_reason(tmp_path: Path) -> None:
    place = await Place(tmp_path, "block").lock()
    place.pull()
    place.server.lists["tools"].append(tool("new"))
    assert (await place.ask("tools/list"))["tools"] == [tool("a"), tool("b")]
    for name, why in (("a", "is not as it was approved"), ("new", "is not in the lock file")):
        assert await place.ask("tools/call", {"name": name}) == {
            "code": NOT_APPROVED,
            "message": f"tool {name} of m {why}: calls are refused until an operator approves it",
            "data": {"reason": "drift"},
        }
    assert place.warden.state()["refused"] == {"drift": 2}


@pytest.mark.parametrize("drift", ["hide", "block"])
async def test_a_call_without_a_list_is_held_against_the_list_too(tmp_path: Path, drift: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = await Place(tmp_path, drift).lock()
    place.server.slow = asyncio.Event()
    asking = [asyncio.ensure_future(place.ask("tools/call", {"name": "b"})) for _ in range(3)]
    await asyncio.sleep(0)
    place.server.slow.set()
    assert all("content" in each for each in await asyncio.gather(*asking))
    assert place.server.count("tools/list") == 1
    place.pull()
    assert "code" in await place.ask("tools/call", {"name": "a"})
    assert "code" in await place.ask("tools/new_method", {"name": "a"}), "whatever a later revision calls it"
    assert place.server.count("tools/list") == 2, "what it said changed is looked at again"
    place.warden.changed("m", available=True)
    await place.ask("tools/call", {"name": "b"})
    assert place.server.count("tools/list") == 3, "one that was started anew, too"
    assert place.ears.changes == [("m", True)]
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    await place.ask("tools/call", {"name": "b"})
    assert place.server.count("tools/list") == 4, "and one that says nothing, once a minute"


async def test_nothing_is_called_while_its_list_cannot_be_had(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide").lock()
    place.server.answers["tools/list"] = lambda call, params: Answer.failure(INTERNAL_ERROR, "no")
    assert (await place.ask("tools/call", {"name": "a"}))["code"] == MEMBER_UNAVAILABLE
    place.server.answers["tools/list"] = lambda call, params: {"tools": 5}
    assert (await place.ask("tools/list"))["code"] == INTERNAL_ERROR
    assert place.server.count("tools/call") == 0


async def test_every_caller_is_held_against_his_own_list(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide", era=Era.MODERN).lock()

    def listed(call: Call, params: Any) -> Any:
        return {"tools": [tool("a", description="!") if call.client.principal == "bob" else tool("a")]}

    place.server.answers["tools/list"] = listed
    bob, ada = (SomeClient(principal=name, era=Era.MODERN) for name in ("bob", "ada"))
    assert names(await place.ask("tools/list", client=ada)) == ["a"]
    assert names(await place.ask("tools/list", client=bob)) == []
    assert "content" in await place.ask("tools/call", {"name": "a"}, client=ada)
    assert "code" in await place.ask("tools/call", {"name": "a"}, client=bob)


async def test_pages_are_judged_each_and_calls_by_all_of_them(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide", page=1).lock()
    place.server.lists["tools"] = [tool("a"), tool("b", description="!"), tool("a", description="!")]
    found = []
    params: dict[str, Any] = {}
    while True:
        page = await place.ask("tools/list", params)
        found += names(page)
        if "nextCursor" not in page:
            break
        params = {"cursor": page["nextCursor"]}
    assert found == ["a"]
    assert "code" in await place.ask("tools/call", {"name": "b"})
    assert "code" in await place.ask("tools/call", {"name": "a"}), "a name that comes twice is what its worse half is"


async def test_prompts_and_templates(tmp_path: Path) -> None:
    place = await Place(tmp_path, "block").lock()
    place.server.lists["prompts"] = [{"name": "p", "description": "!"}]
    place.server.lists["resourceTemplates"] = [{"uriTemplate": "x://{id}", "description": "!"}, {"uriTemplate": "y://{id}"}]
    assert (await place.ask("prompts/list"))["prompts"] == [{"name": "p"}]
    assert (await place.ask("resources/templates/list"))["resourceTemplates"] == [{"uriTemplate": "x://{id}"}]
    for method, params in (
        ("prompts/get", {"name": "p"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x://{id}"}}),
        ("resources/read", {"uri": "x://1"}),
        ("resources/read", {"uri": "y://1"}),
    ):
        assert (await place.ask(method, params))["code"] == NOT_APPROVED, (method, params)
    assert "content" in await place.ask("resources/read", {"uri": "z://1"}), "a resource of no template"
    assert "content" in await place.ask("tools/call", {"name": 5}), "the server refuses what is no name"
    assert "code" in await place.ask("anything", {"ref": []})


async def test_an_approval_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warden, "LOOK_S", 0.0)
    place = await Place(tmp_path, "hide").lock()
    place.pull()
    assert names(await place.ask("tools/list")) == ["b"]
    place.ears.heard_of.clear()
    place.warden.tick()
    assert not place.ears.heard_of
    lockfile.write(str(place.file), {"m": await place.member.catalogue()})
    place.warden.tick()
    assert "notifications/tools/list_changed" in [method for _, _, method, _ in place.ears.heard_of]
    assert names(await place.ask("tools/list")) == ["a", "b"]
    assert "content" in await place.ask("tools/call", {"name": "a"})
    place.file.write_text("{")
    place.warden.tick()
    assert place.said[-1].endswith("what was read before is in force")
    assert names(await place.ask("tools/list")) == ["a", "b"]


@pytest.mark.parametrize("text", [None, "{"])
async def test_without_a_lock_file_nothing_is_approved(tmp_path: Path, text: str | None) -> None:
    place = Place(tmp_path, "hide")
    if text is not None:
        place.file.write_text(text)
    place.warden.become(place.settings)
    assert ("there is no lock file" in place.said[0]) == (text is None)
    assert names(await place.ask("tools/list")) == []
    assert "code" in await place.ask("tools/call", {"name": "a"})


async def test_settings_that_change_are_in_force(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide").lock()
    place.pull()
    assert names(await place.ask("tools/list")) == ["b"]
    place.warden.become(Upstream(command=("x",), suspicious="off"))
    assert names(await place.ask("tools/list")) == ["a", "b"]


async def test_what_is_approved_and_was_no_plain_json_is_not_shown(tmp_path: Path) -> None:
    place = Place(tmp_path, "block")
    twice = b'{"tools":[{"name":"a","description":"x","description":"y"}]}'
    place.server.answers["tools/list"] = lambda call, params: Answer(twice)
    await place.lock()
    assert (await place.member.catalogue())["tools"]["a"]
    conversation = await place.member.conversation(SomeClient())
    place.server.answers["tools/list"] = lambda call, params: {"tools": [tool("a")]}
    assert names(await place.ask("tools/list")) == []
    assert conversation.server is place.server.server


async def test_a_hub_offers_what_is_approved_by_its_own_names(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide").lock()
    hub = hub_of((place.member, Offer(prefix="m")), SomeMember("n", SomeServer({"tools": [tool("x")]})))  # type: ignore[arg-type]
    place.pull()
    assert names(await asked(hub, "tools/list")) == ["m_b", "n_x"]
    assert (await asked(hub, "tools/call", {"name": "m_a"}))["message"] in ("Unknown tool: a", "Unknown tool: m_a")
    assert "content" in await asked(hub, "tools/call", {"name": "m_b"})


async def test_what_it_passes_on(tmp_path: Path) -> None:
    place = await Place(tmp_path, "log").lock()
    client = SomeClient()
    conversation = await place.member.conversation(client)
    assert await place.member.conversation(client) is conversation
    await conversation.tell("notifications/x", None)
    assert place.server.told == [("notifications/x", None)]
    await conversation.close()
    assert (await place.warden.asked("m", None, "roots/list", None)).result == b'{"hub":true}'
    await place.member.start()
    place.member.leave(client)
    await place.member.stop()
    assert place.member.state()["state"] == "up"


async def test_the_catalogue_is_all_pages_as_the_server_says_them(tmp_path: Path) -> None:
    place = Place(tmp_path, "hide", page=1)
    found = await place.member.catalogue()
    assert found == {
        "tools": {"a": tool("a"), "b": tool("b")},
        "prompts": {"p": {"name": "p"}},
        "resourceTemplates": {"x://{id}": {"uriTemplate": "x://{id}"}},
    }
    assert isinstance(place.member.member, SomeMember) and len(place.member.member.left) == 1
    place.server.lists.pop("prompts")
    assert (await place.member.catalogue())["prompts"] == {}
    place.server.answers["tools/list"] = lambda call, params: Answer.failure(INTERNAL_ERROR, "no")
    with pytest.raises(Unavailable, match="answered with an error"):
        await place.member.catalogue()


async def test_more_than_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEMS", 1)
    with pytest.raises(Unavailable, match="more than 1 tools"):
        await Place(tmp_path, "hide").member.catalogue()


async def test_the_operator_is_nobody() -> None:
    operator = Operator()
    operator.hears("x", None)
    assert (await operator.question("ping", None)).result == b"{}"
    assert (await operator.question("elicitation/create", None)).error


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEEN", 1)
    monkeypatch.setattr(warden, "JUDGED", 1)
    place = await Place(tmp_path, "hide", era=Era.MODERN).lock()
    for name in ("bob", "ada", "bob"):
        assert "content" in await place.ask("tools/call", {"name": "a"}, client=SomeClient(principal=name, era=Era.MODERN))
    assert place.server.count("tools/list") == 3
    assert len(place.warden._judged) <= 2


@pytest.mark.parametrize("suspicious", ["off", "log", "hide"])
async def test_what_is_suspicious_is_said_or_hidden(tmp_path: Path, suspicious: str) -> None:
    place = Place(tmp_path, "log")
    place.warden.become(Upstream(command=("x",), suspicious=suspicious))  # type: ignore[arg-type]
    place.pull()
    place.server.lists["tools"].append(tool("\u0430"))
    seen = names(await place.ask("tools/list"))
    called = await place.ask("tools/call", {"name": "a"})
    if suspicious == "hide":
        assert seen == ["b"]
        assert called == {"code": INVALID_PARAMS, "message": "Unknown tool: a"}
        assert place.warden.state()["refused"] == {"suspicious": 1}
        assert "content" in await place.ask("tools/call", {"name": "b"})
        assert "content" in await place.ask("resources/read", {"uri": "x://1"})
    else:
        assert seen == ["a", "b", "\u0430"]
        assert "content" in called
    assert place.warden.state()["suspicious"] == (0 if suspicious == "off" else 2)
    if suspicious != "off":
        end = ": it is hidden" if suspicious == "hide" else ""
        assert place.said[0] == f"m: tool a is suspicious: description speaks to the model: <important>{end}"
        assert "m: tool \u0430 is suspicious: name looks like a; name has letters that other names do not have" in place.said[1]


async def test_what_is_approved_is_not_suspicious(tmp_path: Path) -> None:
    place = Place(tmp_path, "log")
    place.pull()
    await place.lock()
    settings = Upstream(command=("x",), lock=str(place.file), drift="log", suspicious="hide")
    place.warden.become(settings)
    assert names(await place.ask("tools/list")) == ["a", "b"]
    place.pull(title="<!-- another one -->")
    assert names(await place.ask("tools/list")) == ["b"], "drift is only said, and yet this is hidden"
    assert (await place.ask("tools/call", {"name": "a"}))["code"] == INVALID_PARAMS


async def test_a_list_that_is_the_same_again_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = await Place(tmp_path, "hide").lock()
    await place.ask("tools/list")
    read: list[str] = []
    judge = place.warden.judge
    monkeypatch.setattr(place.warden, "judge", lambda kind, item, near: (read.append(item.own), judge(kind, item, near))[1])
    assert names(await place.ask("tools/list")) == ["a", "b"]
    assert not read
    place.server.lists["tools"] = [tool("a"), tool("b", description="!")]
    for _ in range(2):
        assert names(await place.ask("tools/list")) == ["a"]
    place.server.lists["tools"] = [tool("a"), tool("b")]
    assert names(await place.ask("tools/list")) == ["a", "b"]
    assert len(read) == 6


async def test_a_list_that_was_given_while_it_changed_is_asked_for_again(tmp_path: Path) -> None:
    place = await Place(tmp_path, "hide").lock()
    place.server.slow = asyncio.Event()
    listing = asyncio.ensure_future(place.ask("tools/list"))
    await asyncio.sleep(0)
    place.warden.heard("m", None, "notifications/tools/list_changed", {})
    place.server.slow.set()
    await listing
    await place.ask("tools/call", {"name": "a"})
    assert place.server.count("tools/list") == 2


async def test_results_are_as_large_as_they_may_be(tmp_path: Path) -> None:
    place = Place(tmp_path, "log")
    place.warden.become(Upstream(command=("x",), suspicious="off", max_result=1000))
    place.server.answers["tools/call"] = lambda call, params: {"content": [{"type": "text", "text": "x" * 5000}]}
    assert "[cut here" in (await place.ask("tools/call", {"name": "a"}))["content"][0]["text"]
    place.warden.become(Upstream(command=("x",), suspicious="off"))
    assert (await place.ask("tools/call", {"name": "a"}))["content"][0]["text"] == "x" * 5000
