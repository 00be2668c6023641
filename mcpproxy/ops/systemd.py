"""A word to systemd: we are ready. (sd_notify(3), the one message a unit with Type=notify waits for.)

Started by hand there is no $NOTIFY_SOCKET and nothing is said. That systemd cannot be told is no reason to stop serving.
"""

from __future__ import annotations

import os
import socket

READY = b"READY=1"


def tell(message: bytes) -> bool:
    """Send `message`; was there anybody to tell?"""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as teller:
        try:
            teller.sendto(message, place.replace("@", "\0", 1) if place[0] == "@" else place)
        except OSError:
            return False
    return True
