"""What is known of a message."""

import pytest

from mcpproxy.connect import envelope


@pytest.mark.parametrize(
    ("raw", "key"), [(b'"1"', "'1'"), (b"1", "1"), (b"0", "0"), (b"null", ""), (b'"\\u00e9"', "'é'"), (b'"\xc3\xa9"', "'é'")]
)
def test_ids_are_the_same_however_they_are_spelled(raw: bytes, key: str) -> None:
    found = envelope.read(b'{"id":%b,"result":{}}' % raw)
    assert found is not None
    assert found[0].key == key


def test_batches_and_what_is_no_message() -> None:
    found = envelope.read(b'[{"id":1,"method":"a"},{"method":"b"}]')
    assert found is not None
    assert [(each.is_request, each.is_response) for each in found] == [(True, False), (False, False)]
    assert [envelope.read(raw) for raw in (b"", b"1", b"{", b'{"method":1}', b"[1]", b"[" * 10_000)] == [None] * 6


@pytest.mark.parametrize(
    ("meta", "version"),
    [
        (b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}', "2026-07-28"),
        (b"{}", None),
        (b"[]", None),
        (b'{"io.modelcontextprotocol/protocolVersion":"2025-11-25"}', None),
        (b'{"io.modelcontextprotocol/protocolVersion":1}', None),
    ],
)
def test_the_era_is_the_messages(meta: bytes, version: str | None) -> None:
    found = envelope.read(b'{"id":1,"method":"x","params":{"_meta":%b}}' % meta)
    assert found is not None
    assert envelope.version(envelope.params(found[0])) == version


def test_params_that_are_no_object_are_empty() -> None:
    found = envelope.read(b'{"id":1,"method":"x","params":[1]}')
    assert found is not None
    assert envelope.params(found[0]) == envelope.Params()
    assert envelope.plain(b"{") is None
