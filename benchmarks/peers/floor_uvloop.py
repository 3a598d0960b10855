"""The floor of Python: uvloop's own protocols, finished bytes, nothing else. The same protocol as ``floor.c``."""

from __future__ import annotations

import asyncio
import re
import struct
import sys
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"
USER = re.compile(rb"[?&]user=(\d+)")


class Connection(asyncio.Protocol):
    """A client, or the publisher if its first bytes are ``PUB``."""

    everybody: dict[Connection, None] = {}
    by_user: dict[int, Connection] = {}
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.publishing = False
        self.pending = b""

    def connection_lost(self, error: Exception | None) -> None:
        self.everybody.pop(self, None)

    def data_received(self, data: bytes) -> None:
        if self.publishing or data.startswith(b"PUB\n"):
            data = data if self.publishing else data[4:]
            self.publishing = True
            return self.publish(self.pending + data)
        self.everybody[self] = None
        if found := USER.search(data):
            self.by_user[int(found[1])] = self
        self.transport.write(HEAD)

    def publish(self, data: bytes) -> None:
        at = 0
        while len(data) - at >= 8:
            length, to = struct.unpack_from("<Ii", data, at)
            if len(data) - at - 8 < length:
                break
            message = data[at + 8 : at + 8 + length]
            at += 8 + length
            if to >= 0:
                self.by_user[to].transport.write(message)
            else:
                for connection in self.everybody:
                    connection.transport.write(message)
        self.pending = data[at:]


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
