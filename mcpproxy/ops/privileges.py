"""Started as root, served as somebody else.

    unwise(config)             a warning where root would serve
    account(config)            whom to become
    give_up(account, config)   once the addresses are bound and the certificates read, before the first worker is made: hand over what the daemon writes,
                               become that user for good, and see what it cannot read

 1. Irrevocably: groups, then group, then user, each with its saved id; no capability is left, none can be gained again (PR_SET_NO_NEW_PRIVS, empty
    bounding set). What the kernel did is looked at, not believed.
 2. What belongs to root and the daemon writes (log, audit log, state, its unix sockets) is given to the user; never through a symbolic link or a second
    name, and nothing in a directory that the user could have prepared.
 3. What workers read at their start must be readable: a mistake else. What is only read again when it changes (certificates) is a warning.

A port below 1024 can be had at the start only: a reload that adds one is refused by the kernel.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mcpproxy.config import files
from mcpproxy.config.model import Config
from mcpproxy.errors import StartError
from mcpproxy.pki import store

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38  # linux/prctl.h
CAPABILITIES = 64  # as many as there can be numbers for
LOG_MODE = 0o640

Say = Callable[[str, str], None]


class Account(NamedTuple):
    """Whom to become."""

    name: str
    uid: int
    gid: int
    groups: list[int]
    home: str


def unwise(config: Config) -> str:
    """What a daemon's operator should think of once more: who serves. Empty: nothing."""
    uid = os.geteuid()
    if uid == 0 and config.user is None:
        return "root serves here: whoever finds a hole has the machine; `user` in the configuration names who serves instead"
    if uid != 0 and config.user and config.user not in (_name(uid), str(uid)):
        return f'user = "{config.user}" means nothing: only root can become somebody else, and this is {_name(uid)}'
    return ""


def account(config: Config) -> Account | None:
    """Whom `user` names; None where we stay who we are. Raises StartError."""
    if os.geteuid() != 0 or config.user is None:
        return None
    entry = files.user(config.user)
    group = None if config.group is None else files.group(config.group)
    if entry is None or (config.group is not None and group is None):
        raise StartError(
            f"there is no {'user' if entry is None else 'group'} {config.user if entry is None else config.group} on this machine"
        )
    if entry.pw_uid == 0:
        return None
    gid = entry.pw_gid if group is None else group.gr_gid
    store.trust(entry.pw_uid)
    return Account(entry.pw_name, entry.pw_uid, gid, os.getgrouplist(entry.pw_name, gid), entry.pw_dir)


def give_up(who: Account, config: Config, say: Say, *, sockets: Iterable[str] = ()) -> None:
    """Serve as `who` from here on; `sockets` are the paths of the unix sockets that were bound. Raises StartError."""
    for file in _written(config):
        _hand_over_log(file, who)
    _hand_over_tree(os.path.expanduser(config.state_dir), who)
    for path in sockets:
        with suppress(OSError):
            os.chown(path, who.uid, who.gid, follow_symlinks=False)
    os.environ.update(HOME=who.home, USER=who.name, LOGNAME=who.name)
    become(who)
    _see(config, who, say)


def become(who: Account) -> None:
    """Rule 1. Raises StartError when anything of root is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that this kernel does not have fail
    try:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        raise StartError(
            f"cannot become user {who.name}: {error.strerror}", "the daemon needs CAP_SETUID and CAP_SETGID for that"
        ) from None
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise StartError(f"cannot become user {who.name} for good: PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")
    left = [line for line in capabilities() if int(line.split()[1], 16)]
    if left or os.getresuid() != (who.uid,) * 3 or os.getresgid() != (who.gid,) * 3 or set(os.getgroups()) != set(who.groups):
        raise StartError(f"cannot become user {who.name}: something of root is left ({', '.join(left) or 'ids'})")


def capabilities() -> list[str]:
    """Effective, permitted, ambient and bounding set of this process, as /proc tells of them."""
    with open("/proc/thread-self/status", encoding="ascii") as status:
        return [line.strip() for line in status if line.startswith(("CapEff:", "CapPrm:", "CapAmb:", "CapBnd:"))]


def _written(config: Config) -> Iterator[str]:
    if config.log.file is not None:
        yield config.log.file
    if config.audit is not None:
        yield config.audit.file


def _hand_over_log(file: str, who: Account) -> None:
    """Rule 2, for a log. One that belongs to somebody already is left to them."""
    try:
        directory = os.stat(os.path.dirname(file) or ".")
        if directory.st_uid != 0 or directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return  # others could have prepared it; the user writes there or does not, as before
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, LOG_MODE)
    except OSError:
        return  # a link, a pipe that nobody reads, a directory that is missing: who opens it as the user says so
    try:
        _give(descriptor, who)
    finally:
        os.close(descriptor)


def _hand_over_tree(directory: str, who: Account) -> None:
    """Rule 2, for the state directory: it and the files in it, as long as root was the only one who could have put them there."""
    place = store.Store(directory).path
    top = place.stat()
    if top.st_uid == 0:
        for _, _, names, descriptor in os.fwalk(place, follow_symlinks=False):
            for name in names:
                try:
                    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=descriptor)
                except OSError:
                    continue
                try:
                    _give(file, who)
                finally:
                    os.close(file)
            os.fchown(descriptor, who.uid, who.gid)


def _give(descriptor: int, who: Account) -> None:
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == 0:
        os.fchown(descriptor, who.uid, who.gid)


def _see(config: Config, who: Account, say: Say) -> None:
    """Rule 3, as the user."""
    advice = f"chgrp {_group(who.gid)} FILE; chmod 640 FILE; and every directory on the way must let it in"
    missing = []
    for each in files.read(config):
        if not os.access(each.file, os.R_OK):
            if each.again:
                say(
                    "warning",
                    f"{each.file}: user {who.name} may not read it: a new one will not be noticed, and no reload can be made; {advice}",
                )
            else:
                missing.append(f"{each.file}")
    if missing:
        raise StartError(f"user {who.name} may not read {', '.join(missing)}", advice)
    for file in _written(config):
        if not os.access(os.path.dirname(file) or ".", os.W_OK | os.X_OK):
            say("warning", f"{file}: user {who.name} may not make files beside it: after a rotation the old file is written to")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
