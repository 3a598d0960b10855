"""Some dozens of streams are opened at a time; the others wait in line, and nothing holds the line up for long."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from notifications import turns
from notifications.turns import LEASE, PATIENCE, Turn, Turns


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AT_ONCE", 2)
    monkeypatch.setattr(turns, "LEASE", 30.0)
    monkeypatch.setattr(turns, "PATIENCE", 30.0)


async def waiting(line: Turns) -> asyncio.Task[Turn]:
    """Return a client that stands in line."""
    task = asyncio.create_task(line.take())
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


async def test_so_many_at_once_and_the_others_in_their_order() -> None:
    line = Turns()
    first, _ = await line.take(), await line.take()
    third, fourth = await waiting(line), await waiting(line)
    first.end()
    (await asyncio.wait_for(third, 1)).end()
    await asyncio.wait_for(fourth, 1)


async def test_turn_that_is_ended_more_than_once_makes_room_for_one() -> None:
    line = Turns()
    with await line.take() as first:
        first.end()
        first.end()
    await line.take()
    await line.take()
    (await waiting(line)).cancel()


async def test_turn_ends_when_its_block_is_left_by_an_error() -> None:
    line = Turns()
    for _ in range(3):
        with pytest.raises(ValueError), await line.take():
            raise ValueError
    await asyncio.wait_for(line.take(), 1)


async def test_who_goes_while_waiting_takes_nobody_s_turn() -> None:
    line = Turns()
    first, _ = await line.take(), await line.take()
    gone, next = await waiting(line), await waiting(line)
    first.end()
    gone.cancel()
    await asyncio.wait_for(next, 1)


async def test_who_hangs_loses_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LEASE", 0.05)
    line = Turns()
    hanging = [await line.take(), await line.take()]
    monkeypatch.setattr(turns, "LEASE", 30.0)
    await asyncio.wait_for(asyncio.gather(line.take(), line.take()), 1)
    for turn in hanging:
        turn.end()  # Late, and makes no room again.
    (await waiting(line)).cancel()


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.02)
    line = Turns()
    first, _ = await line.take(), await line.take()
    (await asyncio.wait_for(line.take(), 1)).end()  # Without a turn; so its end makes no room.
    monkeypatch.setattr(turns, "PATIENCE", 30.0)
    last = await waiting(line)
    first.end()
    await asyncio.wait_for(last, 1)


def test_client_of_ours_waits_longer_than_the_line_is() -> None:
    script = Path(turns.__file__).parent / "static" / "notifications" / "connection.js"
    (ready,) = re.findall(r"READY_MS = (\d+)", script.read_text())
    assert int(ready) > (PATIENCE + LEASE) * 1000
