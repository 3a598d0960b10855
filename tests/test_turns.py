"""Some dozens of streams are opened at a time; the others wait in line."""

from __future__ import annotations

import asyncio

import pytest

from notifications import garbage, turns
from notifications.turns import Turn, Turns


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AT_ONCE", 2)


async def waiting(line: Turns) -> asyncio.Task[Turn]:
    """Return a client that stands in line."""
    task = asyncio.create_task(line.take())
    await asyncio.sleep(0)
    return task


async def test_so_many_at_once_and_the_others_in_their_order() -> None:
    line = Turns()
    first, _ = await line.take(), await line.take()
    third, fourth = await waiting(line), await waiting(line)
    await asyncio.sleep(0.01)
    assert not third.done()
    first.over()
    (await third).over()
    await asyncio.wait_for(fourth, 1)


async def test_turn_that_is_over_more_than_once_makes_room_for_one() -> None:
    line = Turns()
    with await line.take() as first:
        first.over()
        first.over()
    await line.take()
    await line.take()
    assert not (await waiting(line)).done()


async def test_turn_is_over_when_its_block_is_left_by_an_error() -> None:
    line = Turns()
    for _ in range(3):
        with pytest.raises(ValueError), await line.take():
            raise ValueError
    await asyncio.wait_for(line.take(), 1)


async def test_who_goes_while_waiting_takes_nobody_s_turn() -> None:
    line = Turns()
    first, _ = await line.take(), await line.take()
    gone, next = await waiting(line), await waiting(line)
    first.over()
    gone.cancel()
    await asyncio.wait_for(next, 1)


async def test_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.02)
    line = Turns()
    first, _ = await line.take(), await line.take()
    with pytest.raises(TimeoutError):
        await line.take()
    first.over()
    await line.take()


async def test_what_opening_streams_left_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[int] = []
    monkeypatch.setattr(garbage, "collect_young", lambda: collections.append(1))
    line = Turns()
    for _ in range(5):
        (await line.take()).over()
    assert len(collections) == 2
