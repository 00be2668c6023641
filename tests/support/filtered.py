"""Run a program under the system-call filter of a unit, without systemd:  python filtered.py UNIT PROGRAM ARGUMENT...

libseccomp is what systemd itself uses; systemd-analyze knows what is in a group such as @system-service. Needs no root.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

SCMP_ACT_ERRNO, SCMP_ACT_ALLOW = 0x00050000, 0x7FFF0000  # seccomp.h
NAME = "SystemCallFilter="


def members(word: str) -> set[str]:
    """The names of system calls that a word of SystemCallFilter= stands for."""
    if not word.startswith("@"):
        return {word}
    said = subprocess.run(["systemd-analyze", "syscall-filter", word], check=True, capture_output=True, text=True).stdout
    inside = [line.strip() for line in said.splitlines() if line.startswith(" ") and not line.strip().startswith("#")]
    return {name for each in inside for name in members(each)}


def allowed(unit: Path) -> set[str]:
    """What the unit's lines leave: the first allows, those with `~` take away."""
    found: set[str] = set()
    for line in unit.read_text().splitlines():
        if line.startswith(NAME):
            words = line.removeprefix(NAME)
            named = {name for word in words.removeprefix("~").split() for name in members(word)}
            found = found - named if words.startswith("~") else found | named
    assert found, f"{unit} has no {NAME}"
    return found


def confine(names: set[str]) -> None:
    """This process and all that come of it may call these, and nothing else: EPERM, as SystemCallErrorNumber= says."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # this machine has it
            assert library.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0) == 0, name
    assert library.seccomp_load(context) == 0


if __name__ == "__main__":
    confine(allowed(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])
