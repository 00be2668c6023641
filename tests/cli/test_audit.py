"""mcpproxy audit: says where a log was changed, and prints the key that shows it."""

import gzip
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.config.policies import Audit
from mcpproxy.observe.audit import AuditLog
from tests.cli.test_options import GOOD, written
from tests.observe.samples import entry
from tests.support.waiting import DEADLINE

Said = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration, and the log that a daemon with it has written: two files, five calls."""
    log, state = tmp_path / "audit.log", tmp_path / "state"
    for calls in 2, 3:
        if log.exists():
            log.rename(tmp_path / "audit.log.1")
        daemon = AuditLog(Audit(file=str(log)), str(state), lambda level, text: None)
        for _ in range(calls):
            daemon.add(entry())
        assert daemon.close(DEADLINE)
    return str(written(tmp_path, f'state_dir = "{state}"\n{GOOD}[audit]\nfile = "{log}"\n'))


def run(said: Said, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What `mcpproxy audit …` prints to stdout and stderr."""
    assert status_of(["audit", *arguments]) == status, said.readouterr()
    return said.readouterr()


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"status":200', b'"status":403', 1))


def test_the_configured_log_is_found_with_what_rotation_made_of_it(config: str, capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "audit.log.1.gz").write_bytes(gzip.compress((tmp_path / "audit.log.1").read_bytes()))
    (tmp_path / "audit.log.1").unlink()
    out, err = run(capsys, "verify", "-c", config)
    assert out.startswith("unchanged: 5 calls in 9 lines (1 to 9); signed up to line 9; newest hash ") and err == ""


def test_one_is_one(tmp_path: Path, capsys: Said) -> None:
    log, state = tmp_path / "audit.log", tmp_path / "state"
    daemon = AuditLog(Audit(file=str(log)), str(state), lambda level, text: None)
    daemon.add(entry())
    assert daemon.close(DEADLINE)
    first = log.read_bytes().splitlines(keepends=True)[0]
    assert "1 call in " in run(capsys, "verify", "--key", str(state / "audit-key.pub.pem"), str(log))[0]
    log.write_bytes(first)
    assert "0 calls in 1 line (1 to 1)" in run(capsys, "verify", "--key", str(state / "audit-key.pub.pem"), str(log))[0]


def test_a_changed_line_is_named(config: str, capsys: Said, tmp_path: Path) -> None:
    changed(tmp_path / "audit.log")
    out, _ = run(capsys, "verify", "-c", config, status=1)
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path}/audit.log:2: line 6 was changed: its hash does not fit to it and the line before"
    assert lines[1] == "changed: 5 calls in 9 lines (1 to 9); 1 problem"


def test_a_missing_file_is_named(config: str, capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "audit.log.1").rename(tmp_path / "elsewhere")
    assert "the beginning is missing: this is line 5" in run(capsys, "verify", "-c", config, status=1)[0]
    assert "unchanged: 3 calls" in run(capsys, "verify", "-c", config, "--part")[0]
    (tmp_path / "elsewhere").rename(tmp_path / "audit.log")
    assert "the end is missing: the newest line written was 9, the last one here is 4" in run(capsys, "verify", "-c", config, status=1)[0]


def test_of_a_part_that_holds_the_log_itself_the_end_must_be_there(config: str, capsys: Said, tmp_path: Path) -> None:
    """Where rotation has taken the first files away, `--part` is all that is left, and a log that was cut short is found all the same."""
    log, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    assert "unchanged: 2 calls" in run(capsys, "verify", "-c", config, "--part", str(old))[0]
    old.unlink()
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    for files in [], [str(log)], [f"{tmp_path}/./audit.log"]:
        assert (
            "the end is missing: the newest line written was 9, the last one here is 7"
            in run(capsys, "verify", "-c", config, "--part", *files, status=1)[0]
        )


def test_with_a_key_no_configuration_is_needed(config: str, capsys: Said, tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_text(run(capsys, "key", "-c", config)[0])
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")
    files = [str(tmp_path / "audit.log"), str(tmp_path / "audit.log.1")]
    arguments = ["verify", "--key", str(public), "-c", "/none", *files]
    assert "signed up to line 9" in run(capsys, *arguments)[0]
    changed(tmp_path / "audit.log.1")
    assert "audit.log.1:2: line 2 was changed" in run(capsys, *arguments, status=1)[0]


def test_a_crash_is_a_note(config: str, capsys: Said, tmp_path: Path) -> None:
    with (tmp_path / "audit.log").open("ab") as file:
        file.write(b'{"seq":10,"ti')
    assert "not a whole line" in run(capsys, "verify", "-c", config, status=1)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "-c", "/none"), "No such file or directory"),
        (("verify", "-c", "{config}", "/none"), "/none: No such file or directory"),
        (("verify", "-c", "{config}", "--key", "/none"), "/none: No such file or directory"),
        (("verify", "-c", "{config}", "--key", "{config}"), "not the public key of an audit log"),
        (("verify", "-c", "{config}", "--state-dir", "/none"), "no audit log was ever written"),
        (("verify", "-c", "{config}", "{broken}"), "audit log"),
        (("key", "-c", "{config}", "--state-dir", "/none"), "there is no key yet"),
        (("key", "-c", "/none"), "No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_told(config: str, capsys: Said, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"x" * 100)[:-10])
    given = [argument.format(config=config, broken=broken) for argument in arguments]
    assert said in run(capsys, *given, status=1)[1]


def test_a_configuration_without_an_audit_log_needs_files(capsys: Said, tmp_path: Path, config: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    bare = str(written(other, f'state_dir = "{tmp_path}/state"\n{GOOD}'))
    assert "there is no [audit]" in run(capsys, "verify", "-c", bare, status=2)[1]
    assert "unchanged" in run(capsys, "verify", "-c", bare, str(tmp_path / "audit.log"), str(tmp_path / "audit.log.1"))[0]


# -- a chain for each worker ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(config: str, tmp_path: Path) -> str:
    """The same log, and then written by three workers at once: three calls, four and five."""
    log, state = tmp_path / "audit.log", tmp_path / "state"
    workers = [AuditLog(Audit(file=str(log)), str(state), lambda level, text: None, alone=False) for _ in range(3)]
    for number, worker in enumerate(workers):
        for _ in range(3 + number):
            worker.add(entry())
    assert all(worker.close(DEADLINE) for worker in workers)
    return config


def test_every_chain_is_verified_and_told_of(three: str, capsys: Said) -> None:
    first, second, third = run(capsys, "verify", "-c", three)[0].splitlines()
    assert first.startswith("chain 0: unchanged: 8 calls in 14 lines (1 to 14)")
    assert second.startswith("chain 1: unchanged: 4 calls in 6 lines (1 to 6); signed up to line 6")
    assert third.startswith("chain 2: unchanged: 5 calls in 7 lines")


def test_a_changed_line_of_any_chain_is_found(three: str, capsys: Said, tmp_path: Path) -> None:
    changed(tmp_path / "audit.chain2.log")
    lines = run(capsys, "verify", "-c", three, status=1)[0].splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["chain 0", "chain 1", f"{tmp_path}/audit.chain2.log:2", "chain 2"]
    assert "line 2 was changed" in lines[2] and lines[3].startswith("chain 2: changed: ")


def test_a_whole_chain_cannot_be_taken_away_unseen(three: str, capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "audit.chain1.log").unlink()
    for more in [], ["--part"]:
        out = run(capsys, "verify", "-c", three, *more, status=1)[0]
        assert (
            f"audit.chain1.log: none of its files is there; when rotation took the last of them, delete {tmp_path}/state/audit-head.1"
            in out
        )
        assert "chain 0: unchanged" in out and "chain 2: unchanged" in out
    (tmp_path / "state" / "audit-head.1").unlink()
    assert "chain 2: unchanged" in run(capsys, "verify", "-c", three)[0]


def test_chains_are_told_apart_by_their_lines_whatever_their_files_are_called(three: str, capsys: Said, tmp_path: Path) -> None:
    names = ("audit.log", "audit.log.1", "audit.chain1.log", "audit.chain2.log")
    files = [str((tmp_path / name).rename(tmp_path / f"moved-{number}")) for number, name in enumerate(names)]
    assert run(capsys, "verify", "-c", three, *reversed(files))[0].count("unchanged") == 3
    out = run(capsys, "verify", "-c", three, files[2])[0]
    assert out.splitlines()[:2] == ["note: chain 0 is not among these files", "note: chain 2 is not among these files"]
    public = str(tmp_path / "state" / "audit-key.pub.pem")
    assert run(capsys, "verify", "--key", public, *files)[0].count("unchanged") == 3


def test_rotation_is_found_for_each_chain(three: str, capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "audit.chain1.log").rename(tmp_path / "audit.chain1.log-20261121")
    (tmp_path / "audit.chain1.log").touch()  # as logrotate makes it
    (tmp_path / "audit.chain2.log").rename(tmp_path / "audit.chain2.log.1")
    assert run(capsys, "verify", "-c", three)[0].count("unchanged") == 3


def test_a_chain_in_the_place_of_another_one_is_found(three: str, capsys: Said, tmp_path: Path) -> None:
    """Its lines say whose they are; without that, their hashes do."""
    one, two = tmp_path / "audit.chain1.log", tmp_path / "audit.chain2.log"
    two.write_bytes(one.read_bytes() + two.read_bytes())
    out = run(capsys, "verify", "-c", three, status=1)[0]
    assert "belongs to chain 2, and this is chain 1" in out
    assert "audit.chain2.log: none of its files is there" in out
    two.write_bytes(one.read_bytes().replace(b'"chain":1,', b'"chain":2,'))
    assert "was changed" in run(capsys, "verify", "-c", three, status=1)[0]


def test_files_of_a_chain_that_was_never_written_here_are_no_proof(three: str, capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "state" / "audit-head.2").unlink()
    assert "the state directory knows of no chain 2" in run(capsys, "verify", "-c", three, status=1)[0]


def test_a_log_without_a_suffix_has_chains_too(capsys: Said, tmp_path: Path) -> None:
    log, state = tmp_path / "audit", tmp_path / "state"
    workers = [AuditLog(Audit(file=str(log)), str(state), lambda level, text: None, alone=False) for _ in range(2)]
    assert all(worker.close(DEADLINE) for worker in workers)
    config = str(written(tmp_path, f'state_dir = "{state}"\n{GOOD}[audit]\nfile = "{log}"\n'))
    assert (tmp_path / "audit.chain1").exists()
    assert run(capsys, "verify", "-c", config)[0].count("unchanged") == 2
