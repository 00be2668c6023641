"""A daemon that cannot start says why in one line, what to do in the next, and exits with 1."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import Certificate, make_certificate
from tests.support.daemon import run_to_end, simple_config
from tests.support.ports import free_port

UPSTREAM = "http://127.0.0.1:9"
# root without these capabilities is an ordinary user towards ports and file modes; an ordinary user needs no prefix
ORDINARY = ["setpriv", "--bounding-set=-net_bind_service,-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def says(config: dict[str, Any] | str, directory: Path, *expected: str, prefix: list[str] | None = None) -> str:
    status, text = run_to_end(config, directory, prefix=prefix or [])
    assert status == 1, text
    assert "Traceback" not in text
    for part in expected:
        assert part in text, text
    assert len(text.splitlines()) <= 12, text
    return text


def with_tls(cert: Path, key: Path) -> dict[str, Any]:
    return simple_config(UPSTREAM, listen={"tls": {"cert": str(cert), "key": str(key)}})


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        says(simple_config(UPSTREAM, port=port), tmp_path, str(port), "in use")


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    says(simple_config(UPSTREAM, listen={"address": f"192.0.2.1:{free_port()}"}), tmp_path, "192.0.2.1")


def test_no_permission_for_a_low_port(tmp_path: Path) -> None:
    prefix = list(ORDINARY)
    if (
        int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 443
    ):  # a container that lets everybody: a fresh namespace does not
        prefix = ["unshare", "--map-root-user", "--net", "setpriv", "--bounding-set=-net_bind_service"]
    text = says(simple_config(UPSTREAM, listen={"address": "0.0.0.0:443"}), tmp_path, "443", "permission", prefix=prefix)
    assert "CAP_NET_BIND_SERVICE" in text or "systemd" in text, "it says what to do"


@pytest.mark.parametrize("which", ["cert", "key"])
@pytest.mark.parametrize(
    "damage", [lambda pem: b"no PEM at all", lambda pem: b"", lambda pem: pem[: len(pem) // 2]], ids=["text", "empty", "half"]
)
def test_a_bad_certificate_or_key(which: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "pki")
    broken: Path = getattr(made, which)
    broken.write_bytes(damage(broken.read_bytes()))
    says(with_tls(made.cert, made.key), tmp_path, broken.name)


def test_a_key_that_belongs_to_another_certificate(tmp_path: Path) -> None:
    one, other = make_certificate(tmp_path / "one"), make_certificate(tmp_path / "other")
    says(with_tls(one.cert, other.key), tmp_path, str(other.key), "not the key of")


@pytest.mark.parametrize("which", ["cert", "key"])
def test_a_file_that_is_not_there(which: str, tmp_path: Path, certificate: Certificate) -> None:
    files = {"cert": certificate.cert, "key": certificate.key, which: tmp_path / "absent.pem"}
    says(with_tls(files["cert"], files["key"]), tmp_path, "absent.pem", "No such file")


@pytest.mark.parametrize("which", ["cert", "key"])
def test_a_file_that_cannot_be_read(which: str, tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "pki")
    hidden: Path = getattr(made, which)
    hidden.chmod(0)
    says(with_tls(made.cert, made.key), tmp_path, hidden.name, "ermission", prefix=ORDINARY)


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    says(simple_config(UPSTREAM, log={"access": str(tmp_path / "no" / "such" / "dir" / "access.log")}), tmp_path, "access.log")


def test_a_unix_socket_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    says(simple_config(UPSTREAM, listen={"address": f"unix:{tmp_path}/none/in.sock"}), tmp_path, "in.sock")


def test_mistakes_are_all_named_at_once(tmp_path: Path) -> None:
    text = """
drain = "soon"
[[listen]]
address = "127.0.0.1:0x50"
[upstream.u]
urls = ["ftp://example"]
colour = "blue"
[[route]]
upstream = "v"
"""
    says(text, tmp_path, "drain", "address", "urls", "colour", "upstream", "mcpproxy.toml")


def test_text_that_is_not_toml(tmp_path: Path) -> None:
    says("[[listen\n", tmp_path, "line 1")


def test_a_failed_start_leaves_no_socket_behind(tmp_path: Path, certificate: Certificate) -> None:
    """The first listener was bound when the second failed: its port is free again, and a unix socket's file gone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = simple_config(UPSTREAM)
        config["listen"] = [{"address": f"unix:{tmp_path}/first.sock"}, {"address": f"127.0.0.1:{taken.getsockname()[1]}"}]
        says(config, tmp_path, "in use")
        assert not (tmp_path / "first.sock").exists()
