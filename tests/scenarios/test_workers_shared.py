"""What several workers know and write together: hints of tools, habits of callers, and an audit log of a chain for each."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

from mcpproxy.observe.habits import FILE as HABITS
from mcpproxy.observe.habits import KNOWN
from tests.scenarios.conftest import Guarded
from tests.scenarios.test_audit import OK, Audited, audited
from tests.scenarios.test_tool_rules_modes import ASK_FOR_LIST, LISTED, lists
from tests.support.certs import Certificate
from tests.support.daemon import run_to_end
from tests.support.speakers import Speaker, call
from tests.support.upstream import answer, response
from tests.support.waiting import until

__all__ = ["audited"]


def everywhere(speaker: Speaker, body: bytes, fields: list[tuple[str, str]] | None = None, *, times: int = 40) -> Counter[tuple[int, str]]:
    """What all workers answer: one of two has none of 40 connections once in 2**40 runs."""
    found: Counter[tuple[int, str]] = Counter()
    for _ in range(times):
        speaker.close()
        answered = speaker.ask(body, fields or [])
        found[answered.status, "" if answered.status == 200 else answered.reason] += 1
    speaker.close()
    return found


def all_serve(speaker: Speaker) -> None:
    until(lambda: any("serving" in message for message in speaker.daemon.messages), "all serve")


# -- hints ---------------------------------------------------------------------------------------------------------------------------------


def test_a_list_that_one_worker_saw_counts_for_all_and_for_who_comes_after_a_kill(guarded: Guarded) -> None:
    speaker, _ = guarded("plain", lists(response(LISTED)), tools={"allow": [{"tools": ["*"]}], "read_only": True}, workers=2)
    all_serve(speaker)
    assert everywhere(speaker, call("add")) == {(403, "tool-not-listed"): 40}
    assert LISTED in speaker.ask(ASK_FOR_LIST).body
    until(lambda: everywhere(speaker, call("add"), times=20) == {(200, ""): 20}, "all know it")
    assert everywhere(speaker, call("rm")) == {(403, "tool-not-read-only"): 40}
    dead = speaker.daemon.workers
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: pid not in speaker.daemon.workers and len(speaker.daemon.workers) == 2, "replaced")  # type: ignore[misc]
        until(lambda: everywhere(speaker, call("add"), times=20) == {(200, ""): 20}, "its successor knows it, too")
    os.kill(speaker.daemon.processes()["mcpproxy:ctl"], signal.SIGKILL)  # and a new control process hears it from them
    until(lambda: "mcpproxy:ctl" in speaker.daemon.processes(), "another control process")
    until(lambda: everywhere(speaker, call("add"), times=20) == {(200, ""): 20}, "it knows it and tells who did not")
    os.kill(speaker.daemon.workers[1], signal.SIGKILL)
    until(lambda: len(speaker.daemon.workers) == 2, "replaced")
    until(lambda: everywhere(speaker, call("add"), times=20) == {(200, ""): 20}, "its successor knows it, too")
    speaker.daemon.not_json.clear()


# -- the audit log -------------------------------------------------------------------------------------------------------------------------


def chains(log: Audited) -> dict[int, list[dict[str, object]]]:
    """The lines by chain."""
    files = {0: log.file, **{number: log.file.with_name(f"audit.chain{number}.log") for number in (1, 2)}}
    return {number: [json.loads(line) for line in file.read_bytes().splitlines()] for number, file in files.items() if file.exists()}


def calls(log: Audited) -> dict[int, int]:
    return {number: sum(line["type"] == "call" for line in lines) for number, lines in chains(log).items()}


def test_each_worker_writes_a_chain_and_every_call_is_in_one(audited: Audited) -> None:
    speaker = audited.start("plain", answer(response(OK)), workers=2)
    all_serve(speaker)
    assert everywhere(speaker, call("add"), audited.fields()) == {(200, ""): 40}
    until(lambda: sum(calls(audited).values()) == 40, "all are written")
    assert min(calls(audited).values()) > 5
    assert audited.verify().count("unchanged") == 2
    assert {line.get("chain", 0) for line in chains(audited)[1]} == {1}
    ids = {record["id"] for record in audited.daemon.wait_records(40)}
    assert ids == {line["id"] for lines in chains(audited).values() for line in lines if line["type"] == "call"}
    assert (
        len({str(line["args"]) for lines in chains(audited).values() for line in lines if line["type"] == "call"}) == 1
    )  # they have one salt
    # rotation, as logrotate does it with a glob
    for file in audited.directory.glob("audit*.log"):
        file.rename(f"{file}.1")
    audited.daemon.signal(signal.SIGUSR1)
    until(lambda: len(list(audited.directory.glob("audit*.log"))) == 2, "both go on in new files")
    everywhere(speaker, call("add"), audited.fields(), times=10)
    until(lambda: sum(calls(audited).values()) == 10, "they do")
    assert audited.verify().count("unchanged") == 2
    # one worker less: its chain stays what it was
    audited.config["workers"] = 1
    speaker = audited.again("plain")
    everywhere(speaker, call("add"), audited.fields(), times=3)
    audited.daemon.stop()
    assert audited.verify().count("unchanged") == 2
    lost = audited.directory / "audit.chain1.log"
    lost.write_bytes(lost.read_bytes().replace(b'"status":200', b'"status":500', 1))
    assert "chain 1: changed" in audited.verify(1)


def test_the_successor_of_a_killed_worker_goes_on_with_its_chain(audited: Audited) -> None:
    speaker = audited.start("plain", answer(response(OK)), workers=2)
    all_serve(speaker)
    for kill in range(4):
        everywhere(speaker, call("add"), audited.fields(), times=20)
        until(lambda kill=kill: sum(calls(audited).values()) == 20 * (kill + 1), "all are written")  # type: ignore[misc]
        victim = audited.daemon.workers[kill % 2]
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in audited.daemon.workers and len(audited.daemon.workers) == 2, "replaced")  # type: ignore[misc]
    until(lambda: sum(line["type"] == "begin" for lines in chains(audited).values() for line in lines) == 6, "all began")
    assert sorted(chains(audited)) == [0, 1]
    starts = [line["start"] for lines in chains(audited).values() for line in lines if line["type"] == "begin"]
    assert sorted(starts) == ["first", "first", "kill", "kill", "kill", "kill"]
    audited.verify()
    audited.daemon.stop()
    assert audited.verify().count("unchanged") == 2
    audited.daemon.not_json.clear()


def test_two_daemons_do_not_share_a_state(audited: Audited, tmp_path: Path, certificate: Certificate) -> None:
    audited.start("plain", answer(response(OK)), workers=2)
    other = tmp_path / "other"
    other.mkdir()
    config = {**audited.config, "state_dir": str(tmp_path / "state"), "listen": [{"address": f"unix:{other}/sock"}]}
    code, said = run_to_end(config, other)
    assert code == 1 and "another mcpproxy writes an audit log with this state" in said


def test_a_callers_tools_are_known_to_all_workers(audited: Audited) -> None:
    state = audited.directory / "state"
    state.mkdir()
    habit = {"calls": KNOWN, "seen": 0.0, "tools": {"add": 0.0}, "minute": 0, "count": 0, "minutes": 0, "usual": 0.0, "told": 0.0}
    (state / HABITS).write_text(json.dumps({"agent-alpha": habit}))
    speaker = audited.start("plain", answer(response(OK)), audit={"anomalies": True}, workers=2)
    all_serve(speaker)

    def told() -> list[object]:
        return [line["tool"] for lines in chains(audited).values() for line in lines if line["type"] == "warning"]

    speaker.ask(call("search_new"), audited.fields())
    until(lambda: told() == ["search_new"], "it is told")
    for newer in ["search_newer"], ["search_newer", "search_newest"]:  # each is a tick later than the one before
        speaker.ask(call(newer[-1]), audited.fields())
        until(lambda newer=newer: sorted(told()) == ["search_new", *newer], "so is that; what came before is heard by then")  # type: ignore[misc]
    everywhere(speaker, call("search_new"), audited.fields())
    until(lambda: sum(calls(audited).values()) == 43, "all are written")
    assert told().count("search_new") == 1
    audited.daemon.stop()
    assert {"add", "search_new", "search_newer", "search_newest"} == set(json.loads((state / HABITS).read_bytes())["agent-alpha"]["tools"])
    audited.verify()
