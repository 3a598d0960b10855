"""Taking turns at opening streams: of thousands of clients that return in one moment, some dozens are served at a time.

The others wait in line, where they cost little. All at once would be no sooner for anybody, and what each of them needs
until its stream is open (a request, its answer, a place in every batch) would be allocated for all of them together,
in memory that a process does not give back.

The line only keeps order. It refuses nobody, and what hangs (a database, the site's middleware, a client that does not
read what it is told) can not hold it up: a turn lasts :data:`LEASE` at most, and nobody waits longer than
:data:`PATIENCE`.
"""

from __future__ import annotations

import asyncio
from contextvars import Context

__all__ = ["NO_TURN", "Turn", "Turns"]

#: Streams that are being opened at the same time: enough to be looked up together.
AT_ONCE = 64
#: Seconds after which a turn ends by itself.
LEASE = 0.5
#: Seconds after which a client goes ahead without its turn. Less than a client of ours waits for ``ready`` (3 s).
PATIENCE = 2.0


class Turn:
    """The turn of one client, which ends when it says so, or leaves a ``with`` block, or after :data:`LEASE`."""

    __slots__ = ("_lease", "_room")

    def __init__(self, room: asyncio.Semaphore | None) -> None:
        self._room = room
        self._lease: asyncio.TimerHandle | None = None
        if room is not None:
            self._lease = asyncio.get_running_loop().call_later(LEASE, self.end, context=Context())

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Let the next client have its turn. May be called again, which does nothing."""
        if self._room is not None and self._lease is not None:
            self._lease.cancel()
            self._room.release()
            self._room = self._lease = None


#: That of somebody who needs none.
NO_TURN = Turn(None)


class Turns:
    """See the module. Whoever takes a turn ends it when the stream is open."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)

    async def take(self) -> Turn:
        """Return when it is one's turn, in the order of those who ask; or after :data:`PATIENCE`, anyway."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._room.acquire()
        except TimeoutError:
            return NO_TURN
        return Turn(self._room)
