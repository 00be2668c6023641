"""How a member's program is to be started: its words, its environment, its limits. Nothing is started here.

    launch = prepare(upstream, os.environ, secret, home="/var/lib/mcpproxy")

1. The words of the configuration are the words of the program: no shell reads them, and nothing a client sends is ever among them.
2. Its environment is what its configuration gives it, beside the few variables every program expects, which are those an SDK client passes on (mcp,
   client/stdio) and the locale. Values that begin with `()` are functions of old shells, and stay here.
3. What is missing (the program, the user, the sandbox) is said before anything is started.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mcpproxy.config.gateway import Command
from mcpproxy.errors import StartError
from mcpproxy.gateway.parts import Unavailable

INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Launch:
    """A program, ready to be started."""

    words: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: str
    limits: tuple[tuple[int, int], ...] = ()  # resource.RLIMIT_…, and how much


def prepare(upstream: Command, environ: Mapping[str, str], secret: Callable[[str], str], home: str) -> Launch:
    """`home` is where it works unless its `cwd` says so. Raises Unavailable, with a text for operators."""
    env = {name: environ[name] for name in (*INHERITED, *upstream.inherit) if name in environ and not environ[name].startswith("()")}
    env.setdefault("PATH", PATH)
    try:
        for name, value in upstream.env.items():
            env[name] = secret(value) if value.startswith(("env:", "file:")) else value
    except StartError as why:
        raise Unavailable(str(why)) from None
    cwd = upstream.cwd or home
    if not os.path.isdir(cwd):
        raise Unavailable(f"cwd {cwd} is no directory")
    words = (_program(upstream.command[0], env["PATH"], cwd), *upstream.command[1:])
    if upstream.user is not None:
        words = _as_user(upstream, env, words)
    if upstream.sandbox == "bwrap":
        words = (_tool("bwrap", "bubblewrap"), *bwrap(cwd), *words)
    elif upstream.sandbox == "systemd":
        words = (_tool("systemd-run", "systemd"), *scope(upstream, os.geteuid() == 0), *words)
    limits = ((resource.RLIMIT_AS, upstream.memory), (resource.RLIMIT_NOFILE, upstream.files), (resource.RLIMIT_NPROC, upstream.processes))
    return Launch(words, env, cwd, tuple((kind, most) for kind, most in limits if most is not None))


def _program(word: str, path: str, cwd: str) -> str:
    if "/" in word:
        found = os.path.join(cwd, word)
        if os.access(found, os.X_OK) and not os.path.isdir(found):
            return found
        raise Unavailable(f"{word} is not there, or cannot be executed")
    program = shutil.which(word, path=path)
    if program is None:
        raise Unavailable(f"{word} is in no directory of PATH ({path})")
    return program


def _tool(name: str, package: str) -> str:
    found = shutil.which(name, path=PATH + ":/usr/sbin:/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed (package {package})")
    return found


def _as_user(upstream: Command, env: dict[str, str], words: tuple[str, ...]) -> tuple[str, ...]:
    """setpriv (util-linux) changes the user between fork and exec, where Python cannot do so safely."""
    try:
        account = pwd.getpwnam(upstream.user or "")
    except KeyError:
        raise Unavailable(f"there is no user {upstream.user} on this machine") from None
    if os.geteuid() == account.pw_uid:
        return words
    if os.geteuid() != 0:
        raise Unavailable(f"only root can start a program as {upstream.user}")
    its = {"HOME": account.pw_dir, "LOGNAME": account.pw_name, "USER": account.pw_name}
    env.update({name: value for name, value in its.items() if name not in upstream.env})
    who = (
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--init-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
    )
    return (_tool("setpriv", "util-linux"), *who, "--", *words)


def bwrap(cwd: str) -> tuple[str, ...]:
    """Namespaces of its own but for the network; it can write to `cwd` and to a /tmp of its own."""
    return (
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),  # noqa: S108
        *("--bind", cwd, cwd, "--chdir", cwd),
        *("--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--"),
    )


def scope(upstream: Command, root: bool) -> tuple[str, ...]:
    """A scope of its own: a cgroup, in which the limits are those of all its processes together."""
    bounds = (("MemoryMax", upstream.memory), ("TasksMax", upstream.processes))
    properties = [f"--property={name}={most}" for name, most in bounds if most is not None]
    return (*(() if root else ("--user",)), "--scope", "--quiet", "--collect", *properties, "--")
