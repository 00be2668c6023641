"""While an authority is about to look (TLS-ALPN-01, RFC 8737): who is it that begins a TLS connection?

The first message of a client is looked at where it lies (MSG_PEEK), before OpenSSL sees it. One that offers the protocol `acme-tls/1` and nothing else, for a
name that is being validated, is the authority: it is shown the certificate made for it, and nothing more happens on that connection. Everybody else goes on
as ever, and notices nothing. While no validation is pending nobody comes here at all.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from mcpproxy.edge.doorstep import Doorstep
from mcpproxy.net.hello import LONGEST, Hello, read
from mcpproxy.net.link import NO_SOCKET
from mcpproxy.pki.acme_files import Pending

if TYPE_CHECKING:
    pass

__all__ = ["Peephole", "Pending"]

PROTOCOL = "acme-tls/1"


class Peephole(Doorstep):
    """Its first words have not been seen yet."""

    __slots__ = ()

    def readable(self) -> None:
        try:
            data = self.sock.recv(LONGEST, socket.MSG_PEEK)
            hello = read(data)
        except BlockingIOError:
            return
        except ValueError:  # no TLS: those who serve it have an answer
            hello = Hello("", ())
        except OSError:
            self.close()
            return
        if hello is None:
            if not data or self.ended():
                self.close()
            return
        front, sock = self.front, self.sock
        file = front.alpn.hosts.get(hello.name) if front.alpn is not None and hello.protocols == (PROTOCOL.encode(),) else None
        self.sock = NO_SOCKET  # the connection goes on without us
        self._release()
        try:
            if file is None:
                front.secure(sock, self.host)
            else:
                Validator(
                    front, challenge_context(file).wrap_socket(sock, server_side=True, do_handshake_on_connect=False), self.host
                ).begin()
        except OSError:  # it has left, or the challenge is over
            sock.close()


class Validator(Doorstep):
    """An authority. It looks at the certificate, and leaves."""

    __slots__ = ()

    def readable(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.loop.remove_writer(self.fd)
            return
        except ssl.SSLWantWriteError:
            self.loop.add_writer(self.fd, self.readable)
            return
        except (OSError, ValueError):
            pass
        self.close()


def challenge_context(file: str) -> ssl.SSLContext:
    """What is shown to an authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(file)
    context.set_alpn_protocols([PROTOCOL])
    return context
