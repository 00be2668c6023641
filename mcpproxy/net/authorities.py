"""Telling clients whose certificates we take.

A server that asks for a certificate may name the authorities it trusts (RFC 8446 §4.2.4), and clients with several certificates choose by that list:
browsers show only those that fit. Python checks certificates but sends an empty list, which means "any". As in net/fairtls the ssl module has no
word for it, so libssl is asked directly, and only where the layout of its objects is what is expected. Elsewhere the list stays empty: nothing is
accepted that was not, only choosing is harder.
"""

from __future__ import annotations

import _ssl
import ctypes
import os
import ssl
from typing import Any

from mcpproxy.net.fairtls import HEADER, Fields


def _libssl() -> Any:
    try:
        library = ctypes.CDLL(_ssl.__file__)  # the libssl of the ssl module, whichever that is
        load, give, context_of = library.SSL_load_client_CA_file, library.SSL_CTX_set_client_CA_list, library.SSL_get_SSL_CTX
    except (AttributeError, OSError, TypeError):
        return None
    load.argtypes, load.restype = (ctypes.c_char_p,), ctypes.c_void_p
    give.argtypes, give.restype = (ctypes.c_void_p, ctypes.c_void_p), None
    context_of.argtypes, context_of.restype = (ctypes.c_void_p,), ctypes.c_void_p
    control = getattr(library, "SSL_CTX_ctrl", None)
    if control is None:
        return None
    control.argtypes, control.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p), ctypes.c_long
    return library


libssl = _libssl()


def name_authorities(context: ssl.SSLContext, file: str) -> bool:
    """Let `context` send the names of the authorities in `file` (PEM) whenever it asks for a certificate. Was that possible?"""
    pointer = libssl_context(context)
    if pointer is None:
        return False
    names = libssl.SSL_load_client_CA_file(os.fsencode(file))
    if not names:
        return False
    libssl.SSL_CTX_set_client_CA_list(pointer, names)  # it is the context's now
    return True


def libssl_context(context: ssl.SSLContext) -> int | None:
    """What libssl calls it, for as long as `context` lives. None: this is not the library that we know."""
    if libssl is None:
        return None
    connection: Any = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)._sslobj  # type: ignore[attr-defined]
    _, pointer, owner = Fields.from_address(id(connection) + HEADER)
    if not pointer or owner != id(connection.context):
        return None
    found: int | None = libssl.SSL_get_SSL_CTX(pointer)
    return found
