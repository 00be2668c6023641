"""What a session, or its absence, changes in a plan; and leases that come from one endpoint or not at all."""

from typing import Any, cast

import pytest

from mcpproxy.clock import clock, unix
from mcpproxy.config.sealfile import new_file
from mcpproxy.edge.affinity import SESSION, Affinity, Binding, Bound, Home, url_of
from mcpproxy.edge.plan import Responses
from mcpproxy.errors import ProxyError
from mcpproxy.http.forward import Dress
from mcpproxy.http.head import HeadLimits, parse_request
from mcpproxy.policy.seal import FIELD, QUERY, SealKeys
from mcpproxy.policy.verdict import Principal
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Pool

TTL = 3600.0
ANNA, BERT = Principal("anna", "keys"), Principal("bert", "keys")
ID = b"0123456789abcdef" * 2


class Links:
    """A pool that only says which endpoint it was asked for."""

    limits = object()

    def __init__(self, *urls: str) -> None:
        self.endpoints = tuple(Endpoint(url, None) for url in urls)
        self.asked: list[tuple[str, Endpoint]] = []

    def take_at(self, endpoint: Endpoint, now: float) -> None:
        self.asked.append(("take", endpoint))

    def acquire_at(self, lessee: object, endpoint: Endpoint, now: float) -> None:
        self.asked.append(("acquire", endpoint))


@pytest.fixture
def links() -> Links:
    return Links("http://127.0.0.1:8001", "http://127.0.0.1:8002", "unix:/run/u.sock")


@pytest.fixture
def affinity(links: Links, tmp_path: Any) -> Affinity:
    file = tmp_path / "keys"
    file.write_bytes(new_file())
    file.chmod(0o600)
    return Affinity(cast(Pool, links), SealKeys.given(str(file)), TTL)


def bind(
    affinity: Affinity, *lines: str, method: str = "POST", target: str = "/mcp", who: Principal | None = None, dress: Dress | None = None
) -> Bound:
    head = "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: x", *lines, ""))
    return affinity.bind(parse_request(head.encode(), HeadLimits()), who, dress)


def sealed(affinity: Affinity, endpoint: Endpoint, who: str = "", kind: bytes = FIELD, id: bytes = ID) -> str:
    return affinity.seal(kind, who.encode(), endpoint, id).decode()


def test_a_session_is_opened_into_its_servers_words(affinity: Affinity, links: Links) -> None:
    for endpoint in links.endpoints:
        for method in ("POST", "GET", "DELETE", "HEAD"):
            found = bind(affinity, f"mcp-Session-ID: {sealed(affinity, endpoint)}", "X-After: 1", method=method)
            assert [(name, value) for name, _, value in found.head.fields] == [(b"Host", b"x"), (b"mcp-Session-ID", ID), (b"X-After", b"1")]
            assert isinstance(found.pool, Home)
            assert found.pool.endpoint is endpoint
            assert found.binding is None
            assert found.refused == ""


def test_the_callers_head_is_left_as_it_was(affinity: Affinity, links: Links) -> None:
    text = sealed(affinity, links.endpoints[0])
    head = parse_request(f"POST /m HTTP/1.1\r\nHost: x\r\nMcp-Session-Id: {text}\r\n\r\n".encode(), HeadLimits())
    assert affinity.bind(head, None, None).head is not head
    assert head.first(SESSION) == text.encode()
    assert head.fields[1][2] == text.encode()


@pytest.mark.parametrize(
    ("sealer", "asker", "refused"), [(ANNA, ANNA, ""), (ANNA, BERT, "session-unknown"), (ANNA, None, "session-unknown")]
)
def test_it_is_one_callers(affinity: Affinity, links: Links, sealer: Principal, asker: Principal | None, refused: str) -> None:
    name = f"{sealer.by}\n{sealer.name}"
    text = sealed(affinity, links.endpoints[0], name)
    assert bind(affinity, f"Mcp-Session-Id: {text}", who=asker).refused == refused
    elsewhere = Principal(sealer.name, "other")
    assert bind(affinity, f"Mcp-Session-Id: {text}", who=elsewhere).refused == "session-unknown"
    query = sealed(affinity, links.endpoints[0], name, QUERY)
    assert bind(affinity, target=f"/m?session_id={query}", who=asker).refused == refused


def test_a_query_is_opened_too_but_only_of_a_post(affinity: Affinity, links: Links) -> None:
    text = sealed(affinity, links.endpoints[1], kind=QUERY)
    found = bind(affinity, target=f"/messages/?a=1&session_id={text}&b")
    assert found.head.target == b"/messages/?a=1&session_id=" + ID + b"&b"
    assert isinstance(found.pool, Home)
    assert found.about.startswith(b',"session":"')
    assert bind(affinity, target=f"/sse?session_id={text}", method="GET").head.target == f"/sse?session_id={text}".encode()
    for target in (f"/m?session_id={sealed(affinity, links.endpoints[1])}", "/m?session_id=x", f"/m?session_id={text}&session_id={text}"):
        assert bind(affinity, target=target).refused == "session-unknown"


def test_two_sessions_are_none(affinity: Affinity, links: Links) -> None:
    text = sealed(affinity, links.endpoints[0])
    found = bind(affinity, f"Mcp-Session-Id: {text}", f"mcp-session-id: {text}")
    assert (found.refused, found.status) == ("header-mismatch", 400)


def test_the_modern_era_names_none(affinity: Affinity, links: Links) -> None:
    found = bind(affinity, "Mcp-Session-Id: anything", "MCP-Protocol-Version: 2026-07-28")
    assert (found.pool, found.refused, found.binding) == (links, "", None)
    assert found.drop == {SESSION}
    assert bind(affinity, "Mcp-Session-Id: anything", "MCP-Protocol-Version: 9").refused == "session-unknown"


def test_what_names_no_session_goes_anywhere_and_may_open_one(affinity: Affinity, links: Links) -> None:
    post, get, delete = (bind(affinity, method=method) for method in ("POST", "GET", "DELETE"))
    assert post.pool is get.pool is delete.pool is links
    assert isinstance(post.binding, Binding)
    assert isinstance(get.binding, Binding)
    assert delete.binding is None
    assert post.dress is not None
    assert post.dress.opens
    assert get.drop == {b"accept-encoding"}, "its stream must be readable"


def test_what_a_route_changes_in_answers_stays(affinity: Affinity) -> None:
    dress = Dress(put=((b"X-A", b"1"),), drop=frozenset({b"server"}))
    for method in ("POST", "GET"):
        found = bind(affinity, method=method, dress=dress).dress
        assert found is not None
        assert found.put == dress.put
        assert found.drop >= dress.drop


def test_an_id_ends_with_its_time(affinity: Affinity, links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bind(affinity, f"Mcp-Session-Id: {sealed(affinity, links.endpoints[0])}")
    place = found.pool
    assert isinstance(place, Home)
    assert unix() < place.until <= unix() + TTL
    place.take(0.0)
    place.acquire(cast(Any, None), 0.0)
    assert links.asked == [("take", links.endpoints[0]), ("acquire", links.endpoints[0])]
    assert place.limits is links.limits
    monkeypatch.setattr(clock, "wall", place.until)
    assert place.take(0.0) is None
    with pytest.raises(ProxyError) as error:
        place.acquire(cast(Any, None), 0.0)
    assert (error.value.kind, error.value.status) == ("session-expired", 404)
    assert len(links.asked) == 2
    text = sealed(affinity, links.endpoints[0])
    monkeypatch.setattr("mcpproxy.edge.affinity.unix", lambda: unix() + TTL + 1)
    assert bind(affinity, f"Mcp-Session-Id: {text}").refused == "session-expired"


def test_an_endpoint_that_is_gone(affinity: Affinity, tmp_path: Any, links: Links) -> None:
    fewer = Affinity(cast(Pool, Links("http://127.0.0.1:8002")), SealKeys.given(str(tmp_path / "keys")), TTL)
    assert bind(fewer, f"Mcp-Session-Id: {sealed(affinity, links.endpoints[0])}").refused == "session-lost"
    assert bind(fewer, f"Mcp-Session-Id: {sealed(affinity, links.endpoints[1])}").refused == ""


def test_where_an_endpoint_is_has_one_spelling() -> None:
    assert url_of(Endpoint("http://host", None)) == url_of(Endpoint("http://host:80", None)) == "http://host:80"
    assert url_of(Endpoint("unix:/a", None)) == "unix:/a"


# -- answers


OPENING = b"HTTP/1.1 200 OK\r\nX-First: %b\r\nmcp-session-id: %b\r\nContent-Length: %d\r\n\r\n"


def responses() -> Responses:
    return Responses(b"POST", 11, False, 100, 1 << 20, Dress(opens=True))


def test_a_2xx_that_names_a_session_is_sealed(affinity: Affinity, links: Links) -> None:
    binding, known = Binding(affinity, b"me"), responses()
    for number in range(5):  # compiled, and filled in from a template
        id = b"%032x" % number
        plan = known.judge(OPENING % (id, id, number))
        assert plan.session == id
        assert plan.special
        assert not plan.usual
        told = binding.sealed(plan, links.endpoints[1])
        line = told.head.split(b"\r\n")[2]
        found = bind(affinity, "Mcp-Session-Id: " + line.removeprefix(b"mcp-session-id: ").decode())
        assert found.refused == "session-unknown", "nobody is not `me`"
        assert told.head.split(b"\r\n")[1] == b"X-First: " + id
        assert told.head_close.split(b"\r\n")[2] == line
        assert plan.head.count(id) == 2, "the plan that is remembered is as it was"
        assert told.extra != plan.extra
        assert told.length == number


@pytest.mark.parametrize(
    "head",
    [
        OPENING.replace(b"200 OK", b"400 Bad Request") % (b"x", ID, 0),
        OPENING.replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: b\r\n\r\n") % (b"x", ID, 0),
    ],
)
def test_other_answers_name_none(head: bytes) -> None:
    known = responses()
    for _ in range(3):
        plan = known.judge(head)
        assert (plan.session, plan.special, plan.extra) == (b"", False, b"")
        assert b"session-id" not in plan.head.lower()
        assert b"session-id" not in plan.head_close.lower()
