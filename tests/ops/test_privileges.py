"""Root serves as somebody else: nothing of root is left, what is written belongs to the user, what cannot be read is said."""

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpproxy.config.model import Config
from mcpproxy.errors import StartError
from mcpproxy.ops import privileges
from mcpproxy.ops.privileges import account, unwise

NOBODY = pwd.getpwnam("nobody")
PROGRAM = """
import os, sys
from pathlib import Path
from mcpproxy.config import load
from mcpproxy.errors import StartError
from mcpproxy.ops.privileges import account, capabilities, give_up
config = load.load(Path(sys.argv[1]))
who = account(config)
assert who
try:
    give_up(who, config, print, sockets=tuple(sys.argv[2:]))
except StartError as error:
    print("StartError", error.message)
else:
    print("ids", *os.getresuid(), *os.getresgid())
    print(*capabilities())
    for gain in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.open("/etc/shadow", os.O_RDONLY)):
        try:
            gain()
            print("gained")
        except PermissionError:
            pass
    print([line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
    print(os.environ["HOME"], os.environ["USER"])
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the user can go; a test's own is root's alone."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def configuration(more: str = "") -> str:
    return f'user = "nobody"\n{more}\n[[listen]]\naddress = "127.0.0.1:8000"\n[upstream.u]\nurls = ["http://127.0.0.1:1"]\n[[route]]\nupstream = "u"\n'


def dropped(folder: Path, text: str, *sockets: str) -> list[str]:
    file = folder / "mcpproxy.toml"
    file.write_text(text)
    command = [sys.executable, "-c", PROGRAM, str(file), *sockets]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.root
def test_nothing_of_root_is_left(folder: Path) -> None:
    state = folder / "state"
    ids, capabilities, flag, environment = dropped(folder, configuration(f'state_dir = "{state}"'))
    assert ids == f"ids {' '.join(3 * [str(NOBODY.pw_uid)])} {' '.join(3 * [str(NOBODY.pw_gid)])}"
    assert [int(word, 16) for word in capabilities.split()[1::2]] == [0, 0, 0, 0]
    assert "NoNewPrivs:\\t1" in flag
    assert environment == f"{NOBODY.pw_dir} nobody"


@pytest.mark.root
def test_what_the_daemon_writes_belongs_to_the_user(folder: Path) -> None:
    state, log = folder / "state", folder / "access.log"
    state.mkdir(mode=0o700)
    (state / "ca.key").write_text("secret")
    (state / "ca.key").chmod(0o600)
    (state / "elsewhere").symlink_to("/etc/passwd")
    os.link(state / "ca.key", folder / "second-name")
    (state / "sub").mkdir()
    (state / "sub" / "file").touch()
    (folder / "s").touch()
    said = dropped(folder, configuration(f'state_dir = "{state}"\nlog = {{ access = "{log}" }}'), str(folder / "s"))
    assert said[0] == f"warning {log}: user nobody may not make files beside it: after a rotation the old file is written to"
    owner = {place: (folder / place).stat().st_uid for place in ("state", "state/sub", "state/sub/file", "access.log", "s", "state/ca.key")}
    assert owner == {**dict.fromkeys(owner, NOBODY.pw_uid), "state/ca.key": 0}  # it has two names: one may be somebody's trap
    assert os.stat("/etc/passwd").st_uid == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o640 & ~os.umask(os.umask(0))


@pytest.mark.root
@pytest.mark.parametrize("trap", ["link", "open to all"])
def test_no_file_is_given_away_that_others_may_have_put_there(folder: Path, trap: str) -> None:
    logs = folder / "logs"
    logs.mkdir()
    target = folder / "roots"
    target.touch()
    if trap == "link":
        (logs / "access.log").symlink_to(target)
    else:
        os.link(target, logs / "access.log")
        target.unlink()
        logs.chmod(0o777)
    dropped(folder, configuration(f'state_dir = "{folder}/state"\nlog = {{ access = "{logs}/access.log" }}'))
    assert (logs / "access.log").stat().st_uid == 0


@pytest.mark.root
def test_what_the_user_cannot_read_is_a_mistake_unless_it_was_read_before(folder: Path) -> None:
    tls = f'[listen.tls]\ncert = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n'
    text = configuration(f'state_dir = "{folder}/state"').replace("[upstream.u]", f"{tls}[upstream.u]")
    (folder / "cert.pem").touch()
    (folder / "key.pem").touch(mode=0o600)
    (warning, *_) = dropped(folder, text)
    assert warning.startswith(f"warning {folder}/key.pem: user nobody may not read it: a new one will not be noticed")
    keys = folder / "keys.jsonl"
    keys.touch(mode=0o600)
    text = text.replace('upstream = "u"', f'upstream = "u"\nauth = "a"\n[auth.a]\ntype = "api-key"\nfile = "{keys}"')
    assert f"StartError user nobody may not read {keys}" in dropped(folder, text)


@pytest.mark.root
def test_a_state_directory_of_the_user_is_ours_at_the_next_start(folder: Path) -> None:
    text = configuration(f'state_dir = "{folder}/state"')
    dropped(folder, text)
    assert dropped(folder, text)[0].startswith("ids")


def settled(config: Config, monkeypatch: pytest.MonkeyPatch, uid: int) -> tuple[privileges.Account | None, str]:
    monkeypatch.setattr(privileges.os, "geteuid", lambda: uid)
    return account(config), unwise(config)


def test_root_without_a_user_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    who, said = settled(Config(), monkeypatch, 0)
    assert who is None
    assert said.startswith("root serves here")


@pytest.mark.parametrize("user", ["root", "0"])
def test_who_wants_root_gets_root_without_a_word(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    assert settled(Config(user=user), monkeypatch, 0) == (None, "")


def test_only_root_can_become_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in (None, "nobody", str(NOBODY.pw_uid)):
        assert settled(Config(user=user), monkeypatch, NOBODY.pw_uid) == (None, "")
    said = 'user = "daemon" means nothing: only root can become somebody else, and this is nobody'
    assert settled(Config(user="daemon"), monkeypatch, NOBODY.pw_uid) == (None, said)


def test_a_user_and_a_group_by_name_or_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("nobody", str(NOBODY.pw_uid)):
        who, _ = settled(Config(user=user, group="daemon"), monkeypatch, 0)
        assert who
        assert (who.name, who.uid, who.gid) == ("nobody", NOBODY.pw_uid, pwd.getpwnam("daemon").pw_gid)


@pytest.mark.parametrize(("user", "group", "missing"), [("no-such", None, "user no-such"), ("nobody", "no-such", "group no-such")])
def test_who_is_not_there_cannot_serve(monkeypatch: pytest.MonkeyPatch, user: str, group: str | None, missing: str) -> None:
    with pytest.raises(StartError, match=f"there is no {missing} on this machine"):
        settled(Config(user=user, group=group), monkeypatch, 0)
