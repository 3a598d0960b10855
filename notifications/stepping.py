"""Writing a live event in the turn of the event loop in which it came, without waking a task for each connection.

The coroutine of an ASGI ``send()`` ends without ever waiting, unless that client does not keep up. So it is stepped by
hand, once. Only one that does wait becomes the business of its connection's own task, which finishes it
(:class:`Unfinished`); so a slow client stands in nobody's way, and no other costs a switch of tasks.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task  # Public, for all their underscore: asyncio's "Extending".
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

__all__ = ["Stepper", "Unfinished"]


class Unfinished:
    """The rest of a coroutine that was stepped once and waits for something; its own task is to await it."""

    __slots__ = ("coroutine", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self.coroutine = coroutine
        self.waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self.waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:
                step = partial(self.coroutine.throw, error)
            else:
                step = partial(self.coroutine.send, value)
            try:
                waits_for = step()
            except StopIteration:
                return


class Stepper:
    """Runs the first step of coroutines as if the task that made it did, which waits meanwhile."""

    __slots__ = ("_context", "_loop", "_task")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        # Without the task's own context (Python 3.11), one that has the same values.
        self._context: contextvars.Context = getattr(task, "get_context", contextvars.copy_context)()

    def step(self, coroutine: Coroutine[Any, Any, None]) -> Unfinished | None:
        """Run ``coroutine`` until it ends or waits; return the rest of it, if there is any.

        To be called from a callback of the loop, that is outside of any task. Raises what the coroutine raises.
        """
        # What asks for the current task in there (a timeout, for one) must find the one that is to be cancelled by it.
        _enter_task(self._loop, self._task)
        try:
            return Unfinished(coroutine, self._context.run(coroutine.send, None))
        except StopIteration:
            return None
        finally:
            _leave_task(self._loop, self._task)
