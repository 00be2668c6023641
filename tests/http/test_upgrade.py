import pytest

from mcpproxy.http.fields import Field
from mcpproxy.http.upgrade import WEBSOCKET, asked, switched

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {b"Connection": b"Upgrade", b"Upgrade": b"websocket", b"Sec-WebSocket-Key": KEY, b"Sec-WebSocket-Version": b"13"}
ANSWER = {b"Connection": b"Upgrade", b"Upgrade": b"websocket", b"Sec-WebSocket-Accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}


def fields(of: dict[bytes, bytes], *more: tuple[bytes, bytes]) -> list[Field]:
    return [(name, name.lower(), value) for name, value in [*of.items(), *more]]


def test_a_handshake_asks_for_a_websocket() -> None:
    assert asked(b"GET", 11, fields(HANDSHAKE)) == WEBSOCKET
    browser = HANDSHAKE | {b"Connection": b"keep-alive, Upgrade", b"Upgrade": b"WebSocket"}
    assert asked(b"GET", 11, fields(browser)) == WEBSOCKET


@pytest.mark.parametrize("name", HANDSHAKE)
def test_half_a_handshake_asks_for_nothing(name: bytes) -> None:
    assert asked(b"GET", 11, fields({key: value for key, value in HANDSHAKE.items() if key != name})) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Upgrade", b"h2c"),
        (b"Upgrade", b"websocket, h2c"),
        (b"Upgrade", b"websocket/13"),
        (b"Connection", b"close"),
        (b"Connection", b"upgrades"),
        (b"Connection", b"upgrade, sec-websocket-key"),
        (b"Connection", b"Sec-WebSocket-Version, upgrade"),
        (b"Sec-WebSocket-Key", b""),
        (b"Sec-WebSocket-Key", b"short"),
        (b"Sec-WebSocket-Key", KEY + b"="),
        (b"Sec-WebSocket-Version", b""),
        (b"Sec-WebSocket-Version", b"13, 8"),
    ],
)
def test_a_wrong_handshake_asks_for_nothing(name: bytes, value: bytes) -> None:
    assert asked(b"GET", 11, fields(HANDSHAKE | {name: value})) is None


def test_methods_versions_and_repetitions() -> None:
    assert asked(b"POST", 11, fields(HANDSHAKE)) is None
    assert asked(b"GET", 10, fields(HANDSHAKE)) is None
    for name in (b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"):
        assert asked(b"GET", 11, fields(HANDSHAKE, (name, HANDSHAKE[name]))) is None


def test_a_101_answers_a_handshake() -> None:
    assert switched(fields(ANSWER)) == WEBSOCKET
    for field in ANSWER.items():
        assert switched(fields(dict(ANSWER.items() - {field}))) is None
        if field[0] != b"Connection":
            assert switched(fields(ANSWER, field)) is None
    assert switched(fields(ANSWER | {b"Upgrade": b"h2c"})) is None
    assert switched(fields(ANSWER | {b"Connection": b"Upgrade, Sec-WebSocket-Accept"})) is None
    assert switched(fields(ANSWER | {b"Sec-WebSocket-Accept": b"?"})) is None
