"""The keys that seal session tickets (RFC 8446 §4.6.1, RFC 5077), so that the program which takes our place can open the tickets we gave.

OpenSSL makes them at random for each context and Python has no word for them; libssl is asked as in net/authorities, and where that is not possible
clients of the next program begin with a whole handshake. They go with the authorities of client certificates: who resumes a session is not asked for one.
"""

from __future__ import annotations

import ctypes
import ssl
from hashlib import sha256

from mcpproxy.net import authorities
from mcpproxy.net.authorities import libssl_context

GET, SET = 58, 59  # SSL_CTRL_GET_TLSEXT_TICKET_KEYS, SSL_CTRL_SET_TLSEXT_TICKET_KEYS (openssl/ssl.h)
SIZES = (48, 80)  # bytes: name, and the keys that sign and encrypt, as OpenSSL 1.0 and 1.1 made them


def keys_of(context: ssl.SSLContext) -> tuple[bytes, bytes] | None:
    """For whom (by the authorities of clients), and the keys. None: it cannot be asked."""
    pointer = libssl_context(context)
    if pointer is None:
        return None
    control = authorities.libssl.SSL_CTX_ctrl
    size = control(pointer, GET, 0, None)
    if size not in SIZES:
        return None
    found = ctypes.create_string_buffer(size)
    return (whose(context), found.raw) if control(pointer, GET, size, found) == 1 else None


def use(context: ssl.SSLContext, left: tuple[bytes, bytes]) -> bool:
    """Take the keys that another program left, if they are for the same clients. Before the first connection."""
    whom, keys = left
    pointer = libssl_context(context) if whom == whose(context) else None
    if pointer is None or len(keys) not in SIZES:
        return False
    return bool(authorities.libssl.SSL_CTX_ctrl(pointer, SET, len(keys), keys) == 1)


def whose(context: ssl.SSLContext) -> bytes:
    """Of which authorities the certificates of clients must be."""
    said = sha256(b"%d" % context.verify_mode)
    for each in sorted(context.get_ca_certs(binary_form=True)):
        said.update(sha256(each).digest())
    return said.digest()
