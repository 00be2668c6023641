"""An upstream that follows a script, byte by byte.

    def cut_mid_body(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        link.reset()

    with ScriptedUpstream(cut_mid_body, answer()) as upstream: ...

The n-th accepted connection plays the n-th script, further ones the last. A script runs in a thread of its own on a blocking socket; the
link is closed when it returns, ScriptEnd (the peer hung up, the test is over) ends it quietly, any other error fails the test at the end.
Tests meet scripts at events: `link.wait(event)`, `upstream.wait_for(n)`; nothing sleeps. Everything received is kept in `link.received`.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from tests.support.message import Message, read_request, read_requests
from tests.support.waiting import DEADLINE, until

OK_JSON = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class ScriptEnd(Exception):
    """The peer closed while the script wanted more, or the upstream is shutting down."""


class Link:
    """One accepted connection, seen from the script."""

    def __init__(self, number: int, raw: socket.socket, owner: "ScriptedUpstream") -> None:
        self.number, self.raw, self.owner = number, raw, owner
        self.received = b""  # all bytes ever
        self._unread = 0  # offset of the first byte the script has not consumed
        self.ended = threading.Event()  # the peer's FIN or RST was seen by the script
        self.how = ""

    # --- reading

    @property
    def unread(self) -> bytes:
        """Received, but not consumed by the script."""
        return self.received[self._unread :]

    def more(self) -> None:
        """Read once, or ScriptEnd."""
        while True:
            try:
                data = self.raw.recv(262144)
                break
            except TimeoutError as error:  # an idle link may wait for its next request for ever, half a request may not
                if self.unread:
                    raise AssertionError(f"upstream link {self.number} waited {DEADLINE:g} s for more than {self.unread!r}") from error
            except OSError as error:
                self._over("reset", error)
        if not data:
            self._over("fin", None)
        if self.owner.keep_bytes:
            self.received += data
        else:
            self.received = self.received[self._unread :] + data
            self._unread = 0

    def _over(self, how: str, error: OSError | None) -> None:
        self.how = how
        self.ended.set()
        raise ScriptEnd(how) from error

    def read_exact(self, count: int) -> bytes:
        while len(self.received) - self._unread < count:
            self.more()
        data = self.received[self._unread : self._unread + count]
        self._unread += count
        return data

    def read_head(self) -> bytes:
        while (at := self.received.find(b"\r\n\r\n", self._unread)) < 0:
            self.more()
        return self.read_exact(at + 4 - self._unread)

    def read_request(self) -> Message:
        """One whole request, judged strictly."""
        while True:
            request, rest = read_request(self.received[self._unread :])
            if request is not None and request.ended:
                self._unread = len(self.received) - len(rest)
                return request
            self.more()

    def read_until_closed(self) -> None:
        """Until the peer hangs up; a script that ends with this proves the proxy closed its leg."""
        try:
            while True:
                self.more()
        except ScriptEnd:
            return

    def wait(self, event: threading.Event) -> None:
        until(lambda: event.is_set() or self.owner.closing.is_set(), "an event of the test")
        if self.owner.closing.is_set() and not event.is_set():
            raise ScriptEnd("test over")

    def hang(self) -> None:
        """Never answer, never read: until the test is over."""
        self.owner.closing.wait()
        raise ScriptEnd("test over")

    # --- writing

    def send(self, data: bytes) -> None:
        try:
            self.raw.sendall(data)
        except TimeoutError as error:
            raise AssertionError(f"upstream link {self.number} could not send for {DEADLINE:g} s") from error
        except OSError as error:
            self._over("reset", error)

    def send_bytewise(self, data: bytes) -> None:
        """Every byte in its own segment (TCP_NODELAY is set)."""
        for i in range(len(data)):
            self.send(data[i : i + 1])

    def half_close(self) -> None:
        self.raw.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()

    def close(self) -> None:
        self.raw.close()


Script = Callable[[Link], None]


class ScriptedUpstream:
    def __init__(self, *scripts: Script, path: str = "", tls: ssl.SSLContext | None = None, keep_bytes: bool = True, port: int = 0) -> None:
        """`path`: a unix socket instead of a port. `keep_bytes=False` forgets what scripts have consumed (for long runs)."""
        self.scripts, self.tls, self.keep_bytes = scripts, tls, keep_bytes
        self.links: list[Link] = []
        self.errors: list[Exception] = []
        self.closing = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(path or ("127.0.0.1", port))
        self.listener.listen(512)
        self.port: int = 0 if path else self.listener.getsockname()[1]
        self.url = f"unix:{path}" if path else f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._play, args=(raw,), daemon=True).start()

    def _play(self, raw: socket.socket) -> None:
        raw.settimeout(DEADLINE)
        if raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            link = Link(len(self.links), raw, self)
            self.links.append(link)
        try:
            if self.tls:
                link.raw = self.tls.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False)
            self.scripts[min(link.number, len(self.scripts) - 1)](link)
        except ScriptEnd:
            pass
        except Exception as error:
            if not self.closing.is_set():
                self.errors.append(error)
        finally:
            link.raw.close()

    _lock = threading.Lock()

    # --- what the test may ask

    def wait_for(self, count: int) -> Link:
        """The count-th link (1-based), once it was accepted."""
        until(lambda: len(self.links) >= count, lambda: f"{count} upstream links, have {len(self.links)}")
        return self.links[count - 1]

    def requests(self) -> list[Message]:
        """Every request that arrived completely, over all links; MessageError if any link carried anything that is not strict HTTP."""
        return [request for link in self.links for request in read_requests(link.received)[0] if request.ended]

    def heads(self) -> list[Message]:
        """Like requests(), but unfinished ones too."""
        return [request for link in self.links for request in read_requests(link.received)[0]]

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # who waits in accept would keep the port
        self.listener.close()
        for link in self.links:
            with contextlib.suppress(OSError):
                link.raw.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if kind is None and self.errors:
            raise self.errors[0]


# --- scripts most tests want


def response(body: bytes = OK_JSON, *, status: str = "200 OK", extra: str = "", content_type: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(reply: bytes | Callable[[Message], bytes] | None = None) -> Script:
    """Answer every request of the link, for ever; without `reply` by echoing the request's body."""

    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if reply is None:
                link.send(response(request.body))
            else:
                link.send(reply(request) if callable(reply) else reply)

    return script


def once(*pieces: bytes, end: str = "close") -> Script:
    """Read one request, send the pieces, then `end`: close, reset, or keep (read on until the proxy hangs up)."""

    def script(link: Link) -> None:
        link.read_request()
        for piece in pieces:
            link.send(piece)
        if end == "reset":
            link.reset()
        elif end == "keep":
            link.read_until_closed()

    return script


def slices(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))
