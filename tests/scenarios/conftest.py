"""What scenarios share: daemons that end with their test, in the order they were started."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import Certificate
from tests.support.daemon import Daemon, simple_config
from tests.support.ports import free_port
from tests.support.speakers import Speaker, listener
from tests.support.upstream import Script, ScriptedUpstream, answer

Run = Callable[..., Daemon]
Guarded = Callable[..., tuple[Speaker, ScriptedUpstream]]
TOOLS = {"allow": [{"tools": ["add", "search_*"]}], "deny": [{"tools": ["search_secret"]}]}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run(url, ..., limits={...}, nofile=64)`: a daemon with simple_config; it is stopped and checked after the test."""
    with ExitStack() as stack:

        def start(*urls: str, nofile: int = 0, **changes: Any) -> Daemon:
            return stack.enter_context(Daemon(simple_config(*urls, **changes), tmp_path, nofile=nofile))

        yield start


@pytest.fixture
def tls_listen(certificate: Certificate) -> dict[str, Any]:
    """A listener table with the test certificate; give it as `listen=`."""
    return {"address": f"127.0.0.1:{free_port()}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}


@pytest.fixture
def guarded(run: Run, certificate: Certificate) -> Iterator[Guarded]:
    """`guarded("h2", tools={...}, route={...}, ...)`: a client, before a daemon with rules, before an echo (or scripts)."""
    with ExitStack() as stack:

        def make(spoken: str, *scripts: Script, tools: Any = TOOLS, route: Any = None, **changes: Any) -> tuple[Speaker, ScriptedUpstream]:
            upstream = stack.enter_context(ScriptedUpstream(*(scripts or (answer(),))))
            rules = {"tools": tools} if tools else {}
            changes = {"listen": listener(spoken, certificate)} | changes
            daemon = run(upstream.url, route={**rules, **(route or {})}, **changes)
            return stack.enter_context(Speaker(daemon, spoken, certificate)), upstream

        yield make
