"""The door between workers and the control process opens for who knows the secret."""

import socket

from mcpproxy.net.door import make_door


def test_whoever_knows_the_address_can_connect_but_only_the_secret_opens() -> None:
    door = make_door()
    with door.sock, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(door.address)
        assert door.opens(door.secret)
        for said in ("", door.secret[:-1], door.secret + "0", None, 7, "ü"):
            assert not door.opens(said)


def test_each_has_its_own_address_and_secret_and_never_shows_it() -> None:
    one, other = make_door(), make_door()
    with one.sock, other.sock:
        assert one.address != other.address
        assert one.secret != other.secret
        assert one.secret not in repr(one)
