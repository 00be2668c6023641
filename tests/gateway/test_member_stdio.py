"""Real processes on bad days (tests/support/children/rascal.py): whoever misbehaves, callers get their answer and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from mcpproxy.config.gateway import Command
from mcpproxy.config.secrets import secret
from mcpproxy.gateway import member_stdio, pipe
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.member_stdio import StdioMember, Talk
from mcpproxy.gateway.parts import MEMBER_LOST, NO_ONE_TO_ASK, TIMED_OUT, TOO_LARGE, Answer, Client, Conversation, Era, Unavailable
from tests.support.gateway import SomeClient, SomeHub, call

RASCAL = (sys.executable, "-ISE", str(Path(__file__).parents[1] / "support" / "children" / "rascal.py"))
MIB = 1 << 20
NEW = SomeClient("", era=Era.MODERN)  # a modern client


class Home:
    """Members, and what they said."""

    def __init__(self, place: Path) -> None:
        self.place, self.hub = place, SomeHub()
        self.said: list[str] = []
        self.family = Family()
        self.members: list[StdioMember] = []

    def member(self, *habits: str, command: tuple[str, ...] | None = None, **keys: Any) -> StdioMember:
        keys = {"stop_grace": 0.3, "start_timeout": 20.0, **keys}
        made = StdioMember(
            "files",
            Command(command=command or (*RASCAL, *habits), **keys),
            self.hub,
            self.family,
            environ=os.environ,
            secret=secret,
            home=str(self.place),
            say=lambda level, text: self.said.append(text),
        )
        self.members.append(made)
        return made


@pytest_asyncio.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path)
    before = descriptors()
    try:
        yield made
    finally:
        pids = [pid for member in made.members for pid in member.state()["pids"]]  # type: ignore[attr-defined]
        for member in made.members:
            await member.stop()
        made.family.close()
    assert not made.family.pids
    assert not [pid for pid in pids if is_there(pid)]
    assert descriptors() <= before


def descriptors() -> Counter[str]:
    """Open files of ours, by kind."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return found


def is_there(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for is another process
            await asyncio.sleep(0.005)


def value(answer: Answer) -> Any:
    assert answer.result is not None, answer.error
    return json.loads(answer.result)


def code(answer: Answer) -> int:
    assert answer.error is not None, answer.result
    found = json.loads(answer.error)["code"]
    assert isinstance(found, int)
    return found


async def ask(talk: Conversation, method: str, params: object = None, **keys: Any) -> Answer:
    return await talk.ask(call(method, params, **keys))


# -- how it starts --


async def test_a_server_is_started_by_its_first_call_and_greeted(home: Home) -> None:
    member = home.member()
    await member.start()
    assert member.state()["children"] == 0
    one, two = await asyncio.gather(member.conversation(SomeClient("a")), member.conversation(SomeClient("b")))
    assert one is two
    assert (one.server.era, one.server.version) == (Era.LEGACY, "2025-11-25")
    assert value(await ask(one, "echo", {"x": 1}))["params"] == {"x": 1}
    assert member.state()["children"] == 1
    assert home.hub.changes == [("files", True)]


async def test_a_warm_one_is_there_before_and_comes_back(home: Home) -> None:
    member = home.member(start="warm")
    await member.start()
    await eventually(lambda: member.state()["state"] == "running")
    talk = await member.conversation(SomeClient())
    assert code(await ask(talk, "die")) == MEMBER_LOST
    await eventually(lambda: member.state()["state"] == "running")
    assert member.state()["restarts"] == 1
    assert home.hub.changes == [("files", True), ("files", False), ("files", True)]


async def test_its_environment_is_small_and_its_words_are_not_read_by_a_shell(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FILES_KEY", "s3cret")
    monkeypatch.setenv("LD_SOMETHING", "x")
    monkeypatch.setenv("SSL_CERT_FILE", "/certs")
    words = ("$(id)", "a b", "'", "", "-x", "*")
    member = home.member(*words, env={"KEY": "env:FILES_KEY", "MODE": "x y"}, inherit=("SSL_CERT_FILE",), cwd=str(tmp_path))
    found = value(await ask(await member.conversation(SomeClient()), "env"))
    env = found["env"]
    assert (env.pop("KEY"), env.pop("MODE"), env.pop("SSL_CERT_FILE")) == ("s3cret", "x y", "/certs")
    assert set(env) <= {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PWD", "MCPPROXY_CHILD"}
    assert found["cwd"] == str(tmp_path)
    assert tuple(found["args"][1:]) == words
    assert len(found["fds"]) == 4  # 0, 1, 2, and that of the listing


async def test_limits_are_set_before_it_begins(home: Home) -> None:
    member = home.member(memory=4 << 30, files=77, processes=5000)
    found = value(await ask(await member.conversation(SomeClient()), "limits"))
    assert found == {"RLIMIT_AS": [4 << 30] * 2, "RLIMIT_NOFILE": [77] * 2, "RLIMIT_NPROC": [5000] * 2}


async def test_what_is_not_there_is_said_and_tried_again_later(home: Home) -> None:
    member = home.member(command=("no-such-program-at-all",))
    for _ in range(3):
        with pytest.raises(Unavailable) as why:
            await member.conversation(SomeClient())
    assert why.value.text == "files cannot be started"
    assert why.value.retry_after > 0
    assert any("no-such-program-at-all is in no directory of PATH" in said for said in home.said)
    assert member.state()["state"] == "failing"


async def test_no_more_processes_hurts_only_who_wanted_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    well = home.member()
    talk = await well.conversation(SomeClient())
    spawn = os.posix_spawn
    attempts = 0

    def refuse(*args: Any, **keys: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return spawn(*args, **keys)

    monkeypatch.setattr(os, "posix_spawn", refuse)
    monkeypatch.setattr(member_stdio, "PAUSES", (0.0, 0.01, 0.02, 0.03))
    other = home.member()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await other.conversation(SomeClient())
    assert "Resource temporarily unavailable" in str(other.state()["last_error"])
    assert value(await ask(talk, "echo"))
    assert value(await ask(await other.conversation(SomeClient()), "echo"))


@pytest.mark.parametrize(("habit", "words"), [("exit", "status 7"), ("dies-of-initialize", "status 3"), ("mute", "within 0.3 s")])
async def test_one_that_does_not_start_is_unavailable_at_once(home: Home, habit: str, words: str) -> None:
    member = home.member(habit, start_timeout=0.3 if habit == "mute" else 20.0)
    with pytest.raises(Unavailable):
        await member.conversation(SomeClient())
    assert words in str(member.state()["last_error"])
    await eventually(lambda: member.state()["children"] == 0)
    if habit == "dies-of-initialize":
        assert "files: I cannot bear this" in home.said
        assert str(member.state()["last_error"]).endswith("files exited with status 3; its last words: I cannot bear this")


async def test_what_goes_wrong_again_and_again_is_said_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_stdio, "PAUSES", (0.0,) * 5)
    member = home.member("exit")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await member.conversation(SomeClient())
    assert len([said for said in home.said if "exited with status 7" in said]) == 1


async def test_one_that_dies_of_the_question_for_its_era_is_started_without_it(home: Home) -> None:
    member = home.member("dies-of-discover")
    talk = await member.conversation(NEW)
    assert talk.server.era is Era.LEGACY
    assert code(await ask(talk, "die")) == MEMBER_LOST
    talk = await member.conversation(NEW)  # remembered: it is not asked again
    assert [seen["method"] for seen in value(await ask(talk, "seen"))["seen"]] == ["initialize", "notifications/initialized", "seen"]


async def test_pauses_grow(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_stdio, "PAUSES", (0.0, 0.01, 100.0))
    member = home.member("exit")
    for _ in range(4):
        with pytest.raises(Unavailable) as why:
            await member.conversation(SomeClient())
    assert why.value.retry_after > 50


# -- calls --


@pytest.mark.parametrize(("how", "words"), [("die", "exited with status 5"), ("kill", "was ended by SIGSEGV")])
async def test_one_that_dies_answers_all_its_calls_at_once(home: Home, how: str, words: str) -> None:
    member = home.member()
    talk = await member.conversation(SomeClient())
    hanging = [asyncio.create_task(ask(talk, "hang")) for _ in range(20)]
    await asyncio.sleep(0)
    answer = await ask(talk, how)
    assert code(answer) == MEMBER_LOST
    assert words.encode() in (answer.error or b"")
    assert {code(each) for each in await asyncio.gather(*hanging)} == {MEMBER_LOST}
    assert value(await ask(await member.conversation(SomeClient()), "echo"))
    assert member.state()["restarts"] == 1


async def test_one_that_never_answers_is_told_and_progress_gives_it_time(home: Home) -> None:
    member = home.member(call_timeout=0.3, call_ceiling=60.0)
    talk = await member.conversation(SomeClient())
    assert code(await ask(talk, "hang")) == TIMED_OUT
    made = call("work", {"steps": 8, "pause": 0.05}, token=b"0")
    assert value(await talk.ask(made))["method"] == "work"
    assert len(made.notes) == 8
    seen = value(await ask(talk, "seen"))["seen"]
    assert [each["method"] for each in seen if each.get("method", "").startswith("notifications/c")] == ["notifications/cancelled"]


async def test_a_flood_is_dropped_and_calls_go_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "NOTES", 10)  # a second
    member = home.member()
    talk = await member.conversation(SomeClient())
    before = rss()
    flooded, echoed = await asyncio.gather(
        ask(talk, "flood", {"count": 20_000}, client=SomeClient("a")), ask(talk, "echo", client=SomeClient("b"))
    )
    assert value(flooded)
    assert value(echoed)
    assert len(home.hub.heard_of) < 10_000
    assert rss() - before < 12 * MIB  # it sent 20


async def test_what_is_no_json_is_said_with_its_name_and_not_too_often(home: Home) -> None:
    member = home.member("noise")
    talk = await member.conversation(SomeClient())
    assert any(said.startswith("files: what it wrote is no message: b'Welcome") for said in home.said)
    assert value(await ask(talk, "noise", {"count": 3000}))
    assert any(said.startswith("files: words") for said in home.said)
    assert len(home.said) < 60


@pytest.mark.parametrize("last", [False, True])
async def test_a_line_that_is_too_long_ends_its_call_and_no_other(home: Home, last: bool) -> None:
    member = home.member(max_message=2 * MIB)
    talk = await member.conversation(SomeClient())
    hanging = asyncio.create_task(ask(talk, "hang"))
    before = rss()
    assert code(await ask(talk, "long", {"size": 50 * MIB, "last": last})) == TOO_LARGE
    assert rss() - before < 12 * MIB
    assert not hanging.done()
    assert len(value(await ask(talk, "long", {"size": MIB}))["x"]) == MIB
    hanging.cancel()


async def test_two_clients_with_the_same_tokens_hear_only_their_own(home: Home) -> None:
    talk = await home.member().conversation(SomeClient())
    calls = [call("work", {"steps": n, "_meta": {"progressToken": 0}}, token=b"0", client=SomeClient(str(n))) for n in (2, 5)]
    answers = await asyncio.gather(*map(talk.ask, calls))
    assert [len(each.notes) for each in calls] == [2, 5]
    assert [value(answer)["params"]["steps"] for answer in answers] == [2, 5]


async def test_what_the_server_asks_goes_to_the_only_client_or_back(home: Home) -> None:
    talk = await home.member().conversation(SomeClient())
    made = call("ask", {})
    assert value(await talk.ask(made)) == {"reply": {"mine": True}, "error": None}
    hanging = asyncio.create_task(ask(talk, "hang", client=SomeClient("other")))
    await asyncio.sleep(0)
    made = call("ask", {})
    assert value(await talk.ask(made))["error"]["code"] == NO_ONE_TO_ASK
    assert made.questions == []
    hanging.cancel()


async def test_thousands_of_calls_that_are_given_up_cost_nothing(home: Home) -> None:
    member = home.member()
    talk = await member.conversation(SomeClient())
    pids = member.state()["pids"]

    async def some(count: int) -> None:
        for n in range(count):
            task = asyncio.create_task(ask(talk, "hang" if n % 3 else "echo"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if n % 50 == 0:
                await ask(talk, "echo")  # it keeps up

    await some(1000)
    before, open_files = rss(), len(os.listdir("/proc/self/fd"))
    await some(3000)
    assert rss() - before < 2 * MIB
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert member.state()["pids"] == pids
    assert len(asyncio.all_tasks()) == 1
    assert member.state()["calls"] == 0


# -- how it ends --


@pytest.mark.parametrize("habit", ["", "deaf-to-end", "deaf-to-term"])
async def test_it_ends_when_asked_to_or_not(home: Home, habit: str) -> None:
    member = home.member(habit, stop_grace=0.1)
    talk = await member.conversation(SomeClient())
    pid = value(await ask(talk, "echo"))["pid"]
    hanging = asyncio.create_task(ask(talk, "hang"))
    await asyncio.sleep(0)
    await member.stop()
    assert not is_there(pid)
    assert code(await hanging) == MEMBER_LOST
    with pytest.raises(Unavailable):
        await member.conversation(SomeClient())


@pytest.mark.parametrize("how", ["fork", "escape"])
@pytest.mark.parametrize("end", ["stop", "die"])
async def test_grandchildren_end_with_it(home: Home, how: str, end: str) -> None:
    """`escape`: it left the group and the session."""
    member = home.member()
    talk = await member.conversation(SomeClient())
    pid = value(await ask(talk, how))["pid"]
    assert is_there(pid)
    if end == "die":
        await ask(talk, "die")
        await eventually(lambda: member.state()["children"] == 0)
    else:
        await member.stop()
    assert not is_there(pid)


@pytest.mark.parametrize("how", ["fork", "deaf"])
async def test_nothing_is_left_when_we_are_killed(tmp_path: Path, how: str) -> None:
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.gateway.test_member_stdio import Home, SomeClient, ask, value
async def main():
    home = Home(Path({str(tmp_path)!r}))
    talk = await home.member("deaf-to-term").conversation(SomeClient())
    print(value(await ask(talk, "echo"))["pid"], value(await ask(talk, "fork"))["pid"], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(word) for word in (await process.stdout.readline()).split()]
    assert len(pids) == 2 and all(map(is_there, pids))
    process.kill()
    await process.wait()
    await eventually(lambda: not any(map(is_there, pids)))


async def test_an_idle_one_is_ended_and_the_next_call_starts_another(home: Home) -> None:
    member = home.member(idle_stop=0.05)
    pid = value(await ask(await member.conversation(SomeClient()), "echo"))["pid"]
    await eventually(lambda: member.state()["children"] == 0)
    assert not is_there(pid)
    assert value(await ask(await member.conversation(SomeClient()), "echo"))["pid"] != pid
    assert home.hub.changes == [("files", True), ("files", True)]


# -- whose it is --


async def test_each_session_has_its_own(home: Home) -> None:
    member = home.member(mode="per-session", max_children=2)
    one, two = SomeClient("1", principal="x"), SomeClient("2", principal="x")
    first, second = await asyncio.gather(member.conversation(one), member.conversation(two))
    assert first is not second
    assert await member.conversation(one) is first
    pids = [value(await ask(talk, "echo", client=client))["pid"] for talk, client in ((first, one), (second, two))]
    assert pids[0] != pids[1]
    with pytest.raises(Unavailable, match="as many as it may") as why:
        await member.conversation(SomeClient("3"))
    assert why.value.retry_after > 0
    member.leave(one)
    await eventually(lambda: member.state()["children"] == 1)
    assert not is_there(pids[0])
    assert value(await ask(await member.conversation(SomeClient("3")), "echo"))
    assert is_there(pids[1])


async def test_each_caller_has_its_own(home: Home) -> None:
    member = home.member(mode="per-principal")
    clients: list[Client] = [SomeClient("1", principal="x"), SomeClient("2", principal="x"), SomeClient("3", principal="y")]
    talks = [await member.conversation(client) for client in clients]
    assert talks[0] is talks[1]
    assert talks[0] is not talks[2]
    for talk, whose in ((talks[0], clients[0]), (talks[2], clients[2])):
        assert isinstance(talk, Talk)
        talk.pipe.received(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}')
        assert home.hub.heard_of[-1][1] is whose  # nobody else hears of it
    member.leave(clients[0])
    assert await member.conversation(clients[1]) is talks[0]


async def test_a_session_that_leaves_while_its_server_starts_leaves_nothing(home: Home) -> None:
    member = home.member("mute", mode="per-session")
    client = SomeClient("1")
    starting = asyncio.create_task(member.conversation(client))
    await eventually(lambda: bool(home.family.pids))
    member.leave(client)
    with pytest.raises(Unavailable):
        await starting
    await eventually(lambda: not home.family.pids)


async def test_a_client_that_does_not_wait_for_the_start_ends_nothing_for_others(home: Home) -> None:
    member = home.member()
    one = asyncio.create_task(member.conversation(SomeClient("1")))
    two = asyncio.create_task(member.conversation(SomeClient("2")))
    await eventually(lambda: bool(home.family.pids))
    one.cancel()
    assert value(await ask(await two, "echo"))


async def test_what_was_subscribed_to_is_told_to_the_next_process(home: Home) -> None:
    member = home.member()
    talk = await member.conversation(SomeClient())
    for method, params in (
        ("resources/subscribe", {"uri": "x:1"}),
        ("resources/subscribe", {"uri": "x:2"}),
        ("resources/unsubscribe", {"uri": "x:1"}),
        ("logging/setLevel", {"level": "info"}),
    ):
        assert value(await ask(talk, method, params))
    await ask(talk, "die")
    await eventually(lambda: member.state()["state"] == "running")  # somebody listens: it comes back by itself
    seen = value(await ask(await member.conversation(SomeClient()), "seen"))["seen"]
    assert [(each["method"], each.get("params")) for each in seen[-3:-1]] == [
        ("logging/setLevel", {"level": "info"}),
        ("resources/subscribe", {"uri": "x:2"}),
    ]


@pytest.mark.parametrize("first", list(Era))
async def test_one_that_speaks_both_eras_has_a_child_for_each(home: Home, first: Era) -> None:
    """Its tools may know how to ask clients of one era only."""
    member = home.member("both")
    clients: list[Client] = [SomeClient("a"), NEW]
    if first is Era.MODERN:
        clients.reverse()
    found = {client.era: await member.conversation(client) for client in clients}
    assert {era: talk.server.era for era, talk in found.items()} == {era: era for era in Era}
    assert await member.conversation(SomeClient("b")) is found[Era.LEGACY]
    assert await member.conversation(SomeClient("", era=Era.MODERN)) is found[Era.MODERN]
    assert (member.state()["children"], member.state()["era"]) == (2, "legacy, modern")


@pytest.mark.parametrize(("habits", "era"), [((), Era.LEGACY), (("dies-of-discover",), Era.LEGACY), (("modern",), Era.MODERN)])
@pytest.mark.parametrize("at_once", [False, True])
async def test_one_that_speaks_one_era_has_one_child(home: Home, habits: tuple[str, ...], era: Era, at_once: bool) -> None:
    member = home.member(*habits)
    if at_once:
        talks = list(await asyncio.gather(member.conversation(SomeClient("a")), member.conversation(NEW)))
    else:
        talks = [await member.conversation(SomeClient("a")), await member.conversation(NEW)]
    assert talks[0] is talks[1]
    assert talks[0].server.era is era
    assert await member.conversation(NEW) is await member.conversation(SomeClient("b")) is talks[0]
    await eventually(lambda: member.state()["children"] == 1)
    assert value(await ask(talks[0], "echo"))


@pytest.mark.parametrize("why", ["alone", "max_children"])
async def test_one_that_cannot_run_twice_serves_both_eras(home: Home, why: str) -> None:
    member = home.member("both", "alone") if why == "alone" else home.member("both", max_children=1)
    talk = await member.conversation(SomeClient("a"))
    assert await member.conversation(NEW) is talk
    assert await member.conversation(NEW) is talk
    await eventually(lambda: member.state()["children"] == 1)


async def test_a_modern_server_is_listened_to(home: Home) -> None:
    member = home.member("modern")
    client = SomeClient()
    talk = await member.conversation(client)
    assert talk.server.era is Era.MODERN
    assert value(await ask(talk, "ping")) == {}
    assert value(await ask(talk, "logging/setLevel", {"level": "info"})) == {}
    assert value(await ask(talk, "resources/subscribe", {"uri": "x:1"})) == {}
    seen = value(await ask(talk, "seen"))["seen"]
    wanted = [each["params"]["notifications"] for each in seen if each.get("method") == "subscriptions/listen"]
    assert wanted == [{"toolsListChanged": True}, {"toolsListChanged": True, "resourceSubscriptions": ["x:1"]}]
    meta = seen[-1]["params"]["_meta"]
    assert meta["io.modelcontextprotocol/clientInfo"] == {"name": "some", "version": "1"}


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


SCENARIOS: list[Callable[[Home], Awaitable[None]]] = [
    test_a_server_is_started_by_its_first_call_and_greeted,
    test_one_that_dies_of_the_question_for_its_era_is_started_without_it,
    test_what_is_no_json_is_said_with_its_name_and_not_too_often,
    test_an_idle_one_is_ended_and_the_next_call_starts_another,
    test_a_session_that_leaves_while_its_server_starts_leaves_nothing,
    test_a_modern_server_is_listened_to,
    lambda home: test_one_that_speaks_both_eras_has_a_child_for_each(home, Era.LEGACY),
    lambda home: test_one_that_dies_answers_all_its_calls_at_once(home, "kill", "was ended by SIGSEGV"),
    lambda home: test_a_line_that_is_too_long_ends_its_call_and_no_other(home, True),
    lambda home: test_it_ends_when_asked_to_or_not(home, "deaf-to-term"),
    lambda home: test_grandchildren_end_with_it(home, "escape", "die"),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_on_the_loop_of_the_gateway_process(scenario: Callable[[Home], Awaitable[None]], tmp_path: Path) -> None:
    async def run() -> None:
        home = Home(tmp_path)
        try:
            await scenario(home)
        finally:
            for member in home.members:
                await member.stop()
            home.family.close()
        assert not home.family.pids

    uvloop.run(run())
