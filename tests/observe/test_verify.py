"""Whatever is done to an audit log, verify finds it and says where."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st

from mcpproxy.config.policies import Audit
from mcpproxy.observe.chain import Chain, taken_apart
from mcpproxy.observe.keeping import NO_HASH, PUBLIC, Head, Keeper, public_key, read_head
from mcpproxy.observe.verify import PROBLEMS, Report, verify

NOW = 1_795_000_000.0
BODY = b'"time":"2026-11-18T11:06:40.000Z","type":"call","n":%d'


@dataclass
class Made:
    """Two files of one chain, and what belongs to them."""

    directory: Path
    old: bytes
    new: bytes
    head: Head

    @property
    def key(self) -> Path:
        return self.directory / "state" / PUBLIC

    def found(self, new: bytes, old: bytes | None = None, *, head: bool = True, part: bool = False) -> Report:
        files = [self.directory / "audit.log", self.directory / "audit.log.1"]
        for file, data in zip(files, (new, old), strict=True):
            if data is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(data)
        key = public_key(self.key.read_bytes(), "key")
        return verify([str(file) for file in files if file.exists()], [key], self.head if head else None, part=part, ends=not part)

    def problems(self, new: bytes, **how: bool) -> list[str]:
        return [str(problem).rpartition("/")[2] for problem in self.found(new, self.old, **how).problems]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("audit")
    file, old = directory / "audit.log", directory / "audit.log.1"
    chain = Chain(Audit(file=str(file), checkpoint=60.0), Keeper(directory / "state"), NOW)
    for number in range(12):
        if number == 4:
            file.rename(old)
            chain.reopen(NOW, [])
        chain.append([BODY % number], NOW)
        if number == 8:
            chain.rest(NOW + 60)
    chain.close(NOW)
    head = read_head(directory / "state")
    assert head is not None
    return Made(directory, old.read_bytes(), file.read_bytes(), head)


def test_an_untouched_log_is_unchanged(made: Made) -> None:
    found = made.found(made.new, made.old)
    assert (found.problems, found.notes) == ([], [])
    assert (found.lines, found.calls, found.first, found.newest, found.signed) == (17, 12, 1, 17, 17)
    assert found.newest_hash == made.head.sure_hash


# -- anything at all -----------------------------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_any_byte_that_is_changed_is_found(made: Made, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(made.new) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != made.new[place]))
    assert made.found(made.new[:place] + bytes([byte]) + made.new[place + 1 :], made.old).problems


@given(data=st.data())
def test_any_byte_that_is_put_in_or_taken_out_is_found(made: Made, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(made.new)))
    assert made.found(made.new[:place] + data.draw(st.binary(min_size=1, max_size=3)) + made.new[place:], made.old).problems
    cut = data.draw(st.integers(1, 200))
    shorter = made.new[:place] + made.new[place + cut :]
    assume(shorter != made.new)
    assert made.found(shorter, made.old).problems


@given(data=st.data())
def test_any_end_that_is_cut_off_is_found(made: Made, data: st.DataObject) -> None:
    assert made.found(made.new[: data.draw(st.integers(0, len(made.new) - 1))], made.old).problems


@given(data=st.data())
def test_any_lines_that_are_moved_repeated_or_taken_out_are_found(made: Made, data: st.DataObject) -> None:
    lines = made.new.splitlines(keepends=True)
    chosen = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=len(lines) + 3))
    changed = b"".join(lines[number] for number in chosen)
    assume(changed != made.new)
    assert made.found(changed, made.old).problems


# -- what it says ------------------------------------------------------------------------------------------------------------------------------------


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def edited(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"n":4', b'"n":5'), *lines[2:]]


CHANGES: list[tuple[Callable[[list[bytes]], list[bytes]], list[str]]] = [
    (edited, ["audit.log:2: line 8 was changed: its hash does not fit to it and the line before"]),
    (lambda lines: [*lines[:2], *lines[4:]], ["audit.log:3: 2 lines before this one are missing (9 to 10)"]),
    (lambda lines: [*lines[:3], lines[2], *lines[3:]], ["audit.log:4: line 9 comes again, or at the wrong place (after line 9)"]),
    (lambda lines: lines[:-3], ["audit.log:8: the end is missing: the newest line written was 17, the last one here is 14"]),
    (lambda lines: [*lines[:2], b"hello\n", *lines[2:]], ["audit.log:3: not a whole line of this log: changed, cut or torn"]),
    (lambda lines: [*lines[:-1], lines[-1][:-5]], ["not a whole line", "the end is missing"]),
    (
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        [
            "audit.log:3: 1 line before this one is missing (9 to 9)",
            "audit.log:4: line 9 comes again",
            "audit.log:5: 1 line before this one",
        ],
    ),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_one_change_is_one_problem_with_its_line(made: Made, change: Callable[[list[bytes]], list[bytes]], said: list[str]) -> None:
    found = made.problems(b"".join(change(lines_of(made.new))))
    assert len(found) == len(said)
    assert all(words in problem for words, problem in zip(said, found, strict=True)), found


def test_a_missing_first_file_is_found_unless_a_part_is_enough(made: Made) -> None:
    assert "the beginning is missing: this is line 7" in str(made.found(made.new).problems[0])
    assert made.found(made.new, part=True).problems == []
    old = made.found(made.old, head=True, part=True)
    assert old.problems == [] and old.newest == 6
    assert "the end is missing" in str(made.found(made.old).problems[0])


def test_a_part_that_does_not_begin_with_a_begin_line_says_what_it_cannot_know(made: Made) -> None:
    found = made.found(b"".join(lines_of(made.new)[3:]), part=True)
    assert found.problems == [] and "nobody can tell" in str(found.notes[0])


def test_the_order_in_which_files_are_named_does_not_matter_and_they_may_be_compressed(made: Made) -> None:
    made.found(made.new, made.old)
    packed = made.directory / "audit.log.1.gz"
    packed.write_bytes(gzip.compress(made.old))
    key = public_key(made.key.read_bytes(), "key")
    assert verify([str(made.directory / "audit.log"), str(packed)], [key], made.head).problems == []


@given(data=st.data())
def test_a_line_that_copytruncate_cut_in_two_is_whole_again(made: Made, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(lines_of(made.new)[0]) - 1))
    assert made.found(made.new[cut:], made.old + made.new[:cut]).problems == []
    first = len(lines_of(made.new)[0])
    assert made.found(made.new[cut : first - 1] + b"x" + made.new[first:], made.old + made.new[:cut]).problems
    assert made.found(made.new[cut + 1 :], made.old + made.new[:cut]).problems
    assert made.found(made.new[cut:], made.old + made.new[: cut - 1]).problems


def rewritten(data: bytes, previous: str, change: Callable[[bytes], bytes], *, drop: bytes = b"\0") -> bytes:
    """What somebody does who can write the file and knows how the chain is made, but has no key."""
    out, seq = b"", None
    for each in data.splitlines():
        line = taken_apart(each)
        assert line is not None
        if drop in line.body:
            continue
        seq = line.seq if seq is None else seq + 1
        body = b'{"seq":%d,%b' % (seq, change(line.body).partition(b",")[2])
        previous = sha256(bytes.fromhex(previous) + body).hexdigest()
        out += b'%b,"hash":"%b"}\n' % (body, previous.encode())
    return out


def last_hash(data: bytes) -> str:
    line = taken_apart(data.splitlines()[-1])
    assert line is not None
    return line.hash


def test_who_makes_all_hashes_anew_fails_at_the_signature(made: Made) -> None:
    forged = rewritten(made.new, last_hash(made.old), lambda body: body.replace(b'"n":4', b'"n":5'))
    found = made.problems(forged, head=False)
    assert len(found) == 2 and all("the signature does not fit: lines since line 6 were written by somebody else" in each for each in found)


def test_who_also_takes_the_checkpoints_away_fails_at_the_head(made: Made) -> None:
    forged = rewritten(made.new, last_hash(made.old), lambda body: body.replace(b'"n":4', b'"n":5'), drop=b'"type":"checkpoint"')
    assert ["the end is missing" in each for each in made.problems(forged)] == [True]
    padded = forged + rewritten(b"".join(lines_of(made.new)[1:4]), last_hash(forged), lambda body: body)
    assert made.problems(padded)
    alone = made.found(forged, made.old, head=False)
    assert alone.problems == [] and alone.signed == 6  # without the head nobody knows; the report says up to where it is signed


def test_who_signs_with_another_key_is_found(made: Made) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    made.found(made.new, made.old)
    found = verify([str(made.directory / "audit.log"), str(made.directory / "audit.log.1")], [other], made.head)
    assert len(found.problems) == 3 and all("signed by another key" in str(each) for each in found.problems)
    assert verify([str(made.directory / "audit.log"), str(made.directory / "audit.log.1")], [], made.head).problems == []


def test_who_writes_a_begin_line_of_his_own_gains_nothing(made: Made) -> None:
    lines = lines_of(made.new)
    line = taken_apart(lines[4][:-1])
    assert line is not None
    for prev in (line.hash, NO_HASH, "nonsense"):
        body = b'"time":"x","type":"begin","start":"kill","prev":"%b","key":"x","missing":7' % prev.encode()
        forged = rewritten(b'{"seq":%d,%b%b' % (line.seq + 1, body, lines[0][-76:]), line.hash, lambda body: body)
        assert made.problems(b"".join([*lines[:5], forged, *lines[7:]]))


def test_what_the_daemon_could_not_know_to_be_harmless_is_a_problem(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for _ in range(2):
        chain = Chain(Audit(file=str(tmp_path / "a")), Keeper(state), NOW)
        chain.close(NOW)
        (state / "audit-head").unlink()
    found = verify([str(tmp_path / "a")], [public_key((state / PUBLIC).read_bytes(), "key")])
    assert ["had no head" in str(problem) for problem in found.problems] == [True]


def test_half_a_line_is_no_problem_while_it_is_written(made: Made) -> None:
    made.found(made.new + b'{"seq":18,"ti', made.old)
    files = [str(made.directory / name) for name in ("audit.log", "audit.log.1")]
    assert verify(files, [], made.head, moved=lambda: True).problems == []
    assert len(verify(files, [], made.head, moved=lambda: False).problems) == 1


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"hello\n", b"\0" * 5000, b'{"seq":1}\n', b'{"seq":99999999999999999999999999999,"hash":"x"}\n']
)
def test_what_is_no_audit_log_is_told(made: Made, data: bytes) -> None:
    assert any("no line of an audit log" in str(problem) for problem in made.found(data).problems)


def test_very_many_problems_are_counted(made: Made) -> None:
    found = made.found(b"x\n" * 1000 + made.new, made.old)
    assert (len(found.problems), found.more_problems) == (PROBLEMS, 1000 - PROBLEMS)
    changed = made.new.replace(b'"type":"call"', b'"type":"cull"')
    found = made.found(changed + b"x\n" * 1000 + b"x", made.old)
    assert len(found.problems) + found.more_problems == 8 + 1001


@given(st.binary(max_size=300))
def test_no_file_is_too_odd(made: Made, data: bytes) -> None:
    assert made.found(data + made.new, made.old).lines >= 0
    assert json.dumps([str(problem) for problem in made.found(data).problems])
