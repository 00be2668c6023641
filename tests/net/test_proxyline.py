"""PROXY headers, cut anywhere, as the specification and HAProxy write them."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.net.proxyline import SIGNATURE, V1_LONGEST, V2_LONGEST, Said, read
from tests.support.ports import free_port
from tests.support.software import Server

REST = b"POST /mcp HTTP/1.1\r\n"
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(0, 65535)
EXTENSIONS = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=200)), max_size=4)


def first(client: IPv4Address | IPv6Address, port: int) -> bytes:
    """Version 1."""
    return b"PROXY TCP%d %b %b %d 443\r\n" % (client.version, str(client).encode(), str(type(client)(1)).encode(), port)


def second(client: IPv4Address | IPv6Address, port: int, extensions: list[tuple[int, bytes]]) -> bytes:
    """Version 2."""
    addresses = client.packed + type(client)(1).packed + port.to_bytes(2, "big") + (443).to_bytes(2, "big")
    return block(
        0x11 if client.version == 4 else 0x21,
        addresses + b"".join(b"%c%b%b" % (kind, len(v).to_bytes(2, "big"), v) for kind, v in extensions),
    )


def block(family: int, addresses: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(addresses).to_bytes(2, "big") + addresses


def as_one_comes_by_itself(client: IPv4Address | IPv6Address) -> str:
    """What the system says of such a client; Python and the C library do not agree how to write ::1.2.3.4."""
    plain = (client.ipv4_mapped or client) if isinstance(client, IPv6Address) else client
    return socket.inet_ntop(socket.AF_INET if plain.version == 4 else socket.AF_INET6, plain.packed)


@given(ADDRESSES, PORTS, EXTENSIONS, st.booleans(), st.binary(max_size=40))
@example(ip_address("::ffff:192.0.2.1"), 1, [], False, b"")
@example(ip_address("::"), 0, [], True, b"PROXY ")
def test_a_header_is_read_when_it_is_whole_wherever_it_is_cut(
    client: IPv4Address | IPv6Address, port: int, extensions: list[tuple[int, bytes]], old: bool, rest: bytes
) -> None:
    header = first(client, port) if old else second(client, port, extensions)
    for cut in range(len(header)):
        assert read(header[:cut]) is None
    assert read(header + rest) == Said(len(header), (as_one_comes_by_itself(client), port))


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        block(0x00, b"", 0x20),
        block(0x11, bytes(12), 0x20),  # a health check says whose, and means nobody's
        block(0x00, b""),
        block(0x31, bytes(216)),
        block(0x12, bytes(12)),
        block(0x22, bytes(36)),
        block(0x00, bytes(V2_LONGEST - 16)),
    ],
)
def test_a_proxy_may_speak_for_itself(header: bytes) -> None:
    for cut in range(len(header)):
        assert read(header[:cut]) is None
    assert read(header + REST) == Said(len(header), None)


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\n",
        b"P ",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 ::1 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
        b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 \xb2.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n" + b" " * V1_LONGEST,
        b"PROXY " + b"x" * (V1_LONGEST - 7) + b"\r\n",
        SIGNATURE[:-1] + b"\r",
        b"\r\n\r\nGET",
        block(0x11, bytes(12), 0x11),
        block(0x11, bytes(12), 0x22),
        block(0x41, bytes(36)),
        block(0x13, bytes(12)),
        block(0x11, bytes(11)),
        block(0x21, bytes(35)),
        SIGNATURE + b"\x21\x00" + (V2_LONGEST - 15).to_bytes(2, "big"),
    ],
)
def test_what_is_no_header_is_refused_and_never_waited_for(wire: bytes) -> None:
    with pytest.raises(ValueError, match="PROXY header"):
        read(wire)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c"]),
)
def test_any_bytes_are_a_header_or_none_or_too_few(data: bytes, begin: bytes) -> None:
    """And what is waited for is bounded."""
    wire = begin + data
    try:
        said = read(wire)
    except ValueError:
        return
    if said is None:
        assert len(wire) < (V2_LONGEST if wire.startswith(SIGNATURE) else V1_LONGEST)
    else:
        assert said.size <= min(len(wire), V2_LONGEST)
        assert said == read(wire[: said.size])


HAPROXY = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen proxied
    {bind}
    bind 127.0.0.1:{{port}}
    server capture 127.0.0.1:{capture} {how}
"""


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id", "send-proxy-v2-ssl-cn"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_haproxy_is_understood(how: str, host: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as capture:
        capture.settimeout(10)
        at, port = (host, free_port(host)), free_port()
        file = tmp_path / "haproxy.cfg"
        file.write_text(HAPROXY.format(bind=f"bind {host}:{at[1]}", capture=capture.getsockname()[1], how=how).replace("{port}", str(port)))
        with Server("haproxy", "-db", "-f", file, port=port), socket.create_connection(at) as client:
            client.sendall(REST)
            us = client.getsockname()[:2]
            while True:  # the rig has knocked, too
                with capture.accept()[0] as link:
                    link.settimeout(10)
                    wire = link.recv(1)
                    while (said := read(wire)) is None:
                        wire += link.recv(1)
                    if said.client == us:
                        assert (said.size, link.recv(len(REST), socket.MSG_WAITALL)) == (len(wire), REST)
                        return


@pytest.mark.needs("haproxy")
def test_a_health_check_of_haproxy_speaks_for_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as capture:
        capture.settimeout(10)
        port = free_port()
        file = tmp_path / "haproxy.cfg"
        how = "send-proxy-v2 check check-send-proxy inter 100ms"
        file.write_text(HAPROXY.format(bind="", capture=capture.getsockname()[1], how=how).replace("{port}", str(port)))
        with Server("haproxy", "-db", "-f", file, port=port):
            while True:
                with capture.accept()[0] as link:
                    link.settimeout(10)
                    wire = link.recv(200)
                    if (said := read(wire)) is not None and said.client is None:
                        assert said.size == len(wire)
                        return
