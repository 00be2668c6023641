"""What stands in the key file of sealed session ids (`[affinity] key_file`): one key a line, the newest first.

    # The keys of sealed session ids …
    jV3…86 characters of base64…

 1. A key is 64 random bytes in base64, either alphabet: what `openssl rand -base64 64 | tr -d '\\n'` prints.
 2. The first key seals, all of them open: a new one is put in front, and the old ones stay until what they sealed has ended.
 3. What is said about a bad line repeats nothing of it.

Bytes in, bytes out; policy/seal uses the keys.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

KEY = 64  # bytes: AES-256-SIV takes two keys of 32
KEYS = 16  # in a file: nobody changes keys so often that more of them still matter
LARGEST = 64 * 1024  # bytes of a file
NAME = "session.keys"  # in the state directory
HOW = f"openssl rand -base64 {KEY} | tr -d '\\n'"
REMARK = "# The keys of sealed session ids. The first seals, all open: `mcpproxy affinity rotate` puts a new one in front.\n"
is_base64 = re.compile(rb"[A-Za-z0-9_-]+").fullmatch
ONE_ALPHABET = bytes.maketrans(b"+/", b"-_")


class Broken(ValueError):
    """The file cannot be used; says the line and what is wrong with it."""


def new_key() -> str:
    """A line for the file."""
    return urlsafe_b64encode(secrets.token_bytes(KEY)).rstrip(b"=").decode()


def new_file() -> bytes:
    """A file with one key."""
    return f"{REMARK}{new_key()}\n".encode()


def parse(data: bytes) -> list[bytes]:
    """The keys of a file, in its order. Raises Broken."""
    if len(data) > LARGEST:
        raise Broken(f"is larger than {LARGEST >> 10} KiB: no file of keys")
    found: list[bytes] = []
    for number, line in enumerate(data.splitlines(), 1):
        text = line.partition(b"#")[0].strip().rstrip(b"=").translate(ONE_ALPHABET)
        if not text:
            continue
        try:
            key = urlsafe_b64decode(text + b"=" * (-len(text) % 4)) if is_base64(text) else b""
        except ValueError:
            key = b""
        if len(key) != KEY:
            raise Broken(f"line {number} is no key; {KEY} random bytes in base64 are one: {HOW}")
        if key in found:
            raise Broken(f"line {number}: this key is there twice")
        found.append(key)
    if not found:
        raise Broken(f"there is no key in it; {HOW} makes one")
    if len(found) > KEYS:
        raise Broken(f"there are {len(found)} keys in it, at most {KEYS} are used: take out the oldest")
    return found


def rotated(data: bytes, keep: int) -> bytes:
    """The file with a new key in front and the first `keep` of its own behind it. Raises Broken."""
    parse(data)
    keys = [line.strip() for line in data.decode().splitlines() if line.partition("#")[0].strip()]
    return (REMARK + "".join(f"{key}\n" for key in (new_key(), *keys[:keep]))).encode()
