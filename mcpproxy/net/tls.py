"""TLS contexts: one per certificate, chosen by SNI, shared by every connection of a listener.

TLS 1.2 and 1.3 only; for 1.2 forward-secret AEAD suites; no renegotiation, no compression; session tickets on (OpenSSL's default). The first
certificate answers a client that names no host or an unknown one: the HTTP layer answers 421 then, which a person can read.

Client certificates are asked for where a listener has authorities for them: of all its contexts alike, for what OpenSSL checks belongs to the one the
connection began with. One that is not signed by them, not valid now, or not made for clients ends the handshake; no certificate does where it is required.

Certificate files are looked at every few seconds and taken when they changed (`ServerContext.look`). The listener's own context stays the same object
with the same keys for session tickets, which all workers have in common since before they were forked; what is swapped is the context that a connection
goes on with once its name is known. Connections that are there already keep theirs.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from mcpproxy.config import files
from mcpproxy.errors import StartError
from mcpproxy.net.authorities import name_authorities
from mcpproxy.net.fairtls import FairSocket

CIPHERS_12 = "ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2: Mozilla's "intermediate" list without DHE; TLS 1.3 suites are OpenSSL's own three
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


LOOK_S = 2.0  # seconds between two looks at the files
SETTLE_S = 10.0  # seconds that a certificate and a key may not fit, or be half written, before somebody is told


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain file and its private key file. `meanwhile` (both in one file) serves until there is a certificate that can."""

    cert: str
    key: str
    meanwhile: str = ""

    def stamps(self) -> tuple[files.Stamp | None, ...]:
        """To know a change by."""
        return files.stamp(self.cert), files.stamp(self.key)

    @property
    def present(self) -> Identity:
        """The files that can serve now."""
        if self.meanwhile and files.fault(self.cert, self.key) is not None:
            return Identity(self.meanwhile, self.meanwhile)
        return Identity(self.cert, self.key)


@dataclass(frozen=True, slots=True)
class Clients:
    """The file of the authorities that sign the certificates of clients, and whether every client must have one."""

    ca: str
    required: bool = False


class Worn:
    """One certificate of a listener: the context that shows it, and what its files were like when they were read."""

    __slots__ = ("context", "identity", "names", "said", "stamps", "strange_since")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.stamps = identity.stamps()
        self.strange_since = 0.0  # when files came that cannot be used; 0: those in use are the present ones
        self.said = False
        self.names: list[str] = []
        self.context: ssl.SSLContext


class ServerContext(ssl.SSLContext):
    """The context of a listener."""

    _worn: list[Worn]
    _dress: Callable[[ssl.SSLContext, Identity], None]
    _looked: float
    protocols: list[str]

    def become(self, fresh: ServerContext) -> None:
        """Show what the fresh one shows, to whom it would."""
        self.minimum_version = fresh.minimum_version
        self.protocols = fresh.protocols
        self.set_alpn_protocols(fresh.protocols)
        self._dress, self._worn = fresh._dress, fresh._worn
        self._order()

    def wear(self, identities: Sequence[Identity], dress: Callable[[ssl.SSLContext, Identity], None]) -> None:
        """Show these, in contexts made by `dress` (which raises StartError). The first one's is the listener's own."""
        self._dress, self._looked = dress, 0.0
        self._worn = [Worn(identity) for identity in identities]
        for number, worn in enumerate(self._worn):
            found = worn.identity.present
            worn.context = self if number == 0 else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            dress(worn.context, found)
            worn.names = certificate_names(found.cert)
        self._order()

    def look(self, now: float) -> Iterator[tuple[str, str]]:
        """Take what changed on the disk, and tell of it (level, text). `now` is monotonic; asked more often than every LOOK_S it does nothing."""
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for worn in self._worn:
            stamps = worn.identity.stamps()
            if stamps != worn.stamps or worn.strange_since:
                yield from self._changed(worn, stamps, now)

    def _changed(self, worn: Worn, stamps: tuple[files.Stamp | None, ...], now: float) -> Iterator[tuple[str, str]]:
        cert, key = worn.identity.cert, worn.identity.key
        try:
            if None in stamps:
                raise StartError(f"{key if stamps[0] else cert}: No such file or directory")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._dress(context, Identity(cert, key))
            names = certificate_names(cert)
        except (StartError, OSError, ValueError, IndexError) as error:  # half of it may still be on its way
            if stamps != worn.stamps or not worn.strange_since:
                worn.stamps, worn.strange_since, worn.said = stamps, now, False
            if now - worn.strange_since >= SETTLE_S and not worn.said:
                worn.said = True
                reason = error.message if isinstance(error, StartError) else f"{cert}: {error}"
                yield "error", f"{reason}; clients go on seeing the certificate from before"
            return
        worn.stamps, worn.strange_since, worn.context, worn.names = stamps, 0.0, context, names
        self._order()
        yield "info", f"{cert}: clients see this certificate from now on ({', '.join(names) or 'it has no names'})"

    def _order(self) -> None:
        """Who answers to which name. Without a choice there is nobody to ask: one certificate that never changed costs nothing."""
        first = self._worn[0].context
        if len(self._worn) == 1 and first is self:
            return
        by_name: dict[str, ssl.SSLContext] = {}
        for worn in self._worn:
            for name in worn.names:
                by_name.setdefault(name, worn.context)

        def choose(sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            name = (name or "").lower()
            found = by_name.get(name) or by_name.get("*." + name.partition(".")[2]) or first
            if found is not self:
                sock.context = found

        self.sni_callback = choose


def server_context(identities: Sequence[Identity], minimum: str, protocols: Sequence[str], clients: Clients | None = None) -> ServerContext:
    """The context of a listener. Raises StartError naming the file that is missing, unreadable, broken or does not match."""

    def dress(context: ssl.SSLContext, identity: Identity) -> None:
        _dress(context, identity, minimum, protocols)
        if clients is not None:
            _ask_for_certificates(context, clients)

    made = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    made.protocols = list(protocols)
    made.wear(identities, dress)
    return made


def take_over(live: ssl.SSLContext | None, fresh: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """The context that new connections begin with from now on: the live one where that can be, so that sessions are still resumed. Where authorities of
    clients are others it must not be: who resumes a session is not asked for a certificate again. Cannot fail."""
    if isinstance(live, ServerContext) and isinstance(fresh, ServerContext) and _authorities(live) == _authorities(fresh):
        live.become(fresh)
        return live
    return fresh


def _authorities(context: ssl.SSLContext) -> tuple[ssl.VerifyMode, list[bytes]]:
    return context.verify_mode, sorted(context.get_ca_certs(binary_form=True))


def client_context(ca: str | None, verify: bool, own: Identity | None = None, minimum: str = "1.2") -> ssl.SSLContext:
    """The context for https upstreams: system roots or the given CA file; `verify = false` turns all checks off. `own`: the certificate we show to
    servers that ask for one."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"CA file {ca}: {error}", "give a PEM file with the certificates of the authority") from None
    context.sslsocket_class = FairSocket
    context.minimum_version = VERSIONS[minimum]
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # on by default in some Pythons (Debian 12's): a cut would read as a clean end
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if own is not None:
        _load(context, own)
    return context


def certificate_names(cert: str) -> list[str]:
    """The DNS names and addresses a certificate file's leaf is good for, lower-case."""
    leaf = x509.load_pem_x509_certificates(Path(cert).read_bytes())[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = names.get_values_for_type(x509.DNSName) + [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    return [name.lower() for name in found]


def _ask_for_certificates(context: ssl.SSLContext, clients: Clients) -> None:
    """Only the given authorities count, the system's never; one that is not a root may be given without its root."""
    try:
        context.load_verify_locations(clients.ca)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"CA file {clients.ca}: {error}", "give a PEM file with the certificates of the authority") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED if clients.required else ssl.CERT_OPTIONAL
    name_authorities(context, clients.ca)


def _dress(context: ssl.SSLContext, identity: Identity, minimum: str, protocols: Sequence[str]) -> None:
    context.sslsocket_class = FairSocket
    context.minimum_version = VERSIONS[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_ciphers(CIPHERS_12)
    context.set_alpn_protocols(list(protocols))
    _load(context, identity)


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """A certificate and its key, or why they cannot be used (StartError)."""
    try:
        context.load_cert_chain(identity.cert, identity.key, password=files.no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        _, said, advice = files.fault(identity.cert, identity.key) or ("", f"{identity.cert}, {identity.key}: {error}", "")
        raise StartError(said, advice or "the daemon must be able to read its certificate and key") from None
