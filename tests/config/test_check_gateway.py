"""Which upstreams go together, and which keys with which of them."""

import pytest

from mcpproxy.config.load import read
from tests.config.samples import mistakes

TOP = '[[listen]]\naddress = "127.0.0.1:8000"\n[[route]]\nupstream = "one"\n'
SERVER = '[upstream.web]\nurls = ["http://127.0.0.1:9000"]\n'


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", "upstream.one", "urls = ["),
        ('urls = ["http://h"]\ncommand = ["x"]', "upstream.one.command", "has urls already"),
        ('command = ["x"]\nmembers = ["web"]', "upstream.one.members", "has command already"),
        ('command = ["x"]\nexpose = "search"', "upstream.one.expose", "`members`"),
        ('command = ["x"]\nhealth = { check = "tcp" }', "upstream.one.health", "`urls`"),
        ('command = ["x"]\nbridge = true', "upstream.one.bridge", "`urls`"),
        ('urls = ["http://h"]\nenv = { A = "x" }', "upstream.one.env", "`command`"),
        ('members = ["web"]\nera = "modern"', "upstream.one.era", "`urls` or `command`"),
        ('members = ["wbe"]', "upstream.one.members[0]", 'did you mean "web"'),
        ('members = ["one"]', "upstream.one.members[0]", "itself"),
        ('members = ["two"]\n[upstream.two]\nmembers = ["web"]', "upstream.one.members[0]", "name them here"),
        ('members = ["web"]\nmember = { wbe = {} }', "upstream.one.member.wbe", 'did you mean "web"'),
        ('command = [""]', "upstream.one.command[0]", "is empty"),
        ('command = ["x"]\nmode = "per-session"\nstart = "warm"', "upstream.one.start", "nobody knows"),
        ('command = ["x"]\ncall_ceiling = "1m"', "upstream.one.call_ceiling", "shorter"),
    ],
)
def test_what_does_not_go_together_is_said_where_it_stands(text, place, said):
    found = mistakes(TOP + SERVER + "[upstream.one]\n" + text)
    assert [place] == [mistake.path for mistake in found]
    assert said in str(found[0])


def test_what_tools_say_of_themselves_is_not_seen_through_a_search():
    (found,) = mistakes(TOP + "tools = { read_only = true }\n" + SERVER + '[upstream.one]\nmembers = ["web"]\nexpose = "search"')
    assert "route[0].tools.read_only" == found.path


def test_only_root_can_start_somebody_else():
    (found,) = mistakes('user = "mcpproxy"\n' + TOP + '[upstream.one]\ncommand = ["x"]\nuser = "files"')
    assert "upstream.one.user" == found.path
    read(TOP + '[upstream.one]\ncommand = ["x"]\nuser = "files"')


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('urls = ["http://127.0.0.1:9"]\nera = "modern"', "upstream.one.era", "bridge = true"),
        ('urls = ["http://127.0.0.1:9"]\nmcp_path = "/x"', "upstream.one.mcp_path", "bridge = true"),
        ('command = ["x"]\nmode = "per-principal"', "route[0]", "nobody is named here"),
    ],
)
def test_what_is_legal_and_odd_is_said(text, place, said):
    warnings = read(TOP + "[upstream.one]\n" + text).warnings
    assert any(warning.path == place and said in warning.message for warning in warnings), warnings


def test_a_member_needs_no_route():
    assert () == read(TOP + SERVER + '[upstream.one]\nmembers = ["web", "files"]\n[upstream.files]\ncommand = ["x"]').warnings
