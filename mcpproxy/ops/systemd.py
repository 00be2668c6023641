"""What a supervisor and systemd say to each other: sd_notify(3), sd_watchdog_enabled(3).

Only the process that systemd takes for the main one is listened to (NotifyAccess=main): the supervisor. Started by hand there is no $NOTIFY_SOCKET and
nothing is said. That systemd cannot be told is no reason to stop serving.

    READY        all serve; again at the end of a reload
    RELOADING    with the moment it began (CLOCK_MONOTONIC, µs): systemd waits for READY (Type=notify-reload insists on the moment)
    STOPPING     drains, or ends
    STATUS       one line for people, in `systemctl status`; sent only when it is another one
    WATCHDOG     somebody is alive; without it for WatchdogSec= systemd kills and starts anew
    MAINPID      the process that takes over; told by the one that was the main process until then, and is silent from then on. The other one is silent
                 until then: systemd warns of everything that it is told by somebody else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from math import inf

from mcpproxy.clock import monotonic
from mcpproxy.units import many

READY = b"READY=1"
STOPPING = b"STOPPING=1"
WATCHDOG = b"WATCHDOG=1"
NOT_YET = "MCPPROXY_NOT_YET"  # while this is our parent another one is the main process (upgrade.Upgrade)


def tell(*lines: bytes) -> bool:
    """Send `lines` as one message; was there anybody to tell?"""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")) or os.environ.get(NOT_YET) == str(os.getppid()):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as teller:
        try:
            teller.sendto(b"\n".join(lines), place.replace("@", "\0", 1) if place[0] == "@" else place)
        except OSError:  # nobody there, or it does not read
            return False
    return True


def reloading() -> bytes:
    """It begins now."""
    return b"RELOADING=1\nMONOTONIC_USEC=%d" % int(monotonic() * 1e6)


def resign(heir: int) -> None:
    """The process `heir`, of the same unit, is the main process from now on, with the whole of WatchdogSec= to say so."""
    tell(b"MAINPID=%d" % heir, WATCHDOG)
    os.environ.pop("NOTIFY_SOCKET", None)


class Unit:
    """What systemd is told of `workers` processes while they live. It is told nothing twice."""

    __slots__ = ("_every", "_said", "_stopping", "_workers", "due")

    def __init__(self, workers: int) -> None:
        self._workers, self._said, self._stopping = workers, "", False
        self._every = watchdog_interval()
        self.due = inf if self._every is None else 0.0  # when it waits for a sign of life

    def ping(self, now: float, *, alive: bool) -> None:
        """We are due; `alive`: and well."""
        assert self._every is not None
        self.due = now + self._every
        if alive:
            tell(WATCHDOG)

    def say(self, serving: int, left: int, *, stopping: bool) -> None:
        """How many serve, of those that are left."""
        if stopping and not self._stopping:
            self._stopping = True
            tell(STOPPING)
        if stopping:
            text = f"draining: {many(left, 'worker')} left"
        else:
            text = f"{many(serving, 'worker')} {'serves' if serving == 1 else 'serve'}"
            text += f" of {self._workers}" if serving < self._workers else ""
        if text != self._said and tell(status(text)):
            self._said = text


def status(text: str) -> bytes:
    """One line, whatever is in `text`."""
    return b"STATUS=" + "".join(character if character.isprintable() else "?" for character in text).encode(errors="replace")


def watchdog_interval() -> float | None:
    """Seconds between two WATCHDOG messages: half of what systemd waits for. None: it waits for none of ours."""
    meant, wait = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if (meant and meant != str(os.getpid())) or not (wait.isascii() and wait.isdigit()) or not int(wait):
        return None
    return int(wait) / 2e6


def successor_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for the process that takes over (MAINPID): the watchdog is meant for it, too, and sockets are handed over in another way."""
    return {
        name: value for name, value in environment.items() if name not in ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    }
