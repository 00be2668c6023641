"""A table of the configuration becomes a pool that does what it says."""

import ssl
from pathlib import Path

import pytest

from mcpproxy.config.load import load
from mcpproxy.config.model import Upstream
from mcpproxy.errors import StartError
from mcpproxy.net.door import make_door
from mcpproxy.observe.messages import Messages
from mcpproxy.pooling import GATEWAY, make_pool
from tests.net.stepping import Steps
from tests.support.certs import Certificate

A, B = "http://127.0.0.1:8001", "https://two.example:8443"


@pytest.fixture
def steps():
    made = Steps()
    yield made
    made.close()


@pytest.fixture
def made(steps):
    def make(more="", urls=(A, B)):
        text = f'[[listen]]\naddress = "127.0.0.1:0"\n[[route]]\nupstream = "u"\n[upstream.u]\nurls = {list(urls)}\n{more}\n'
        return make_pool("u", load(text).upstream["u"], steps.loop, steps.wheel, Messages("error"))

    return make


def test_by_default(made):
    pool = made()
    a, b = pool.endpoints
    assert (1, None, "enabled") == (a.weight, a.most, a.state)
    assert (None, True) == (a.tls, b.tls is not None)
    assert "two.example" == b.hostname
    assert "RoundRobin" == type(pool.group.turns).__name__
    assert (5, 10.0, 0.5, 0.5, 1) == (
        pool.limits.rules.failures,
        pool.limits.rules.window,
        pool.limits.rules.share,
        pool.limits.rules.max_ejected,
        pool.limits.rules.probes,
    )


def test_what_is_particular_about_an_endpoint(made):
    pool = made(f'balance = "least-busy"\nendpoints = {{ "{A}/" = {{ weight = 3, max_connections = 7, state = "drain" }} }}')
    a, b = pool.endpoints
    assert (3, 7, "drain", 1) == (a.weight, a.most, a.state, b.weight)
    assert (b,) == pool.group.living
    assert "LeastBusy" == type(pool.group.turns).__name__


def test_a_single_endpoint_with_a_bound_bounds_the_pool(made):
    assert 7 == made(f'endpoints = {{ "{A}" = {{ max_connections = 7 }} }}', [A]).max_in_use


def test_the_name_in_the_handshake_is_not_the_one_that_is_dialled(made):
    (b,) = made('server_name = "inside.example"', [B]).endpoints
    assert "inside.example" == b.hostname
    assert b.name is not None
    assert ("two.example:8443", "two.example:8443") == (b.authority, b.label)


def test_a_certificate_of_our_own_and_the_oldest_version(made, certificate: Certificate, tmp_path: Path):
    (b,) = made(f'min_version = "1.3"\ncert = "{certificate.cert}"\nkey = "{certificate.key}"', [B]).endpoints
    assert b.tls is not None
    assert ssl.TLSVersion.TLSv1_3 == b.tls.minimum_version
    other = tmp_path / "other.key"
    other.write_text("no key")
    with pytest.raises(StartError):
        made(f'cert = "{certificate.cert}"\nkey = "{other}"', [B])


def test_to_a_worker_the_gateway_process_is_one_server_that_nothing_speaks_against(made, steps):
    door = make_door()
    try:
        pool = make_pool("u", Upstream(command=("x",), retry_after=5.0), steps.loop, steps.wheel, Messages("error"), door)
        (endpoint,) = pool.endpoints
        assert (GATEWAY, b'"gateway"', [b"localhost"]) == (endpoint.label, endpoint.quoted, pool.authorities)
        assert [door.address] == [target.address for target in endpoint.targets]
        assert (0.0, 0) == (pool.limits.retry_after, pool.limits.rules.failures)
    finally:
        door.sock.close()
    with pytest.raises(StartError, match="no gateway process"):
        make_pool("u", Upstream(command=("x",)), steps.loop, steps.wheel, Messages("error"))


def test_a_bridge_has_its_servers_behind_the_gateway_process(steps):
    bridge = Upstream(urls=(A,), bridge=True)
    door = make_door()
    try:
        assert [GATEWAY] == [each.label for each in make_pool("u", bridge, steps.loop, steps.wheel, Messages("error"), door).endpoints]
    finally:
        door.sock.close()
    assert ["127.0.0.1:8001"] == [each.label for each in make_pool("u", bridge, steps.loop, steps.wheel, Messages("error")).endpoints]
