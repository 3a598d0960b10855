"""The follower: whatever the layer does to hints, each connection gets each event once and in order, or is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from notifications import doorbell, follower as follower_module
from notifications.doorbell import Hint
from notifications.log import Head
from tests.fakes import PATIENCE, TOPIC, Stage, eventually

# --- What the layer does to hints


async def test_hints_in_order_need_no_log(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        before = stage.log.calls["read"]
        await stage.ring(*stage.log.append(TOPIC, 3))
        assert await reading.numbers(3) == [2, 3, 4]
        assert stage.log.calls["read"] == before


async def test_hint_that_is_doubled_is_handed_out_once(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        hints = stage.log.append(TOPIC, 3)
        await stage.ring(*(hint for hint in hints for _ in range(3)), *hints)
        assert await reading.numbers(3) == [2, 3, 4]
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [5]


async def test_hints_in_reverse_are_handed_out_in_order(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        await stage.ring(*reversed(stage.log.append(TOPIC, 5)))
        assert await reading.numbers(5) == [2, 3, 4, 5, 6]
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [7]


async def test_hint_that_is_late_changes_nothing(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        first, second = stage.log.append(TOPIC, 2)
        await stage.ring(second)
        assert await reading.numbers(2) == [2, 3]
        await stage.ring(first)
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [4]


async def test_hint_that_is_lost_is_repaired_by_the_next(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        *_, last = stage.log.append(TOPIC, 4)
        await stage.ring(last)
        assert await reading.numbers(4) == [2, 3, 4, 5]


async def test_hole_is_read_once_for_everybody(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with AsyncExitStack() as stack:
        readings = [await stack.enter_async_context(stage.live()) for _ in range(20)]
        before = stage.log.calls["read"]
        *_, last = stage.log.append(TOPIC, 4)
        await stage.ring(last)
        for reading in readings:
            assert await reading.numbers(4) == [2, 3, 4, 5]
        assert stage.log.calls["read"] == before + 1


async def test_event_is_encoded_once_for_everybody(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        readings = [await stack.enter_async_context(stage.live()) for _ in range(5)]
        await stage.ring(*stage.log.append(TOPIC))
        found = []
        for reading in readings:
            async with asyncio.timeout(PATIENCE):
                found.append((await anext(reading._frames))[0][0])
        assert len({id(envelope) for envelope in found}) == 1


async def test_hint_without_its_events_is_read(stage: Stage, conf: dict[str, Any]) -> None:
    conf["HINT_BYTES"] = 100
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        (hint,) = stage.log.append(TOPIC, size=200)
        assert hint.message()["events"] == []
        await stage.ring(hint)
        assert await reading.numbers(1) == [2]


async def test_hint_of_several_events(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        hints = stage.log.append(TOPIC, 3)
        whole = hints[-1]._replace(events=tuple(event for hint in hints for event in hint.events))
        before = stage.log.calls["read"]
        await stage.ring(whole)
        assert await reading.numbers(3) == [2, 3, 4]
        assert stage.log.calls["read"] == before


async def test_hint_that_comes_while_a_hole_is_read(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        stage.log.gates["read"] = asyncio.Event()
        _, second = stage.log.append(TOPIC, 2)
        await stage.ring(second)
        await eventually(lambda: stage.log.calls["read"])
        await stage.ring(*stage.log.append(TOPIC, 2))
        stage.log.gates.pop("read").set()
        assert await reading.numbers(4) == [2, 3, 4, 5]


async def test_read_that_fails_is_repeated_at_the_next_hint(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        stage.log.fails["read"] = OSError("away")
        _, second = stage.log.append(TOPIC, 2)
        await stage.ring(second)
        await eventually(lambda: stage.log.calls["read"])
        stage.log.fails.clear()
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(3) == [2, 3, 4]
    assert "reading everyone failed" in caplog.text


async def test_read_that_fails_is_repeated_by_itself(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        stage.log.fails["read"] = OSError("away")
        stage.log.gates["read"] = asyncio.Event()
        with mock.patch.object(follower_module, "RETRY_AFTER", 0.02):
            _, second, _, fourth = stage.log.append(TOPIC, 4)
            await stage.ring(second)
            await eventually(lambda: stage.log.calls["read"])
            await stage.ring(fourth)  # Left to the read that is about to fail.
            stage.log.gates.pop("read").set()
            await eventually(lambda: stage.log.calls["read"] >= 3)
            stage.log.fails.clear()
            assert await reading.numbers(4) == [2, 3, 4, 5]


async def test_read_that_fails_for_many_hints_is_repeated_once(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live():
        stage.log.fails["read"] = OSError("away")
        stage.log.append(TOPIC)  # Lost.
        for hint in stage.log.append(TOPIC, 5):
            await stage.ring(hint)
            await eventually(lambda: not stage.hub.topics[TOPIC].repairing)
        waiting = [task for task in stage.hub._tasks if "_read_again" in repr(task)]
        assert (stage.log.calls["read"], len(waiting)) == (5, 1)


async def test_first_event_of_a_new_topic(stage: Stage) -> None:
    async with stage.live() as reading:
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [1]
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [2]


async def test_nonsense_on_the_layer_stops_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.live() as reading:
        for message in ({"topic": TOPIC}, {"topic": TOPIC, "epoch": 1, "seq": "x", "events": 3}, {}, {"nonce": "?"}):
            await stage.layer.group_send(doorbell.group_name(TOPIC), {"type": doorbell.HINT, **message})
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [1]
    assert "could not be understood" in caplog.text
    assert stage.hub.restarts == 0


# --- The safety poll


async def test_safety_poll_finds_what_no_hint_told(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.05
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        await eventually(lambda: stage.log.calls["advanced"] > 1)
        stage.log.append(TOPIC, 2)
        assert await reading.numbers(2) == [2, 3]


async def test_safety_poll_finds_the_first_event_of_a_new_topic(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.05
    async with stage.live() as reading:
        stage.log.append(TOPIC)
        assert await reading.numbers(1) == [1]


@pytest.mark.parametrize("before", [0, 1])
async def test_safety_poll_finds_at_its_first_look_what_came_since_somebody_joined(stage: Stage, before: int) -> None:
    if before:
        stage.log.append(TOPIC)
    async with stage.live() as reading:
        stage.log.append(TOPIC)
        await stage.hub.follower.check_advanced()
        assert await reading.numbers(1) == [before + 1]


async def test_safety_poll_that_fails_is_repeated(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.02
    async with stage.live() as reading:
        stage.log.fails["advanced"] = OSError("away")
        before = stage.log.calls["advanced"]
        await eventually(lambda: stage.log.calls["advanced"] > before + 2)
        stage.log.append(TOPIC)
        stage.log.fails.clear()
        assert await reading.numbers(1) == [1]


async def test_look_at_everything_that_fails_is_repeated(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.05
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        follower = stage.hub.follower
        await eventually(lambda: follower._look is not None)
        stage.log.fails["advanced"] = OSError("away")
        await eventually(lambda: stage.log.calls["advanced"] > 2)
        follower._look = None
        stage.log.append(TOPIC)
        # The hub has looked at nothing yet: it asks about everything, and that fails the first time.
        stage.log.fails["heads"] = stage.log.fails.pop("advanced")
        heads = stage.log.calls["heads"]
        await eventually(lambda: stage.log.calls["heads"] > heads)
        stage.log.topics[TOPIC].advanced_at -= timedelta(hours=1)
        stage.log.append("other")
        stage.log.fails.clear()
        assert await reading.numbers(1) == [2]


async def test_safety_poll_asks_nothing_while_nobody_is_here(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.01
    stage.start()
    await eventually(lambda: stage.log.calls["tidy"] > 3)
    assert stage.log.calls["advanced"] == 0


# --- Epochs, restored dumps, trimmed logs


async def test_new_epoch_is_one_reset(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    async with stage.live() as reading:
        stage.log.topics[TOPIC].epoch = "bb"
        await stage.ring(Hint(TOPIC, "bb", 3, ()))
        assert await reading.next() == ("reset", {"topic": TOPIC, "reason": "epoch"})
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [4]


async def test_what_was_not_delivered_yet_ends_with_its_epoch(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        follower, state = stage.hub.follower, stage.hub.topics[TOPIC]
        (hint,) = stage.log.append(TOPIC)
        stage.log.topics[TOPIC].epoch, stage.log.topics[TOPIC].head = "bb", 0
        follower.hint(state, hint.epoch, hint.seq, hint.events)
        follower._is_behind(state, Head(TOPIC, 1, "bb", 0), state.seen_at)
        reading.subscription.marks[state] = state.here()
        reading.subscription.live = True
        await stage.settled()
        assert reading.subscription.cursor() == "1.1-bb-0"


async def test_hint_of_an_old_epoch_is_no_reset(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    async with stage.live() as reading:
        await stage.ring(Hint(TOPIC, "zz", 9, ()))
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [4]


async def test_event_of_an_old_life_is_not_handed_out_in_the_new_one(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        gate = stage.log.gates["read"] = asyncio.Event()
        *_, last = stage.log.append(TOPIC, 4)
        await stage.ring(last._replace(events=()))
        await eventually(lambda: stage.log.calls["read"])  # Answered later, with what there was.
        topic = stage.log.topics[TOPIC]
        topic.epoch, topic.head, topic.events = "bb", 1, topic.events[:1]
        await stage.hub.follower.check([stage.hub.topics[TOPIC]])
        gate.set()
        assert await reading.next() == ("reset", {"topic": TOPIC, "reason": "epoch"})
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [2]
        assert reading.cursor == "1.1-bb-2"


async def test_replay_of_an_old_life_is_not_handed_out_in_the_new_one(stage: Stage) -> None:
    stage.log.append(TOPIC, 6)
    gate = stage.log.gates["read"] = asyncio.Event()
    async with stage.open(cursor="1.1-aa-2") as reading:
        following = asyncio.ensure_future(reading.next())
        await eventually(lambda: stage.log.calls["read"])
        stage.log.topics[TOPIC].epoch = "bb"
        await stage.hub.follower.check([stage.hub.topics[TOPIC]])
        gate.set()
        assert await following == ("reset", {"topic": TOPIC, "reason": "epoch"})
        assert reading.cursor == "1.1-bb-6"


async def test_restored_dump_is_one_reset(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.05
    stage.log.append(TOPIC, 10)
    async with stage.live() as reading:
        await eventually(lambda: stage.log.calls["advanced"] > 1)
        topic = stage.log.topics[TOPIC]
        topic.head, topic.events = 4, topic.events[:4]
        stage.log.append(TOPIC)
        assert await reading.next() == ("reset", {"topic": TOPIC, "reason": "ahead"})
        stage.log.append(TOPIC)
        assert await reading.numbers(1) == [6]


async def test_old_answer_of_the_database_is_no_reset(stage: Stage, conf: dict[str, Any]) -> None:
    # A head that was read before the hint came, and is answered after it.
    conf["SAFETY_INTERVAL"] = 0.02
    stage.log.append(TOPIC, 3)
    async with stage.live() as reading:
        stage.log.gates["advanced"] = asyncio.Event()
        before = stage.log.calls["advanced"]
        await eventually(lambda: stage.log.calls["advanced"] > before)
        await stage.ring(*stage.log.append(TOPIC))
        stage.log.gates.pop("advanced").set()
        assert await reading.numbers(1) == [4]
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [5]


async def test_hole_that_was_trimmed_is_one_reset(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    async with stage.live() as reading:
        *_, last = stage.log.append(TOPIC, 4)
        stage.log.trim(TOPIC, 5)
        await stage.ring(last._replace(events=()))
        assert await reading.next() == ("reset", {"topic": TOPIC, "reason": "floor"})
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [8]


async def test_cursor_behind_by_more_than_is_replayed(stage: Stage, conf: dict[str, Any]) -> None:
    conf["REPLAY_EVENTS"] = 10
    stage.log.append(TOPIC, 30)
    async with stage.open(cursor="1.1-aa-19") as reading:
        assert await reading.next() == ("reset", {"topic": TOPIC, "reason": "floor"})
    async with stage.open(cursor="1.1-aa-20") as reading:
        assert await reading.numbers(10) == list(range(21, 31))
