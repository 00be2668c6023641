"""What OpenSSL says first, cut anywhere, is read; nonsense never is."""

import itertools
import ssl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.net.hello import LONGEST, RECORDS, read


def hello(name: str | None = "a.example", protocols: tuple[str, ...] = (), version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What a client sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, *cuts: int) -> bytes:
    """The same message in several records."""
    message, ends = data[5:], [0, *cuts, len(data) - 5]
    pieces = [message[start:end] for start, end in itertools.pairwise(ends)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.example", "A.Example", None])
@pytest.mark.parametrize("protocols", [(), ("acme-tls/1",), ("h2", "http/1.1")])
def test_name_and_protocols(version: ssl.TLSVersion, name: str | None, protocols: tuple[str, ...]) -> None:
    found = read(hello(name, protocols, version))
    assert found is not None
    assert found.name == (name or "").lower()
    assert found.protocols == tuple(each.encode() for each in protocols)


def test_wherever_it_is_cut() -> None:
    data = hello("a.example", ("acme-tls/1",))
    whole = read(data)
    for end in range(len(data)):
        assert read(data[:end]) is None
    assert read(data + b"more") == whole
    for cut in (1, 3, 4, 5, 100, len(data) - 6):
        parts = in_records(data, cut)
        assert read(parts) == whole
        assert all(read(parts[:end]) is None for end in range(len(parts)))


def test_thousands_of_pieces_are_not_put_together_at_every_look() -> None:
    data = hello("a.example", ("acme-tls/1",))
    assert read(in_records(data, *range(1, RECORDS))) == read(data)
    with pytest.raises(ValueError, match="too many pieces"):
        read(in_records(data, *range(1, RECORDS + 1)))
    with pytest.raises(ValueError, match="too many pieces"):
        read(in_records(data, *range(1, len(data) - 5))[: (RECORDS + 1) * 6])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x02\x00\x00\x01\x01",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\xff\xff" + b"\x01\xff\xff\xff" + b"x" * LONGEST,
    ],
)
def test_nonsense_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=".+"):
        read(data)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_lengths_that_lie(at: int, lie: bytes) -> None:
    data = hello("a.example", ("h2",))
    at = min(at, len(data) - len(lie))
    try:
        read(data[:at] + lie + data[at + len(lie) :])
    except ValueError:
        pass


@given(st.binary(max_size=600))
@example(b"\x16\x03\x03\x00\x2c\x01\x00\x00\x28" + b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x00")
def test_any_bytes(data: bytes) -> None:
    try:
        read(data)
    except ValueError:
        pass
