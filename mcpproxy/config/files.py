"""The files a configuration names: can they be used, and is it wise to?

    broken(config)          certificates, keys, authorities and directories that are missing, unreadable or wrong; asked by `mcpproxy check` and at the start
    unwise(config, now)     a key everybody may read; a certificate or an API key that has expired or soon will
    fault(cert, key)        why a certificate and its key cannot be used; net/tls says the same when it meets them
    keys(file)              the API keys in a file, or why it cannot be used; the daemon asks again whenever `stamp(file)` is another one
    read(config)            every file that is read, for who must see whether somebody else could read it
    user(name), group(name) who is known on this machine

With `programs`, `secrets` and `lockfile` the only file of this room that looks at the disk.
"""

from __future__ import annotations

import grp
import os
import pwd
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509

from mcpproxy.config import keyfile, lockfile, programs, sealfile, secrets
from mcpproxy.config.mistakes import Finding
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import CertificateFiles, Config, Tls

CGROUPS, OUR_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # cgroups(7), version 2
DAY = 86_400.0
SOON = 14 * DAY  # before this much is left, certbot and its like have renewed; when they have not, somebody should know


Stamp = tuple[int, int, int, int]  # two of one file differ when anything about it was changed, also who may read it


class KeyFile(NamedTuple):
    """A file of API keys, as it was found."""

    entries: tuple[keyfile.Entry, ...] = ()
    said: str = ""  # why it cannot be used
    stamp: Stamp | None = None
    mode: int = 0


class Fault(NamedTuple):
    """What is wrong with a certificate or its key."""

    key: str  # "cert" or "key"
    said: str
    advice: str = ""


class Read(NamedTuple):
    """A file that is read by who serves. `again`: first before root becomes somebody else, and only then again when it changes."""

    file: str
    again: bool


def read(config: Config) -> Iterator[Read]:
    """All of them."""
    for _, pair in _pairs(config):
        yield from (Read(file, again=True) for file in (pair.cert, pair.key) if file)
    for listen in config.listen:
        if isinstance(listen.tls, Tls) and listen.tls.client_ca is not None:
            yield Read(listen.tls.client_ca, again=True)
    for upstream in config.upstream.values():
        credential = upstream.credential
        for file in (upstream.ca, upstream.cert, upstream.key, credential.ca if credential is not None else None):
            if file:
                yield Read(file, again=False)
        if upstream.lock is not None and os.path.exists(upstream.lock):
            yield Read(upstream.lock, again=True)
    for auth in config.auth.values():
        jwks = auth.jwks[5:] if auth.jwks is not None and auth.jwks.startswith("file:") else None
        for file in (auth.ca, jwks, auth.file):
            if file:
                yield Read(file, again=False)
    for _, reference in secrets.references(config):
        where, _, file = reference.partition(":")
        if where == "file":
            yield Read(file, again=False)


def user(name: str) -> pwd.struct_passwd | None:
    """Who has this name, or this number."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None


def group(name: str) -> grp.struct_group | None:
    """The group of this name, or this number."""
    try:
        return grp.getgrgid(int(name)) if name.isdigit() else grp.getgrnam(name)
    except KeyError:
        return None


def broken(config: Config) -> Iterator[Finding]:
    """What would stop the start."""
    if config.user and user(config.user) is None:
        yield Finding(("user",), f"there is no user {config.user} on this machine; useradd --system {config.user}")
    if config.group and group(config.group) is None:
        yield Finding(("group",), f"there is no group {config.group} on this machine")
    for place, files in _pairs(config):
        yield from _pair(files, place)
    for name, upstream in config.upstream.items():
        if upstream.ca is not None:
            yield from _authorities(upstream.ca, ("upstream", name, "ca"))
        if upstream.cert and upstream.key:
            yield from _pair(CertificateFiles(cert=upstream.cert, key=upstream.key), ("upstream", name))
        if upstream.user is not None and user(upstream.user) is None:
            yield Finding(("upstream", name, "user"), f"there is no user {upstream.user} on this machine")
        if upstream.credential is not None and upstream.credential.ca is not None:
            yield from _authorities(upstream.credential.ca, ("upstream", name, "credential", "ca"))
    for number, listen in enumerate(config.listen):
        if isinstance(listen.tls, Tls) and listen.tls.client_ca is not None:
            yield from _authorities(listen.tls.client_ca, ("listen", number, "tls", "client_ca"))
        if listen.address.startswith("unix:"):
            yield from _directory_of(listen.address[5:], ("listen", number, "address"), socket=True)
    if config.acme.ca is not None:
        yield from _authorities(config.acme.ca, ("acme", "ca"))
    for name, auth in config.auth.items():
        if auth.ca is not None:
            yield from _authorities(auth.ca, ("auth", name, "ca"))
        if auth.jwks is not None and auth.jwks.startswith("file:") and (reason := _unreadable(auth.jwks[5:]) or _no_key_set(auth.jwks[5:])):
            yield Finding(("auth", name, "jwks"), f"{auth.jwks[5:]}: {reason}")
    for place, file in _key_files(config):
        if said := keys(file).said:
            yield Finding(place, f"{file}: {said}")
    if config.log.file is not None:
        yield from _directory_of(config.log.file, ("log", "access"))
    if config.audit is not None:
        for chain in range(config.workers):
            found = list(_directory_of(audit_file(config.audit.file, chain), ("audit", "file")))
            yield from found
            if found:
                break
    if (config.admin.address or "").startswith("unix:"):
        yield from _directory_of((config.admin.address or "")[5:], ("admin", "address"), socket=True)
    if config.affinity.key_file is not None:
        yield from _seal_keys(config.affinity.key_file, ("affinity", "key_file"))
    yield from secrets.broken(config)
    yield from programs.broken(config)
    yield from lockfile.broken(config)


def audit_file(first: str, chain: int) -> str:
    """Where each process that writes the audit log writes it, when `first` is configured: `audit.log`, `audit.chain1.log`, … (a glob like `*.log` has all)."""
    place = Path(first)
    return str(place.with_name(f"{place.stem}.chain{chain}{place.suffix}")) if chain else first


def unwise(config: Config, now: float) -> Iterator[Finding]:
    """What works and should be looked at. `now` is Unix time."""
    yield from secrets.unwise(config)
    yield from programs.unwise(config)
    yield from lockfile.unwise(config)
    for place, files in _pairs(config):
        assert files.cert is not None
        assert files.key is not None
        if not (_unreadable(files.key) or _unreadable(files.cert)):
            if stat.S_IMODE(os.stat(files.key).st_mode) & stat.S_IROTH:
                yield Finding((*place, "key"), f"{files.key}: everybody on this machine may read this key; chmod o-r")
            left = _seconds_left(files.cert, now)
            if left is not None and left < SOON:
                said = "has expired" if left < 0 else f"expires {_in_days(left)}"
                yield Finding((*place, "cert"), f"{files.cert}: the certificate {said}")
    for place, file in _key_files(config):
        yield from _unwise_keys(file, place, now)


def cores(cgroups: Path = CGROUPS, ours: Path = OUR_CGROUP) -> int:
    """How many processes can run at once for us: the CPUs we may use, and not more than the quotas of our cgroup and those above it allow (containers)."""
    found = len(os.sched_getaffinity(0))
    try:
        path = next(line[3:] for line in ours.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return found
    place = cgroups / path.strip("/")
    for each in (place, *place.parents):
        if not each.is_relative_to(cgroups):
            break
        with suppress(OSError, ValueError, ZeroDivisionError):  # the root has none; "max"
            quota, period = map(int, (each / "cpu.max").read_text().split())
            found = min(found, max(1, -(-quota // period)))
    return found


def keys(file: str) -> KeyFile:
    """What is in a file of API keys."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would have us wait for a writer
    except FileNotFoundError:
        return KeyFile(said="No such file or directory; `mcpproxy key add NAME` makes it")
    except OSError as error:
        return KeyFile(said=error.strerror or str(error), stamp=stamp(file))
    found = os.fstat(descriptor)
    seen = KeyFile(stamp=_stamp(found), mode=stat.S_IMODE(found.st_mode))
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return seen._replace(said="is no file")
    with open(descriptor, "rb") as stream:
        if found.st_mode & stat.S_IWOTH:
            return seen._replace(said="everybody on this machine may write to it, and so let themselves in; chmod o-w")
        try:
            return seen._replace(entries=keyfile.parse(stream.read(keyfile.LARGEST + 1)))
        except keyfile.Broken as broken:
            return seen._replace(said=str(broken))
        except OSError as error:
            return seen._replace(said=error.strerror or str(error))


def stamp(file: str) -> Stamp | None:
    """To know a change by. None: there is no such file."""
    try:
        return _stamp(os.stat(file))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _seal_keys(file: str, place: Place) -> Iterator[Finding]:
    if reason := _unreadable(file):
        yield Finding(place, f"{file}: {reason}; (umask 077; {sealfile.HOW} > {file}) makes one, the same for every node")
        return
    if stat.S_IMODE(os.stat(file).st_mode) & (stat.S_IRWXO | stat.S_IWGRP):
        yield Finding(place, f"{file}: others may read or change these keys; chmod 600")
    try:
        sealfile.parse(Path(file).read_bytes())
    except sealfile.Broken as broken:
        yield Finding(place, f"{file}: {broken}")


def _key_files(config: Config) -> Iterator[tuple[Place, str]]:
    for name, auth in config.auth.items():
        if auth.type == "api-key" and auth.file:
            yield ("auth", name, "file"), auth.file


def _unwise_keys(file: str, place: Place, now: float) -> Iterator[Finding]:
    found = keys(file)
    if found.said:
        return
    if found.mode & stat.S_IROTH:
        yield Finding(place, f"{file}: everybody on this machine may read it; chmod o-r")
    if found.mode & stat.S_IWGRP:
        yield Finding(place, f"{file}: its group may write to it, and so let anybody in; chmod g-w")
    last: dict[str, float] = {}  # name → until when it has a key
    for entry in found.entries:
        if entry.state(now) == "active":
            until = inf if entry.expires is None else entry.expires.timestamp()
            last[entry.name] = max(until, last.get(entry.name, 0.0))
    if not last:
        yield Finding(place, f"{file}: no key in it is valid: nobody comes in by it; mcpproxy key add NAME")
    for name, until in last.items():
        if until - now < SOON:
            yield Finding(place, f"{file}: the key of {name} expires {_in_days(until - now)}; mcpproxy key rotate {name}")


def _no_key_set(file: str) -> str:
    """Why this is no JWK Set (RFC 7517 §5), like a key that stands alone; whether its keys can be used, the start says."""
    try:
        with open(file, "rb") as data:
            said = msgspec.json.decode(data.read())
    except (OSError, ValueError):
        return "not JSON in UTF-8"
    return "" if isinstance(said, dict) and isinstance(said.get("keys"), list) else 'no key set: {"keys": [...]} is one'


def _in_days(seconds: float) -> str:
    days = int(seconds // DAY)
    return "within a day" if days == 0 else "in 1 day" if days == 1 else f"in {days} days"


def _pairs(config: Config) -> Iterator[tuple[Place, CertificateFiles]]:
    for number, listen in enumerate(config.listen):
        if isinstance(listen.tls, Tls):
            place: Place = ("listen", number, "tls")
            if listen.tls.cert and listen.tls.key:
                yield place, CertificateFiles(cert=listen.tls.cert, key=listen.tls.key)
            for index, files in enumerate(listen.tls.certificates):
                if files.cert and files.key:
                    yield (*place, "certificates", index), files


def _pair(files: CertificateFiles, place: Place) -> Iterator[Finding]:
    assert files.cert is not None
    assert files.key is not None
    unreadable = [
        Fault(key, f"{file}: {reason}") for key, file in (("cert", files.cert), ("key", files.key)) if (reason := _unreadable(file))
    ]
    found = unreadable or [each for each in (fault(files.cert, files.key),) if each is not None]
    for each in found:
        yield Finding((*place, each.key), f"{each.said}; {each.advice}" if each.advice else each.said)


def fault(cert: str, key: str) -> Fault | None:
    """Why this certificate and key cannot be used together; None when they can."""
    for name, file in (("cert", cert), ("key", key)):
        if reason := _unreadable(file):
            return Fault(name, f"{file}: {reason}")
    no_certificate = Fault("cert", f"{cert}: not a certificate in PEM", "give the full chain, leaf first")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if "passphrase" in reason:
            return Fault("key", f"{key}: the key is protected by a passphrase", "store it without one, readable by the daemon only")
        if reason == "KEY_VALUES_MISMATCH":
            return Fault("key", f"{key} is not the key of {cert}", "certificate and key must come from the same request")
        if not _holds_certificate(cert):
            return no_certificate
        return Fault("key", f"{key}: not a private key in PEM", "give the unencrypted key that belongs to the certificate")
    try:
        x509.load_pem_x509_certificates(Path(cert).read_bytes())[0].extensions  # noqa: B018 - OpenSSL takes what nobody can read the names of
    except ValueError:
        return no_certificate
    return None


def no_password() -> str:
    """Asked by OpenSSL for a key's passphrase: nobody is there to type one."""
    raise ValueError("the key is protected by a passphrase")


def _authorities(file: str, place: Place) -> Iterator[Finding]:
    if reason := _unreadable(file):
        yield Finding(place, f"{file}: {reason}")
    elif not _holds_certificate(file):
        yield Finding(place, f"{file}: no certificate in PEM")


def _directory_of(file: str, place: Place, *, socket: bool = False) -> Iterator[Finding]:
    directory = os.path.dirname(file) or "."
    if not os.path.isdir(directory):
        yield Finding(place, f"{file}: there is no directory {directory}")
    elif os.path.isdir(file):
        yield Finding(place, f"{file}: is a directory")
    elif socket and os.path.lexists(file) and not _is(stat.S_ISSOCK, file):
        yield Finding(place, f"{file}: is there, and is no socket; the daemon removes only sockets")
    elif not socket and os.path.exists(file):
        if not os.access(file, os.W_OK):
            yield Finding(place, f"{file}: may not be written by this user")
    elif not os.access(directory, os.W_OK | os.X_OK) and not (
        socket and os.path.exists(file)
    ):  # systemd may have made it, and hand it over
        yield Finding(place, f"{file}: this user may not make files in {directory}")


def _is(kind: Callable[[int], bool], file: str) -> bool:
    try:
        return kind(os.stat(file).st_mode)
    except OSError:
        return False


def _unreadable(file: str) -> str:
    if _is(stat.S_ISFIFO, file):
        return "is a pipe, not a file"  # to open it would wait for a writer
    try:
        with Path(file).open("rb") as stream:
            stream.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _holds_certificate(file: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        return False
    return True


def _seconds_left(file: str, now: float) -> float | None:
    try:
        return x509.load_pem_x509_certificates(Path(file).read_bytes())[0].not_valid_after_utc.timestamp() - now
    except (OSError, ValueError):
        return None
