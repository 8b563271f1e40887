"""A WebSocket server that sends back what it gets, to check the cases with.

It prints the port that it listens on and ends with its standard input.
"""
import asyncio
import logging
import sys

import websockets


async def echo(ws, *_):
    try:
        async for message in ws:
            await ws.send(message)
    except websockets.ConnectionClosed:
        pass


async def main():
    logging.disable(logging.CRITICAL)
    server = await websockets.serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None, max_queue=8)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(main())
