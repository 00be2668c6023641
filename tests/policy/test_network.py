"""Who may connect from where, and whose word counts."""

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.policy.network import HOPS, Networks, Ranges, plain

TRUSTED = Networks([], ["10.0.0.0/8", "2001:db8:1::/48"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::", "::"),
    ],
)
def test_addresses_as_proxies_write_them(text: str, address: str) -> None:
    assert str(plain(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "unknown", "_hidden", "unix", "localhost", "example.com", "192.0.2.256", "192.0.2", "1", "0x7f.0.0.1", "017.0.0.1"),
        *("192.0.2.1%eth0", "192.0.2.1:", "192.0.2.1:http", "192.0.2.1:123456", "192.0.2.1 ", "192.0.2.1/32", "[192.0.2.1]", "192.0.2.1\n"),
        *(
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[::1]:x",
            "[fe80::1%eth0]",
            "fe80::1%",
            "1::2::3",
            "12345::",
            "²",
            "١٩٢.0.2.1",
            '"192.0.2.1"',
        ),
        *("." * 15, ":" * 45, "1" * 5000, "[" * 5000, ":1" * 5000, "1." * 5000),
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert plain(text) is None


@given(st.ip_addresses(), st.sampled_from(["{}", "{}:80", "[{}]", "[{}]:80"]))
@example(ipaddress.ip_address("::1.2.3.4"), "[{}]")
def test_every_address_is_read_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address, shape: str) -> None:
    if (address.version == 4) is ("[" in shape) or (address.version == 6 and shape == "{}:80"):
        return
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert plain(shape.format(address)) == (mapped or address)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = plain(text)
    assert found is None or plain(str(found)) == found


def test_ranges_hold_addresses_however_they_are_written() -> None:
    ranges = Ranges(("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"))
    for inside in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:DB8::1", "2001:db8::1%eth0"):
        assert inside in ranges
    for outside in ("11.0.0.1", "192.0.2.2", "::10.1.2.3", "2001:db9::1", "::ffff:11.0.0.1", "unix", "", "rubbish"):
        assert outside not in ranges
    assert not Ranges(())


def test_a_unix_socket_is_in_no_network() -> None:
    assert "unix" not in Ranges(("0.0.0.0/0", "::/0"))
    assert "unix" in Ranges(("unix",))
    assert "127.0.0.1" not in Ranges(("unix",))
    assert Ranges(("unix",))


def test_routes_bar_addresses() -> None:
    networks = Networks([((), ()), (("10.0.0.0/8",), ()), ((), ("10.9.0.0/16",)), (("10.0.0.0/8", "unix"), ("10.9.0.0/16",))], ())
    assert networks.barred("10.1.0.1") == frozenset()
    assert networks.barred("10.9.0.1") == {2, 3}
    assert networks.barred("::ffff:10.9.0.1") == {2, 3}
    assert networks.barred("192.0.2.1") == {1, 3}
    assert networks.barred("2001:db8::1") == {1, 3}
    assert networks.barred("unix") == {1}
    assert networks.barred("rubbish") == {1, 3}


def test_it_is_known_when_addresses_decide_nothing() -> None:
    assert Networks([((), ())], ()).idle
    assert not Networks([((), ())], ("unix",)).idle
    assert not Networks([((), ("10.0.0.0/8",))], ()).idle


def test_nobody_is_trusted_by_default() -> None:
    nobody = Networks([], ())
    assert not nobody.trusts("127.0.0.1")
    assert not nobody.trusts("unix")
    assert TRUSTED.trusts("10.0.0.1")
    assert TRUSTED.trusts("::ffff:10.0.0.1")
    assert not TRUSTED.trusts("unix")
    assert Networks([], ("unix",)).trusts("unix")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.9"),
        ([b""], "10.0.0.9"),
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"192.0.2.1,10.0.0.1 ,\t10.0.0.2"], "192.0.2.1"),
        ([b"192.0.2.1", b"10.0.0.1", b"10.0.0.2"], "192.0.2.1"),
        ([b"198.51.100.7, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"198.51.100.7", b"192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"127.0.0.1, 192.0.2.1"], "192.0.2.1"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([b"192.0.2.1:52001, 10.0.0.1:443"], "192.0.2.1"),
        ([b"[2001:db8::5]:52001, 2001:db8:1::1"], "2001:db8::5"),
        ([b"2001:DB8:0::5"], "2001:db8::5"),
        ([b"::ffff:192.0.2.1, ::ffff:10.0.0.1"], "192.0.2.1"),
        ([b"198.51.100.7, unknown"], "10.0.0.9"),
        ([b"198.51.100.7, unknown, 10.0.0.1"], "10.0.0.1"),
        ([b"198.51.100.7, "], "10.0.0.9"),
        ([b"198.51.100.7", b""], "10.0.0.9"),
        ([b"198.51.100.7, , 10.0.0.1"], "10.0.0.1"),
        ([b"198.51.100.7, \xff, 10.0.0.1"], "10.0.0.1"),
        ([b"198.51.100.7, unix"], "10.0.0.9"),
        ([b'198.51.100.7, "192.0.2.1"'], "10.0.0.9"),
    ],
)
def test_the_client_is_the_last_one_that_is_no_proxy_of_ours(forwarded: list[bytes], client: str) -> None:
    assert TRUSTED.client("10.0.0.9", forwarded) == client


def test_behind_a_unix_socket_the_client_is_who_the_neighbour_says() -> None:
    assert Networks([], ("unix",)).client("unix", [b"198.51.100.7, 192.0.2.1"]) == "192.0.2.1"
    assert Networks([], ("unix",)).client("unix", [b"198.51.100.7, unix"]) == "unix"


def test_a_chain_without_end_ends() -> None:
    chain = [b", ".join(b"10.0.%d.%d" % divmod(number, 256) for number in range(3000))]
    assert TRUSTED.client("10.0.0.9", chain) == f"10.0.{(3000 - HOPS) // 256}.{(3000 - HOPS) % 256}"
    assert TRUSTED.client("10.0.0.9", [b"," * 30_000]) == "10.0.0.9"


ENTRIES = st.one_of(
    st.ip_addresses().map(str),
    st.integers(0, 255).map("10.0.0.{}".format),
    st.sampled_from(["", "unknown", "192.0.2.1:80", "[2001:db8:1::7]:80"]),
    st.text(st.characters(codec="latin-1", exclude_characters=","), max_size=12),
)


@given(st.lists(ENTRIES, max_size=8), ENTRIES, ENTRIES)
def test_what_a_client_writes_itself_counts_for_nothing(forged: list[str], other: str, more: str) -> None:
    """The nearest trusted proxy adds the address it sees; nothing left of that changes the answer."""
    seen = "192.0.2.77"
    for claim in (forged, [*forged, other], [more], []):
        chain = ", ".join([*claim, seen, "10.0.0.1"]).encode("latin-1", "replace")
        assert TRUSTED.client("10.0.0.9", [chain]) == seen
        assert TRUSTED.client("10.0.0.9", re.split(rb", ", chain)) == seen


@given(st.lists(ENTRIES, max_size=40))
def test_the_answer_is_an_address_and_found_again(entries: list[str]) -> None:
    found = TRUSTED.client("10.0.0.9", [",".join(entries).encode("latin-1", "replace")])
    assert str(ipaddress.ip_address(found)) == found
