"""What an operator may say about servers that fail, and what is refused with the reason."""

import pytest

from mcpproxy.config.load import read
from mcpproxy.config.upstreams import Breaker, Endpoint, Health
from tests.config.samples import mistakes, with_upstream

URL = "http://127.0.0.1:9000"  # of the sample


def upstream(text):
    return read(with_upstream(text)).config.upstream["search"]


def test_without_a_word_answers_are_looked_at_and_nobody_is_asked():
    found = upstream("")
    assert (Breaker(), None, {}, "round-robin", 10.0) == (found.breaker, found.health, found.endpoints, found.balance, found.slow_start)
    assert (500, 502, 503, 504) == found.breaker.statuses


def test_what_is_particular_about_one():
    found = upstream(f'endpoints = {{ "{URL}/" = {{ weight = 3, state = "drain" }} }}')
    assert [Endpoint(weight=3, state="drain")] == list(found.endpoints.values())


@pytest.mark.parametrize(("check", "path"), [("http", "/health"), ("discover", "/mcp"), ("initialize", "/mcp"), ("tcp", "/")])
def test_where_a_check_knocks(check, path):
    assert path == Health(check=check).knocks_at
    assert "/x" == Health(check=check, path="/x").knocks_at


def test_a_check_waits_no_longer_than_until_the_next_one():
    assert [2.0, 1.0, 0.5] == [Health().patience, Health(every=1.0).patience, Health(timeout=0.5).patience]
    assert 1.0 == upstream('health = { every = "1s" }').health.patience


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('balance = "random"', "balance", '"round-robin"'),
        ('endpoints = { "http://127.0.0.1:8001" = { weight = 2 } }', 'endpoints."http://127.0.0.1:8001"', "no such URL"),
        ('endpoints = { "nonsense" = { weight = 2 } }', "endpoints.nonsense", ""),
        (f'endpoints = {{ "{URL}" = {{ weight = 0 }} }}', f'endpoints."{URL}".weight', "at least 1"),
        (f'endpoints = {{ "{URL}" = {{ weight = 101 }} }}', f'endpoints."{URL}".weight', "at most 100"),
        (f'endpoints = {{ "{URL}" = {{ state = "off" }} }}', f'endpoints."{URL}".state', '"drain"'),
        (f'endpoints = {{ "{URL}" = {{ wieght = 1 }} }}', f'endpoints."{URL}".wieght', "no such key"),
        ("breaker = { statuses = [404] }", "breaker.statuses[0]", "at least 500"),
        ("breaker = { share = 0 }", "breaker.share", "at least 1"),
        ("breaker = { max_ejected = 101 }", "breaker.max_ejected", "at most 100"),
        ('health = { every = "1s", timeout = "2s" }', "health.timeout", "longer than `every`"),
        ('health = { check = "tcp", path = "/x" }', "health.path", "leave out path"),
        ('health = { check = "discover", expect = [200] }', "health.expect", 'check = "http"'),
        ('health = { check = "ping" }', "health.check", '"initialize"'),
        ('health = "/health"', "health", "must be a table"),
        ('cert = "/etc/ssl/x.pem"', "cert", "key is missing"),
        ('key = "/etc/ssl/x.key"', "key", "cert is missing"),
        ('server_name = "a b"', "server_name", ""),
    ],
)
def test_nonsense_is_refused_where_it_stands(text, place, said):
    found = mistakes(with_upstream(text))
    assert [f"upstream.search.{place}"] == [mistake.path for mistake in found]
    assert said in str(found[0])


def test_an_endpoints_bound_is_shared_by_the_workers():
    (found,) = mistakes("workers = 4\n" + with_upstream(f'endpoints = {{ "{URL}" = {{ max_connections = 3 }} }}'))
    assert "fewer than workers" in found.message


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('server_name = "x.example"', "server_name", "no url is https"),
        (f'endpoints = {{ "{URL}" = {{ state = "drain" }} }}', "endpoints", "none of its servers is enabled"),
        ('health = { every = "500ms", timeout = "100ms" }', "health.every", "is the unit right"),
    ],
)
def test_what_is_legal_and_odd_is_said(text, place, said):
    warnings = read(with_upstream(text)).warnings
    assert any(warning.path == f"upstream.search.{place}" and said in warning.message for warning in warnings), warnings
