"""What scenarios share: daemons that end with their test, in the order they were started."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import Certificate
from tests.support.daemon import Daemon, simple_config
from tests.support.ports import free_port

Run = Callable[..., Daemon]


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
