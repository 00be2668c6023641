"""mcpproxy explain: the verdict, the rule, and its line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.test_options import written

Explain = Callable[..., tuple[int, list[str]]]

RULES = """
[[listen]]
address = "127.0.0.1:8000"
[upstream.u]
urls = ["http://127.0.0.1:9"]
[[route]]
upstream = "u"
path = "/mcp"
[route.tools]
deny = [{ tools = "delete_*" }]
[[route.tools.allow]]
who = "agent-*"
tools = "search_*"
[[route.tools.allow]]
who = ["role:ops", "scope:files"]
methods = "*"
args = { path = { inside = "/srv" } }
[[route.tools.allow]]
methods = ["resources/read", "completion/complete"]
tools = "file:///srv/*"
[[route]]
upstream = "u"
host = "open.example.com"
"""


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Explain:
    def ask(*arguments: str, text: str = RULES) -> tuple[int, list[str]]:
        status = status_of(["explain", "-c", str(written(tmp_path, text)), *arguments])
        out, err = capsys.readouterr()
        return status, (out + err).splitlines()

    return ask


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ("--as agent-alpha --tool search_docs", 0, "route[0].tools.allow[0] (line 11)"),
        ("--tool search_docs", 1, "route[0].tools (line 9): No rule of this route allows this call. [call-not-allowed]"),
        ("--as agent-alpha --tool delete_x", 1, "route[0].tools.deny[0] (line 10): A rule of this route denies this call. [call-denied]"),
        ('--as a --role ops --tool x --args {"path":"/srv/a"}', 0, "route[0].tools.allow[1] (line 14)"),
        ('--as a --scope files --tool x --args {"path":"/srv/a"}', 0, "route[0].tools.allow[1] (line 14)"),
        ('--as a --role ops --tool x --args {"path":"/etc"}', 1, "[call-not-allowed]"),
        ('--as a --role ops --tool x --args {"path":"/srv","Path":"/etc"}', 1, "[ambiguous-call]"),
        ("--as agent-alpha --tool ｓearch_docs", 1, "[odd-name]"),
        ("--method resources/read --tool file:///srv/a", 0, "route[0].tools.allow[2] (line 18)"),
        ("--method completion/complete --tool file:///srv/a", 0, "route[0].tools.allow[2] (line 18)"),
        ("--method tools/list", 0, "route[0].tools (line 9)"),
        ("--route 1 --tool x", 0, "everybody may call everything"),
        ("--route https://open.example.com/mcp --tool x", 0, "everybody may call everything"),
        ("--route /mcp --tool x", 1, "[call-not-allowed]"),
    ],
)
def test_the_verdict_and_its_rule(explain: Explain, arguments: str, status: int, told: str) -> None:
    found, lines = explain(*arguments.split())
    assert (found, lines[0].split()[0]) == (status, "denied" if status else "allowed")
    assert any(line.endswith((told, f"{told}.")) for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--tool search_docs", 'allow[0] (line 11): `who = ["agent-*"]` asks for somebody with a name'),
        ("--as bob --tool search_docs", 'allow[0] (line 11): `who = ["agent-*"]` does not name this caller'),
        ("--as agent-x --tool other", 'allow[0] (line 11): `tools = ["search_*"]` does not name other'),
        ("--as bob --role ops --tool x", "allow[1] (line 14): argument `path` is missing"),
        ('--as bob --role ops --tool x --args {"path":"/etc"}', 'allow[1] (line 14): argument `path` is not certainly `inside = "/srv"`'),
        ('--as bob --role ops --tool x --args {"path":5}', 'allow[1] (line 14): argument `path` is not certainly `inside = "/srv"`'),
        (
            '--as bob --tool x --args {"path":"/etc"}',
            'allow[0] (line 11): `who = ["agent-*"]` does not name this caller; `tools = ["search_*"]` does not name x',
        ),
        ("--method resources/read --tool file:///etc/x", 'allow[2] (line 18): `tools = ["file:///srv/*"]` does not name file:///etc/x'),
        (
            "--method resources/subscribe --tool file:///srv/x",
            'allow[2] (line 18): `methods = ["resources/read", "completion/complete"]` does not name resources/subscribe',
        ),
        ("--method resources/read --tool file:///srv/%2e/x", None),
        ("--as agent-alpha --tool delete_x", None),
        ('--as bob --tool x --args {"path":"/srv/a","path":"/srv/b"}', None),
    ],
)
def test_the_nearest_rule_and_what_of_it_does_not_fit(explain: Explain, arguments: str, told: str | None) -> None:
    found, lines = explain(*arguments.split())
    assert found == 1
    assert [line for line in lines if "nearest" in line] == ([f"  nearest: route[0].tools.{told}"] if told else [])


def test_a_dotted_argument_is_told_by_its_name(explain: Explain) -> None:
    text = RULES.replace(
        'args = { path = { inside = "/srv" } }', 'args = { "a.b" = { max = 3, optional = true }, "c.d" = { one_of = [1, true] } }'
    )
    ask = ("--as", "x", "--role", "ops", "--tool", "x", "--args")
    assert explain(*ask, '{"a.b": 4, "c.d": 1}', text=text)[1][-1].endswith("argument `a.b` is not certainly `max = 3`")
    assert explain(*ask, '{"a.b": 3}', text=text)[1][-1].endswith("argument `c.d` is missing")
    assert explain(*ask, '{"c.d": 2}', text=text)[1][-1].endswith("argument `c.d` is not certainly `one_of = [1, true]`")
    assert explain(*ask, '{"c.d": true}', text=text)[0] == 0


def test_what_a_tool_says_of_itself_is_supposed(explain: Explain) -> None:
    text = RULES.replace("[route.tools]", "[route.tools]\nread_only = true")
    assert explain("--as", "agent-alpha", "--tool", "search_docs", text=text)[1][-1].endswith("[tool-not-listed]")
    assert explain("--as", "agent-alpha", "--tool", "search_docs", "--read-only", text=text)[0] == 0


def test_shadow_is_told(explain: Explain) -> None:
    text = RULES.replace("[route.tools]", "[route.tools]\nshadow = true")
    status, lines = explain("--tool", "x", text=text)
    assert (status, lines[-1].split(":")[0]) == (1, "  shadow = true")


def test_the_route_must_be_clear(explain: Explain) -> None:
    two = RULES + "[route.tools]\n"
    assert explain("--tool", "x", text=two) == (1, ["mcpproxy: which route?", "  0  /mcp", "  1  /  open.example.com"])
    assert explain("--route", "2", "--tool", "x") == (1, ["mcpproxy: there is no route 2", "  the last one is 1"])
    assert explain("--route", "/other", "--tool", "x")[1][0] == "mcpproxy: no route serves /other"
    assert explain("--route", "/ä", "--tool", "x")[1][0] == "mcpproxy: /ä: not a URL"


def test_a_role_belongs_to_somebody(explain: Explain) -> None:
    assert explain("--role", "ops", "--tool", "x")[0] == 2


def test_what_no_client_would_send_is_no_question(explain: Explain) -> None:
    """Exit status 1 would look like a verdict."""
    assert explain("--as", "a") == (2, explain("--as", "a")[1])
    assert "--tool" in explain("--as", "a")[1][0]
    for args in ("[", "[]", "{a: 1}", "[" * 100_000):
        status, lines = explain("--as", "a", "--tool", "x", "--args", args)
        assert (status, "--args is not a JSON object" in lines[0]) == (2, True)


def test_files_of_another_machine_are_not_asked_for(explain: Explain) -> None:
    """Rules are tested in CI, where no certificate and no key file is."""
    text = RULES.replace('8000"', '8000"\ntls = { cert = "/no/such.pem", key = "/no/such.key" }')
    assert explain("--as", "agent-alpha", "--tool", "search_docs", text=text)[0] == 0


def test_the_body_is_what_a_client_would_send() -> None:
    from mcpproxy.cli.explain import Asked

    asked = Asked("a", (), (), "tools/call", 'x"y', '{"a": 1}', False)
    assert json.loads(asked.body())["params"] == {"name": 'x"y', "arguments": {"a": 1}}
    assert str(asked) == 'a: tools/call x"y'
