"""Sockets that systemd made find their listeners, and one that finds none is a mistake."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.net.listener import Address
from mcpproxy.net.passed import Passed


def listening(family: int, where: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(where)
    sock.listen(1)
    return sock


def given(*sockets: socket.socket, names: str = "", pid: int = 0) -> tuple[Passed, dict[str, str]]:
    """As systemd passes them: descriptors in a row, words in the environment."""
    first = 200
    for number, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + number)
    environment = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names, "HOME": "/"}
    return Passed.from_environment(environment, first), environment


def test_a_socket_is_taken_by_the_listener_of_its_address(tmp_path: Path) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as tcp, listening(socket.AF_UNIX, str(tmp_path / "s")) as unix:
        port = tcp.getsockname()[1]
        passed, environment = given(tcp, unix, names="web:local")
        assert environment == {"HOME": "/"}
        assert passed.take(Address("127.0.0.1", port + 1 if port < 65535 else 1)) is None
        ours = passed.take(Address("127.0.0.1", port))
        assert ours
        assert not ours.getblocking()
        assert not os.get_inheritable(ours.fileno())
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert passed.take(Address("127.0.0.1", port)) is None
        local = passed.take(Address("", 0, str(tmp_path / "s")))
        assert local
        passed.none_left()
        ours.close()
        local.close()


def test_a_socket_of_no_listener_is_a_mistake() -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as tcp:
        passed, _ = given(tcp, names="web")
        with pytest.raises(StartError) as error:
            passed.none_left()
        assert error.value.message == f"systemd passed a socket that no listener asks for: 127.0.0.1:{tcp.getsockname()[1]} (web)"
        passed.none_left()


def test_a_socket_for_both_kinds_is_one_listeners_only() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", 0))
        both.listen(1)
        port = both.getsockname()[1]
        passed, _ = given(both)
        ours = passed.take(Address("0.0.0.0", port))
        assert ours
        assert passed.take(Address("::", port)) is None
        ours.close()


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x", "LISTEN_PID": ""}]
)
def test_words_for_somebody_else_are_not_believed_and_not_handed_on(environment: dict[str, str]) -> None:
    Passed.from_environment(environment, 200).none_left()
    assert environment == {}


def test_what_does_not_listen_is_refused_by_name() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, pytest.raises(StartError) as error:
        given(tcp, names="web")
    assert (
        error.value.message == "the socket that systemd passed as web cannot be used: it does not listen (Accept=yes is for other programs)"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, pytest.raises(StartError) as error:
        given(datagrams)
    assert error.value.message == "the socket that systemd passed as number 1 cannot be used: it is no stream socket"


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    with pytest.raises(StartError, match="Bad file descriptor"):
        Passed.from_environment({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, 230)


def test_by_default_they_begin_at_3() -> None:
    program = (
        "import os, socket\nfrom mcpproxy.net.listener import Address\nfrom mcpproxy.net.passed import Passed\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\npassed = Passed.from_environment(os.environ)\n"
        "print(passed.take(Address('127.0.0.1', int(os.environ['PORT']))) is not None)"
    )
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as tcp:
        environment = {**os.environ, "LISTEN_FDS": "1", "PORT": str(tcp.getsockname()[1]), "FD": str(tcp.fileno())}
        shell = ["bash", "-c", f'exec 3<&{tcp.fileno()} "$@"', "bash", sys.executable, "-c", program]
        answer = subprocess.run(shell, env=environment, pass_fds=[tcp.fileno()], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "True\n"
