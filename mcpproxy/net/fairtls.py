"""TLS that takes turns: one read, one record.

Python asks OpenSSL for SSL_MODE_AUTO_RETRY, and then one SSL_read goes on for as long as records come that carry no data. A peer that streams
KeyUpdate messages (RFC 8446 §4.6.3 sets no limit, and OpenSSL none either) holds the whole process in that call: two megabytes a second stop every
other connection. Without the mode SSL_read comes back after each such record and raises SSLWantReadError; the loop serves the others and asks again.

The ssl module has no word for the mode, so libssl is asked directly, and only when both the object's layout and the answer are what is expected.
Where they are not (a Python that hides its libssl), everything works as before, without this protection.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
from collections.abc import Callable
from typing import Any, Self

SSL_CTRL_CLEAR_MODE = 78  # openssl/ssl.h, the same since OpenSSL 1.0
SSL_MODE_AUTO_RETRY = 4
HEADER = object.__basicsize__
WORD = ctypes.sizeof(ctypes.c_void_p)
Fields = ctypes.c_void_p * 3  # how _ssl._SSLSocket begins, after the object header: the weak reference to its socket, SSL *, its context

Control = Callable[[Any, int, int, Any], int]


def _libssl_control() -> Control | None:
    try:
        control: Any = ctypes.CDLL(_ssl.__file__).SSL_ctrl  # the libssl of the ssl module, whichever that is
    except (AttributeError, OSError, TypeError):
        return None
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    control.restype = ctypes.c_long
    found: Control = control
    return found


control = _libssl_control()


def take_turns(connection: Any) -> bool:
    """Let every read of an `ssl.SSLSocket`'s inner object end after one record. Was that possible?"""
    if control is None:
        return False
    _, pointer, context = Fields.from_address(id(connection) + HEADER)
    if not pointer or context != id(connection.context):
        return False
    return not control(pointer, SSL_CTRL_CLEAR_MODE, SSL_MODE_AUTO_RETRY, None) & SSL_MODE_AUTO_RETRY


class FairSocket(ssl.SSLSocket):
    """The sockets of our contexts (`SSLContext.sslsocket_class`)."""

    __slots__ = ()

    @classmethod
    def _create(cls, *args: Any, **settings: Any) -> Self:
        made: Self = super()._create(*args, **settings)  # type: ignore[misc]
        inner = made._sslobj  # type: ignore[attr-defined]
        if inner is not None:  # the peer may have left before the handshake
            take_turns(inner)
        return made
