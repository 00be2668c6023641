"""TLS contexts: one per certificate, chosen by SNI, made once and shared by every connection.

TLS 1.2 and 1.3 only; for 1.2 forward-secret AEAD suites; no renegotiation, no compression; session tickets on (OpenSSL's default). The first
certificate answers a client that names no host or an unknown one: the HTTP layer answers 421 then, which a person can read.

Client certificates are asked for where a listener has authorities for them: of all its contexts alike, for what OpenSSL checks belongs to the one the
connection began with. One that is not signed by them, not valid now, or not made for clients ends the handshake; no certificate does where it is required.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from mcpproxy.config import files
from mcpproxy.errors import StartError
from mcpproxy.net.authorities import name_authorities
from mcpproxy.net.fairtls import FairSocket

CIPHERS_12 = "ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2: Mozilla's "intermediate" list without DHE; TLS 1.3 suites are OpenSSL's own three
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain file and its private key file."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Clients:
    """The file of the authorities that sign the certificates of clients, and whether every client must have one."""

    ca: str
    required: bool = False


def server_context(
    identities: Sequence[Identity], minimum: str, protocols: Sequence[str], clients: Clients | None = None
) -> ssl.SSLContext:
    """The context of a listener. Raises StartError naming the file that is missing, unreadable, broken or does not match."""
    contexts = [_one_context(identity, minimum, protocols) for identity in identities]
    first = contexts[0]
    if clients is not None:
        for context in contexts:
            _ask_for_certificates(context, clients)
    if len(contexts) > 1:
        exact: dict[str, ssl.SSLContext] = {}
        for identity, context in zip(identities, contexts, strict=True):
            for name in certificate_names(identity.cert):
                exact.setdefault(name, context)

        def choose(sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            name = (name or "").lower()
            found = exact.get(name) or exact.get("*." + name.partition(".")[2])
            if found is not None:
                sock.context = found

        first.sni_callback = choose
    return first


def client_context(ca: str | None, verify: bool) -> ssl.SSLContext:
    """The context for https upstreams: system roots or the given CA file; `verify = false` turns all checks off."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"CA file {ca}: {error}", "give a PEM file with the certificates of the authority") from None
    context.sslsocket_class = FairSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # on by default in some Pythons (Debian 12's): a cut would read as a clean end
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
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


def _one_context(identity: Identity, minimum: str, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = FairSocket
    context.minimum_version = VERSIONS[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_ciphers(CIPHERS_12)
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(identity.cert, identity.key, password=files.no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        _, said, advice = files.fault(identity.cert, identity.key) or ("", f"{identity.cert}, {identity.key}: {error}", "")
        raise StartError(said, advice or "the daemon must be able to read its certificate and key") from None
    return context
