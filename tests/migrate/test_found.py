"""Names become valid and unique, routes are not there twice, and what sites say about one address is told."""

from mcpproxy.migrate.found import Found, shown
from tests.migrate.rig import loaded, notes


def test_names_become_valid_and_unique_and_that_is_told() -> None:
    found = Found("a test")
    wanted = ["a b!", "a b?", "ok", "ok", "…", "x" * 100]
    got = [found.upstream(name, f"place {number}", {"urls": ["http://127.0.0.1:1"]}).name for number, name in enumerate(wanted)]
    assert got == ["a-b", "a-b-2", "ok", "ok-2", "server", "x" * 60]
    assert [note.place for note in found.notes] == ["place 0", "place 1", "place 3", "place 4", "place 5"]
    assert "the name is taken" in notes(found)


def test_a_route_that_is_there_already_is_told_only_if_it_differs() -> None:
    found = Found("a test")
    name = found.upstream("u", "", {"urls": ["http://127.0.0.1:1"]}).name
    assert found.route("1", {"host": ["a.test", "b.test"], "path": "/mcp", "upstream": name}) is not None
    assert found.route("2", {"host": ["a.test", "b.test"], "path": "/mcp", "upstream": name}) is None
    assert not found.notes
    assert found.route("3", {"host": "a.test", "path": "/mcp", "upstream": "another"}) is None
    assert "3: /mcp has a route already" in notes(found)
    third = found.route("4", {"host": ["b.test", "c.test"], "path": "/mcp", "upstream": name})
    assert third is not None
    assert third.keys["host"] == "c.test"
    assert len(loaded(found).route) == 2


def test_variables_have_the_owner_in_front_and_one_meaning() -> None:
    found = Found("a test")
    assert found.variable("github", "GITHUB_TOKEN", "t") == "env:GITHUB_TOKEN"
    assert found.variable("my-server", "apiKey", "k") == "env:MY_SERVER_API_KEY"
    assert found.variable("my-server", "apiKey", "k") == "env:MY_SERVER_API_KEY"
    assert found.variable("my-server", "apiKey", "another") == "env:MY_SERVER_API_KEY_2"
    assert found.variable("1", "key", "k") == "env:V_1_KEY"
    assert found.expansion("9-x", "k") == "env:V_9_X"
    assert found.expansion("HOME", "a") == found.expansion("HOME", "b") == "env:HOME"
    assert found.variables["HOME"] == "a; b"


def test_without_an_address_it_is_this_machine_only() -> None:
    found = Found("a test")
    found.route("", {"upstream": found.upstream("u", "", {"urls": ["http://127.0.0.1:1"]}).name})
    config = loaded(found)
    assert (config.listen[0].address, config.listen[0].tls) == ("127.0.0.1:8443", "dev")


def test_addresses_that_serve_different_people_are_told() -> None:
    found = Found("a test")
    found.route("", {"upstream": found.upstream("u", "", {"urls": ["http://127.0.0.1:1"]}).name})
    found.listener("127.0.0.1:8080").used = True
    plain = found.listener("0.0.0.0:80")
    plain.used = plain.redirect = True
    found.settle()
    assert "every route is served at every address (127.0.0.1:8080, 0.0.0.0:80)" in notes(found)
    assert "0.0.0.0:80 does not redirect" in notes(found)


def test_what_is_shown_cannot_steer_a_terminal() -> None:
    assert shown("a\x1b[2Jb\nc") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c"
    assert len(shown("x" * 10_000)) == 121


def test_thousands_of_one_name_are_quick_to_name() -> None:
    found = Found("a test")
    made = [found.upstream("a", "", {"urls": ["http://127.0.0.1:1"]}).name for _ in range(20_000)]
    assert len(set(made)) == 20_000  # with a search through all of them for each this takes minutes
