"""Patience, and whom a credential is shown to."""

import pytest

from mcpproxy.connect.places import Place, WireError
from mcpproxy.connect.remote import Credential, Nobody, Remote, pauses
from mcpproxy.connect.wire import Wire
from tests.connect.rig import Answer, Seen, far


class Counting(Credential):
    def __init__(self, gives_up_after: int) -> None:
        self.shown, self.most = 0, gives_up_after

    async def lines(self, method: bytes, place: Place, body: bytes) -> bytes:
        self.shown += 1
        return b"Authorization: Bearer %d\r\n" % self.shown

    async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
        assert shown == b"Authorization: Bearer %d\r\n" % self.shown
        assert challenge == "Basic, Bearer x"
        return self.shown < self.most


async def refuse(seen: Seen, to: Answer) -> None:
    to.writer.write(b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic\r\nWWW-Authenticate: Bearer x\r\nContent-Length: 0\r\n\r\n")
    await to.writer.drain()


@pytest.mark.parametrize(("tries", "asked"), [(1, 1), (2, 2), (99, 3)])
async def test_a_refused_credential_is_replaced_a_few_times(tries: int, asked: int) -> None:
    async with far(refuse) as server:
        remote = Remote(Wire(environment={}), server.url, b"X-A: 1\r\n", Counting(tries), print)
        assert (await remote.send(b"POST", b"X-B: 2\r\n")).status == 401
        assert [each.fields["authorization"] for each in server.seen] == [f"Bearer {n + 1}" for n in range(asked)]
        assert (server.seen[0].fields["x-a"], server.seen[0].fields["x-b"]) == ("1", "2")
        remote.wire.close()


async def test_a_server_that_is_away_is_asked_until_patience_is_over() -> None:
    async with far(refuse) as server:
        await server.down()
        said: list[str] = []
        remote = Remote(Wire(environment={}), server.url, b"", Nobody(), said.append, patience=0.6)
        with pytest.raises(WireError, match="refused the connection"):
            await remote.send(b"POST", b"")
        assert len(said) == 1


def test_pauses_grow_to_a_bound() -> None:
    pause = pauses(8.0)
    found = [pause() for _ in range(10)]
    assert 0.18 < found[0] < 0.32 and 0.37 < found[1] < 0.63
    assert all(6 <= each <= 10 for each in found[6:])
