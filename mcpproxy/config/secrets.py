"""Secrets that the configuration names: read at the start (and again when their files change: config/renewal), and never shown.

A reference (`env:NAME`, `file:path`) stands in the model; the value goes only to who uses it. A file holds one line; its line end is not part of the secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from mcpproxy.config.mistakes import Finding
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import Config
from mcpproxy.errors import StartError

LARGEST = 64 * 1024  # bytes; no secret of one line is longer


def secret(reference: str) -> str:
    """The value. Raises StartError without showing anything of it."""
    where, _, what = reference.partition(":")
    if where == "env":
        value = os.environ.get(what, "")
        if not value:
            raise StartError(f"{reference}: the environment has no such variable, or it is empty")
    else:
        raw = _content(reference, what)
        if not raw or len(raw) > LARGEST:
            raise StartError(f"{reference}: empty, or larger than {LARGEST >> 10} KiB")
        value = raw.decode("latin-1").removesuffix("\n").removesuffix("\r")
    if not value.isascii() or not value.isprintable() or value.strip() != value or not value:
        raise StartError(f"{reference}: a secret is one line of printable ASCII characters, without spaces around it")
    return value


def _content(reference: str, file: str) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would have us wait for a writer
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StartError(f"{reference}: is no file")
            return stream.read(LARGEST + 1)
    except OSError as error:
        raise StartError(f"{reference}: {error.strerror}") from None


def references(config: Config) -> Iterator[tuple[Place, str]]:
    """Every secret the configuration names."""
    for name, auth in config.auth.items():
        if auth.client_secret:
            yield ("auth", name, "client_secret"), auth.client_secret
    if config.acme.eab_hmac:
        yield ("acme", "eab_hmac"), config.acme.eab_hmac
    if config.admin.token:
        yield ("admin", "token"), config.admin.token
    if config.otel is not None and config.otel.authorization:
        yield ("otel", "authorization"), config.otel.authorization
    for name, upstream in config.upstream.items():
        for key in ("value", "client_secret", "access_key", "secret_key", "session_token"):
            given = getattr(upstream.credential, key, None)
            if given:
                yield ("upstream", name, "credential", key), given
        for key, given in upstream.env.items():
            if given.startswith(("env:", "file:")):
                yield ("upstream", name, "env", key), given


def broken(config: Config) -> Iterator[Finding]:
    """Those that cannot be read."""
    for place, reference in references(config):
        try:
            secret(reference)
        except StartError as error:
            yield Finding(place, error.message)


def unwise(config: Config) -> Iterator[Finding]:
    """Files that everybody can read."""
    for place, reference in references(config):
        where, _, file = reference.partition(":")
        try:
            open_to_all = where == "file" and os.stat(file).st_mode & stat.S_IROTH
        except OSError:
            continue
        if open_to_all:
            yield Finding(place, f"{file}: everybody on this machine may read this secret; chmod o-r")
