"""mcpproxy cert: certificates."""

from __future__ import annotations

import click

from mcpproxy.cli.options import EXAMPLE, state_dir_option

TRUST = """\
trust the root for one program:
  curl --cacert {ca} …
  SSL_CERT_FILE={ca} python …
  NODE_EXTRA_CA_CERTS={ca} node …
or once for this machine (Debian); Node and many Python programs bring their own roots and still need the lines above:
  sudo cp {ca} /usr/local/share/ca-certificates/mcpproxy-dev.crt && sudo update-ca-certificates"""


@click.group("cert", epilog=EXAMPLE("mcpproxy cert dev"))
def command() -> None:
    """Certificates: make the development ones."""


@command.command("dev", epilog=EXAMPLE("mcpproxy cert dev", "mcpproxy cert dev --host mcp.test --host 192.168.1.20"))
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Another name or address to be good for; may be repeated.")
@state_dir_option
def dev(hosts: tuple[str, ...], state_dir: str | None) -> int:
    """Make a development root and a certificate for this machine, or renew what is close to its end.

    Good for localhost, 127.0.0.1, ::1, this machine's name, and every --host of this call and earlier ones.
    """
    from mcpproxy.config.model import default_state_dir
    from mcpproxy.pki import devca

    files = devca.ensure(state_dir or default_state_dir(), hosts)
    click.echo(f"root         {files.ca}\ncertificate  {files.cert}\nkey          {files.key}\n")
    click.echo(TRUST.format(ca=files.ca))
    return 0
