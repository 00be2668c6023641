"""An HTTP/2 client for the stepped rig: the h2 library speaks, the test decides when the proxy hears it."""

import socket
import ssl
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.connection import ConnectionState


class H2Client:
    """A connection with prior knowledge. What the proxy said is gathered in `heads`, `bodies`, `ends`, `resets`, by stream."""

    def __init__(self, edge: Any, sock: socket.socket | None = None, *, window: int | None = None) -> None:
        self.edge, self.sock = edge, sock or edge.client()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.heads: dict[int, list[dict[bytes, bytes]]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.ends: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goodbye: int | None = None
        self.pings = 0
        self.credits = True
        self.ended = False
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self.edge.steps.turn()

    def open(self, fields: dict[str, str] | None = None, body: bytes | None = None, *, ended: bool = True, method: str = "") -> int:
        """A request, sent at once; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        method = method or ("GET" if body is None and ended else "POST")
        pairs = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", "/mcp"), *(fields or {}).items()]
        self.h2.send_headers(stream, pairs, end_stream=ended and body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=ended)
        self.flush()
        return stream

    def send(self, stream: int, body: bytes, *, ended: bool = False) -> None:
        self.h2.send_data(stream, body, end_stream=ended)
        self.flush()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, 8)
        self.flush()

    def pump(self) -> bool:
        """Take what is there; true, so that it can stand in a condition."""
        try:
            data = self.sock.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        if not data:
            self.ended = True
            return True
        for event in self.h2.receive_data(data):
            self._note(event)
        self.flush()
        return True

    def _note(self, event: Any) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                self.heads.setdefault(event.stream_id, []).append(dict(event.headers))
            case h2.events.DataReceived():
                self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                if self.credits and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.trailers[event.stream_id] = dict(event.headers)
            case h2.events.StreamEnded():
                self.ends.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = event.error_code
            case h2.events.ConnectionTerminated():
                self.goodbye = event.error_code
                self.h2.state_machine.state = (
                    ConnectionState.CLIENT_OPEN
                )  # the library hears nothing any more; streams still end (RFC 9113 §6.8)
            case h2.events.PingReceived():
                self.pings += 1

    def until(self, condition: Any, what: str = "") -> None:
        self.edge.until(lambda: self.pump() and condition(), what or f"{self.heads} {self.bodies} {self.ends} {self.resets} {self.goodbye}")

    def status(self, stream: int) -> int:
        return int(self.heads[stream][-1][b":status"])


def upload_on(client: H2Client, stream: int, size: int) -> None:
    """Send so much more of a body, as the windows open, and end it."""
    while size:
        room = min(client.h2.local_flow_control_window(stream), 16384, size)
        if room:
            size -= room
            client.send(stream, bytes(room), ended=not size)
        else:
            client.until(lambda: client.h2.local_flow_control_window(stream), "room for more of the upload")
