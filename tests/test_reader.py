"""The hub's way to the database: what it repairs there, and what it leaves to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from unittest import mock

import pytest

from notifications import doorbell, log, publishing
from notifications.reader import GRACE, Reader

from .test_log import crashed, numbers


@pytest.fixture
async def reader(transactional_db: None) -> AsyncIterator[Reader]:
    reader = Reader()
    with mock.patch.object(doorbell, "ring"):
        yield reader
    reader._pool.shutdown()


async def test_what_was_just_committed_is_left_to_its_publisher_for_a_moment(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: asyncio.Queue[float] = asyncio.Queue()
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.put_nowait(seconds)
        await over.wait()

    await reader.run(crashed, "left", "drained")
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        tidying = asyncio.create_task(reader.tidy())
        assert await asyncio.wait_for(pauses.get(), 10) == GRACE
        assert await reader.run(numbers, "left") == [None]
        # Meanwhile one of the two publishers does what it was about to do, and a third one commits.
        assert await reader.run(log.drain, ["drained"]) == 1
        await reader.run(crashed, "drained", "new")
        over.set()
        await asyncio.wait_for(tidying, 10)
    assert await reader.run(numbers, "left") == [1]
    assert await reader.run(numbers, "drained") == [1, None]
    assert await reader.run(numbers, "new") == [None]


async def test_nothing_waits_where_nothing_was_left(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    await reader.run(log.append, [("everyone", "ping", "{}")])
    sleep, sweep, due = mock.AsyncMock(), mock.Mock(), mock.Mock(return_value=0)
    monkeypatch.setattr(log, "sweep", sweep)
    monkeypatch.setattr(publishing, "send_due", due)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        await reader.tidy()
    assert due.call_count == 1 and not sleep.called and not sweep.called
