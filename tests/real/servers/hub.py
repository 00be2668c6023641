"""The gateway's faces with a real hub and real members behind them.  hub.py PORT MEMBER…

A MEMBER is `NAME=ORIGIN` (Streamable HTTP), or `NAME=COMMAND…` (a child process, words between blanks). The first keeps its names, so that clients can
take their tour; alone it is a bridge. The others have prefixes.
"""

import asyncio
import os
import sys
from typing import Any

from mcpproxy.config.gateway import Command
from mcpproxy.config.model import Upstream
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.hub import Hub
from mcpproxy.gateway.member_http import HttpMember
from mcpproxy.gateway.member_stdio import StdioMember
from mcpproxy.gateway.parts import Answer, Client, Hearer, Member
from mcpproxy.gateway.shelf import Offer
from mcpproxy.mcp.message import Params
from tests.gateway.room import Room
from tests.support.faces import Edge, faces


class Ears(Hearer):
    """Of members that were there before their hub."""

    hub: Hub

    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        self.hub.heard(member, client, method, params)

    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        return await self.hub.asked(member, client, method, params)

    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        self.hub.changed(member, available=available, client=client)


def member(said: str, room: Room, ears: Ears, family: Family) -> Member:
    name, _, what = said.partition("=")
    if what.startswith("http"):
        return HttpMember(name, room.outgoing(what), Upstream(urls=(what,), bridge=True), ears)
    keys: dict[str, Any] = {
        "environ": os.environ,
        "secret": lambda text: text,
        "home": "/tmp",
        "say": lambda level, text: print(level, text),
    }
    return StdioMember(name, Command(command=tuple(what.split()), mode="per-session"), ears, family, **keys)


async def serve(room: Room, port: int, said: list[str]) -> None:
    ears, family = Ears(), Family()
    members = [member(each, room, ears, family) for each in said]
    offers = [(each, Offer("" if number == 0 else each.name)) for number, each in enumerate(members)]
    ears.hub = Hub("all", offers, say=lambda level, text: print(level, text))
    async with faces(behind=ears.hub) as rig:
        await Edge(rig.address, port).start()
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    room = Room()
    room.run(serve(room, int(sys.argv[1]), sys.argv[2:]))
