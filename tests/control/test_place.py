"""The admin socket: private, replaced in one step, and removed only by whose it is."""

import os
import socket
import stat
from pathlib import Path

import pytest

from mcpproxy.control.place import LONGEST, OWNER, Place, dial


def test_a_socket_is_its_owners_in_a_directory_that_was_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state" / "admin.sock"
    place = Place(f"unix:{path}", OWNER)
    with place.open():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        dial(str(path)).close()
    place.leave()
    assert list(path.parent.iterdir()) == []


def test_a_path_the_kernel_does_not_take_is_reached_through_its_directory(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 60) / ("e" * 60) / "admin.sock"
    assert len(os.fsencode(path)) > LONGEST
    place = Place(f"unix:{path}")
    with place.open() as listening:
        ours = dial(str(path))
        theirs, _ = listening.accept()
        ours.sendall(b"hello")
        assert theirs.recv(10) == b"hello"
        ours.close()
        theirs.close()
    place.leave()
    assert not path.exists()


def test_a_successor_takes_the_place_and_its_predecessor_leaves_it_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    first, second = Place(f"unix:{path}"), Place(f"unix:{path}")
    with first.open(), second.open() as newest:
        first.leave()
        ours = dial(path)
        newest.accept()[0].close()
        ours.close()
    second.leave()
    assert not os.path.exists(path)


def test_what_a_dead_one_left_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    Place(f"unix:{path}").open().close()
    with Place(f"unix:{path}").open():
        dial(path).close()


def test_a_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="no socket"):
        Place(f"unix:{path}").open()
    assert path.read_text() == "precious"


def test_a_directory_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="directory"):
        Place(f"unix:{tmp_path}/file/admin.sock").open()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_a_tcp_address(address: str) -> None:
    with Place(address).open() as sock:
        with socket.create_connection(sock.getsockname()[:2]):
            pass


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dial(str(tmp_path / "none.sock"))
