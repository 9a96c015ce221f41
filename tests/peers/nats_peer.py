"""Publishes and receives through the NATS server at PORT: nats_peer.py PORT COUNT [HOST]."""

import asyncio
import sys

import nats


async def main(port, count, host="127.0.0.1"):
    client = await nats.connect("nats://%s:%d" % (host, port), allow_reconnect=False)
    subscription = await client.subscribe("orders")
    for index in range(count):
        await client.publish("orders", b"order %d" % index)
    await client.flush()
    for index in range(count):
        message = await subscription.next_msg(timeout=10)
        assert message.data == b"order %d" % index, message.data
    await client.drain()
    print("received %d" % count)


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
