"""A TCP proxy that misbehaves on request: late, mute, or elsewhere.

Mute is what a cable that was pulled looks like from both ends: connections stay open, new ones are accepted, and
nothing moves any more. It runs in a thread, so that tests stay plain functions.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Proxy:
    """Forwards ``port`` on loopback to ``target``.

    :ivar delay: seconds each piece of data is late, in each direction.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.port = 0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        # Also in development mode: the traffic of a whole site comes through here.
        self._loop.set_debug(False)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing: asyncio.Event = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def mute(self, muted: bool = True) -> None:
        """Let nothing through any more, or all again (what was held back included)."""
        self._loop.call_soon_threadsafe(self._flowing.clear if muted else self._flowing.set)

    def cut(self) -> None:
        """Break all connections off."""
        self._call(self._cut())

    def turn_to(self, target: int) -> None:
        """Send everybody somewhere else: connections are broken off, new ones go to ``target``."""
        self.target = target
        self.cut()

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._call(self._serve())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self) -> int:
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for pair in tuple(self._pairs):
            for writer in pair:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back)
        self._pairs.add(pair)
        ways = [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))]
        self._tasks.update(ways)
        await asyncio.wait(ways)
        self._tasks.difference_update(ways)
        self._pairs.discard(pair)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def write() -> None:
            while True:
                due, data = await late.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if self.delay or not late.empty():
                    await late.put((loop.time() + self.delay, data))
                else:
                    writer.write(data)
                    await writer.drain()
            await late.put((loop.time() + self.delay, b""))
            await writing
        except OSError:
            pass
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await writing
            with suppress(OSError, RuntimeError):
                writer.close()
