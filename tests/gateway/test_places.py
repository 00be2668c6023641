"""Whose is it? Names, URIs, templates, links and tasks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.gateway.places import TASKS, Places, pattern_of
from mcpproxy.gateway.shelf import Offer
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.policy.globs import glob
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, names, tool
from tests.support.gateway import SomeClient


def resources(*uris: str, templates: tuple[str, ...] = (), **kwargs: Any) -> SomeServer:
    return SomeServer(
        {"resources": [{"uri": uri} for uri in uris], "resourceTemplates": [{"uriTemplate": each} for each in templates], "tools": []},
        **kwargs,
    )


def reads(server: SomeServer) -> list[str]:
    return [params["uri"] for method, params in server.asked if method == "resources/read"]


async def test_a_name_in_no_list_goes_by_its_prefix_and_no_list_is_asked_for() -> None:
    a, b = SomeServer({"tools": []}), SomeServer({"tools": []})
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    await asked(hub, "tools/call", {"name": "b_new", "arguments": {}})
    assert b.asked == [("tools/call", {"name": "new", "arguments": {}})]
    assert a.asked == []


async def test_where_prefixes_overlap_the_lists_decide() -> None:
    a, b = SomeServer({"tools": [tool("b_c")]}), SomeServer({"tools": [tool("d")]})
    hub = hub_of((SomeMember("one", a), Offer("a")), (SomeMember("two", b), Offer("a_b")))
    await asked(hub, "tools/call", {"name": "a_b_c"})
    assert ("tools/call", {"name": "b_c"}) in a.asked
    assert (await asked(hub, "tools/call", {"name": "a_b_x"}))["code"] == INVALID_PARAMS  # nobody has it, and both may


async def test_without_prefixes_only_lists_tell_and_they_are_not_asked_for_each_time() -> None:
    a, b = SomeServer({"tools": [tool("x")]}), SomeServer({"tools": [tool("y")]})
    hub = hub_of((SomeMember("a", a), Offer()), (SomeMember("b", b), Offer()))
    await asked(hub, "tools/call", {"name": "y"})
    assert b.asked[-1] == ("tools/call", {"name": "y"})
    for _ in range(3):
        assert (await asked(hub, "tools/call", {"name": "z"}))["message"] == "Unknown tool: z"
    assert a.count("tools/list") == 1


async def test_who_calls_while_lists_are_looked_into_waits_for_them() -> None:
    a, b = SomeServer({"tools": [tool("x")]}), SomeServer({"tools": [tool("y")]})
    hub = hub_of((SomeMember("a", a), Offer()), (SomeMember("b", b), Offer()))
    found = await asyncio.gather(*(asked(hub, "tools/call", {"name": "y"}, SomeClient(str(number))) for number in range(3)))
    assert all("content" in each for each in found)
    assert a.count("tools/list") == 1


async def test_what_is_hidden_cannot_be_called() -> None:
    server = SomeServer({"tools": [tool("rm"), tool("ls")], "resources": [{"uri": "file:///a"}]})
    hub = hub_of((SomeMember("a", server), Offer("a", hide=("rm", "file:///s*"), rename={"ls": "list"})))
    assert (await asked(hub, "tools/call", {"name": "a_rm"}))["code"] == INVALID_PARAMS
    assert (await asked(hub, "tools/call", {"name": "a_ls"}))["code"] == INVALID_PARAMS  # it has another name
    assert (await asked(hub, "resources/read", {"uri": "file:///secret"}))["code"] == -32002
    assert "content" in await asked(hub, "tools/call", {"name": "list"})
    assert server.count("tools/call") == 1
    assert server.count("resources/read") == 0


async def test_resources_go_by_list_then_template_then_to_the_only_one() -> None:
    a = resources("file:///a", templates=("file:///{path}", "db://{+all}"))
    b = resources("file:///b", templates=("file:///logs/{day}.txt",))
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    for uri in ("file:///a", "file:///b", "file:///logs/mon.txt", "file:///x", "db://1/2"):
        await asked(hub, "resources/read", {"uri": uri})
    assert (reads(a), reads(b)) == (["file:///a", "file:///x", "db://1/2"], ["file:///b", "file:///logs/mon.txt"])
    answer = await asked(hub, "resources/read", {"uri": "other://x"})
    assert answer == {"code": -32002, "message": "Resource not found", "data": {"uri": "other://x"}}
    only = resources()
    hub = hub_of(SomeMember("a", only), SomeMember("b", SomeServer({"tools": []}, capabilities={"tools": {}})))
    await asked(hub, "resources/read", {"uri": "other://x"})
    assert reads(only) == ["other://x"]


async def test_two_templates_that_fit_equally_well_are_not_guessed() -> None:
    a, b = resources(templates=("file:///{a}",)), resources(templates=("file:///{b}",))
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    assert (await asked(hub, "resources/read", {"uri": "file:///x"}))["code"] == -32002


async def test_a_uri_of_two_servers_is_wrapped_for_the_later_everywhere() -> None:
    a, b = resources("file:///x"), resources("file:///x", "file:///y", templates=("mem:///{a}",))
    b.answers["tools/call"] = lambda call, params: {"content": [{"type": "resource_link", "uri": "file:///x"}]}
    b.answers["resources/read"] = lambda call, params: {"contents": [{"uri": params["uri"], "text": "of b"}]}
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    assert names(await asked(hub, "resources/list"), "resources") == ["file:///x", "b+file:///x", "file:///y"]
    read = await asked(hub, "resources/read", {"uri": "b+file:///x"})
    assert read["contents"][0] == {"uri": "b+file:///x", "text": "of b"}
    assert reads(b) == ["file:///x"]
    result = await asked(hub, "tools/call", {"name": "b_any"})
    assert result["content"][0]["uri"] == "b+file:///x"
    read = await asked(hub, "resources/read", {"uri": "b+mem:///1"})
    assert read["contents"][0]["uri"] == "b+mem:///1"


async def test_ui_resources_of_tools_are_found_and_wrapped() -> None:
    def ui() -> SomeServer:
        return SomeServer({"tools": [tool("t", _meta={"ui": {"resourceUri": "ui://w/a.html"}})], "resources": []})

    a, b = ui(), ui()
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    result = await asked(hub, "tools/list")
    assert [each["_meta"]["ui"]["resourceUri"] for each in result["tools"]] == ["ui://w/a.html", "b+ui://w/a.html"]
    await asked(hub, "resources/read", {"uri": "ui://w/a.html"})
    await asked(hub, "resources/read", {"uri": "b+ui://w/a.html"})
    assert (reads(a), reads(b)) == (["ui://w/a.html"], ["ui://w/a.html"])


async def test_links_in_results_lead_back_unless_two_servers_gave_them() -> None:
    a, b = resources(), resources()
    for server in (a, b):
        server.answers["tools/call"] = lambda call, params: {"content": [{"type": "resource_link", "uri": params["arguments"]["uri"]}]}
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    for name, uri in (("a_t", "mem:///1"), ("b_t", "mem:///2"), ("a_t", "mem:///both"), ("b_t", "mem:///both")):
        await asked(hub, "tools/call", {"name": name, "arguments": {"uri": uri}})
    for uri in ("mem:///1", "mem:///2", "mem:///both"):
        await asked(hub, "resources/read", {"uri": uri})
    assert (reads(a), reads(b)) == (["mem:///1"], ["mem:///2"])


async def test_completions_go_where_the_prompt_or_template_is() -> None:
    a = SomeServer({"prompts": [{"name": "p"}], "resourceTemplates": [{"uriTemplate": "a:///{x}"}], "resources": []})
    hub = hub_of(SomeMember("a", a), SomeMember("b", resources()))
    argument = {"name": "x", "value": ""}
    await asked(hub, "completion/complete", {"ref": {"type": "ref/prompt", "name": "a_p", "title": "t"}, "argument": argument})
    assert a.asked[-1] == ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p", "title": "t"}, "argument": argument})
    await asked(hub, "completion/complete", {"ref": {"type": "ref/resource", "uri": "a:///{x}"}, "argument": argument})
    assert a.asked[-1][1]["ref"] == {"type": "ref/resource", "uri": "a:///{x}"}
    assert (await asked(hub, "completion/complete", {"ref": {"type": "ref/prompt", "name": "none"}, "argument": argument}))[
        "code"
    ] == INVALID_PARAMS
    assert (await asked(hub, "completion/complete", {"ref": 1}))["code"] == INVALID_PARAMS


async def test_tasks_go_back_to_who_made_them_and_only_for_their_owner() -> None:
    a, b = SomeServer({"tools": []}, capabilities={"tools": {}, "tasks": {"list": {}}}), SomeServer({"tools": []})
    a.answers["tools/call"] = lambda call, params: {"task": {"taskId": params["arguments"]["id"], "status": "working"}}
    b.answers["tools/call"] = lambda call, params: {"resultType": "task", "taskId": params["arguments"]["id"], "status": "working"}
    for server in (a, b):
        server.answers["tasks/get"] = lambda call, params: {"taskId": params["taskId"], "status": "completed"}
    pages = {None: {"tasks": [{"taskId": "x"}], "nextCursor": "2"}, "2": {"tasks": [{"taskId": "1"}, {"taskId": "bobs"}]}}
    a.answers["tasks/list"] = lambda call, params: pages[params.get("cursor")]
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    ann, bob = SomeClient(principal="ann"), SomeClient(principal="bob")
    for name, id in (("a_t", "1"), ("b_t", "2"), ("a_t", "both"), ("b_t", "both")):
        await asked(hub, "tools/call", {"name": name, "arguments": {"id": id}}, ann)
    assert (await asked(hub, "tasks/get", {"taskId": "1"}, ann))["status"] == "completed"
    await asked(hub, "tasks/get", {"taskId": "2"}, ann)
    assert (a.asked[-1], b.asked[-1]) == (("tasks/get", {"taskId": "1"}), ("tasks/get", {"taskId": "2"}))
    for id, client in (("1", bob), ("none", ann), ("both", ann)):
        assert await asked(hub, "tasks/get", {"taskId": id}, client) == {"code": INVALID_PARAMS, "message": "Unknown task"}
    assert await asked(hub, "tasks/list", {}, ann) == {"tasks": [{"taskId": "1"}]}
    assert await asked(hub, "tasks/list", {}, bob) == {"tasks": []}
    assert (await asked(hub_of(SomeMember("a", b), SomeMember("b", b)), "tasks/list"))["code"] == -32601


async def test_what_is_remembered_has_an_end() -> None:
    hub = hub_of(SomeMember("a", SomeServer({})), SomeMember("b", SomeServer({})))
    places = Places(hub.catalog, lambda slot: True)
    for number in range(TASKS + 5):
        places.learn_task("ann", hub.catalog.slots[0], json.dumps({"task": {"taskId": str(number)}}).encode())
    assert places.task("ann", "4") is None
    assert places.task("ann", str(TASKS)) is hub.catalog.slots[0]
    assert places.owners(hub.catalog.slots[0], "5") == ["ann"]
    places.learn_task("ann", hub.catalog.slots[0], b'{"taskId"')


@given(some.text("a/{}*?[x]+", max_size=12), some.text("a/x", max_size=4))
def test_a_template_fits_what_it_makes(template: str, value: str) -> None:
    fits = glob(pattern_of("s://{a}/" + template.replace("{", "").replace("}", "") + "{b}"))
    assert fits("s://" + value + "/" + template.replace("{", "").replace("}", "") + value)
