"""What the control process does beside those who serve: the tables of the configuration that say so.

`model` hangs these tables into the whole, as those of `policies`; how a table is written, read and documented is told there.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Struct

from mcpproxy.config import names
from mcpproxy.config.kinds import Choice, Duration, File, Flag, Key, Number, Secret, Text

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


class Otel(Struct, frozen=True, kw_only=True):
    """Traces by OpenTelemetry: a span for each exchange that goes to a server, sent by OTLP over HTTP. Needs `pip install 'mcpproxy[otel]'`.

    Whose `traceparent` says that it is sampled is seen, whose says that it is not is let be; the server gets our span as its parent.
    """

    endpoint: Annotated[
        str, Key(Text("URL", names.https_url), "The collector, like `http://127.0.0.1:4318/v1/traces`. Plain http only on this machine.")
    ]
    sample: Annotated[float, Key(Number(), "The share of exchanges without `traceparent` that are seen: 0 none, 1 all.")] = 1.0
    service_name: Annotated[str, Key(Text("text", names.words), "What we are called there.")] = "mcpproxy"
    authorization: Annotated[
        str | None, Key(Secret(), "What is shown to the collector, the whole field: `Authorization: …`. Read at the start.", "nothing")
    ] = None


def admin_place(admin: Admin, state_dir: str) -> str:
    """The address in the words of `[[listen]]`, or `off`."""
    if admin.address is not None:
        return admin.address
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"unix:{os.path.join(os.path.expanduser(runtime or state_dir), SOCKET)}"


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
CHALLENGES = ("auto", "http-01", "tls-alpn-01")


class Acme(Struct, frozen=True, kw_only=True):
    """The authority that signs the certificates of `listen.tls.acme` (RFC 8555), and how it is shown that the names are ours."""

    directory: Annotated[
        str | None,
        Key(Text("URL", names.https_url), "The URL of its directory, for another authority than Let's Encrypt.", "Let's Encrypt"),
    ] = None
    staging: Annotated[
        bool,
        Key(
            Flag(),
            "Let's Encrypt's staging authority: nobody trusts its certificates, and its limits are wide. To try whether names and ports are right.",
        ),
    ] = False
    ca: Annotated[
        str | None,
        Key(
            File(), "Authorities (PEM) trusted for the TLS of the directory itself, for an authority inside your network.", "the usual ones"
        ),
    ] = None
    eab_key_id: Annotated[
        str | None,
        Key(
            Text("text", names.words),
            "External account binding: the id of the key that the authority gave you. Goes with `eab_hmac`.",
            "none",
        ),
    ] = None
    eab_hmac: Annotated[str | None, Key(Secret(), "And that key itself, in base64url as it was given.", "none")] = None
    challenge: Annotated[
        Literal["auto", "http-01", "tls-alpn-01"],
        Key(
            Choice('"auto", "http-01" or "tls-alpn-01"', CHALLENGES),
            'How the authority sees that a name leads here. `"http-01"`: it asks by plain HTTP on port 80, and a plain listener answers (the one with '
            '`redirect = "https"` will do). `"tls-alpn-01"`: by TLS on port 443, and the listener that has the names answers. `"auto"`: HTTP where there is '
            "a plain listener, the other way after a failure.",
        ),
    ] = "auto"
    retry: Annotated[
        float,
        Key(Duration(), "After a failure it is tried again this much later, after each further one twice as late, at most 12 hours."),
    ] = 60.0

    @property
    def url(self) -> str:
        """Of the directory."""
        return self.directory or (LETS_ENCRYPT_STAGING if self.staging else LETS_ENCRYPT)


TABLES: dict[type, str] = {Admin: "[admin]", Affinity: "[affinity]", Acme: "[acme]", Otel: "[otel]"}
