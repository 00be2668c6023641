"""Any text survives being written as TOML."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.migrate.found import Found
from mcpproxy.migrate.toml import rendered, settled, value
from tests.migrate.rig import loaded

LEAVES = st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8))
def test_values_come_back(whatever: object) -> None:
    assert tomllib.loads(f"x = {value(whatever)}") == {"x": whatever}  # type: ignore[arg-type]


def test_halves_of_pairs_are_replaced() -> None:
    assert value("a\ud800") == '"a\N{REPLACEMENT CHARACTER}"'


def test_remarks_stay_remarks() -> None:
    found = Found("a test")
    part = found.upstream("u", "", {"urls": ["http://127.0.0.1:1"]})
    part.remarks.append('one\n[auth.x]\nfile = "y"\x1b')
    found.route("", {"upstream": "u"})
    assert list(loaded(found).auth) == []
    assert "\x1b" not in rendered(found, "a test")


def test_tables_have_headers_and_long_lists_have_lines() -> None:
    found = Found("a test")
    words = [f"word-{number}" for number in range(30)]
    endpoints = {"http://127.0.0.1:1": {"weight": 3}}
    found.upstream("u", "", {"urls": ["http://127.0.0.1:1"], "endpoints": endpoints})
    found.upstream("c", "", {"command": words})
    found.route("", {"upstream": "u", "tools": {"allow": [{"tools": ["a"]}]}})
    text = settled(found, "a test")
    assert '[upstream.u.endpoints."http://127.0.0.1:1"]\nweight = 3' in text
    assert "[route.tools]" in text
    assert max(map(len, text.splitlines())) < 120
    assert loaded(found).upstream["c"].command == tuple(words)
