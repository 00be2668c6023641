"""mcpproxy systemd: the units, for this machine.

deploy/mcpproxy.service is what this prints without options; a test holds them together. `--socket` prints the unit of the addresses that a configuration names.

 1. The daemon has a user of its own that exists only while it runs, one capability (ports below 1024), and may write to its state and log
    directories alone.
 2. It may take as long to end as the longest stream it still carries: TimeoutStopSec is the default `drain` and a minute.
 3. `systemctl kill -s USR1 mcpproxy` reopens its log files. `systemctl reload` waits until the daemon says how it ended. It asks the daemon:
    systemd gives LoadCredential= files to ExecStart and ExecStartPre, but hides them from ExecReload, where `mcpproxy check` could not read them.
 4. A worker that the kernel ends for want of memory is replaced by its supervisor; systemd leaves the others alone (OOMPolicy). What the supervisor cannot
    mend (it stands still, or nobody serves) is the watchdog's.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from mcpproxy.cli.options import DEFAULT_CONFIG, EXAMPLE, unchecked
from mcpproxy.errors import StartError

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - from the daemon, by ProtectHome and PrivateTmp
FLEETING = "/run/mcpproxy/"  # RuntimeDirectory: systemd removes it when the service stops
PLAIN_WORD = re.compile(r"[A-Za-z0-9/._+@-]+")
DEFAULT_PROGRAM = Path("/opt/mcpproxy/bin/mcpproxy")
DEFAULT_ADVICE = "install to /opt/mcpproxy, configure in /etc/mcpproxy"
UNIT = """\
# Install:  python3 -m venv /opt/mcpproxy && /opt/mcpproxy/bin/pip install .     (in a checkout)
#           /opt/mcpproxy/bin/mcpproxy systemd > /etc/systemd/system/mcpproxy.service
#           systemctl daemon-reload && systemctl enable --now mcpproxy
# Keys:     files that only root can read are given to the daemon by LoadCredential=, as below; name them in the configuration as
#           /run/credentials/mcpproxy.service/cert.pem and …/key.pem
# Rotate:   systemctl kill -s USR1 mcpproxy   (reopens the log files, writes a line of counts to the journal)
# Restart:  waits for the last stream, at most `drain`; systemctl kill -s TERM mcpproxy ends it now

[Unit]
Description=mcpproxy, in front of Model Context Protocol servers
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStartPre={program} check -c {config}
ExecStart={program} run -c {config}
# The daemon is asked, and says how it ended: a file with mistakes makes the reload fail, with all of them.
ExecReload={program} reload -c {config} --pid $MAINPID
Restart=on-failure
RestartSec=1s
WatchdogSec=60s
OOMPolicy=continue
# The first SIGTERM drains: idle connections are closed, open exchanges and streams run to their end, at most `drain` (24h by default).
KillMode=mixed
TimeoutStopSec=24h 1min
LimitNOFILE=1048576

# Who it is, and where it may write. `state_dir` is $STATE_DIRECTORY, a log may go to /var/log/mcpproxy.
DynamicUser=yes
StateDirectory=mcpproxy
StateDirectoryMode=0700
LogsDirectory=mcpproxy
LogsDirectoryMode=0750
RuntimeDirectory=mcpproxy
UMask=0077
#LoadCredential=cert.pem:/etc/letsencrypt/live/mcp.example.com/fullchain.pem
#LoadCredential=key.pem:/etc/letsencrypt/live/mcp.example.com/privkey.pem

# What it may do: nothing but this.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateDevices=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
"""
SOCKET = """\
# Install:  {program} systemd --socket -c {config} > /etc/systemd/system/mcpproxy.socket
#           systemctl daemon-reload && systemctl stop mcpproxy; systemctl enable --now mcpproxy.socket && systemctl start mcpproxy
# Who connects while the service starts or restarts waits. Each address must be one of [[listen]], and the other way round when ports are below 1024.

[Unit]
Description=Addresses of mcpproxy

[Socket]
{streams}
BindIPv6Only=ipv6-only
Backlog=4096
SocketMode=0660

[Install]
WantedBy=sockets.target
"""


@click.command(
    epilog=EXAMPLE(
        "mcpproxy systemd > /etc/systemd/system/mcpproxy.service", "mcpproxy systemd --socket > /etc/systemd/system/mcpproxy.socket"
    )
)
@click.option("-c", "--config", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True, help="The file it serves.")
@click.option("--program", type=click.Path(path_type=Path), help="The mcpproxy it starts.  [default: this one]")
@click.option("--socket", is_flag=True, help="Print a socket unit instead, with the addresses of the configuration.")
def command(config: Path, program: Path | None, socket: bool) -> int:
    """Print a hardened systemd unit."""
    program = program or this_program()
    if socket:
        addresses = [listen.address for listen in unchecked(config, "-c CONFIG names another one").config.listen]
        for address in addresses:
            if address.endswith(":0") and not address.startswith("unix:"):
                raise StartError(f"{config}: {address} is another port at every start: a socket unit needs one")
            if address.startswith(f"unix:{FLEETING}"):
                click.echo(f"mcpproxy: warning: {address[5:]} goes when the service stops; name another directory", err=True)
        click.echo(socket_unit(program, config, addresses), nl=False)
        return 0
    for path in (program, config):
        if os.path.abspath(path).startswith(tuple(f"{place}/" for place in HIDDEN)):
            click.echo(f"mcpproxy: warning: the unit hides {os.path.abspath(path)} from the daemon; {DEFAULT_ADVICE}", err=True)
    click.echo(unit(program, config), nl=False)
    return 0


def unit(program: Path, config: Path) -> str:
    """The unit's text."""
    return UNIT.format(program=word(program), config=word(config))


def socket_unit(program: Path, config: Path, addresses: Iterable[str]) -> str:
    """The socket unit's text."""
    streams = "\n".join(f"ListenStream={address.removeprefix('unix:').replace('%', '%%')}" for address in addresses)
    return SOCKET.format(program=word(program), config=word(config), streams=streams)


def word(path: Path) -> str:
    """An absolute path as one word of a command line of systemd, which knows quotes, `%` specifiers and `$` variables."""
    plain = os.path.abspath(path)
    text = plain.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = "".join(character if character.isprintable() or ord(character) > 127 else f"\\x{ord(character):02x}" for character in text)
    return text if PLAIN_WORD.fullmatch(plain) else f'"{text}"'


def this_program() -> Path:
    """Where the running mcpproxy lives."""
    found = shutil.which(sys.argv[0]) or shutil.which("mcpproxy")
    return Path(os.path.abspath(found)) if found else DEFAULT_PROGRAM
