"""Upstreams that hang up on idle links after a few seconds, called at just about that interval: not one 502.

uvicorn and Node close after 5 s by default. Ten minutes of calls every 4.5 to 5.5 s are compressed by configuration: LANES at once, each
with a pool of its own, on upstreams that close after KEEP_ALIVE_S. uvicorn does not tell its time, so `keepalive_idle` must be right; Node
tells it (`Keep-Alive: timeout=1`), so the hint must win over a `keepalive_idle` that is far too long.

That no call fails could be luck. So the upstream reports how long the link of each call had been idle, and none may be near the end.
"""

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client import RawClient, post
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.software import Server, node_server, uvicorn_server

KEEP_ALIVE_S = 1.0
LANES = 15
CALLS = 8  # per lane: 120 in all, as many as ten minutes hold


@pytest.fixture(params=["uvicorn", pytest.param("node", marks=pytest.mark.software("node"))])
def upstream(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    """An upstream with short patience, and the `keepalive_idle` an operator would have."""
    start, idle = {"uvicorn": (uvicorn_server, "0.8s"), "node": (node_server, "30s")}[request.param]
    with start(KEEP_ALIVE_S) as server:
        yield server, idle


def test_calls_at_the_upstreams_keep_alive_interval_never_fail(upstream: tuple[Server, str], tmp_path: Path) -> None:
    server, keepalive_idle = upstream
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "upstream": {f"u{lane}": {"urls": [server.origin], "keepalive_idle": keepalive_idle} for lane in range(LANES)},
        "route": [{"path": f"/idle/{lane}", "upstream": f"u{lane}"} for lane in range(LANES)],
    }

    def lane(number: int) -> list[tuple[int, float | None]]:
        intervals = random.Random(number)
        seen = []
        with RawClient(daemon.port()) as client:
            for call in range(CALLS):
                answer = client.exchange(post(path=f"/idle/{number}"))
                seen.append((answer.status, json.loads(answer.body).get("idle")))
                # Mostly around the upstream's limit; the first ones come sooner, so that links are seen to be reused at all.
                time.sleep(intervals.uniform(0.9, 1.1) * KEEP_ALIVE_S if call >= 2 else 0.1)
        return seen

    with Daemon(config, tmp_path) as daemon, ThreadPoolExecutor(LANES) as threads:
        seen = [each for calls in threads.map(lane, range(LANES)) for each in calls]
        assert [status for status, _ in seen] == [200] * LANES * CALLS
        idles = [idle for _, idle in seen if idle is not None]
        assert len(idles) >= LANES  # links are reused while they are young
        assert max(idles) < 0.9 * KEEP_ALIVE_S
        assert {record["end"] for record in daemon.wait_records(LANES * CALLS)} == {"done"}
