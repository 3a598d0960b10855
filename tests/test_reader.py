"""The hub's way to the database: what it repairs there, and what it leaves to others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from unittest import mock

import pytest
from django.db import DataError

from notifications import doorbell, log, publishing
from notifications.reader import Reader

from .test_log import crashed, numbers


@pytest.fixture
async def reader(transactional_db: None) -> AsyncIterator[Reader]:
    reader = Reader()
    with mock.patch.object(doorbell, "ring"):
        yield reader
        reader._pool.shutdown()


async def test_what_was_just_committed_is_left_to_its_publisher_until_the_next_look(reader: Reader) -> None:
    await reader.run(crashed, "left", "drained")
    await reader.tidy()
    assert await reader.run(numbers, "left") == [None]
    # One of the two publishers does what it was about to do, and a third one commits.
    assert await reader.run(log.drain, ["drained"]) == 1
    await reader.run(crashed, "drained", "new")
    await reader.tidy()
    assert await reader.run(numbers, "left") == [1]
    assert await reader.run(numbers, "drained") == [1, None]
    assert await reader.run(numbers, "new") == [None]
    await reader.tidy()
    assert await reader.run(numbers, "drained") == [1, 2]
    assert await reader.run(numbers, "new") == [1]


async def test_nothing_is_swept_where_nothing_was_left(reader: Reader) -> None:
    await reader.run(log.append, [("everyone", "ping", "{}")])
    with mock.patch.object(log, "sweep") as sweep:
        for _ in range(2):
            await reader.tidy()
    assert not sweep.called


async def test_what_was_left_is_numbered_while_broadcasts_can_not_be_sent(reader: Reader) -> None:
    await reader.run(crashed, "left")
    with mock.patch.object(publishing, "send_due", side_effect=DataError("too long")):
        for _ in range(2):
            with pytest.raises(DataError):
                await reader.tidy()
    assert await reader.run(numbers, "left") == [1]
