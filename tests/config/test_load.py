"""TOML to Config: what is read, and that every mistake is named, all at once, and as nothing but a mistake."""

import copy
import os
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mcpproxy.config import files
from mcpproxy.config import load as module
from mcpproxy.config.load import LARGEST_FILE, ConfigErrors, _read_data, load, read, serve_config
from mcpproxy.config.model import LATER, Config, Listen, Route, Tls, Upstream
from mcpproxy.config.reference import EXAMPLE
from tests.config.samples import GOOD, mistakes, only, with_listen, with_route, with_upstream
from tests.support.toml import write_toml


def test_the_smallest_file() -> None:
    config = load(GOOD)
    assert config.listen == (Listen(address="127.0.0.1:8000"),)
    assert config.upstream == {"search": Upstream(urls=("http://127.0.0.1:9000",))}
    assert config.route == (Route(upstream="search"),)


def test_units_lists_and_tables_arrive_as_the_model_has_them() -> None:
    config = load(EXAMPLE)
    search, files, *_, rest = config.route
    assert (search.max_body, search.sse_keepalive, search.host) == (20 << 20, 15.0, ("mcp.example.com",))
    assert files.host == ("mcp.example.com", "*.files.example.com")
    assert rest.host == ()
    assert (config.drain, config.limits.head, config.upstream["search"].retry_after) == (3600.0, 32768, 10.0)
    tls = config.listen[1].tls
    assert isinstance(tls, Tls)
    assert [files.cert for files in tls.files] == ["/etc/mcpproxy/example.pem", "/etc/mcpproxy/other.pem"]


def test_every_mistake_at_once_each_with_its_place() -> None:
    text = """\
drain = 5
bogus = 1
[[listen]]
address = "localhost:80"
tls = "def"
[upstream.serch]
urls = ["http://127.0.0.1:8000/mcp"]
[[route]]
upstream = "search"
idle_timout = "3h"
max_body = 10
[limits]
fields = "many"
"""
    found = {(mistake.path, mistake.line) for mistake in mistakes(text)}
    assert found == {
        ("drain", 1),
        ("bogus", 2),
        ("listen[0].address", 4),
        ("listen[0].tls", 5),
        ("upstream.serch.urls[0]", 7),
        ("route[0].upstream", 9),
        ("route[0].idle_timout", 10),
        ("route[0].max_body", 11),
        ("limits.fields", 13),
    }


@pytest.mark.parametrize(
    ("text", "path", "line", "said"),
    [
        (with_route("idle_timout = 1"), "route[0].idle_timout", 7, 'did you mean "idle_timeout"?'),
        (with_route("keepalive = 1"), "route[0].keepalive", 7, "it belongs into [upstream.NAME] or [limits]"),
        ("max_body = 1\n" + GOOD, "max_body", 1, "it belongs into [[route]]"),
        (with_upstream('command = "npx"'), "upstream.search.command", 5, 'must be a list in brackets: ["npx"]'),
        ("zzz = 1\n" + GOOD, "zzz", 1, "no such key"),
        (GOOD.replace('upstream = "search"', ""), "route[0].upstream", 5, "is missing"),
        (GOOD.replace("address", "adress"), "listen[0].adress", 2, 'did you mean "address"?'),
        (GOOD.replace("[[listen]]", "[listen]"), "listen", 1, "write [[listen]]"),
        (GOOD.replace("[upstream.search]", "[[upstream]]"), "upstream", 3, "write [upstream.NAME]"),
        (GOOD.replace("[upstream.search]", '[upstream."a b"]').replace('"search"', '"a b"'), 'upstream."a b"', 3, "1 to 64 letters"),
        ("upstream.x = 1\n" + GOOD.replace("[upstream.search]", "[route_]"), "upstream.x", 1, "must be a table"),
        ("listen = 1\n" + GOOD[GOOD.index("[up") :], "listen", 1, "must be a list of tables: write [[listen]] and its keys below it"),
        ("listen = [1]\n" + GOOD[GOOD.index("[up") :], "listen[0]", 1, "must be a table"),
        (
            with_upstream("").replace('["http://127.0.0.1:9000"]', '"http://127.0.0.1:9000"'),
            "upstream.search.urls",
            4,
            '["http://127.0.0.1:9000"]',
        ),
        (GOOD.replace('"http://127.0.0.1:9000"', ""), "upstream.search.urls", 4, "the list is empty"),
        (GOOD.replace('9000"]', '9000",\n"http://127.0.0.1:9000/"]'), "upstream.search.urls[1]", 5, "is there twice"),
        (GOOD.replace('9000"]', '9000",\n1]'), "upstream.search.urls[1]", 5, "a text in quotes"),
        (with_listen('tls = "Dev"'), "listen[0].tls", 3, 'did you mean "dev"?'),
        (with_listen("tls = true"), "listen[0].tls", 3, 'must be "dev" or a table with the keys cert, key,'),
        (with_listen('redirect = "http"'), "listen[0].redirect", 3, "https"),
        (with_route('host = ["a.example", "*"]'), "route[0].host[1]", 7, "leave it out"),
        (with_route("host = 5"), "route[0].host", 7, "must be a text or a list in brackets"),
        (with_route("tools = { allow = 5 }"), "route[0].tools.allow", 7, "write [[route.tools.allow]] and its keys"),
        ("log = 1\n" + GOOD, "log", 1, "must be a table with the keys access, level"),
    ],
)
def test_mistakes_say_what_to_write(text: str, path: str, line: int, said: str) -> None:
    found = [mistake for mistake in mistakes(text) if mistake.path == path]
    assert [(mistake.line, said in str(mistake)) for mistake in found] == [(line, True)], list(map(str, mistakes(text)))


def test_unknown_keys_come_with_the_known_ones() -> None:
    assert "sse_keepalive" in only(with_route("idle_timout = 1")).choices
    assert only(with_route("").replace('"search"\n', '"serch"\n')).choices == ("search",)


def test_what_later_versions_bring_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LATER, Upstream, {"quantum": "servers that are and are not there"})
    mistake = only(with_upstream("quantum = true"))
    assert mistake.path == "upstream.search.quantum"
    assert mistake.message == "is not in this version: servers that are and are not there"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a = \n", 1, "column"),
        ("a = 1\nb\n", 2, "column 2: not TOML"),
        ("a = 1\na = 2\n", 2, "not TOML: Cannot overwrite a value"),
        ('a = "x\n', 1, "column 7: not TOML"),
        ("a = [1,\n\n", 3, "not TOML"),
        ("a = " + "9" * 5000, None, "not TOML"),
        ("a = " + "[" * 100_000, None, "nested too deeply"),
    ],
)
def test_a_text_that_is_no_toml_names_line_and_column(text: str, line: int | None, said: str) -> None:
    mistake = only(text)
    assert (mistake.path, mistake.line) == ("", line)
    assert said in mistake.message


def test_files_and_what_they_name(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(with_listen('tls = { cert = "a.pem", key = "/k/a.key" }'))
    tls = load(file).listen[0].tls
    assert isinstance(tls, Tls)
    assert (tls.cert, tls.key) == (f"{tmp_path}/a.pem", "/k/a.key")
    assert load(str(file)) == load(file)


def test_relative_names_are_meant_from_the_file_not_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.toml").write_text('state_dir = "state"\n' + GOOD)
    monkeypatch.chdir(tmp_path.parent)
    assert load(Path(tmp_path.name) / "m.toml").state_dir == f"{tmp_path}/state"


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.toml")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def test_windows_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_bytes(b"\xef\xbb\xbf" + with_route("bogus = 1").replace("\n", "\r\n").encode())
    assert only(file).line == 7


def test_other_encodings_and_large_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_bytes(GOOD.encode() + b"# caf\xe9\n")
    assert str(only(file)) == "line 7: not UTF-8 (byte 0xe9)"
    file.write_bytes(b"#" * (LARGEST_FILE + 1))
    assert "this is no configuration" in only(file).message


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text("bogus = 1\n" + GOOD)
    with pytest.raises(ConfigErrors) as caught:
        load(file)
    assert caught.value.message == f"{file}: 1 mistake"


def test_a_wrong_table_does_not_make_others_wrong() -> None:
    """An upstream that cannot be read is still an upstream; a listener without an address is no duplicate."""
    assert only(GOOD.replace("http://127", "htp://127")).path == "upstream.search.urls[0]"
    assert [mistake.path for mistake in mistakes("[[listen]]\n[[listen]]\n" + GOOD)] == ["listen[0].address", "listen[1].address"]
    assert only("upstream = 3\n" + GOOD.replace("[upstream.search]", "[limits]").replace("urls = ", "# ")).path == "upstream"
    assert only("route = 3\n" + GOOD[: GOOD.index("[[route]]")]).path == "route"


def test_quick_mode() -> None:
    config = serve_config("http://127.0.0.1:8000/")
    assert (config.listen[0].address, config.listen[0].tls) == ("127.0.0.1:8443", "dev")
    assert (config.route[0].path, config.upstream["server"].urls) == ("/", ("http://127.0.0.1:8000",))
    plain = serve_config("unix:/run/x.sock", no_tls=True, state_dir="/tmp/s")
    assert (plain.listen[0].address, plain.listen[0].tls, plain.state_dir) == ("127.0.0.1:8080", None, "/tmp/s")
    assert serve_config("http://h", listen="[::]:443").listen[0].address == "[::]:443"
    assert serve_config("http://h", state_dir="here").state_dir == f"{os.getcwd()}/here"


def test_mistakes_of_quick_mode_name_the_arguments() -> None:
    with pytest.raises(ConfigErrors) as caught:
        serve_config("http://127.0.0.1:8000/mcp", listen="localhost:1")
    assert {mistake.path for mistake in caught.value.mistakes} == {"--listen", "URL"}


def test_warnings_have_lines() -> None:
    (warning,) = read(with_route('sse_keepalive = "100ms"')).warnings
    assert (warning.path, warning.line) == ("route[0].sse_keepalive", 7)


VALUES = st.recursive(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.sampled_from(["24h", "10MiB", "search", "dev", "127.0.0.1:1", "http://h", "/", "*.a.example", "1.2", "0s", "unix:/a", ""]),
        st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["cert", "key", "hosts", "urls", "path", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def everywhere(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, item in inner for place in everywhere(item, (*path, name)))]


@given(st.data())
def test_any_change_of_a_good_file_is_loaded_or_refused_with_its_path(data: st.DataObject) -> None:
    """A value replaced, removed or added anywhere in the complete example: a Config, or mistakes that say where. Never another exception."""
    changed = copy.deepcopy(tomllib.loads(EXAMPLE))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(everywhere(changed)[1:]))
        within: Any = changed
        for part in place[:-1]:
            within = within[part]
        how = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "replace":
            within[place[-1]] = data.draw(VALUES)
        elif how == "remove":
            del within[place[-1]]
        elif isinstance(within, dict):
            within[data.draw(st.one_of(st.text(max_size=6), st.sampled_from(["auth", "tls", "host", "urls", "command", "limits"])))] = (
                data.draw(VALUES)
            )
        else:
            within.append(data.draw(VALUES))
        if not everywhere(changed)[1:]:
            break
    loaded_or_refused(changed)


def loaded_or_refused(data: dict[str, Any]) -> None:
    config, findings = _read_data(data, "/etc")
    assert isinstance(config, Config)
    for finding in findings:
        assert finding.place
        assert finding.message
        str(finding.located({}))


@given(st.text(alphabet=st.sampled_from(EXAMPLE), max_size=80), st.integers(0, len(EXAMPLE)), st.integers(0, 60))
def test_any_change_of_the_text_is_loaded_or_refused(other: str, start: int, length: int) -> None:
    """Some characters of the example replaced by others: a Config, or mistakes; a line that is known lies in the text."""
    text = EXAMPLE[:start] + other + EXAMPLE[start + length :]
    for mistake in mistakes(text + "\n"):
        assert mistake.line is None or 1 <= mistake.line <= text.count("\n") + 2
        assert mistake.path or "not TOML" in mistake.message


def test_data_written_by_the_test_rig_is_read() -> None:
    """tests/support/toml writes what this reads."""
    assert load(write_toml(tomllib.loads(GOOD))) == load(GOOD)


def test_arguments_of_tools_have_any_name() -> None:
    rule = 'tools = { allow = [{ args = { "$filter" = { one_of = [1, true, "1"] }, "a b" = {}, _x.max = 1 } }] }'
    (allow,) = tools.allow if (tools := load(with_route(rule)).route[0].tools) else ()
    assert list(allow.args) == ["$filter", "a b", "_x"]
    assert allow.args["$filter"].one_of == (1, True, "1")
    assert "is there twice" in str(only(with_route(rule.replace("true", "1"))))


def test_patterns_for_texts_of_callers_are_those_that_are_never_slow() -> None:
    rule = 'tools = {{ allow = [{{ args = {{ x = {{ matches = "{}" }} }} }}] }}'
    assert load(with_route(rule.format("(a+)+b")))
    for wrong, said in (("(a", "not a regular expression"), ("(?=a)a", "looking ahead"), ("(a)\\\\1", "back references")):
        assert said in str(only(with_route(rule.format(wrong))))


@pytest.mark.parametrize(
    "text",
    [
        with_upstream('credential = "hunter2"'),
        with_upstream('credential = ["hunter2"]'),
        with_upstream('credential = { type = "header", value = "hunter2" }'),
        with_upstream('credential = { type = "header", value = ["hunter2"] }'),
        with_upstream('credential = { type = "header", value = "env:hunter2-" }'),
        with_upstream('credential = { type = "header", value = "Bearer hunter2", client_secret = "hunter2" }'),
        with_upstream('credential = { type = "header", valu = "hunter2" }'),
        with_upstream('credential = { type = "header", value = "hun\nter2" }'),
        with_upstream('credential = { type = "sigv4", access_key = "hunter2", secret_key = "hunter2", session_token = "hunter2" }'),
        with_upstream('credential = { type = "client-credentials", token_url = "https://me:hunter2@login.example" }'),
        with_upstream('credential = { type = "client-credentials", token_url = "me:hunter2@login.example:0" }'),
        with_route('auth = "a"\n[auth]\na = "hunter2"'),
        with_route('auth = "a"\n[auth.a]\ntype = "introspection"\nclient_secret = "hunter2"'),
        with_route('auth = "a"\n[auth.a]\ntype = "jwt"\nissuer = "https://me:hunter2@login.example"'),
    ],
)
def test_a_secret_that_stands_in_the_file_is_not_repeated(text: str) -> None:
    found = mistakes(text)
    assert found
    assert "hunter2" not in "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("more", "cores", "workers"),
    [
        ("", 4, 4),
        ("", 1, 1),
        ("", 200, 64),
        ("max_connections = 16", 4, 2),
        ("max_connections = 3", 4, 1),
        ("[limits]\nconnections = 200", 4, 3),
        ("[limits]\nconnections = 0", 4, 4),
    ],
)
def test_workers_nobody_counted_are_as_many_as_cores_and_sense(
    more: str, cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "cores", lambda: cores)
    text = with_upstream(more) if "max" in more else GOOD + more
    assert load(text).workers == load('workers = "auto"\n' + text).workers == workers
    assert load("workers = 3\n" + with_upstream("max_connections = 3")).workers == 3


def test_a_pipe_is_read_to_its_end_and_not_waited_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-c <(…)` is one; and at a reload everything else would wait, too."""
    ours, theirs = os.pipe()
    text = GOOD.encode() + b"# and so on\n" * 20_000
    writer = threading.Thread(target=lambda: (os.write(theirs, text[:100]), os.write(theirs, text[100:]), os.close(theirs)))
    writer.start()
    assert load(Path(f"/dev/fd/{ours}")) == load(GOOD)
    writer.join()
    os.close(ours)
    monkeypatch.setattr(module, "PIPE_S", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigErrors, match="1 mistake"):
        load(pipe)
    silent = os.open(pipe, os.O_RDWR)
    with pytest.raises(TimeoutError, match="nobody writes"):
        load(pipe)
    os.close(silent)


def test_thousands_of_routes_are_read_without_asking_the_model_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[type] = []
    real = structs.fields
    monkeypatch.setattr(structs, "fields", lambda table: (asked.append(table), real(table))[1])
    routes = "".join(f'[[route]]\nhost = "h{number}.example"\nupstream = "search"\n' for number in range(500))
    assert len(load(f"{GOOD}\n{routes}").route) == 501
    assert len(asked) < 100
