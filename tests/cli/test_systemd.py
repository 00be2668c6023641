"""The unit: what deploy/ holds, what systemd thinks of it."""

import re
import subprocess
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.cli.options import DEFAULT_CONFIG
from mcpproxy.cli.systemd import DEFAULT_PROGRAM, socket_unit, unit
from mcpproxy.config.model import Config, Listen

DEPLOYED = Path(__file__).parents[2] / "deploy" / "mcpproxy.service"
EXPOSURE = 2.0  # of 10; what is left is having a network, which a proxy needs


def test_deploy_holds_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["systemd", "--program", str(DEFAULT_PROGRAM)]) == 0
    assert capsys.readouterr().out == DEPLOYED.read_text() == unit(DEFAULT_PROGRAM, DEFAULT_CONFIG)


def test_program_and_file_can_be_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["systemd", "--program", "/srv/bin/mcpproxy", "-c", "/srv/proxy.toml"]) == 0
    assert "\nExecStart=/srv/bin/mcpproxy run -c /srv/proxy.toml\n" in capsys.readouterr().out


def test_what_the_unit_would_not_see_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["systemd", "--program", "/home/me/.venv/bin/mcpproxy", "-c", "/root/proxy.toml"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# Install:")
    assert [line.partition(" from the daemon")[0] for line in err.splitlines()] == [
        "mcpproxy: warning: the unit hides /home/me/.venv/bin/mcpproxy",
        "mcpproxy: warning: the unit hides /root/proxy.toml",
    ]
    assert status_of(["systemd", "--program", str(DEFAULT_PROGRAM)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/etc/my proxy.toml", '"/etc/my proxy.toml"'),
        ("/etc/100%.toml", '"/etc/100%%.toml"'),
        ("/etc/$HOME.toml", '"/etc/$$HOME.toml"'),
        ('/etc/a"b\\c.toml', r'"/etc/a\"b\\c.toml"'),
        ("/etc/x\nExecStartPost=/bin/evil", r'"/etc/x\x0aExecStartPost=/bin/evil"'),
    ],
)
def test_a_path_is_one_word_whatever_is_in_it(file: str, words: str) -> None:
    lines = unit(DEFAULT_PROGRAM, Path(file)).splitlines()
    assert f"ExecStart={DEFAULT_PROGRAM} run -c {words}" in lines
    assert f"ExecStartPre={DEFAULT_PROGRAM} check -c {words}" in lines
    assert f"ExecReload={DEFAULT_PROGRAM} reload -c {words} --pid $MAINPID" in lines


def test_a_relative_path_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """systemd starts in /."""
    monkeypatch.chdir(tmp_path)
    assert status_of(["systemd", "--program", "bin/mcpproxy", "-c", "proxy.toml"]) == 0
    assert f"\nExecStart={tmp_path}/bin/mcpproxy run -c {tmp_path}/proxy.toml\n" in capsys.readouterr().out


def test_by_default_it_starts_the_mcpproxy_that_printed_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["systemd"]) == 0
    found = re.search(r"^ExecStart=(\S+) run", capsys.readouterr().out, re.MULTILINE)
    assert found
    assert found[1].startswith("/")


def test_a_reload_reads_nothing_itself() -> None:
    """systemd hides what LoadCredential= gives to the daemon from ExecReload=: a check there fails for want of the certificate."""
    assert [line.split()[1] for line in DEPLOYED.read_text().splitlines() if line.startswith("ExecReload=")] == ["reload"]


def test_a_worker_without_memory_does_not_end_the_others() -> None:
    """systemd's default stops the whole service when the kernel ends one of its processes."""
    assert "\nOOMPolicy=continue\n" in DEPLOYED.read_text()


def test_it_gets_as_long_to_end_as_a_drain_takes() -> None:
    """TimeoutStopSec must outlast the default drain, or systemd kills streams the daemon still carries."""
    found = re.search(r"^TimeoutStopSec=(\d+)h (\d+)min$", DEPLOYED.read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) * 3600 + int(found[2]) * 60 > Config(listen=(Listen(address="127.0.0.1:1"),)).drain


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    program = tmp_path / "mcpproxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    file = tmp_path / "mcpproxy.service"
    file.write_text(unit(program, DEFAULT_CONFIG))
    socket = tmp_path / "mcpproxy.socket"
    socket.write_text(socket_unit(program, DEFAULT_CONFIG, ["0.0.0.0:443", "[::]:443", "unix:/run/a.sock"]))
    answer = subprocess.run(["systemd-analyze", "verify", str(file), str(socket)], capture_output=True, text=True, check=False)
    assert (answer.returncode, [line for line in answer.stderr.splitlines() if "mcpproxy" in line]) == (0, [])


def test_a_socket_unit_has_the_addresses_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = addresses(tmp_path, "0.0.0.0:443", "[::]:443", f"unix:{tmp_path}/a%b.sock")
    assert status_of(["systemd", "--socket", "-c", str(config)]) == 0
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("ListenStream=")] == [
        "ListenStream=0.0.0.0:443",
        "ListenStream=[::]:443",
        f"ListenStream={tmp_path}/a%%b.sock",
    ]
    assert "\nBindIPv6Only=ipv6-only\n" in out
    assert err == ""


def test_what_a_socket_unit_cannot_keep_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["systemd", "--socket", "-c", str(addresses(tmp_path, "unix:/run/mcpproxy/x.sock"))]) == 0
    assert "/run/mcpproxy/x.sock goes when the service stops" in capsys.readouterr().err
    assert status_of(["systemd", "--socket", "-c", str(addresses(tmp_path, "127.0.0.1:0"))]) == 1
    assert "another port at every start" in capsys.readouterr().err


def addresses(folder: Path, *each: str) -> Path:
    file = folder / "mcpproxy.toml"
    listen = "".join(f'[[listen]]\naddress = "{address}"\n' for address in each)
    file.write_text(f'{listen}[upstream.u]\nurls = ["http://127.0.0.1:1"]\n[[route]]\nupstream = "u"\n')
    return file


@pytest.mark.needs("systemd-analyze")
def test_systemd_calls_it_well_protected() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE * 10:.0f}", str(DEPLOYED)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
