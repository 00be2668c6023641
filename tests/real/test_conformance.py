"""The official conformance suite, in both eras: directly and through the daemon. No check may be worse through it.

The suite says nothing about intermediaries; it is a proof of transparency: 80 and 190 checks of what a client sees of a server.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.real.conftest import ALL_PAIRS, Proxies
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.software import Server, conformance_cli

pytestmark = pytest.mark.software("node", "npm")
SUITE_S = 120.0  # four seconds on an idle machine
RANK = {"FAILURE": 0, "WARNING": 1, "SKIPPED": 2, "INFO": 3, "SUCCESS": 3}
# Scenarios whose own client cannot do HTTPS: it speaks plain HTTP whatever the URL says, or looks for the foreign Host in the certificate.
PLAIN_ONLY = {"http-header-validation", "http-custom-header-server-validation", "dns-rebinding-protection"}
Check = tuple[str, str, int]  # scenario, check, which of several with that name
Checks = dict[Check, tuple[str, str]]  # status, message


def run_suite(url: str, revision: str, results: Path, ca: Path) -> Checks:
    """Every check with its status and message."""
    with conformance_cli(url, revision, results, ca) as suite:
        suite.process.wait(SUITE_S)
    return dict(checks(results))


def checks(results: Path) -> Iterator[tuple[Check, tuple[str, str]]]:
    for file in sorted(results.glob("*/checks.json")):
        scenario = file.parent.name.removeprefix("server-").partition("-20")[0]
        seen: Counter[str] = Counter()
        for check in json.loads(file.read_text()):
            seen[check["id"]] += 1
            yield (scenario, check["id"], seen[check["id"]]), (check["status"], check.get("errorMessage") or "")


@pytest.fixture(scope="module")
def direct(conformance: Server, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checks]:
    """`direct(revision)`: what the suite says of the server itself, asked once."""

    @cache
    def run(revision: str) -> Checks:
        return run_suite(conformance.origin + "/mcp", revision, tmp_path_factory.mktemp("direct"), certificate.cert)

    return run


@pytest.mark.parametrize("tls", [False, True] if ALL_PAIRS else [True], ids=["plain", "tls"] if ALL_PAIRS else ["tls"])
@pytest.mark.parametrize(
    ("revision", "passes"), [("2025-11-25", 70), ("2026-07-28", 150)]
)  # 75 and 160 on a machine with time; the suite times some itself
def test_no_check_is_worse_through_the_daemon(
    revision: str,
    passes: int,
    tls: bool,
    direct: Callable[[str], Checks],
    conformance: Server,
    proxies: Proxies,
    certificate: Certificate,
    tmp_path: Path,
) -> None:
    """A check is worse when it is so twice: on a busy machine suite and server lose races of their own, now here, now there."""
    expected = direct(revision)
    assert sum(status == "SUCCESS" for status, _ in expected.values()) >= passes  # else there is little that could become worse
    if tls:
        expected = {check: said for check, said in expected.items() if check[0] not in PLAIN_ONLY}
    url = proxies.url(conformance.origin, tls=tls) + "/mcp"

    def worse(name: str) -> dict[Check, str]:
        directory = tmp_path / name
        directory.mkdir()
        seen = run_suite(url, revision, directory, certificate.cert)
        return {
            check: f"{check}: {status} directly, {seen.get(check, 'nothing')} through the daemon"
            for check, (status, _) in expected.items()
            if check not in seen or RANK[seen[check][0]] < RANK[status]
        }

    found = worse("first")
    if found:
        again = worse("again")
        found = {check: said for check, said in found.items() if check in again}
    assert not found, "\n".join(found.values())


# What the gateway process does otherwise than the server behind it: foreign Hosts and Origins are the edge's matter, and a stream that the server
# ends to be asked again later is followed up by us, so the client has its answer without.
NOT_ITS_OWN = {"dns-rebinding-protection", "server-sse-polling"}


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_no_check_is_worse_through_a_bridge(
    revision: str, direct: Callable[[str], Checks], conformance: Server, certificate: Certificate, tmp_path: Path
) -> None:
    """A bridge to a server of both eras: a client of either has the server's own."""
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "upstream": {"u": {"urls": [conformance.origin], "bridge": True}},
        "route": [{"upstream": "u", "path": "/mcp"}],
    }
    expected = {check: said for check, said in direct(revision).items() if check[0] not in NOT_ITS_OWN}
    with Daemon(config, tmp_path) as daemon:
        worse: set[Check] = set(expected)
        for _ in range(2):  # as above
            results = tmp_path / str(len(worse))
            results.mkdir()
            seen = run_suite(f"http://127.0.0.1:{daemon.port(0)}/mcp", revision, results, certificate.cert)
            worse &= {check for check, said in expected.items() if check not in seen or RANK[seen[check][0]] < RANK[said[0]]}
            if not worse:
                break
    assert not worse
