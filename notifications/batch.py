"""One query for all who ask at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import Generic, TypeVar

__all__ = ["Batch"]

K = TypeVar("K")
V = TypeVar("V")

#: Seconds that a batch waits for more keys if some came while the one before it was looked up: then there is a rush,
#: which as many queries as there is time for would only make longer.
GATHER = 0.01


class Batch(Generic[K, V]):
    """Collects keys while the previous batch is being looked up, then looks them up together; in a rush a moment later.

    :param run: ``await run(keys)`` returns a dict; keys that are missing from it are answered with None.
    :param limit: how many keys one call of ``run`` gets at most.
    """

    def __init__(self, run: Callable[[list[K]], Awaitable[dict[K, V]]], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """Return the value of ``key``; raises what ``run`` raised for its batch."""
        # A caller that is cancelled must not cancel what others wait for, too.
        return await asyncio.shield(self._ask(key))

    async def get_many(self, keys: Iterable[K]) -> dict[K, V | None]:
        """Return the values of several keys."""
        asked = {key: self._ask(key) for key in keys}
        if asked:
            await asyncio.wait(asked.values())
        return {key: future.result() for key, future in asked.items()}

    def _ask(self, key: K) -> asyncio.Future[V | None]:
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            # Whoever asked may be gone when the answer is an error.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())
        return future

    async def _work(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[: self._limit]
            futures = {key: self._waiting.pop(key) for key in keys}
            try:
                values = await self._run(keys)
            except Exception as error:
                for future in futures.values():
                    if not future.done():
                        future.set_exception(error)
            else:
                for key, future in futures.items():
                    if not future.done():
                        future.set_result(values.get(key))
            if 0 < len(self._waiting) < self._limit:
                await asyncio.sleep(GATHER)
