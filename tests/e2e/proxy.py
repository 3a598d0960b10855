"""A reverse proxy as they stand in the way of live connections: refuses upgrades, holds streams back, goes dark."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards connections to ``port``, looking only at the first request of each; one request a connection.

    :ivar refuses_upgrades: answers 400 to whatever asks for a WebSocket.
    :ivar holds_streams: passes nothing of an event stream's answer on.
    :ivar open: the paths of the requests that are being answered now.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.refuses_upgrades = self.holds_streams = False
        self.open: list[str] = []
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def streams(self) -> int:
        """Return how many event streams and WebSockets are open."""
        return sum("/stream/" in path or path.startswith("/ws/") for path in self.open)

    def cut(self) -> None:
        """Cut all connections there are."""
        for task in self.tasks:
            task.cancel()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        self.cut()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio complains of its own when it is cancelled.
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            lines = head.split(b"\r\n")
            upgrade = any(line.lower().startswith(b"upgrade:") for line in lines)
            if upgrade and self.refuses_upgrades:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if not upgrade:
                # One request for each connection keeps the proxy this short.
                lines = [line for line in lines[:-2] if not line.lower().startswith(b"connection:")]
                head = b"\r\n".join([*lines, b"Connection: close", b"", b""])
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            upstream.write(head)
            self.open.append(path)
            try:
                held = "/stream/" in path and self.holds_streams
                pumps = [asyncio.create_task(pump(reader, upstream)), asyncio.create_task(pump(answers, writer, held))]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in pumps:
                        one.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self.open.remove(path)
        except (OSError, asyncio.IncompleteReadError):
            pass  # The server is down, or the browser gave up.
        finally:
            for end in (writer, upstream):
                if end is not None:
                    with suppress(OSError):
                        end.close()


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, held: bool = False) -> None:
    """Pass on what comes, or with ``held`` nothing of it, to the end."""
    with suppress(OSError):
        while data := await source.read(65536):
            if not held:
                target.write(data)
                await target.drain()
