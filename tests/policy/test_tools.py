"""Who may call what: deny before allow, and nothing that no rule allows."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.policies import Constraint, Rule, Tools
from mcpproxy.http.replies import MESSAGES
from mcpproxy.mcp.call import NAMED_BY, Call, calls_of
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.policy import tools as module
from mcpproxy.policy.hints import Hints
from mcpproxy.policy.tools import CALLS, PLUMBING, Needs, Rules, Verdict, is_odd
from mcpproxy.policy.verdict import Principal

ALPHA = Principal("agent-alpha", "keys", frozenset({"ops"}), frozenset({"files:read"}))
ANYBODY = Rule(methods=("*",))


def call(name: str | None = "search", method: str = "tools/call", **arguments: object) -> Call:
    params: dict[str, object] = {"arguments": arguments}
    if by := NAMED_BY.get(method):
        params[by] = name
    elif method == "completion/complete":
        params["ref"] = {"type": "ref/resource" if ":" in (name or "") else "ref/prompt", "uri" if ":" in (name or "") else "name": name}
    return calls_of(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())[0]


def judged(tools: Tools, asked: Call, principal: Principal | None = ALPHA, hints: Hints | None = None) -> Verdict:
    rules = Rules(tools, "route[0]", hints)
    first = rules.judge(principal, asked)
    assert rules.judge(principal, asked) == first, "what is remembered is what was worked out"
    assert first.allowed is (first.reason == "")
    assert first.allowed or first.reason in MESSAGES
    return first


def test_deny_goes_before_allow_and_the_rule_is_named() -> None:
    tools = Tools(allow=(Rule(tools=("a*",)), ANYBODY), deny=(Rule(tools=("x",)), Rule(tools=("*_all", "delete_*"))))
    assert judged(tools, call("search")) == Verdict(True, "route[0].tools.allow[1]")
    assert judged(tools, call("abc")) == Verdict(True, "route[0].tools.allow[0]")
    assert judged(tools, call("delete_x")) == Verdict(False, "route[0].tools.deny[1]", "call-denied")
    assert judged(tools, call("a_all")) == Verdict(False, "route[0].tools.deny[1]", "call-denied")


def test_what_no_rule_allows_is_denied() -> None:
    assert judged(Tools(), call()) == Verdict(False, "route[0].tools", "call-not-allowed")
    assert not judged(Tools(allow=(Rule(tools=("other",)),)), call()).allowed
    assert not judged(Tools(allow=(Rule(),)), call("file:///a", "resources/read")).allowed


@pytest.mark.parametrize("method", [*sorted(CALLS), "acme/unknown", "TOOLS/LIST/x", "tasks/new"])
def test_acting_methods_are_denied_by_default(method: str) -> None:
    asked = call("a:b", method)
    assert judged(Tools(), asked).reason == "call-not-allowed"
    assert judged(Tools(allow=(ANYBODY,)), asked).allowed
    assert judged(Tools(allow=(Rule(methods=(method,)),)), asked).allowed


@pytest.mark.parametrize("method", [*sorted(PLUMBING - {"", "resources/unsubscribe"}), "notifications/initialized", "notifications/acme"])
def test_what_keeps_the_conversation_going_is_allowed_unless_a_deny_names_it(method: str) -> None:
    asked = call(None, method)
    assert judged(Tools(), asked) == Verdict(True, "route[0].tools")
    assert judged(Tools(deny=(Rule(methods=(method,)),)), asked).reason == "call-denied"
    assert judged(Tools(deny=(Rule(),)), asked).allowed


def test_answers_of_the_client_are_allowed() -> None:
    (answer,) = calls_of(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    assert judged(Tools(deny=(Rule(methods=("tools/*",)),)), answer).allowed


@pytest.mark.parametrize(
    ("who", "named", "nobody"),
    [
        ("*", True, True),
        ("agent-alpha", True, False),
        ("agent-*", True, False),
        ("**", True, False),
        ("Agent-alpha", False, False),
        ("agent", False, False),
        ("role:ops", True, False),
        ("role:o*", True, False),
        ("role:dev", False, False),
        ("scope:files:read", True, False),
        ("scope:files:*", True, False),
        ("scope:files", False, False),
        ("ops", False, False),
        ("role:agent-alpha", False, False),
    ],
)
def test_who(who: str, named: bool, nobody: bool) -> None:
    tools = Tools(allow=(Rule(who=("someone", who)),))
    assert judged(tools, call()).allowed is named
    assert judged(tools, call(), None).allowed is nobody


@pytest.mark.parametrize(
    "name",
    [
        "delete\u200b",
        "de\u00adlete",
        "ｄｅｌｅｔｅ",
        "delete\u0000",
        "delete\n",
        " delete",
        "delete ",
        "delete\u00a0",
        "e\u0301",
        "\u202edelete",
        "delete\ufeff",
        "ﬁle",
        "a\x7f",
        "\ue000",
        "\u0378",
        "x" * 4097,
        "a" + "\u0316" * 31,
        "\u0301\u0316" * 2000,
    ],
)
def test_another_unicode_form_of_a_name_is_refused(name: str) -> None:
    assert judged(Tools(allow=(ANYBODY,), deny=(Rule(tools=("delete",)),)), call(name)).reason == "odd-name"


@pytest.mark.parametrize("name", ["search", "größe", "工具", "a b", "a.b-c_d/e", "", "naïve", "😀"])
def test_ordinary_names_are_not_odd(name: str) -> None:
    assert not is_odd(name)
    assert judged(Tools(allow=(ANYBODY,)), call(name)).allowed


@pytest.mark.parametrize(
    "method", ["Tools/call", "tools/call ", "\ttools/call", "toolſ/call", "ｔools/call", "TOOLS/LIST", "tools/call\u200b"]
)
def test_another_form_of_a_method_is_refused(method: str) -> None:
    assert judged(Tools(allow=(ANYBODY,)), Call(b"1", method, "search")).reason == "odd-name"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///srv/public/a.txt", ""),
        ("file:///srv/public/a%20b.txt", ""),
        ("file:///srv/public/a%2Fb", ""),
        ("file:///srv/public/../secret", "odd-name"),
        ("file:///srv/public/%2e%2E/secret", "odd-name"),
        ("file:///srv/public/%252e%252e/secret", "odd-name"),
        ("file:///srv/public/..%2f..%2fsecret", "odd-name"),
        ("file:///srv/public/..\\secret", "odd-name"),
        ("file:///srv/public/./a", "odd-name"),
        ("file:///srv/public/a%00.txt", "odd-name"),
        ("file:///srv/public/a%0Ab", "odd-name"),
        ("file:///srv/secret/a", "call-not-allowed"),
        ("FILE:///srv/public/a", "call-not-allowed"),
        ("file:///srv/public/private/a", "call-denied"),
        ("file:///srv/public/%70rivate/a", "call-denied"),
        ("file:///srv/public/%2570rivate/a", "call-denied"),
    ],
)
def test_a_uri_is_judged_as_it_is_written_and_as_it_is_meant(uri: str, reason: str) -> None:
    methods = ("resources/read", "completion/complete")
    allow, deny = (Rule(methods=methods, tools=(f"file:///srv/public/{each}*",)) for each in ("", "private/"))
    for method in methods:
        assert judged(Tools(allow=(allow,), deny=(deny,)), call(uri, method)).reason == reason
    open_rules = Tools(allow=(ANYBODY,), deny=(Rule(methods=("*",), tools=("file://Host/*", "file://host/*")),))
    assert judged(open_rules, call("FILE://HOST/a", "resources/read")).reason == "call-denied"


def test_rules_about_arguments() -> None:
    tools = Tools(
        allow=(
            Rule(tools=("read",), args={"path": Constraint(inside="/srv")}),
            Rule(tools=("read",), args={"public": Constraint(equals=True)}),
        ),
        deny=(Rule(tools=("read",), args={"path": Constraint(matches=".*\\.key")}),),
    )
    assert judged(tools, call("read", path="/srv/a")).rule == "route[0].tools.allow[0]"
    assert judged(tools, call("read", path="/etc/a", public=True)).rule == "route[0].tools.allow[1]"
    assert judged(tools, call("read", path="/srv/a.key")) == Verdict(False, "route[0].tools.deny[0]", "call-denied")
    assert judged(tools, call("read", path="/etc/a")).reason == "call-not-allowed"
    assert judged(tools, call("read", path=["/srv/a"])).reason == "call-denied", "a deny fits what cannot be told from it"
    assert judged(tools, call("read")).reason == "call-not-allowed"
    assert judged(tools, call("write", path="/srv/a")).reason == "call-not-allowed"


def test_arguments_that_can_be_read_in_two_ways_are_nobodys_to_judge() -> None:
    tools = Tools(allow=(Rule(args={"path": Constraint(inside="/srv")}),))
    body = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{"path":"/srv/a","Path":"/etc"}}}'
    with pytest.raises(CallError) as caught:
        Rules(tools, "route[0]").judge(ALPHA, calls_of(body)[0])
    assert (caught.value.kind, caught.value.id) == ("ambiguous-call", b"7")
    assert judged(Tools(allow=(Rule(),)), calls_of(body)[0]).allowed, "where no rule asks for them, they are the server's"


def test_read_only_goes_by_the_last_list() -> None:
    hints = Hints()
    tools = Tools(allow=(Rule(), Rule(methods=("resources/read",))), read_only=True)
    rules = Rules(tools, "route[0]", hints)
    view = rules.seen_by(ALPHA)
    assert view.judge(call()) == Verdict(False, "route[0].tools.read_only", "tool-not-listed")
    hints.learn(b'{"tools":[{"name":"search","annotations":{"readOnlyHint":true}},{"name":"write"}]}')
    assert view.judge(call()).allowed
    assert view.judge(call("write")) == Verdict(False, "route[0].tools.read_only", "tool-not-read-only")
    hints.learn(b'{"tools":[{"name":"search","annotations":{"readOnlyHint":false}}]}')
    assert view.judge(call()).reason == "tool-not-read-only"
    assert view.judge(call("file:///a", "resources/read")).allowed
    assert Rules(Tools(allow=(Rule(),), read_only=True), "route[0]").judge(ALPHA, call()).reason == "tool-not-listed"


def test_what_a_caller_needs_to_be_seen() -> None:
    def needs(tools: Tools, principal: Principal | None = ALPHA) -> Needs:
        return Rules(tools, "route[0]").seen_by(principal).needs

    assert needs(Tools()) is Needs.BODY
    assert needs(Tools(allow=(Rule(),))) is Needs.BODY
    assert needs(Tools(allow=(ANYBODY,))) is Needs.NOTHING
    assert needs(Tools(allow=(ANYBODY,), read_only=True)) is Needs.BODY
    assert needs(Tools(allow=(Rule(who=("agent-alpha",), methods=("*",)),))) is Needs.NOTHING
    assert needs(Tools(allow=(Rule(who=("agent-alpha",), methods=("*",)),)), None) is Needs.BODY
    denied = Tools(allow=(ANYBODY,), deny=(Rule(who=("role:dev",), tools=("x",)),))
    assert needs(denied) is Needs.NOTHING
    assert needs(denied, Principal("b", "keys", frozenset({"dev"}))) is Needs.BODY
    assert needs(Tools(allow=(Rule(),), trust_headers=True)) is Needs.HEADERS
    arguments = Tools(allow=(Rule(who=("role:ops",), args={"a": Constraint()}), Rule()), trust_headers=True)
    assert needs(arguments) is Needs.BODY
    assert needs(arguments, None) is Needs.HEADERS


def test_of_a_body_the_first_call_that_is_denied_decides() -> None:
    view = Rules(Tools(allow=(Rule(tools=("a", "b")),)), "route[0]").seen_by(ALPHA)
    assert view.judge_all((call("a"), call("b"))).allowed
    assert not view.judge_all((call("a"), call("x"), call("b"))).allowed
    listen = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {"notifications": {"resourceSubscriptions": ["a:b"]}}}
    ).encode()
    assert view.judge_all(calls_of(listen)).reason == "call-not-allowed"
    assert Rules(Tools(allow=(Rule(methods=("resources/*",)),)), "route[0]").seen_by(None).judge_all(calls_of(listen)).allowed


def test_callers_and_names_without_end_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VIEWS", 3)
    monkeypatch.setattr(module, "NAMES", 3)
    rules = Rules(Tools(allow=(Rule(who=("p1",), tools=("n1",)),)), "route[0]")
    for number in range(10):
        for name in range(10):
            allowed = rules.judge(Principal(f"p{number}", "keys"), call(f"n{name}")).allowed
            assert allowed is (number == name == 1)
        assert len(rules._views) <= 3
        assert all(len(view._cases) <= 3 for view in rules._views.values())
    view = rules.seen_by(ALPHA)
    before = dict(view._cases)
    view.judge(call("x" * 1000))
    assert view._cases == before


def test_shadow_is_told_but_changes_no_verdict() -> None:
    view = Rules(Tools(shadow=True), "route[0]").seen_by(ALPHA)
    assert view.shadow
    assert not view.judge(call()).allowed


WORD = st.sampled_from(["a", "b", "ab", "delete_x", "search"])
PATTERN = st.sampled_from(["*", "a", "a*", "?", "[ab]", "delete_*", "search"])
METHOD = st.sampled_from(["tools/call", "prompts/get", "tools/list", "ping", "acme/x"])
METHODS = st.lists(st.sampled_from(["*", "tools/*", "tools/call", "prompts/get", "ping", "acme/?"]), min_size=1, max_size=2).map(tuple)
WHO = st.lists(st.sampled_from(["*", "a*", "b", "role:ops", "scope:s*"]), min_size=1, max_size=2).map(tuple)
ARGS = st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from([Constraint(max=3), Constraint(equals=1, optional=True)]), max_size=2)
RULE = st.builds(Rule, who=WHO, methods=METHODS, tools=st.lists(PATTERN, min_size=1, max_size=2).map(tuple), args=ARGS | st.just({}))
RULES = st.lists(RULE, max_size=4).map(tuple)
CALLER = st.none() | st.builds(
    Principal,
    st.sampled_from(["a", "ab", "b"]),
    st.just("keys"),
    st.frozensets(st.sampled_from(["ops", "dev"])),
    st.frozensets(st.sampled_from(["s1", "t"])),
)
ARGUMENTS = st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from([1, 2, 5, 1.0, None]), max_size=2)


def naive(tools: Tools, principal: Principal | None, method: str, name: str | None, arguments: dict[str, Any]) -> str:
    """The rules as the documentation tells them."""

    def concerns(word: str) -> bool:
        if word == "*":
            return True
        if principal is None:
            return False
        kind, _, rest = word.partition(":")
        given = {"role": principal.roles, "scope": principal.scopes}.get(kind)
        return fnmatchcase(principal.name, word) if given is None else any(fnmatchcase(each, rest) for each in given)

    def holds(constraint: Constraint, value: object) -> bool:
        if value is None:
            return constraint.optional
        assert isinstance(value, int | float)
        return value <= constraint.max if constraint.max is not None else value == constraint.equals

    def fits(rule: Rule) -> bool:
        named = "*" in rule.tools or (name is not None and any(fnmatchcase(name, each) for each in rule.tools))
        asked = any(map(concerns, rule.who)) and any(fnmatchcase(method, each) for each in rule.methods) and named
        return asked and all(holds(constraint, arguments.get(key)) for key, constraint in rule.args.items())

    for number, rule in enumerate(tools.deny):
        if fits(rule):
            return f"deny[{number}]"
    if method in ("tools/list", "ping"):
        return ""
    return next((f"allow[{number}]" for number, rule in enumerate(tools.allow) if fits(rule)), "nothing")


@given(RULES, RULES, st.lists(st.tuples(CALLER, METHOD, WORD, ARGUMENTS), min_size=1, max_size=6))
def test_rules_mean_what_the_documentation_says(
    allow: tuple[Rule, ...], deny: tuple[Rule, ...], asked: list[tuple[Principal | None, str, str, dict[str, Any]]]
) -> None:
    """For one caller after another, with the same rules: nobody gets another one's verdict."""
    tools = Tools(allow=allow, deny=deny)
    rules = Rules(tools, "route[3]")
    for principal, method, name, arguments in asked * 2:
        made = call(name, method, **arguments)
        verdict = rules.judge(principal, made)
        expected = naive(tools, principal, method, made.name, arguments)
        assert verdict.rule == ("route[3].tools" if expected in ("", "nothing") else f"route[3].tools.{expected}")
        assert verdict.allowed is (expected == "" or expected.startswith("allow"))
        view = rules.seen_by(principal)
        assert view.needs is not Needs.NOTHING or verdict.allowed


# -- who sees as somebody else does -----------------------------------------------------------------------------------------------------------


def test_a_view_is_handed_on_as_the_numbers_of_its_rules() -> None:
    tools = Tools(
        deny=(Rule(who=("role:guests",), tools=("x",)), Rule(who=("role:ops",), tools=("y",))),
        allow=(Rule(who=("agent-alpha",), tools=("a",)), Rule(who=("somebody",), methods=("*",))),
    )
    rules = Rules(tools, "route[0]")
    assert rules.concerning(ALPHA) == 0b0110
    for principal in (ALPHA, None, Principal("somebody", "keys")):
        there, here = rules.seen_through(rules.concerning(principal)), rules.seen_by(principal)
        for name in "axy":
            assert there.judge(call(name)) == here.judge(call(name))


def test_what_can_be_called_with_some_arguments_is_shown() -> None:
    tools = Tools(
        deny=(Rule(tools=("never",)), Rule(tools=("seldom",), args={"all": Constraint(equals=True)})),
        allow=(Rule(tools=("seldom", "never")), Rule(tools=("narrow",), args={"n": Constraint(max=3)})),
    )
    view = Rules(tools, "route[0]").seen_by(None)
    assert [view.shows("tools/call", name) for name in ("never", "seldom", "narrow", "other")] == [False, True, True, False]
    assert [view.shows("tools/call", name) for name in ("never", "seldom", "narrow", "other")] == [False, True, True, False], "remembered"
