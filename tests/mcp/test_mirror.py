"""What the head says about the call is believed only when the body says the same."""

from base64 import b64encode

import pytest

from mcpproxy.mcp.call import VERSION_KEY, calls_of
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.mirror import Mirror, read
from tests.mcp.test_call import compact, message

MODERN = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "search"}
META = {"_meta": {VERSION_KEY: "2026-07-28"}}


def mirror(*fields: tuple[str, str], **named: str) -> Mirror:
    given = [*fields, *((name.replace("_", "-"), value) for name, value in named.items())]
    return read([(name.encode(), name.lower().encode(), value.encode("latin-1")) for name, value in given])


def modern(**changed: str | None) -> Mirror:
    fields = MODERN | {name.replace("_", "-"): value for name, value in changed.items()}
    return mirror(*((name, value) for name, value in fields.items() if value is not None))


def refusal(mirror: Mirror, body: bytes) -> tuple[str, int, bytes, int]:
    with pytest.raises(CallError) as caught:
        mirror.check(calls_of(body))
    return caught.value.kind, caught.value.code, caught.value.id, caught.value.status


def wrapped(name: str) -> str:
    return f"=?base64?{b64encode(name.encode()).decode()}?="


@pytest.mark.parametrize("name", ["search", "größe", " x ", "a\tb", "=?base64?YQ==?=", "a\nb", "😀", ""])
def test_a_true_mirror_is_accepted_however_it_is_wrapped(name: str) -> None:
    body = compact(message(params={"name": name, **META}))
    modern(Mcp_Name=wrapped(name)).check(calls_of(body))
    if name.isascii() and name == name.strip() and name.isprintable() and not name.startswith("=?"):
        modern(Mcp_Name=name).check(calls_of(body))


@pytest.mark.parametrize("id", [0, "", "x", -1, 12345678901234567890])
@pytest.mark.parametrize(
    "changed",
    [
        {"Mcp_Name": "delete"},
        {"Mcp_Name": "Search"},
        {"Mcp_Name": wrapped("delete")},
        {"Mcp_Name": wrapped("search ")},
        {"Mcp_Name": "=?BASE64?c2VhcmNo?="},  # another case is no marker: this is the name itself
        {"Mcp_Name": "=?base64?c2VhcmNo"},
        {"Mcp_Method": "tools/list"},
        {"Mcp_Method": "Tools/call"},
        {"MCP_Protocol_Version": "2026-07-29"},
    ],
)
def test_a_mirror_that_contradicts_the_body_is_refused_with_the_id(changed: dict[str, str], id: object) -> None:
    body = compact(message(params={"name": "search", **META}, id=id))
    assert refusal(modern(**changed), body) == ("header-mismatch", -32020, compact(id), 400)


@pytest.mark.parametrize(
    "fields",
    [
        [("Mcp-Name", "a"), ("mcp-name", "a")],
        [("Mcp-Method", "tools/call"), ("MCP-METHOD", "tools/call")],
        [("MCP-Protocol-Version", "2026-07-28")],
        [("Mcp-Name", "=?base64?c2VhcmNo=?=")],  # too much padding
        [("Mcp-Name", "=?base64?c2Vhc mNo?=")],
        [("Mcp-Name", "=?base64?c2VhcmNp_w==?=")],
        [("Mcp-Name", "=?base64?YR==?=")],  # bits that nobody reads
        [("Mcp-Name", "=?base64?/w==?=")],  # no UTF-8
        [("Mcp-Name", "gr\xf6\xdfe")],
        [("Mcp-Method", "tools/call\x01")],
    ],
)
def test_fields_that_are_doubled_or_cannot_be_decoded_are_refused(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(CallError) as caught:
        mirror(("MCP-Protocol-Version", "2026-07-28"), *fields)
    assert (caught.value.kind, caught.value.code) == ("header-mismatch", -32020)


@pytest.mark.parametrize("version", [None, "2025-11-25", "2025-03-26", "", "2026-07-28x", "DRAFT-2027", "9999"])
def test_the_mirror_of_an_older_revision_is_not_looked_at(version: str | None) -> None:
    old = modern(MCP_Protocol_Version=version, Mcp_Method="tools/list", Mcp_Name="safe")
    assert (old.modern, old.method, old.name, old.call) == (False, None, None, None)
    old.check(calls_of(compact(message(params={"name": "delete"}))))


def test_the_revision_of_the_head_and_of_the_body_are_one() -> None:
    body = compact(message(params={"name": "search", **META}))
    assert refusal(modern(MCP_Protocol_Version="2025-11-25"), body)[0] == "header-mismatch"
    modern(MCP_Protocol_Version=None).check(calls_of(body))
    modern().check(calls_of(compact(message(params={"name": "search"}))))  # the server misses it


def test_what_the_head_does_not_say_contradicts_nothing() -> None:
    body = compact(message(params={"name": "search", **META}))
    modern(Mcp_Method=None).check(calls_of(body))
    modern(Mcp_Name=None).check(calls_of(body))
    modern(Mcp_Method="tools/list").check(calls_of(compact(message("tools/list"))))


def test_batches_ended_with_2025_03_26() -> None:
    body = compact([message(params={"name": "search"}), message("ping", id=2)])
    assert refusal(modern(), body)[:2] == ("bad-call", -32600)
    mirror(MCP_Protocol_Version="2025-03-26").check(calls_of(body))
    mirror().check(calls_of(body))
    listen = compact(message("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["a:b", "c:d"]}}))
    modern(Mcp_Method="subscriptions/listen", Mcp_Name=None).check(calls_of(listen))


def test_the_head_alone_names_the_call_where_it_says_enough() -> None:
    call = modern().call
    assert call is not None
    assert (call.method, call.name) == ("tools/call", "search")
    call = modern(Mcp_Method="tools/list", Mcp_Name=None).call
    assert call is not None
    assert (call.method, call.name) == ("tools/list", None)
    assert modern(Mcp_Name=None).call is None
    assert modern(Mcp_Method=None).call is None
    assert modern(Mcp_Method="completion/complete").call is None
    assert modern(Mcp_Method="subscriptions/listen").call is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Type", "application/json; charset=utf-7"),
        ("Content-Type", "application/json;charset=UTF-16"),
        ("Content-Type", 'application/json; charset="utf-8"; charset=utf-7'),
        ("Content-Type", "application/json; charset*=utf-8''utf-7"),
        ("Content-Type", "application/json; charset =utf-7"),
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "identity, br"),
    ],
)
def test_a_body_that_the_server_would_decode_otherwise_is_refused(name: str, value: str) -> None:
    with pytest.raises(CallError) as caught:
        mirror((name, value))
    assert (caught.value.kind, caught.value.status) == ("unreadable-body", 415)


@pytest.mark.parametrize("value", ["application/json", "application/json; charset=UTF-8", 'application/json;charset="utf-8"', ""])
def test_a_body_in_utf_8_is_read(value: str) -> None:
    assert not mirror(("Content-Type", value), ("Content-Encoding", "identity")).modern
