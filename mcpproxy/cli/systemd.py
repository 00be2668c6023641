"""mcpproxy systemd: the unit, for this machine.

deploy/mcpproxy.service is what this prints without options; a test holds them together.

 1. The daemon has a user of its own that exists only while it runs, one capability (ports below 1024), and may write to its state and log
    directories alone.
 2. It may take as long to end as the longest stream it still carries: TimeoutStopSec is the default `drain` and a minute.
 3. `systemctl kill -s USR1 mcpproxy` reopens its log files; there is no reload yet.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import click

from mcpproxy.cli.options import DEFAULT_CONFIG, EXAMPLE

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - from the daemon, by ProtectHome and PrivateTmp
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
Restart=on-failure
RestartSec=1s
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


@click.command(epilog=EXAMPLE("mcpproxy systemd > /etc/systemd/system/mcpproxy.service"))
@click.option("-c", "--config", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True, help="The file it serves.")
@click.option("--program", type=click.Path(path_type=Path), help="The mcpproxy it starts.  [default: this one]")
def command(config: Path, program: Path | None) -> int:
    """Print a hardened systemd unit."""
    program = program or this_program()
    for path in (program, config):
        if os.path.abspath(path).startswith(tuple(f"{place}/" for place in HIDDEN)):
            click.echo(f"mcpproxy: warning: the unit hides {os.path.abspath(path)} from the daemon; {DEFAULT_ADVICE}", err=True)
    click.echo(unit(program, config), nl=False)
    return 0


def unit(program: Path, config: Path) -> str:
    """The unit's text."""
    return UNIT.format(program=word(program), config=word(config))


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
