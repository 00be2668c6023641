"""The gateway's faces with a stand-in for what is behind them, and one for the edge before them.  faces.py PORT"""

import asyncio
import sys

import uvloop

from tests.support.faces import Edge, faces


async def serve(port: int) -> None:
    async with faces() as rig:
        await Edge(rig.address, port).start()
        await asyncio.get_running_loop().create_future()


uvloop.run(serve(int(sys.argv[1])))
