"""What the process did since it started, as one JSON object.

Everything here was counted anyway, beside the hot path; this file only adds it up when somebody asks: SIGUSR1, and the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcpproxy.assemble import Runtime
from mcpproxy.clock import monotonic
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
        "requests": sum(front.served for front in fronts) + sum(link.served for link in runtime.links),
        "new_request_heads": _new(
            (store for shelf in shelves for store in (shelf.plans, shelf.plans_h2)),
            (store for shelf in shelves for store in (shelf.templates, shelf.templates_h2)),
        ),
        "new_response_heads": _new((variant.store for variant in responses), (variant.templates for variant in responses)),
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
                "unreachable": sum(not endpoint.alive(monotonic()) for endpoint in pool.endpoints),
            }
            for name, pool in runtime.pools.items()
        },
    }


def _new(plans: Iterable[Store[Any]], templates: Iterable[Store[Any]]) -> dict[str, int]:
    """Heads that were not known byte for byte: `filled` into the template of a like one, or `judged` from the start; `kept` is what is known now."""
    stores = list(plans)
    filled = sum(store.found for store in templates)
    return {"filled": filled, "judged": sum(store.misses for store in stores) - filled, "kept": sum(map(len, stores))}
