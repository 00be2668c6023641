"""mcpproxy key: shown once, kept as a hash, taken away again."""

import re
import stat
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.config.policies import Auth
from mcpproxy.policy.apikey import KEY, ApiKeys
from mcpproxy.policy.verdict import Accepted, Credential
from tests.cli.test_options import GOOD, written

Said = pytest.CaptureFixture[str]
NOW = 1_780_000_000.0  # before any key made here ends
KEYS = '[auth.{name}]\ntype = "api-key"\nfile = "{file}"\n'


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(written(tmp_path, GOOD + 'auth = "keys"\n' + KEYS.format(name="keys", file="keys.jsonl")))


def run(said: Said, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What `mcpproxy key …` prints to stdout and stderr."""
    assert status_of(["key", *arguments]) == status, said.readouterr().err
    out, err = said.readouterr()
    return out, err


def listed(said: Said, config: str) -> list[list[str]]:
    out, err = run(said, "list", "-c", config)
    assert err == ""
    return [line.split() for line in out.splitlines()]


def name_of(file: Path, key: str, now: float = NOW) -> str | None:
    found = ApiKeys("keys", Auth(type="api-key", file=str(file))).judge(Credential("bearer", key.strip().encode(), b"authorization"), now)
    return found.principal.name if isinstance(found, Accepted) else None


def test_a_key_is_shown_once_on_stdout_alone(config: str, tmp_path: Path, capsys: Said) -> None:
    out, err = run(capsys, "add", "agent-alpha", "-c", config)
    key = out.strip()
    assert re.fullmatch(KEY, key) and out == key + "\n"
    assert key not in err and "this is the only time it is shown" in err
    file = tmp_path / "keys.jsonl"
    assert str(file) in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text() and key[16:] not in file.read_text()
    assert name_of(file, key) == "agent-alpha"
    assert status_of(["check", "-c", config]) == 0


def test_the_list_shows_who_and_until_when_and_no_hash(config: str, tmp_path: Path, capsys: Said) -> None:
    run(capsys, "add", "alpha", "-c", config, "--expires", "90d", "--role", "ops", "--role", "ci", "--role", "ops")
    run(capsys, "add", "beta", "-c", config)
    head, alpha, beta = listed(capsys, config)
    assert head == ["ID", "NAME", "ROLES", "CREATED", "EXPIRES", "STATE"]
    assert alpha[1:3] + alpha[5:] == ["alpha", "ops,ci", "active"]
    assert beta[1:3] + beta[4:] == ["beta", "-", "never", "active"]
    assert alpha[4] > alpha[3] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", alpha[4])
    shown = run(capsys, "list", "-c", config)[0]
    for word in re.findall(r"[0-9a-f]{32,}", (tmp_path / "keys.jsonl").read_text()):
        assert word not in shown


@pytest.mark.parametrize("what", ["name", "id", "key"])
def test_a_revoked_key_works_no_more(config: str, tmp_path: Path, capsys: Said, what: str) -> None:
    key = run(capsys, "add", "alpha", "-c", config)[0].strip()
    other = run(capsys, "add", "beta", "-c", config)[0]
    identity = key.split("_")[1]
    out, err = run(capsys, "revoke", {"name": "alpha", "id": identity, "key": key}[what], "-c", config)
    assert (out, err) == ("", f"mcpproxy: key {identity} of alpha is revoked\n")
    file = tmp_path / "keys.jsonl"
    assert (name_of(file, key), name_of(file, other)) == (None, "beta")
    assert [row[-1] for row in listed(capsys, config)] == ["STATE", "revoked", "active"]
    assert run(capsys, "revoke", "alpha", "-c", config) == ("", "mcpproxy: no key of alpha works: nothing to revoke\n")
    assert name_of(file, run(capsys, "add", "alpha", "-c", config)[0]) == "alpha"


def test_rotating_gives_a_new_key_with_the_same_roles(config: str, tmp_path: Path, capsys: Said) -> None:
    file = tmp_path / "keys.jsonl"
    first = run(capsys, "add", "alpha", "-c", config, "--role", "ops")[0]
    second, err = run(capsys, "rotate", "alpha", "-c", config)
    assert "the key it replaces is revoked" in err
    assert (name_of(file, first), name_of(file, second)) == (None, "alpha")
    third, err = run(capsys, "rotate", "alpha", "-c", config, "--grace", "24h", "--expires", "90d")
    assert "the key it replaces works until " in err
    assert name_of(file, second) == name_of(file, third) == "alpha"
    assert [(row[2], row[5]) for row in listed(capsys, config)[1:]] == [("ops", "revoked"), ("ops", "active"), ("ops", "active")]


def test_the_file_may_be_named_without_a_configuration(tmp_path: Path, capsys: Said) -> None:
    file = tmp_path / "mine"
    key = run(capsys, "add", "alpha", "--file", str(file))[0]
    assert name_of(file, key) == "alpha"
    assert "alpha" in run(capsys, "list", "--file", str(file))[0]


def test_several_files_are_told_apart_by_name(tmp_path: Path, capsys: Said) -> None:
    both = KEYS.format(name="agents", file="agents.jsonl") + KEYS.format(name="people", file="people.jsonl")
    config = str(written(tmp_path, GOOD + 'auth = ["agents", "people"]\n' + both))
    out, err = run(capsys, "add", "alpha", "-c", config, status=2)
    assert out == ""
    assert err.splitlines() == [
        f"mcpproxy: {config}: several files of keys: which one?",
        f"  --auth agents  ({tmp_path}/agents.jsonl)",
        f"  --auth people  ({tmp_path}/people.jsonl)",
    ]
    key = run(capsys, "add", "alpha", "-c", config, "--auth", "people")[0]
    assert name_of(tmp_path / "people.jsonl", key) == "alpha"
    assert not (tmp_path / "agents.jsonl").exists()
    assert 'there is no [auth.robots] with type = "api-key"' in run(capsys, "list", "-c", config, "--auth", "robots", status=2)[1]


def test_two_ways_with_one_file_are_one_file(tmp_path: Path, capsys: Said) -> None:
    both = KEYS.format(name="agents", file="keys") + KEYS.format(name="people", file="keys")
    config = str(written(tmp_path, GOOD + 'auth = ["agents", "people"]\n' + both))
    run(capsys, "add", "alpha", "-c", config)


def first_line(said: Said, *arguments: str, status: int = 1) -> str:
    out, err = run(said, *arguments, status=status)
    assert out == ""
    return err.splitlines()[0]


def test_what_goes_wrong_is_one_line_and_advice(config: str, tmp_path: Path, capsys: Said) -> None:
    file = tmp_path / "keys.jsonl"
    none = f"mcpproxy: {file}: No such file or directory; `mcpproxy key add NAME` makes it"
    for command in (["list"], ["revoke", "alpha"], ["rotate", "alpha"]):
        assert first_line(capsys, *command, "-c", config) == none
    key = run(capsys, "add", "alpha", "-c", config)[0].strip()
    assert first_line(capsys, "add", "alpha", "-c", config) == f"mcpproxy: alpha has a key already: {key.split('_')[1]}"
    assert first_line(capsys, "revoke", "gamma", "-c", config) == "mcpproxy: there is no key of the name or id 'gamma'"
    assert (
        first_line(capsys, "add", "alpha", "-c", str(tmp_path / "none.toml"))
        == f"mcpproxy: {tmp_path}/none.toml: No such file or directory"
    )
    assert first_line(capsys, "add", "beta", "--file", str(tmp_path / "no" / "keys")) == f"mcpproxy: there is no directory {tmp_path}/no"
    mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert first_line(capsys, "revoke", mistyped, "-c", config) == "mcpproxy: this begins like a key and is none: its checksum is wrong"
    file.write_text("secret\n")
    assert first_line(capsys, "add", "beta", "-c", config) == f"mcpproxy: {file}: line 1: not a JSON object"
    plain = str(written(tmp_path, GOOD))
    assert first_line(capsys, "add", "alpha", "-c", plain) == f"mcpproxy: {plain}: nobody comes in by an API key there"


@pytest.mark.parametrize(
    "arguments",
    [
        ["add"],
        ["add", "a b"],
        ["add", "-c"],
        ["add", "*"],
        ["add", "alpha", "--role", "role:ops"],
        ["add", "alpha", "--expires", "90"],
        ["add", "alpha", "--expires", "0s"],
        ["add", "alpha", "--expires", "40000d"],
        ["rotate", "alpha", "--grace", "soon"],
        ["revoke"],
        ["forget", "alpha"],
    ],
)
def test_a_wrong_command_line_is_status_2_and_touches_nothing(arguments: list[str], config: str, tmp_path: Path, capsys: Said) -> None:
    run(capsys, *arguments, *(["-c", config] if arguments[-1] != "-c" else []), status=2)
    assert not (tmp_path / "keys.jsonl").exists()


def test_a_key_given_for_a_name_is_not_taken_as_one(config: str, tmp_path: Path, capsys: Said) -> None:
    run(capsys, "add", "mcpp_0123456789_" + "s" * 38, "-c", config, status=2)
    assert not (tmp_path / "keys.jsonl").exists()


def test_a_key_is_revoked_whatever_else_is_wrong_with_the_configuration(config: str, tmp_path: Path, capsys: Said) -> None:
    key = run(capsys, "add", "alpha", "-c", config)[0]
    file = Path(config)
    file.write_text(file.read_text().replace("[[route]]", "nonsense = 1\n[[route]]\npath = 5"))
    _, err = run(capsys, "revoke", key.strip(), "-c", config)
    assert err.splitlines()[0] == f"mcpproxy: warning: {config}: 2 mistakes; mcpproxy check names them"
    assert "of alpha is revoked" in err
    assert name_of(tmp_path / "keys.jsonl", key) is None


@pytest.mark.parametrize("text", ["[[listen", "nonsense = 1\n", '[auth.keys]\ntype = "api-key"\nfile = 5\n'])
def test_where_the_file_of_keys_cannot_be_found_the_mistakes_are_told(config: str, capsys: Said, text: str) -> None:
    Path(config).write_text(text)
    _, err = run(capsys, "revoke", "alpha", "-c", config, status=1)
    assert "mistake" in err
