"""What the control process does beside those who serve: the tables of the configuration that say so.

`model` hangs these tables into the whole, as those of `policies`; how a table is written, read and documented is told there.
"""

from __future__ import annotations

import os
from typing import Annotated

from msgspec import Struct

from mcpproxy.config import names
from mcpproxy.config.kinds import Duration, File, Key, Secret, Text

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


class Affinity(Struct, frozen=True, kw_only=True):
    """How sessions stay with the server that opened them (`upstream.affinity`): the id a client gets holds, under a seal, the server's own id, its address,
    the caller and the time.

    Whoever has the keys can open it: all workers, and all nodes that share the file. See [operations.md](operations.md#replicas-and-sessions).
    """

    key_file: Annotated[
        str | None,
        Key(
            File(),
            "The keys, one a line: the first seals, all open. The same file on every node behind one name; a change counts within seconds. "
            "`mcpproxy affinity rotate` puts a new key in front.",
            "`session.keys` in `state_dir`, made when it is not there",
        ),
    ] = None
    ttl: Annotated[
        float,
        Key(
            Duration(),
            "How long an id is valid, from when its session was opened; then 404, and the client begins anew. Servers end idle sessions themselves, and "
            "far sooner. Old keys may go when they have sealed nothing for this long.",
        ),
    ] = 30 * 24 * 3600.0


def admin_place(admin: Admin, state_dir: str) -> str:
    """The address in the words of `[[listen]]`, or `off`."""
    if admin.address is not None:
        return admin.address
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"unix:{os.path.join(os.path.expanduser(runtime or state_dir), SOCKET)}"


TABLES: dict[type, str] = {Admin: "[admin]", Affinity: "[affinity]"}
