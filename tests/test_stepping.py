"""Stepping a coroutine by hand, as if the task did that it belongs to."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from notifications.stepping import Stepper, Unfinished

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


async def stepped(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> list[Any]:
    """Step ``coroutine`` for a task that waits and then finishes it; return what the step returned, and the task."""
    loop = asyncio.get_running_loop()
    steppers: asyncio.Future[Stepper] = loop.create_future()
    results: asyncio.Future[Unfinished | None] = loop.create_future()

    async def owner() -> None:
        WHO.set("owner")
        steppers.set_result(Stepper())
        rest = await results
        if rest is not None:
            await rest

    def step() -> None:
        try:
            results.set_result(steppers.result().step(coroutine()))
        except Exception as error:
            results.set_exception(error)

    async with asyncio.timeout(5):
        task = asyncio.create_task(owner(), name="owner")
        await steppers
        loop.call_soon(step, context=contextvars.Context())
        await task
    return [results.result(), task]


async def test_coroutine_that_never_waits_ends_in_one_step() -> None:
    done = []

    async def quick() -> None:
        done.append(True)

    assert (await stepped(quick))[0] is None
    assert done == [True]


async def test_rest_of_a_coroutine_that_waits_is_finished_by_its_task() -> None:
    gate, done = asyncio.Event(), []

    async def slow() -> None:
        await gate.wait()
        await asyncio.sleep(0)
        done.append(True)

    asyncio.get_running_loop().call_later(0.01, gate.set)
    assert isinstance((await stepped(slow))[0], Unfinished)
    assert done == [True]


async def test_error_in_the_first_step_is_raised() -> None:
    async def broken() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await stepped(broken)


async def test_error_later_is_raised_in_the_task() -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await stepped(broken)


async def test_current_task_and_context_are_those_of_the_owner() -> None:
    seen = []

    async def look() -> None:
        seen.append((asyncio.current_task(), WHO.get()))
        await asyncio.sleep(0)
        seen.append((asyncio.current_task(), WHO.get()))

    task = (await stepped(look))[1]
    assert seen == [(task, "owner"), (task, "owner")]


async def test_timeout_begun_in_the_first_step_ends_the_wait() -> None:
    async def impatient() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await stepped(impatient)


async def test_cancelled_task_cancels_the_rest() -> None:
    seen, waits = [], asyncio.Event()

    async def waiting() -> None:
        try:
            waits.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def cancel_owner() -> None:
        await waits.wait()
        await asyncio.sleep(0.02)
        next(task for task in asyncio.all_tasks() if task.get_name() == "owner").cancel()

    canceller = asyncio.create_task(cancel_owner())
    with pytest.raises(asyncio.CancelledError):
        await stepped(waiting)
    await canceller
    assert seen == ["cancelled"]
