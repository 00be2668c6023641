"""A person is sent to a page in the browser and comes back to a door that is open on this machine for as long as that takes (RFC 8252 §7.3).

The way back is http://127.0.0.1:PORT/callback with a port of the kernel's choice, unless one is given. Who comes without our `state` is shown out, and
the door stays open: any page in the same browser could knock.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from mcpproxy.connect.places import WireError
from mcpproxy.connect.remote import Say

VISIT_S = 300.0  # for a person to find the password
KNOCK_S = 5.0  # for a browser to say what it wants
_request = re.compile(rb"GET (/[!-~]{0,8192}) HTTP/1\.[01]\r\n")
HEAD = (
    "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\nCache-Control: no-store\r\n"
    "Referrer-Policy: no-referrer\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n"
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>mcpproxy</title>
<body style="font-family:sans-serif;margin:4em auto;max-width:30em"><h1>{title}</h1><p>{text}</p>"""

Browser = Callable[[str], object]


def open_browser(url: str) -> None:
    """In a thread of its own: some browsers are started in the foreground."""

    def work() -> None:
        with suppress(Exception):
            webbrowser.open(url)

    threading.Thread(target=work, name="browser", daemon=True).start()


class Door:
    """Where the browser comes back to."""

    def __init__(self, redirect: str = "") -> None:
        parts = urlsplit(redirect or "http://127.0.0.1/callback")
        host, port, self._path = parts.hostname or "127.0.0.1", parts.port or 0, parts.path or "/"
        self.state = secrets.token_urlsafe(32)
        self._came: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self._socket = socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1" if host == "localhost" else host, port))
            self._socket.listen()  # from now on the port is nobody else's
        except OSError as error:
            self._socket.close()
            raise WireError(f"{host}:{port} cannot be listened on for the login: {error.strerror}") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}{self._path}"

    async def come(self, page: str, browser: Browser, say: Say, seconds: float = VISIT_S) -> Mapping[str, str]:
        """Send them to `page`, and wait for what they come back with. Raises WireError."""
        self._server = await asyncio.start_server(self._knock, sock=self._socket, limit=16 * 1024)
        say(f"log in with a browser: {page}")
        browser(page)
        try:
            async with asyncio.timeout(seconds):
                return await self._came
        except TimeoutError:
            raise WireError(f"nobody logged in within {seconds:g} s") from None

    def close(self) -> None:
        """Nobody is waited for any more."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def _knock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(KNOCK_S):
                status, title, text = self._asked(await reader.readuntil(b"\r\n\r\n"))
            body = PAGE.format(title=title, text=text).encode()
            writer.write(HEAD.format(status=status, length=len(body)).encode() + body)
            await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            pass
        finally:
            writer.close()

    def _asked(self, head: bytes) -> tuple[str, str, str]:
        found = _request.match(head)
        parts = urlsplit(found[1].decode()) if found else None
        if parts is None or parts.path != self._path:
            return "404 Not Found", "Not here", "This door is for coming back from a login."
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32)
        given = dict(pairs)
        if not secrets.compare_digest(given.get("state", "").encode(), self.state.encode()) or len(given) != len(pairs):
            return "400 Bad Request", "This is not the login we asked for", "Nothing was done."
        if not self._came.done():
            self._came.set_result(given)
        if "error" in given:
            return "200 OK", "The login was refused", "You can close this page; the program says why."
        return "200 OK", "You are logged in", "You can close this page and go back."
