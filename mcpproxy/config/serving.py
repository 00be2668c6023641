"""What the control process does beside those who serve: the tables of the configuration that say so.

`model` hangs these tables into the whole, as those of `policies`; how a table is written, read and documented is told there.
"""

from __future__ import annotations

import os
from typing import Annotated

from msgspec import Struct

from mcpproxy.config import names
from mcpproxy.config.kinds import Key, Secret, Text

OFF = "off"
SOCKET = "admin.sock"


def admin_address(text: str) -> str:
    """A listening address, or `off`."""
    return text if text == OFF else names.address(text)


class Admin(Struct, frozen=True, kw_only=True):
    """Where an operator asks how it goes and says what shall change: `mcpproxy status`, `mcpproxy top`, the dashboard, `/metrics`.

    Who may open its unix socket may do everything there. On TCP it listens on a loopback address, where everybody on this machine may come in, or asks
    for a `token`.
    """

    address: Annotated[
        str | None,
        Key(
            Text('address or "off"', admin_address),
            '`"unix:/run/mcpproxy/admin.sock"` (for its owner and group), `"127.0.0.1:9090"`; `"off"`: nowhere. Other addresses than those of '
            "loopback need a `token`.",
            "`admin.sock` in `$RUNTIME_DIRECTORY` (systemd), else in `state_dir`, for its owner",
        ),
    ] = None
    token: Annotated[
        str | None,
        Key(
            Secret(),
            "What must be shown over TCP (`Authorization: Bearer …`; the dashboard asks for it). It travels in the clear: across a network only "
            "inside TLS or a tunnel, like `ssh -L`. Read at the start.",
            "none",
        ),
    ] = None


def admin_place(admin: Admin, state_dir: str) -> str:
    """The address in the words of `[[listen]]`, or `off`."""
    if admin.address is not None:
        return admin.address
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"unix:{os.path.join(os.path.expanduser(runtime or state_dir), SOCKET)}"


TABLES: dict[type, str] = {Admin: "[admin]"}
