"""A plan is what its head says and nothing else; a template gives exactly what compiling would."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.config import load as config_load
from mcpproxy.edge.cut import REQUEST_CUTS, RESPONSE_CUTS, cut
from mcpproxy.edge.plan import (
    CHUNKED_LENGTH,
    INTERIM_LENGTH,
    LOCAL_LENGTH,
    UNTIL_CLOSE_LENGTH,
    Judge,
    LiveRoute,
    Plan,
    RequestTemplate,
    Responses,
    Variants,
    describe,
    said_to_gateway,
    short_hash,
    strip,
)
from mcpproxy.edge.router import Router
from mcpproxy.errors import ProxyError
from mcpproxy.http.forward import Dress
from mcpproxy.http.head import HeadLimits, parse_request
from mcpproxy.policy.tools import Rules
from mcpproxy.policy.verdict import Principal
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Pool, PoolLimits

LIMITS = HeadLimits()


def judge(route="", upstream='urls = ["http://127.0.0.1:8000"]', limits=LIMITS, **more):
    """A judge for one listener, from lines of TOML."""
    text = f'[[listen]]\naddress = "127.0.0.1:1"\n[upstream.u]\n{upstream}\n[[route]]\nupstream = "u"\n{route}'
    config = config_load.load(text)
    bounds = PoolLimits(4, 4.0, 4, 4, 5.0, 5.0, 5.0, 5.0)
    u = config.upstream["u"]
    pool = Pool(None, None, tuple(Endpoint(url, None) for url in u.urls), bounds, None)
    variants = Variants(64, 1 << 20)
    routes = tuple(LiveRoute(each, pool, u.host) for each in config.route)
    return Judge(Router(config.route), routes, limits, b"https", variants, **more)


def post(*lines, method=b"POST", target=b"/mcp", version=b"1.1", host=b"localhost"):
    return b"\r\n".join([method + b" " + target + b" HTTP/" + version, b"Host: " + host, *lines, b"", b""])


# -- requests ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "length", "keep"),
    [
        (post(b"Content-Length: 12"), 12, True),
        (post(b"Transfer-Encoding: chunked"), CHUNKED_LENGTH, True),
        (post(method=b"GET"), 0, True),
        (post(b"Connection: close", method=b"GET"), 0, False),
        (post(method=b"GET", version=b"1.0"), 0, False),
        (post(b"Connection: keep-alive", method=b"GET", version=b"1.0"), 0, True),
    ],
)
def test_a_plan_knows_the_body_and_the_end_of_the_connection(head, length, keep):
    plan = judge().request(head)
    assert (length, keep) == (plan.length, plan.keep)


def test_while_draining_every_connection_ends_with_its_answer():
    it = judge()
    it.draining = True
    assert not it.request(post(method=b"GET")).keep


def test_the_same_head_gives_the_same_plan():
    it = judge()
    head = post(b"Content-Length: 5", b"Authorization: Bearer x")
    one, two = it.request(head), it.request(head)
    assert plain(one) == plain(two)


@pytest.mark.parametrize(
    ("policy", "host"),
    [("upstream", b"127.0.0.1:8000"), ("keep", b"localhost"), ("other.example", b"other.example")],
)
def test_the_host_for_the_next_hop(policy, host):
    plan = judge(upstream=f'urls = ["http://127.0.0.1:8000"]\nhost = "{policy}"').request(post(method=b"GET"))
    assert b"\r\nHost: " + host + b"\r\n" in plan.heads[0]
    assert b"\r\nX-Forwarded-Host: localhost\r\n" in plan.heads[0]
    assert b"\r\nX-Forwarded-Proto: https\r\n" in plan.heads[0]


def test_there_is_a_head_for_every_authority():
    plan = judge(upstream='urls = ["http://127.0.0.1:8000", "http://127.0.0.1:8001", "unix:/run/x.sock"]').request(post(method=b"GET"))
    hosts = [b"127.0.0.1:8000", b"127.0.0.1:8001", b"localhost"]
    assert all(b"\r\nHost: " + host + b"\r\n" in head for host, head in zip(hosts, plan.heads, strict=True))


@pytest.mark.parametrize(
    ("target", "prefix", "gives"),
    [
        (b"/mcp/a?b", b"/mcp", b"/a?b"),
        (b"/mcp?b", b"/mcp", b"/?b"),
        (b"/mcp", b"/mcp", b"/"),
        (b"/mcp/", b"/mcp", b"/"),
        (b"/a", b"/", b"/a"),
        (b"/%6dcp/a", b"/mcp", b"/%6dcp/a"),
    ],
)
def test_stripping_a_prefix(target, prefix, gives):
    assert gives == strip(target, prefix)


def test_a_body_that_is_too_large_is_413():
    it = judge('max_body = "1KiB"')
    assert 1024 == it.request(post(b"Content-Length: 1024")).length
    plan = it.request(post(b"Content-Length: 1025"))
    assert (plan.status, plan.reason, plan.heads, plan.keep) == (413, b"body-too-large", (), False)


@pytest.mark.parametrize(
    ("path", "host", "status", "reason"),
    [(b"/other", b"a.example", 404, "no-route"), (b"/mcp", b"b.example", 421, "unknown-host")],
)
def test_where_nothing_is_served(path, host, status, reason):
    plan = judge('host = "a.example"\npath = "/mcp"').request(post(method=b"GET", target=path, host=host))
    assert (status, LOCAL_LENGTH) == (plan.status, plan.length)
    assert reason == json.loads(plan.answer.partition(b"\r\n\r\n")[2])["error"]["reason"]
    assert b"Connection: close" not in plan.answer
    assert b"\r\nConnection: close\r\n" in plan.answer_close


def test_health_is_answered_here_and_only_there():
    it = judge(health=b"/healthz")
    assert 200 == it.request(post(method=b"GET", target=b"/healthz?x")).status
    assert it.request(post(method=b"GET", target=b"/healthz/x")).answer is None
    head = it.request(post(method=b"HEAD", target=b"/healthz")).answer
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("port", "shown"), [(443, b""), (8443, b":8443")])
def test_a_redirect_keeps_path_and_query_and_drops_the_port(port, shown):
    plan = judge(redirect=True, redirect_port=port).request(post(b"Content-Length: 2", target=b"/a?b=c", host=b"A.example:80"))
    assert b"\r\nLocation: https://a.example" + shown + b"/a?b=c\r\n" in plan.answer
    assert 308 == plan.status
    assert plan.body == 2


@pytest.mark.parametrize(("asked", "route", "gives"), [(True, "", b"websocket"), (True, "upgrade = false", None), (False, "", None)])
def test_an_upgrade_is_offered_only_where_it_is_asked_and_allowed(asked, route, gives):
    lines = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    plan = judge(route).request(post(*(lines if asked else lines[2:]), method=b"GET"))
    assert gives == plan.upgrade
    assert (gives is not None) == (b"Upgrade: websocket" in plan.heads[0])


@pytest.mark.parametrize(("own", "taken"), [(b"abc-1", b"abc-1"), (b'"quoted"', None), (b"x" * 129, None), (b"a b", None)])
def test_a_request_id_is_taken_only_if_it_can_do_no_harm(own, taken):
    plan = judge().request(post(b"X-Request-Id: " + own, method=b"GET"))
    assert taken == plan.request_id
    assert b"x-request-id" not in plan.heads[0].lower()


def test_the_log_gets_no_query_no_credential_and_only_a_hash_of_the_session():
    head = parse_request(
        post(
            b"Authorization: Bearer SECRET",
            b"Cookie: SECRET",
            b"Mcp-Session-Id: SECRET",
            b"Mcp-Method: tools/call",
            b"Mcp-Name: search",
            b"MCP-Protocol-Version: 2025-06-18",
            b'User-Agent: a"b\\c',
            target=b"/mcp?token=SECRET",
        ),
        LIMITS,
    )
    facts = json.loads(b"{" + describe(head) + b"}")
    assert "SECRET" not in str(facts)
    assert {
        "method": "POST",
        "host": "localhost",
        "path": "/mcp",
        "protocol": "HTTP/1.1",
        "mcp_method": "tools/call",
        "mcp_name": "search",
        "mcp_version": "2025-06-18",
        "agent": 'a"b\\c',
        "session": short_hash(b"SECRET").decode(),
    } == facts


# -- request templates ------------------------------------------------------------------------------------------------------------------------

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0%d"
values = {
    b"Content-Length": [b"5", b"0", b"70", b"1024", b"1025", b"007", b"99999999999999"],
    b"traceparent": [TRACE % 0, TRACE % 1, b"junk"],
    b"X-Request-Id": [b"abc", b"def", b"a b", b"", b"x" * 128, b"x" * 129],
    b"tracestate": [b"a=1", b"a=1, b=2"],
    b"baggage": [b"k=v"],
    b"Last-Event-ID": [b"17", b"18"],
    b"Mcp-Param-City": [b"Berlin", b"Oslo", b"New York"],
    b"Authorization": [b"Bearer 1", b"Bearer 2"],
    b"Connection": [b"close", b"keep-alive", b"traceparent", b"x-request-id", b"tracestate"],
    b"Transfer-Encoding": [b"chunked"],
    b"Accept": [b"x"],
    b"Trace_Parent": [b"x"],
    b"Expect": [b"100-continue"],
}


VARYING = {b"Content-Length", b"traceparent", b"X-Request-Id", b"tracestate", b"baggage", b"Last-Event-ID", b"Mcp-Param-City"}


@st.composite
def similar_heads(draw):
    """Two heads that most often share a template: the same lines, other values where values vary."""
    chosen = draw(st.lists(st.sampled_from(sorted(VARYING)), min_size=1, max_size=4, unique=True))
    chosen += draw(st.lists(st.sampled_from(sorted(values)), max_size=2))
    chosen = draw(st.permutations(chosen))
    heads = ([], [])
    for name in chosen:
        spelled = draw(st.sampled_from([name, name.lower(), name.upper()]))
        common = draw(st.sampled_from(values[name]))
        for head in heads:
            value = draw(st.sampled_from(values[name])) if name in VARYING else common
            head.append(spelled + draw(st.sampled_from([b": ", b": ", b":", b":  "])) + value)
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    return tuple(post(*head, version=version) for head in heads)


def plain(plan):
    """Everything a plan says, to compare."""
    return {field.name: getattr(plan, field.name) for field in fields(plan)}


def judged(it, head):
    """What the slow way says."""
    try:
        return plain(it.request(head))
    except ProxyError as error:
        return (error.kind, error.status)


IT = judge('max_body = "1KiB"', upstream='urls = ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]', limits=HeadLimits(head=700))


@settings(max_examples=500, deadline=None)
@given(similar_heads())
def test_a_template_gives_exactly_what_compiling_gives(heads):
    first, second = heads
    try:
        plan = IT.request(first)
    except ProxyError:
        return  # what was refused makes no template
    found, other = cut(REQUEST_CUTS, first), cut(REQUEST_CUTS, second)
    if found is None or other is None or found.key != other.key:
        return
    made = RequestTemplate.of(plan, found)
    if made is None:
        return
    for head, values in ((first, found), (second, other)):
        try:
            filled = plain(made.plan_for(values, len(head), IT.limits))
        except ProxyError as error:
            filled = (error.kind, error.status)
        assert judged(IT, head) == filled


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("blank", [b"", b" "])
def test_the_limit_of_a_head_is_the_same_through_a_template(over, blank):
    small = post(b"Content-Length:" + blank + b"5", b"Accept: x")
    large = post(b"Content-Length:" + blank + b"50", b"Accept: x")
    it = judge(limits=HeadLimits(head=len(large) - over))
    made = RequestTemplate.of(it.request(small), cut(REQUEST_CUTS, small))
    if over:
        with pytest.raises(ProxyError, match="head-too-large"):
            made.plan_for(cut(REQUEST_CUTS, large), len(large), it.limits)
    else:
        assert 50 == made.plan_for(cut(REQUEST_CUTS, large), len(large), it.limits).length


def test_the_second_of_two_request_ids_is_not_taken_for_the_first():
    head = post(b"X-Request-Id: a b", b"X-Request-Id: %b", b"Content-Length: 2")
    found = cut(REQUEST_CUTS, head.replace(b"%b", b"one"))
    plan = judge().request(head.replace(b"%b", b"one"))
    assert plan.request_id is None
    assert RequestTemplate.of(plan, found) is None


def test_listeners_do_not_share_plans():
    """The same head on another listener is another plan: scheme, limits and redirects are the listener's."""
    head = post(b"Content-Length: 2")
    first, second = judge(), judge()
    second.scheme = b"http"
    assert b"Proto: https" in first.request(head).heads[0]
    assert b"Proto: http\r" in second.request(head).heads[0]


# -- responses --------------------------------------------------------------------------------------------------------------------------------


def answer(*lines, status=b"200 OK", version=b"1.1"):
    return b"\r\n".join([b"HTTP/" + version + b" " + status, *lines, b"", b""])


def responses(method=b"GET", version=11, keep=False):
    return Responses(method, version, keep, 64, 1 << 20)


@pytest.mark.parametrize(
    ("head", "method", "length", "keep_link", "goes_on"),
    [
        (answer(b"Content-Length: 5"), b"GET", 5, True, True),
        (answer(b"Content-Length: 0"), b"GET", 0, True, True),
        (answer(b"Transfer-Encoding: chunked"), b"GET", CHUNKED_LENGTH, True, True),
        (answer(), b"GET", UNTIL_CLOSE_LENGTH, False, False),
        (answer(b"Content-Length: 5"), b"HEAD", 0, True, True),
        (answer(), b"HEAD", 0, True, True),
        (answer(b"Transfer-Encoding: chunked"), b"HEAD", 0, True, True),
        (answer(status=b"204 No Content"), b"GET", 0, True, True),
        (answer(b"Content-Length: 5", status=b"304 Not Modified"), b"GET", 0, True, True),
        (answer(b"Content-Length: 5", b"Connection: close"), b"GET", 5, False, True),
        (answer(b"Content-Length: 5", version=b"1.0"), b"GET", 5, False, True),
        (answer(b"Content-Length: 5", b"Connection: keep-alive", version=b"1.0"), b"GET", 5, True, True),
        (answer(status=b"103 Early Hints"), b"GET", INTERIM_LENGTH, True, True),
    ],
)
def test_a_response_plan_knows_where_the_body_ends_and_who_may_go_on(head, method, length, keep_link, goes_on):
    plan = responses(method).judge(head)
    assert (length, keep_link, goes_on) == (plan.length, plan.keep_link, plan.client_can_go_on)


@pytest.mark.parametrize(
    ("head", "keep", "dechunk", "goes_on"),
    [
        (answer(b"Content-Length: 5"), False, False, False),
        (answer(b"Content-Length: 5"), True, False, True),
        (answer(b"Transfer-Encoding: chunked"), True, True, False),
        (answer(), True, False, False),
    ],
)
def test_an_http_1_0_client_gets_no_chunks_and_its_connection_ends_where_it_must(head, keep, dechunk, goes_on):
    plan = responses(version=10, keep=keep).judge(head)
    assert (dechunk, goes_on) == (plan.dechunk, plan.client_can_go_on)
    assert b"chunked" not in plan.head + plan.head_close
    assert b"\r\nConnection: close\r\n" in plan.head_close


def test_a_head_in_which_nothing_changes_is_passed_on_as_it_is():
    head = answer(b"Content-Type: application/json", b"Content-Length: 5")
    assert responses().judge(head).verbatim
    assert not responses().judge(answer(b"Keep-Alive: timeout=5", b"Content-Length: 5")).verbatim


def test_the_servers_patience_is_noted():
    assert 5 == responses().judge(answer(b"Keep-Alive: timeout=5", b"Content-Length: 5")).idle_hint


@pytest.mark.parametrize(
    ("kind", "events"), [(b"text/event-stream", True), (b"Text/Event-Stream; charset=utf-8", True), (b"text/html", False)]
)
def test_event_streams_are_known(kind, events):
    assert events == responses().judge(answer(b"Content-Type: " + kind, b"Transfer-Encoding: chunked")).events


def test_a_new_session_is_told_to_the_log_as_a_hash():
    plan = responses().judge(answer(b"Mcp-Session-Id: SECRET", b"Content-Length: 5"))
    assert b',"new_session":"%b"' % short_hash(b"SECRET") == plan.extra


def test_a_bad_answer_is_refused_every_time():
    it = responses()
    for _ in range(2):
        with pytest.raises(ProxyError) as caught:
            it.judge(answer(b"Content-Length: 5", b"Content-Length: 6"))
        assert 502 == caught.value.status
    assert 0 == len(it.store)


# -- response templates -------------------------------------------------------------------------------------------------------------------------

DATE = b"Sat, 21 Nov 2026 10:00:0%d GMT"
answer_values = {
    b"Content-Length": [b"5", b"0", b"70", b"007", b"+5", b"999999999999999"],
    b"Date": [DATE % 1, DATE % 2, b"today"],
    b"Mcp-Session-Id": [b"aa", b"bb", b"a b", b""],
    b"X-Request-Id": [b"1", b"2"],
    b"ETag": [b'"x"', b'W/"y"', b'"a b"'],
    b"traceparent": [TRACE % 0],
    b"Connection": [b"close", b"etag", b"date", b"keep-alive"],
    b"Transfer-Encoding": [b"chunked"],
    b"Content-Type": [b"text/event-stream"],
}


@st.composite
def similar_answers(draw):
    def line(name):
        return (
            draw(st.sampled_from([name, name.lower()])) + draw(st.sampled_from([b": ", b":"])) + draw(st.sampled_from(answer_values[name]))
        )

    chosen = draw(st.lists(st.sampled_from(sorted(answer_values)), max_size=5))
    status = draw(st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"103 Early Hints", b"500 X"]))
    return [answer(*(line(name) for name in chosen), status=status) for _ in range(4)]


@settings(max_examples=150, deadline=None)
@given(similar_answers(), st.sampled_from([(b"GET", 11, False), (b"HEAD", 11, False), (b"GET", 10, True), (b"GET", 10, False)]))
def test_a_response_template_gives_exactly_what_compiling_gives(heads, kind):
    remembering = responses(*kind)
    for head in heads:
        try:
            fresh = plain(responses(*kind).compile(head))
        except ProxyError:
            with pytest.raises(ProxyError):
                remembering.judge(head)
            continue
        for _ in range(3):  # compiled, compiled and remembered, remembered
            assert fresh == plain(remembering.judge(head))


def test_answers_that_differ_in_date_and_length_are_judged_twice_at_most():
    it = responses()
    calls = []
    it.compile = lambda head, real=it.compile: calls.append(head) or real(head)
    for number in range(9):
        plan = it.judge(answer(b"Date: " + DATE % number, b"Content-Length: %d" % number))
        assert (number, b"Content-Length: %d\r\n" % number in plan.head) == (plan.length, True)
    assert 2 == len(calls)
    assert cut(RESPONSE_CUTS, answer(b"Date: " + DATE % 1)) is not None


def test_nobody_can_change_what_another_gets():
    """Plans are shared; templates hand out copies."""
    head = post(b"Content-Length: 5")
    plan = IT.request(head)
    made = RequestTemplate.of(plan, cut(REQUEST_CUTS, head))
    filled = made.plan_for(cut(REQUEST_CUTS, head), len(head), IT.limits)
    assert filled is not plan
    assert isinstance(filled, Plan)


# -- the gateway process ----------------------------------------------------------------------------------------------------------------------


def test_the_gateway_process_is_told_who_calls_and_by_us_alone():
    it = judge()
    it.routes = (replace(it.routes[0], call=b"Mcpproxy-Call: secret;u;"),)
    plan = it.request(post(b"Mcpproxy-Call: mine;u;0;", b"X-Y: z", method=b"GET"))
    assert [b"Mcpproxy-Call: secret;u;0;"] == [line for line in plan.heads[0].split(b"\r\n") if b"call" in line.lower()]
    assert b"secret" not in plan.about


def test_what_a_client_says_to_the_gateway_process_reaches_no_server():
    assert b"mine" not in judge().request(post(b"Mcpproxy-Call: mine;u;0;", method=b"GET")).heads[0]


@pytest.mark.parametrize(
    ("gateway", "said", "logged"),
    [
        (True, b"files", b',"member":"files"'),
        (True, b"files;recovered", b',"member":"files","recovered":true'),
        (True, b'a"b', b',"member":"a\\"b"'),
        (False, b"files", b""),
    ],
)
def test_the_member_that_answered_is_told_to_the_log_and_not_to_the_client(gateway, said, logged):
    found = Responses(b"GET", 11, False, 8, 1 << 16, Dress(gateway=gateway)).compile(
        answer(b"Mcpproxy-Member: " + said, b"Content-Length: 0")
    )
    assert logged == found.extra
    assert b"Mcpproxy" not in found.head + found.head_close


def test_the_gateway_process_is_told_which_rules_concern_the_caller():
    it = judge('[[route.tools.allow]]\nwho = "role:ops"\ntools = "a"\n[[route.tools.allow]]\ntools = "b"\n')
    rules = Rules(it.routes[0].config.tools, "route[0]")
    live = replace(it.routes[0], call=b"Mcpproxy-Call: secret;u;", index=3, admission=SimpleNamespace(rules=rules))
    ada = Principal("ada", "keys", frozenset({"ops"}))
    assert b"Mcpproxy-Call: secret;u;%d;%b\r\n" % (3 | 0b11 << 16, b"a2V5cwphZGE") == said_to_gateway(live, ada)
    assert b"Mcpproxy-Call: secret;u;%d;\r\n" % (3 | 0b10 << 16) == said_to_gateway(live, None)
