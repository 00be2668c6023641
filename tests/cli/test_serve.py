"""mcpproxy serve: one server, no file."""

import signal
import ssl
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.pki import devca
from tests.cli.rig import Command
from tests.support.client import RawClient
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer

ASK = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_https_with_a_development_certificate_whose_root_it_names(tmp_path: Path) -> None:
    port = free_port()
    with (
        ScriptedUpstream(answer()) as upstream,
        Command("serve", upstream.url, "--listen", f"127.0.0.1:{port}", state=tmp_path / "state") as command,
    ):
        root = devca.files(tmp_path / "state").ca
        command.until_says(str(root), "err")
        assert f"mcpproxy: serving https://127.0.0.1:{port}" in command.err
        with RawClient(port, tls=ssl.create_default_context(cafile=str(root))) as client:
            assert client.send(ASK).response().status == 200
        assert command.told_to_end() == 0


def test_plain_http_when_asked_for(tmp_path: Path) -> None:
    port = free_port()
    with (
        ScriptedUpstream(answer()) as upstream,
        Command("serve", upstream.url, "--no-tls", "--listen", f"127.0.0.1:{port}", state=tmp_path / "state") as command,
    ):
        command.until_says("serving", "err")
        with RawClient(port) as client:
            assert client.send(ASK).response().status == 200
        assert command.told_to_end(signal.SIGINT) == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (["ftp://127.0.0.1"], "URL"),
        (["127.0.0.1:8000"], "URL"),
        (["http://127.0.0.1:1", "--listen", "nowhere"], "--listen"),
        (["http://127.0.0.1:1", "--listen", ""], "--listen"),
    ],
)
def test_what_cannot_be_served_is_refused_by_the_name_it_has_on_the_command_line(
    arguments: list[str], blamed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["serve", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("mcpproxy: serve")
    assert lines[1].startswith(f"  {blamed}: ")


@pytest.mark.parametrize(
    ("options", "warning"), [(["--no-tls"], "plain HTTP on a public address"), ([], "a development certificate on a public")]
)
def test_what_is_unwise_to_listen_on_is_said(tmp_path: Path, options: list[str], warning: str) -> None:
    address = f"0.0.0.0:{free_port()}"
    with Command("serve", "http://127.0.0.1:1", *options, "--listen", address, state=tmp_path / "state") as command:
        command.until_says("serving", "err")
        assert command.err.startswith(f"mcpproxy: warning: --listen: {warning}")
        assert command.told_to_end() == 0


def test_ctrl_c_does_not_wait_for_a_stream_for_a_day(tmp_path: Path) -> None:
    def streaming(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        link.hang()

    port = free_port()
    with (
        ScriptedUpstream(streaming) as upstream,
        Command("serve", upstream.url, "--no-tls", "--listen", f"127.0.0.1:{port}", state=tmp_path / "state") as command,
    ):
        command.until_says("serving", "err")
        with RawClient(port) as client:
            client.send(ASK).read_until(b"a\r\n")
            command.process.send_signal(signal.SIGINT)
            command.until_says("draining: 1 connection still busy, ended in 10s at the latest", "err")
            assert command.told_to_end(signal.SIGINT) == 0
