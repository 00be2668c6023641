"""What an operator may say about servers that are started, joined and bridged, and how it arrives."""

import pytest

from mcpproxy.config.gateway import Command, Facet, Hub, Messages, Remote, Sessions, Watched, own_keys
from mcpproxy.config.load import read
from mcpproxy.config.model import Upstream
from tests.config.samples import mistakes

REST = '[[listen]]\naddress = "127.0.0.1:8000"\n[[route]]\nupstream = "files"\n'


def upstream(text):
    return read(REST + "[upstream.files]\n" + text).config.upstream["files"]


def test_a_command_alone_is_enough():
    found = upstream('command = ["npx", "-y", "some-server", "-y"]')
    assert ("npx", "-y", "some-server", "-y") == found.command
    assert ("shared", "on-demand", 600.0, 16, "auto", "off") == (
        found.mode,
        found.start,
        found.idle_stop,
        found.max_children,
        found.era,
        found.sandbox,
    )
    assert found.gateway and not Upstream(urls=("http://h",)).gateway


def test_a_process_may_stay_for_ever():
    assert upstream('command = ["x"]\nidle_stop = "off"').idle_stop is None


def test_variables_are_plain_or_references():
    found = upstream('command = ["x"]\nenv = { MODE = "fast", KEY = "env:FILES_KEY", CERT = "file:/etc/x" }\ninherit = "SSL_CERT_FILE"')
    assert {"MODE": "fast", "KEY": "env:FILES_KEY", "CERT": "file:/etc/x"} == found.env
    assert ("SSL_CERT_FILE",) == found.inherit


def test_members_and_what_of_them_is_offered():
    text = 'members = ["a"]\n[upstream.files.member.a]\nprefix = ""\ntools = "read_*"\nprompts = []\nrename = { read_file = "read" }\n'
    found = upstream(text + '[upstream.a]\nurls = ["http://127.0.0.1:9000"]\n')
    assert {"a": Facet(prefix="", tools=("read_*",), prompts=(), rename={"read_file": "read"})} == found.member
    assert found.cache is None and Facet().tools is None


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('command = "npx -y x"', "command", "a list in brackets"),
        ("command = []", "command", "the list is empty"),
        ('command = ["x"]\nenv = { "a-b" = "x" }', "env.a-b", "not the name of a variable"),
        ('command = ["x"]\nenv = { A = 1 }', "env.A", "the value is not shown"),
        ('command = ["x"]\nenv = { A = "env:no-name" }', "env.A", "env:NAME"),
        ('command = ["x"]\nenv = "A=x"', "env", "must be a table"),
        ('command = ["x"]\nmode = "share"', "mode", '"shared"'),
        ('command = ["x"]\nidle_stop = "never"', "idle_stop", "duration"),
        ('members = ["a b"]', "members[0]", ""),
    ],
)
def test_nonsense_is_refused_where_it_stands(text, place, said):
    found = mistakes(REST + "[upstream.files]\n" + text)
    assert [f"upstream.files.{place}"] == [mistake.path for mistake in found]
    assert said in str(found[0])


def test_a_secret_out_of_place_is_not_repeated():
    (found,) = mistakes(REST + '[upstream.files]\ncommand = ["x"]\nenv = { A = ["hunter2"] }')
    assert "hunter2" not in str(found)


def test_every_key_belongs_to_one_part():
    parts = [own_keys(each) for each in (Sessions, Messages, Watched, Remote, Command, Hub, Upstream)]
    assert sorted(sum(parts, ())) == sorted(Upstream.__struct_fields__)
