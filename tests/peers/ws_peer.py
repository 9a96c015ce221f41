"""A WebSocket server and client on the `websockets` library.

    ws_peer.py server --port PORT [--host ADDRESS]
    ws_peer.py client URL

The server echoes; at /greet it speaks first, at /refuse it answers 403 instead of upgrading. The
client prints one line of JSON saying what it saw.
"""

import asyncio
import http
import json
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

LIMIT = 8 * 1024 * 1024


async def echo(connection):
    if connection.request.path == "/greet":
        await connection.send("welcome")
    if connection.request.path == "/leave":
        await connection.close(4001, "gone")
        return
    async for message in connection:
        await connection.send(message)


def refuse(connection, request):
    if request.path == "/refuse":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not here\n")
    return None


async def server(host, port):
    async with serve(echo, host, port, process_request=refuse, max_size=LIMIT) as listening:
        print("listening", flush=True)
        await listening.serve_forever()


async def client(url):
    seen = {"messages": []}
    try:
        async with connect(url, max_size=LIMIT, proxy=None) as connection:
            seen["subprotocol"] = connection.subprotocol
            if url.endswith("/greet"):
                seen["messages"].append(await connection.recv())
            if url.endswith("/leave"):
                await connection.wait_closed()
            else:
                for message in ["one", b"\x00\x01\xff", "x" * (1024 * 1024)]:
                    await connection.send(message)
                    answer = await connection.recv()
                    seen["messages"].append("same" if answer == message else "different")
                await (await connection.ping())
                seen["pong"] = True
        seen["close"] = [connection.close_code, connection.close_reason]
    except websockets.exceptions.InvalidStatus as error:
        seen["status"] = error.response.status_code
        seen["body"] = (error.response.body or b"").decode()
    print(json.dumps(seen))


if sys.argv[1] == "server":
    asyncio.run(server(sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1", int(sys.argv[3])))
else:
    asyncio.run(client(sys.argv[2]))
