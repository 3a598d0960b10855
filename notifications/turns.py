"""Taking turns at opening streams: of thousands of clients that return in one moment, some dozens are served at a time.

The others wait in line, where they cost little. All at once would be no sooner for anybody, and what each of them needs
until its stream is open (a request, its answer, a place in every batch) would be allocated for all of them together,
in memory that a process does not give back.
"""

from __future__ import annotations

import asyncio

from . import garbage

__all__ = ["Turn", "Turns"]

#: Streams that are being opened at the same time: enough to be looked up together.
AT_ONCE = 64
#: Seconds that a client waits in line before it is sent away.
PATIENCE = 10.0


class Turn:
    """The turn of one client, which is over when it says so, or leaves a ``with`` block."""

    __slots__ = ("_turns",)

    def __init__(self, turns: Turns) -> None:
        self._turns: Turns | None = turns

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *error: object) -> None:
        self.over()

    def over(self) -> None:
        """Let the next client have its turn. May be called again, which does nothing."""
        if self._turns is not None:
            self._turns._next()
            self._turns = None


class Turns:
    """See the module. Whoever takes a turn ends it, at the latest when its stream is open."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._over = 0

    async def take(self) -> Turn:
        """Return when it is one's turn; in the order of those who ask.

        :raises TimeoutError: after :data:`PATIENCE`.
        """
        async with asyncio.timeout(PATIENCE):
            await self._room.acquire()
        return Turn(self)

    def _next(self) -> None:
        self._room.release()
        self._over += 1
        if self._over % AT_ONCE == 0:
            garbage.collect_young()
