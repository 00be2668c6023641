"""What the process did since it started, as one JSON object.

Everything here was counted anyway, beside the hot path; this file only adds it up when somebody asks: SIGUSR1, metrics (ops/report), and the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcpproxy.assemble import Runtime
from mcpproxy.clock import monotonic
from mcpproxy.edge.downstream import Downstream
from mcpproxy.edge.multiplex import Multiplex
from mcpproxy.edge.store import Store


def counts(runtime: Runtime) -> dict[str, Any]:
    """docs/operations.md says what each number means."""
    fronts = runtime.fronts
    responses = [variant for front in fronts for variant in front.judge.variants.values()]
    shelves = [shelf for front in fronts for shelf in front.shelves.alive]
    return {
        "uptime_s": round(monotonic() - runtime.began),
        "connections": {
            "open": len(runtime.links),
            "accepted": sum(front.greeted for front in fronts),
            "turned_away": sum(listener.turned_away for listener in runtime.listeners),
            "handshakes_failed": sum(front.handshakes_failed for front in fronts),
        },
        "exchanges": exchanges(runtime),
        "requests": sum(front.served for front in fronts) + sum(link.served for link in runtime.links),
        "new_request_heads": _new(
            (store for shelf in shelves for store in (shelf.plans, shelf.plans_h2)),
            (store for shelf in shelves for store in (shelf.templates, shelf.templates_h2)),
        ),
        "new_response_heads": _new((variant.store for variant in responses), (variant.templates for variant in responses)),
        "log_lines_lost": 0 if runtime.sink is None else runtime.sink.missing,
        "failed_credentials": None
        if runtime.offices.failures is None
        else {"verified": runtime.offices.failures.failed, "unseen": runtime.offices.failures.refused},
        "audit": None
        if runtime.offices.audit is None
        else {"lost": runtime.offices.audit.lost, "warnings": runtime.offices.audit.warnings, "blocked": runtime.offices.audit.blocked},
        "upstreams": {
            name: {
                "in_use": pool.in_use,
                "idle": sum(len(endpoint.idle) for endpoint in pool.endpoints),
                "waiting": len(pool.waiting),
                "unreachable": sum(not endpoint.alive for endpoint in pool.endpoints),
            }
            for name, pool in runtime.pools.items()
        },
    }


def exchanges(runtime: Runtime) -> dict[str, int]:
    """Under way: each either has a link to a server or waits for something. `events` and `tunnels` are counted among the others, too."""
    found = {"http1": 0, "http2": 0, "events": 0, "tunnels": 0}
    for link in runtime.links:
        streams = tuple(link.streams.values()) if isinstance(link, Multiplex) else (link,) if isinstance(link, Downstream) else ()
        for client in streams:
            x = client.exchange
            if x.link is None and x.waiting is None:
                continue
            found["http2" if isinstance(link, Multiplex) else "http1"] += 1
            if x.rplan is not None:
                found["events"] += x.rplan.events
                found["tunnels"] += x.rplan.upgrade is not None
    return found


def _new(plans: Iterable[Store[Any]], templates: Iterable[Store[Any]]) -> dict[str, int]:
    """Heads that were not known byte for byte: `filled` into the template of a like one, or `judged` from the start; `kept` is what is known now."""
    stores = list(plans)
    filled = sum(store.found for store in templates)
    return {"filled": filled, "judged": sum(store.misses for store in stores) - filled, "kept": sum(map(len, stores))}
