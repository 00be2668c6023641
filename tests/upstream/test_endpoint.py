"""What an upstream URL means."""

import socket

import pytest

from mcpproxy.upstream.endpoint import Endpoint


@pytest.mark.parametrize(
    ("url", "authority", "label", "family", "address"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8000", socket.AF_INET, ("127.0.0.1", 8000)),
        ("http://127.0.0.1", "127.0.0.1", "127.0.0.1:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("http://[::1]:8000", "[::1]:8000", "[::1]:8000", socket.AF_INET6, ("::1", 8000)),
        ("unix:/run/a.sock", "localhost", "unix:/run/a.sock", socket.AF_UNIX, "/run/a.sock"),
    ],
)
def test_literal_addresses_are_known_at_once(url, authority, label, family, address):
    endpoint = Endpoint(url, None)
    assert (authority, label) == (endpoint.authority, endpoint.label)
    assert [(family, address)] == [(target.family, target.address) for target in endpoint.targets]
    assert endpoint.name is None


def test_a_name_is_looked_up_later():
    endpoint = Endpoint("https://mcp.example.com", None)
    assert endpoint.name is not None
    assert "mcp.example.com:443" == endpoint.label
    assert "mcp.example.com" == endpoint.authority
