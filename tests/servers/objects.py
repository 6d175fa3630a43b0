"""An S3 server on a host of its own, as a process that can die: moto keeps the objects, a relay before it takes connections.

``python -m tests.servers.objects serve PORT`` keeps objects on loopback, ``... relay ADDRESS PORT TARGET`` passes connections on.
Moto has its objects in memory alone; a relay that is killed is a server that is gone for a while and comes back with
its disks: connections break, new ones are refused, nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import sys
import threading


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _relay(address: str, port: int, target: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_pump(reader, behind_writer), _pump(behind_reader, writer))

    server = await asyncio.start_server(connected, address, port, reuse_address=True)
    async with server:
        await server.serve_forever()


def _serve(port: int) -> None:
    import boto3
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    client.create_bucket(Bucket="sdoml")
    client.close()
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]))
    else:
        asyncio.run(_relay(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
