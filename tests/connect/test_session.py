"""What a session remembers for the next one."""

from mcpproxy.connect import envelope
from mcpproxy.connect.session import Call
from mcpproxy.connect.streamable import Streamable
from tests.connect.rig import desk


def call(raw: bytes) -> Call:
    [found] = envelope.read(raw) or []
    return Call(raw, {found.key: bytes(found.id)}, found)


async def test_the_last_level_and_what_is_subscribed() -> None:
    async with desk("http://127.0.0.1:1/") as at:
        session = Streamable(at.bridge)
        for level in (b"debug", b"error"):
            session.remember(call(b'{"id":1,"method":"logging/setLevel","params":{"level":"%b"}}' % level))
        for method, uri in (("subscribe", "a"), ("subscribe", "b"), ("unsubscribe", "a"), ("unsubscribe", "c")):
            session.remember(call(b'{"id":1,"method":"resources/%b","params":{"uri":"%b"}}' % (method.encode(), uri.encode())))
        assert session._level == b'{"level":"error"}'
        assert session._subscribed == {b'"b"': b'{"uri":"b"}'}


async def test_what_a_greeting_says() -> None:
    async with desk("http://127.0.0.1:1/") as at:
        session = Streamable(at.bridge)
        for raw in (b'{"id":1,"error":{}}', b'{"id":1,"result":7}', b'{"id":1,"result":{"protocolVersion":"x\\r\\ny","capabilities":[]}}'):
            [found] = envelope.read(raw) or []
            session.greeted(found)
        assert session.version == ""
