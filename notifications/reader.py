"""The hub's way to the database: a few threads of its own, and no connection kept while there is nothing to do.

Reads of streams neither queue behind the one thread that Channels gives to all consumers of a process, nor open a
connection each: whatever the number of streams, there are at most ``DATABASE_THREADS`` connections for them. They are
closed when idle, one of them only when nothing has been sent for some ten seconds. Requests that ask for a stream have
threads of their own (:mod:`notifications.admission`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from django.contrib.auth import get_user_model

from . import inbox, log, publishing
from .access import Access, Principal, authorize, ended
from .sessions import principals
from .settings import conf
from .threads import DatabaseThreads

__all__ = ["Reader"]

R = TypeVar("R")

#: Seconds after a poll that found something new in which more is expected.
BUSY = 10.0
TRIM_EVERY = timedelta(minutes=5).total_seconds()


class Reader:
    """Everything a hub asks of the database (:class:`notifications.hub.Log`), awaitable."""

    def __init__(self) -> None:
        self._pool = DatabaseThreads(conf.database_threads)
        self._trim_at = time.monotonic() + 30
        #: The highest id of an event that waited to be numbered at the last look.
        self._waited: int | None = None

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """Run a synchronous database function on the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def authorize(self, principals: Sequence[Principal]) -> dict[Principal, Access | None]:
        return await self.run(authorize, list(principals))

    async def identify(self, sessions: Sequence[str]) -> dict[str, Principal]:
        return await self.run(principals, list(sessions))

    async def ended(self, principals: Collection[Principal]) -> set[Principal]:
        return await self.run(ended, principals)

    async def heads(self, names: Sequence[str]) -> dict[str, log.Head]:
        return await self.run(log.heads, names)

    async def read(self, topic: str, after: int, limit: int) -> list[log.LogEvent]:
        return await self.run(log.read, topic, after, limit)

    async def advanced(self, look: log.Look | None) -> tuple[list[log.Head], log.Look | None]:
        heads, now = await self.run(log.advanced, look)
        if look is not None and now is not None and now.latest > look.latest:
            # While events come, the next poll finds its connection open: PostgreSQL would work longer to open one than
            # for all that is asked of it, and events would wait for that.
            self._pool.busy_until = time.monotonic() + BUSY
        return heads, now

    async def unread(self, user: Any) -> int:
        """Return the user's unread count, as ``ready`` tells it."""
        return await self.run(_unread, user)

    async def tidy(self) -> None:
        """Number what crashes left behind, send the broadcasts that are due, trim the log now and then."""
        await self.run(self._tidy)

    def _tidy(self) -> None:
        if self._waited is not None:  # What has come since then is being numbered by whoever committed it.
            log.sweep(self._waited)
        self._waited = log.newest_undrained()
        publishing.send_due()
        if time.monotonic() >= self._trim_at:
            # Short batches between other work; the next one follows soon while there is more.
            self._trim_at = time.monotonic() + (2 if log.trim() else TRIM_EVERY)


def _unread(user: Any) -> int:
    found = get_user_model()._default_manager.filter(pk=user).first()
    return 0 if found is None else inbox.unread_count(found)
