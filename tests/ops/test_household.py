"""What of a configuration is whose business in the gateway process: reloads make anew what differs, and nothing else."""

import pytest

from mcpproxy.config.gateway import Facet
from mcpproxy.config.model import Config, Route, Upstream
from mcpproxy.config.policies import Rule, Tools
from mcpproxy.edge.plan import ROUTE_BITS
from mcpproxy.gateway.shelf import Offer
from mcpproxy.ops.household import Sights, members_of, offer_of, own_table, served, wanted
from tests.support.gateway import call

FILES = Upstream(command=("files",))
ALL = Upstream(members=("files", "web"), member={"web": Facet(prefix="", tools=("a*",), rename={"a": "b"})})


def client(route):
    made = call("tools/list").client
    made.route = route
    return made


@pytest.mark.parametrize(
    ("routes", "names"),
    [(("files",), ["files"]), (("all",), ["all"]), (("web",), []), ((), [])],
)
def test_there_is_a_process_where_a_route_leads_to_it(routes, names):
    upstream = {"files": FILES, "all": ALL, "web": Upstream(urls=("http://h",))}
    config = Config(listen=(), upstream=upstream, route=tuple(Route(upstream=name) for name in routes))
    assert (names, bool(names)) == (list(served(config)), wanted(config))


def test_who_serves_an_upstream():
    assert (("files", "web"), ("files",)) == (members_of("all", ALL), members_of("files", FILES))


@pytest.mark.parametrize("other", [{"session_ttl": 1.0}, {"max_sessions": 1}, {"max_connections": 9}, {"queue": 1}])
def test_what_is_no_business_of_a_program(other):
    assert own_table(FILES) == own_table(Upstream(command=("files",), **other))


@pytest.mark.parametrize("other", [{"env": {"A": "x"}}, {"mode": "per-session"}, {"call_timeout": 1.0}])
def test_what_is(other):
    assert own_table(FILES) != own_table(Upstream(command=("files",), **other))


def test_a_server_may_become_a_bridge_and_be_the_same_member():
    one = Upstream(urls=("http://h",))
    assert own_table(one) == own_table(Upstream(urls=("http://h",), bridge=True))
    assert own_table(one) != own_table(Upstream(urls=("http://h",), max_connections=9)), "these are its links"


def test_what_of_members_is_offered():
    assert Offer() == offer_of("files", FILES)
    assert Offer(prefix="files") == offer_of("files", ALL)
    assert Offer(prefix="", tools=("a*",), rename={"a": "b"}) == offer_of("web", ALL)
    assert Offer() == offer_of("files", Upstream(members=("files",), prefix="none"))


def test_clients_see_what_the_rules_that_concern_them_let_them_call():
    tools = Tools(allow=(Rule(tools=("a",)), Rule(tools=("b",), args={})), deny=(Rule(tools=("never",)),))
    sights = Sights(
        Config(listen=(), route=(Route(upstream="u"), Route(upstream="u", tools=tools), Route(upstream="u", tools=Tools(shadow=True))))
    )
    assert sights.of(client(0)) is None
    assert sights.of(client(2)) is None
    assert sights.of(client(-1)) is None
    sees = sights.of(client(1 | 0b010 << ROUTE_BITS))
    assert [True, False, False] == [sees("tools/call", name, None) for name in ("a", "b", "never")]
    assert [True, False] == [sees("tools/call", name, b"{}") for name in ("a", "b")]
    assert not sees("tools/call", "a", b"[1") or sees("tools/call", "a", b"{}")
