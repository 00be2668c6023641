"""Upstreams that hang up on idle links after a few seconds, called at just about that interval: not one 502.

uvicorn and Node close after 5 s by default. Ten minutes of calls every 4.5 to 5.5 s are compressed by configuration: LANES at once, each
with a pool of its own, on upstreams that close after KEEP_ALIVE_S. uvicorn does not tell its time, so `keepalive_idle` must be right (in the
proportion of our default, 4 to 5); Node tells it (`Keep-Alive: timeout=2`), so the hint must win over a `keepalive_idle` that is far too long.

That no call fails could be luck. So the upstream reports how long the link of each call had been idle, and none may be near the end.
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import RawClient, post
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.software import Server, node_server, uvicorn_server

KEEP_ALIVE_S = 2.0
LANES = 20  # for each kind of upstream
CALLS = 6  # per lane: 120 for each kind, as many as ten minutes hold
Seen = tuple[int, float | None]  # status, idle seconds of the link as its upstream saw them


def configuration(kinds: dict[str, tuple[Server, str]]) -> dict[str, object]:
    lanes = [(kind, lane, server.origin, idle) for kind, (server, idle) in kinds.items() for lane in range(LANES)]
    return {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "upstream": {f"{kind}{lane}": {"urls": [origin], "keepalive_idle": idle} for kind, lane, origin, idle in lanes},
        "route": [{"path": f"/idle/{kind}/{lane}", "upstream": f"{kind}{lane}"} for kind, lane, _, _ in lanes],
        "drain": "5s",
    }


def lane(port: int, path: str) -> list[Seen]:
    intervals = random.Random(path)
    seen = []
    with RawClient(port) as client:
        for call in range(CALLS):
            # Around the upstream's limit; only the second call comes soon, so that links are seen to be reused at all.
            time.sleep(0 if call == 0 else 0.1 if call == 1 else intervals.uniform(0.9, 1.1) * KEEP_ALIVE_S)
            answer = client.exchange(post(path=path))
            seen.append((answer.status, json.loads(answer.body).get("idle")))
    return seen


@pytest.mark.software("node")
def test_calls_at_the_upstreams_keep_alive_interval_never_fail(tmp_path: Path) -> None:
    with uvicorn_server(KEEP_ALIVE_S) as uvicorn, node_server(KEEP_ALIVE_S) as node:
        kinds = {"uvicorn": (uvicorn, f"{0.8 * KEEP_ALIVE_S}s"), "node": (node, "30s")}
        with Daemon(configuration(kinds), tmp_path) as daemon, ThreadPoolExecutor(2 * LANES) as threads:
            paths = {kind: [f"/idle/{kind}/{number}" for number in range(LANES)] for kind in kinds}
            runs = {kind: [threads.submit(lane, daemon.port(), path) for path in paths[kind]] for kind in kinds}
            for kind, lanes in runs.items():
                seen = [each for run in lanes for each in run.result()]
                assert [status for status, _ in seen] == [200] * LANES * CALLS, kind
                idles = [idle for _, idle in seen if idle is not None]
                assert len(idles) >= LANES, f"{kind}: young links are reused"
                assert max(idles) < 0.95 * KEEP_ALIVE_S, f"{kind}: old links are not"
            assert {record["end"] for record in daemon.wait_records(2 * LANES * CALLS)} == {"done"}
