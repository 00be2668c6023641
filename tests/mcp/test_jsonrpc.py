"""What every parser reads the same way is read; the rest is refused."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.mcp.jsonrpc import MEMBERS, CallError, Words, check_utf8, fold, members, value

WORDS = Words("method", "name", "taskId", "task")


def test_the_members_of_an_object_as_they_came() -> None:
    found = members(b' { "name" : [ 1 , "a b" ] , "x":0 } ', WORDS)
    assert {key: bytes(raw) for key, raw in found.items()} == {"name": b'[1,"a b"]', "x": b"0"}
    assert members(b"{}", WORDS) == members(b"{ }", WORDS) == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"name":1,"name":1}', "ambiguous-call"),
        (b'{"x":1,"x":2}', "ambiguous-call"),
        (b'{"name":1, "n\\u0061me":2}', "ambiguous-call"),
        (b'{"Name":1}', "ambiguous-call"),
        (b'{"name ":1}', "ambiguous-call"),
        (b'{"taskid":1}', "ambiguous-call"),
        ('{"taſk":1}'.encode(), "ambiguous-call"),
        ('{"tas\u212a":1}'.encode(), "ambiguous-call"),
        ('{"ｎame":1}'.encode(), "ambiguous-call"),
        (b'{"ta\\u017fk":1}', "ambiguous-call"),
        (b"[1]", "bad-call"),
        (b'"a"', "bad-call"),
        (b"{'name':1}", "bad-json"),
        (b'{"name":1,}', "bad-json"),
        (b'{"name":NaN}', "bad-json"),
        (b'{"name":-Infinity}', "bad-json"),
        (b'{"name":01}', "bad-json"),
        (b'{"name":0x1}', "bad-json"),
        (b'{"name":/**/1}', "bad-json"),
        (b'{"name":1}}', "bad-json"),
        (b'{"name":1}\0', "bad-json"),
        (b'\xef\xbb\xbf{"name":1}', "bad-json"),
        (b'{"name":"\\ud800"}', "bad-json"),
        (b'{"name":"\\udc00"}', "bad-json"),
        (b'{"name":"\n"}', "bad-json"),
        (b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad-json"),
        (b'{"name":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "bad-json"),
        (b"", "bad-json"),
    ],
)
def test_what_two_parsers_may_read_differently_is_refused(text: bytes, kind: str) -> None:
    with pytest.raises(CallError) as caught:
        members(text, WORDS, b"7")
    assert (caught.value.kind, caught.value.id, caught.value.status) == (kind, b"7", 400)


def test_keys_may_be_written_in_ascii_or_as_they_are() -> None:
    for ascii in (True, False):
        assert list(members(json.dumps({"größe": 1, 'a"\\/': 2}, ensure_ascii=ascii).encode(), WORDS)) == ["größe", 'a"\\/']


def test_an_object_with_too_many_keys_is_not_looked_through() -> None:
    table = {f"k{n}": n for n in range(MEMBERS + 1)}
    with pytest.raises(CallError):
        members(json.dumps(table).encode(), WORDS)
    del table["k0"]
    assert len(members(json.dumps(table).encode(), WORDS)) == MEMBERS


def test_a_key_that_is_too_long_to_be_compared_is_refused() -> None:
    for key in ("x" * 257, "\u0301\u0316" * 100_000):
        with pytest.raises(CallError):
            members(json.dumps({key: 1}).encode(), WORDS)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(["name", "method", "Name", "n\u0061me"]), st.text(max_size=3)),
            st.recursive(st.integers() | st.text(max_size=3), lambda each: st.lists(each, max_size=2)),
            st.booleans(),
        ),
        max_size=5,
    ),
    st.sampled_from([(",", ":"), (", ", ": "), ("\n ,", " :\t")]),
)
@example([("é", 1, True), ("é", 1, False)], (",", ":"))
def test_what_is_accepted_is_what_every_parser_reads(parts: list[tuple[str, object, bool]], signs: tuple[str, str]) -> None:
    comma, colon = signs
    text = "{" + comma.join(json.dumps(k, ensure_ascii=a) + colon + json.dumps(v, ensure_ascii=a) for k, v, a in parts) + "}"
    pairs = json.loads(text, object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    try:
        found = members(text.encode("utf-8", "surrogatepass"), WORDS)
    except CallError:
        odd = len(keys) != len(set(keys)) or any(key not in WORDS.plain and WORDS.resembles(key) for key in keys)
        mixed = len({a for k, _, a in parts if not k.isascii()}) > 1 or any(not each.isascii() or "\x7f" in each for each in keys)
        lone = any("\ud800" <= each <= "\udfff" for each in json.dumps(pairs, ensure_ascii=False))
        assert odd or mixed or lone
    else:
        assert len(keys) == len(set(keys))
        assert {key: json.loads(bytes(raw)) for key, raw in found.items()} == json.loads(text)


def test_a_careless_reader_takes_these_for_the_same() -> None:
    assert {fold(word) for word in ("kind", "KIND", "Kınd", "KİND", " kind", "ＫＩＮＤ", "\u212aind")} == {"kind"}


def test_overlong_forms_cannot_hide_in_what_is_skipped() -> None:
    check_utf8("ä€😀".encode())
    for text in (b"\xc0\xa2", b"\xed\xa0\x80", b"\xff", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        with pytest.raises(CallError):
            check_utf8(text)


def test_a_value_that_is_too_large_to_be_compared_is_refused() -> None:
    assert [value(msgspec.Raw(text)) for text in (b"1.5", b"-0", b"true", b"null", b'"\\u00e4"')] == [1.5, 0, True, None, "ä"]
    assert isinstance(value(b"1.0"), float)
    assert len(value(b"[1,[2]]")) == len(value(b'{"a":{},"b":1}')) == 2  # type: ignore[arg-type]
    for text in (b"1e999", b"9" * 400):
        with pytest.raises(CallError):
            value(text)
