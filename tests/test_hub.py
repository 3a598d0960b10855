"""The hub: whatever the layer does to its messages, each connection gets each event once and in order, or is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from notifications import (
    doorbell,
    follower as follower_module,
    hub as hub_module,
    hub_changed,
    link as link_module,
    stream_closed,
    stream_opened,
)
from notifications.access import Access, Principal
from notifications.doorbell import Hint
from notifications.hub import HubFull, NotAuthorized
from notifications.stream import open_stream
from tests.fakes import PATIENCE, TOPIC, FakeLayer, Reading, Stage, eventually


def patched(**values: float) -> ExitStack:
    """Shorter times for the hub and its link."""
    stack = ExitStack()
    for name, value in values.items():
        module = hub_module if hasattr(hub_module, name) else link_module
        stack.enter_context(mock.patch.object(module, name, value))
    return stack


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
        await eventually(lambda: follower._mark is not None)
        stage.log.fails["advanced"] = OSError("away")
        await eventually(lambda: stage.log.calls["advanced"] > 2)
        follower._mark = None
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


# --- Where a connection begins


async def test_event_between_joining_and_reading_is_not_lost(stage: Stage) -> None:
    stage.log.append(TOPIC)
    stage.log.gates["heads"] = asyncio.Event()
    opening = asyncio.create_task(anext_entered(stage))
    await eventually(lambda: stage.log.calls["heads"])
    # The head has been read, and is 1; this is committed and rung before the answer comes.
    await stage.ring(*stage.log.append(TOPIC))
    stage.log.gates.pop("heads").set()
    reading, close = await opening
    assert await reading.numbers(1) == [2]
    await close()


async def anext_entered(stage: Stage) -> tuple[Reading, Callable[[], Any]]:
    stack = AsyncExitStack()
    return await stack.enter_async_context(stage.open()), stack.aclose


async def test_group_is_joined_and_confirmed_before_the_log_is_read(stage: Stage) -> None:
    stage.layer.delay = 0.3
    opening = asyncio.create_task(anext_entered(stage))
    group = doorbell.group_name(TOPIC)
    await eventually(lambda: group in stage.layer.adds)
    assert stage.log.calls["heads"] == 0
    await eventually(lambda: stage.log.calls["heads"])
    assert stage.layer.groups[group], "the log was read before the layer had subscribed"
    _, close = await opening
    assert stage.hub.topics[TOPIC].confirmed
    await close()


async def test_layer_that_subscribes_late_is_asked_again_at_once(stage: Stage) -> None:
    # The echo that was sent before the layer had subscribed never comes back.
    stage.layer.delay = 0.3
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with stage.open() as reading:
        assert loop.time() - began < 1.5
        assert stage.hub.topics[TOPIC].confirmed
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [1]


async def test_group_is_joined_once_for_everybody(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(stage.open())
        assert stage.layer.adds.count(doorbell.group_name(TOPIC)) == 1
        assert len(stage.layer.queues) == 1


async def test_many_at_once_cost_few_queries(stage: Stage) -> None:
    for number in range(100):
        stage.log.append(f"user:{number}")
    stage.log.append(TOPIC)
    async with AsyncExitStack() as stack:
        openings = [
            stack.enter_async_context(stage.open(f"user:{number}", TOPIC, cursor=f"1.{number + 1}-aa-1.101-aa-1"))
            for number in range(100)
        ]
        readings = await asyncio.gather(*openings)
        assert stage.log.calls["authorize"] <= 3
        assert stage.log.calls["heads"] <= 3
        assert stage.log.calls["read"] == stage.log.calls["unread"] == 0
        hints = [stage.log.append(f"user:{number}")[0] for number in range(100)]
        await stage.ring(*hints)
        for reading in readings:
            assert await reading.numbers(1) == [2]


async def test_cursor_is_clamped_to_where_a_person_joined(stage: Stage) -> None:
    stage.log.append(TOPIC, 5)
    for cursor in ("1", "1.1-aa-0", "1.1-aa-2"):
        async with stage.open(cursor=cursor, everyone=3) as reading:
            assert await reading.numbers(2) == [4, 5]
    async with stage.open(cursor="1.1-aa-4", everyone=3) as reading:
        assert await reading.numbers(1) == [5]


async def test_cursor_ahead_of_what_this_process_has_seen_is_no_reset(stage: Stage) -> None:
    # Another process was faster: the log decides.
    stage.log.append(TOPIC)
    async with stage.live():
        stage.log.append(TOPIC, 2)
        async with stage.open(cursor="1.1-aa-3") as reading:
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [4]


async def test_replay_that_fails_ends_the_stream_with_a_time_to_return(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.log.append(TOPIC, 3)
    stage.log.fails["read"] = OSError("away")
    async with stage.open(cursor="1.1-aa-1") as reading:
        ((type, data),) = await reading.rest()
        assert (type, data["reason"]) == ("bye", "error")
        assert 1000 <= data["retry"] <= 5000


# --- Those who do not keep up


async def test_overflow_is_read_from_the_log_in_order_and_once(stage: Stage, conf: dict[str, Any]) -> None:
    conf["QUEUE_EVENTS"] = 4
    stage.log.append(TOPIC)
    async with stage.open() as slow, stage.live() as fast:
        async with asyncio.timeout(PATIENCE):
            slow_task = asyncio.ensure_future(anext(slow._frames))
            await eventually(lambda: slow.subscription.live)
        await stage.ring(*stage.log.append(TOPIC, 100))
        assert len(slow.subscription.queue) <= 4
        slow._found = list(await slow_task)
        assert await slow.numbers(100) == list(range(2, 102))
        assert await fast.numbers(100) == list(range(2, 102))
        await stage.ring(*stage.log.append(TOPIC))
        assert await slow.numbers(1) == await fast.numbers(1) == [102]


async def test_overflow_by_size(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"QUEUE_BYTES": 5000, "HINT_BYTES": 100_000}
    stage.log.append(TOPIC)
    async with stage.open() as slow:
        task = asyncio.ensure_future(anext(slow._frames))
        await eventually(lambda: slow.subscription.live)
        await stage.ring(*stage.log.append(TOPIC, 20, size=1000))
        assert slow.subscription.queued_bytes <= 5000
        slow._found = list(await task)
        assert await slow.numbers(20) == list(range(2, 22))


async def test_event_larger_than_the_queue_arrives(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"QUEUE_BYTES": 1024, "HINT_BYTES": 100_000}
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        await stage.ring(*stage.log.append(TOPIC, 2, size=5000))
        assert await reading.numbers(2) == [2, 3]


# --- Limits


async def test_process_takes_no_more_than_its_limit(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_PROCESS"] = 2
    async with stage.open(), stage.open():
        with pytest.raises(HubFull):
            async with stage.open():
                pass
    async with stage.open():
        assert len(stage.hub.subscriptions) == 1


async def test_process_takes_no_more_than_its_limit_at_once(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_PROCESS"] = 3
    async with AsyncExitStack() as stack:
        openings = [stack.enter_async_context(stage.open()) for _ in range(10)]
        results = await asyncio.gather(*openings, return_exceptions=True)
        assert len(stage.hub.subscriptions) == 3
        assert sum(isinstance(result, HubFull) for result in results) == 7


async def test_oldest_stream_of_a_user_makes_room(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_USER"] = 2
    async with AsyncExitStack() as stack:
        first, *_ = [await stack.enter_async_context(stage.open(user=name)) for name in ("alice", "alice", "bob")]
        assert all(subscription.ended is None for subscription in stage.hub.subscriptions)
        await stack.enter_async_context(stage.open(user="alice"))
        assert await first.rest() == [("bye", {"reason": "capacity", "retry": 60_000})]
        assert all(other.ended is None for other in stage.hub.subscriptions if other is not first.subscription)


async def test_several_new_streams_of_a_user_make_room_for_each(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_USER"] = 2
    async with AsyncExitStack() as stack:
        readings = [await stack.enter_async_context(stage.open(user="alice")) for _ in range(5)]
        # Those that were told to leave may take their time about it.
        assert [reading.subscription.ended is None for reading in readings] == [False, False, False, True, True]


async def test_nobody_enters_while_the_process_stops(stage: Stage) -> None:
    async with stage.open() as reading:
        stage.hub.shutdown()
        with pytest.raises(HubFull):
            async with stage.open():
                pass
        ((type, data),) = await reading.rest()
        assert (type, data["reason"]) == ("bye", "shutdown")
        assert 500 <= data["retry"] <= 10_000


async def test_who_was_about_to_enter_when_the_process_stops(stage: Stage) -> None:
    stage.log.gates["heads"] = asyncio.Event()
    opening = asyncio.create_task(anext_entered(stage))
    await eventually(lambda: stage.log.calls["heads"])
    stage.hub.shutdown()
    stage.log.gates.pop("heads").set()
    with pytest.raises(HubFull):
        await opening
    assert not stage.hub.subscriptions


async def test_shutdown_spreads_the_return_of_its_clients(stage: Stage, conf: dict[str, Any]) -> None:
    conf["RECONNECT_SPREAD"] = 30.0
    async with AsyncExitStack() as stack:
        readings = [await stack.enter_async_context(stage.open()) for _ in range(30)]
        stage.hub.shutdown()
        retries = {reading.subscription.ended.retry for reading in readings if reading.subscription.ended}
        assert len(retries) > 20
        assert max(retry or 0 for retry in retries) > 10_000


# --- Rights


async def test_unknown_user_is_not_authorized(stage: Stage) -> None:
    stage.start()
    with pytest.raises(NotAuthorized):
        async with open_stream(Principal("nobody"), transport="sse"):
            pass
    assert not stage.hub.subscriptions and not stage.hub.topics


async def test_recheck_ends_the_stream_of_who_may_not_read_any_more(stage: Stage) -> None:
    async with stage.live(user="alice") as reading, stage.live(user="bob") as other:
        stage.log.access[Principal("alice")] = None
        await stage.recheck(TOPIC)
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]
        await stage.ring(*stage.log.append(TOPIC))
        assert await other.numbers(1) == [1]


async def test_recheck_asks_again_a_second_later(stage: Stage) -> None:
    # A logout is announced before its session is deleted.
    async with stage.live(user="alice") as reading:
        before = stage.log.calls["authorize"]
        await stage.recheck(TOPIC)
        await eventually(lambda: stage.log.calls["authorize"] == before + 1)
        stage.log.access[Principal("alice")] = None
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]


async def test_recheck_lets_those_return_whose_topics_changed(stage: Stage) -> None:
    async with stage.live(user="alice") as reading:
        stage.log.access[Principal("alice")] = Access((TOPIC, "staff"))
        await stage.recheck(TOPIC)
        assert await reading.rest() == [("bye", {"reason": "access", "retry": 0})]


async def test_recheck_of_everybody_now_and_then(stage: Stage, conf: dict[str, Any]) -> None:
    conf["RECHECK_INTERVAL"] = 0.1
    async with stage.live(user="alice") as reading, stage.live(user="bob") as other:
        stage.log.access[Principal("alice")] = None
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]
        assert other.subscription.ended is None


async def test_recheck_that_fails_leaves_streams_as_they_are(stage: Stage) -> None:
    async with stage.live(user="alice") as reading:
        before = stage.log.calls["authorize"]
        stage.log.fails["authorize"] = OSError("away")
        await stage.recheck(TOPIC)
        await eventually(lambda: stage.log.calls["authorize"] > before)
        stage.log.fails.clear()
        await stage.ring(*stage.log.append(TOPIC))
        assert await reading.numbers(1) == [1]


async def test_revoked_stream_gets_nothing_more(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.open(user="alice") as reading:
        task = asyncio.ensure_future(anext(reading._frames))
        await eventually(lambda: reading.subscription.live)
        for hint in stage.log.append(TOPIC, 3):
            stage.hub.follower.hint(stage.hub.topics[TOPIC], hint.epoch, hint.seq, hint.events)
        assert len(reading.subscription.queue) == 3
        reading.subscription.end("revoked", None)
        reading._found = list(await task)
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]


async def test_session_that_ended_in_the_database_ends_its_stream(stage: Stage) -> None:
    with patched(SESSIONS_INTERVAL=0.02):
        async with stage.live(user="alice") as reading, stage.live(user="bob") as other:
            stage.log.over.add(Principal("alice"))
            assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]
            assert other.subscription.ended is None


# --- The link


async def test_stream_begins_without_the_layer(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SAFETY_INTERVAL"] = 0.05
    stage.layer.away = OSError("refused")
    with patched(JOIN_TIMEOUT=0.1):
        async with stage.live() as reading:
            stage.log.append(TOPIC)
            assert await reading.numbers(1) == [1]


class Unknown:
    """A pub/sub layer of two hosts, which is made in another way inside."""

    def __init__(self, layer: FakeLayer) -> None:
        self._layer = layer
        self._shards = ["one", "two"]

    def _get_layer(self) -> Any:
        return self

    def _get_shard(self, name: str) -> Any:
        raise TypeError("made in another way")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


async def test_stream_begins_without_a_layer_of_the_name(
    stage: Stage, conf: dict[str, Any], changes: list[bool]
) -> None:
    def unavailable() -> Any:
        raise doorbell.LayerUnavailable("no layer of that name")

    conf["SAFETY_INTERVAL"] = 0.05
    with patched(**QUICK), mock.patch.object(doorbell, "channel_layer", unavailable):
        async with stage.live() as reading:
            assert not stage.hub.topics[TOPIC].confirmed
            assert await stage.hub.link.join([TOPIC], anyway=True) == set()
            stage.log.append(TOPIC)
            assert await reading.numbers(1) == [1]
        assert stage.hub.restarts == 0
        assert changes == [False]


async def test_stream_is_live_on_a_layer_that_tells_no_hosts(stage: Stage) -> None:
    layer = Unknown(stage.layer)
    with patched(**QUICK), mock.patch.object(doorbell, "channel_layer", lambda: layer):
        async with stage.live() as reading:
            assert (stage.hub.link.hosts(), stage.hub.link.links()) == (2, 1)
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [1]
            # Lost, and found again without what only the layer knows.
            stage.layer.pass_on = lambda message: []
            await eventually(lambda: not stage.hub.link.up)
            stage.layer.pass_on = lambda message: [message]
            await eventually(lambda: stage.hub.link.up)
        assert stage.hub.restarts == 0


async def test_host_that_is_away_lets_the_others_join_nothing_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "host_of", lambda topic: int(topic == "lost"))
    async with stage.open("kept", "lost"):
        stage.hub.link.set_up(False, host=1)
        assert not stage.hub.topics["lost"].confirmed
        before = len(stage.layer.adds)
        for _ in range(3):
            await stage.hub._on_alive(0)
        assert len(stage.layer.adds) == before
        stage.hub.topics["kept"].confirmed = False
        await stage.hub._on_alive(0)
        assert stage.hub.topics["kept"].confirmed and not stage.hub.topics["lost"].confirmed


@pytest.fixture
def changes() -> Iterator[list[bool]]:
    """What ``hub_changed`` told."""
    told: list[bool] = []

    def on_change(up: bool, **_: Any) -> None:
        told.append(up)

    hub_changed.connect(on_change)
    yield told
    hub_changed.disconnect(on_change)


QUICK = {"PROBE_INTERVAL": 0.03, "PROBE_TIMEOUT": 0.1, "JOIN_TIMEOUT": 0.2, "RETRY_INTERVAL": 0.03}


async def test_layer_that_swallows_everything_is_noticed_and_what_was_missed_is_read(
    stage: Stage, changes: list[bool]
) -> None:
    with patched(**QUICK):
        async with stage.live() as reading:
            stage.layer.pass_on = lambda message: []
            await eventually(lambda: not stage.hub.link.up)
            await stage.ring(*stage.log.append(TOPIC, 2))
            stage.layer.pass_on = lambda message: [message]
            await eventually(lambda: stage.hub.link.up)
            # No hint and no safety poll told: the hub has looked by itself.
            assert await reading.numbers(2) == [1, 2]
            assert changes == [False, True]


async def test_layer_that_forgets_its_groups_is_joined_again(stage: Stage, changes: list[bool]) -> None:
    with patched(**QUICK):
        async with stage.live() as reading:
            stage.layer.groups.clear()  # A failover to an empty replica.
            stage.log.append(TOPIC)
            assert await reading.numbers(1) == [1]
            await eventually(lambda: stage.layer.groups[doorbell.group_name(TOPIC)])
            await eventually(lambda: stage.hub.topics[TOPIC].confirmed)
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [2]


async def test_groups_are_joined_again_now_and_then(stage: Stage) -> None:
    with patched(**QUICK, REJOIN_INTERVAL=0.05):
        async with stage.live():
            await eventually(lambda: stage.layer.adds.count(doorbell.group_name(TOPIC)) > 2)


async def test_unconfirmed_group_is_joined_again(stage: Stage) -> None:
    with patched(**QUICK):
        async with stage.live() as reading:
            stage.hub.topics[TOPIC].confirmed = False
            await eventually(lambda: stage.hub.topics[TOPIC].confirmed)
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [1]


async def test_group_is_left_some_time_after_the_last_reader(stage: Stage) -> None:
    group = doorbell.group_name(TOPIC)
    with patched(LINGER=0.1):
        async with stage.live():
            pass
        await eventually(lambda: group in stage.layer.discards)
        assert TOPIC not in stage.hub.topics
        async with stage.live() as reading:
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [1]


async def test_group_is_kept_for_who_comes_back_soon(stage: Stage) -> None:
    for _ in range(3):
        async with stage.live():
            pass
    assert stage.layer.adds.count(doorbell.group_name(TOPIC)) == 1
    assert not stage.layer.discards


# --- Life


async def test_task_that_fails_is_started_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    ran = asyncio.Event()
    fail = True

    async def run() -> None:
        nonlocal fail
        if fail:
            fail = False
            raise ZeroDivisionError
        ran.set()
        await asyncio.Event().wait()

    stage.start()
    stage.hub._spawn(stage.hub._supervised("example", run), "example")
    async with asyncio.timeout(PATIENCE):
        await ran.wait()
    assert stage.hub.restarts == 1
    assert "the hub's example task failed and is started again" in caplog.text


async def test_database_that_is_away_while_joining(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.start()
    stage.log.fails["heads"] = OSError("away")
    opening = asyncio.create_task(anext_entered(stage))
    await eventually(lambda: stage.hub.restarts)
    stage.log.fails.clear()
    reading, close = await opening
    await stage.ring(*stage.log.append(TOPIC))
    assert await reading.numbers(1) == [1]
    await close()


async def test_database_that_does_not_answer(stage: Stage) -> None:
    stage.log.gates["heads"] = asyncio.Event()
    with patched(READY_TIMEOUT=0.1), pytest.raises(TimeoutError):
        async with stage.open():
            pass
    assert not stage.hub.subscriptions
    assert stage.hub.topics[TOPIC].users == 0


async def test_client_that_goes_while_it_enters_leaves_nothing(stage: Stage) -> None:
    stage.log.gates["heads"] = asyncio.Event()
    opening = asyncio.create_task(anext_entered(stage))
    await eventually(lambda: stage.log.calls["heads"])
    opening.cancel()
    await asyncio.wait([opening])
    assert not stage.hub.subscriptions and not stage.hub.by_user
    assert stage.hub.topics[TOPIC].users == 0
    assert not stage.hub.topics[TOPIC].subscriptions


async def test_closed_streams_leave_nothing(stage: Stage) -> None:
    for _ in range(3):
        async with stage.live(user="alice"):
            pass
    assert not stage.hub.subscriptions and not stage.hub.by_user
    assert stage.hub.topics[TOPIC].users == 0
    assert not stage.hub.topics[TOPIC].subscriptions


async def test_signals_tell_of_streams(stage: Stage) -> None:
    told: list[tuple[str, Any]] = []

    def opened(user: Any, transport: str, connection: str, **_: Any) -> None:
        told.append(("opened", (user, transport, connection)))

    def closed(user: Any, transport: str, connection: str, reason: str, **_: Any) -> None:
        told.append(("closed", (user, transport, connection, reason)))

    stream_opened.connect(opened)
    stream_closed.connect(closed)
    try:
        async with stage.open(user="alice") as one:
            pass
        async with stage.open(user="bob") as two:
            two.subscription.end("lifetime", 0)
    finally:
        stream_opened.disconnect(opened)
        stream_closed.disconnect(closed)
    first, second = one.subscription.connection, two.subscription.connection
    assert told == [
        ("opened", ("alice", "sse", first)),
        ("closed", ("alice", "sse", first, "disconnect")),
        ("opened", ("bob", "sse", second)),
        ("closed", ("bob", "sse", second, "lifetime")),
    ]


async def test_receiver_of_a_signal_that_fails_stops_no_stream(stage: Stage) -> None:
    class Failing:
        def __call__(self, **_: Any) -> None:
            raise ZeroDivisionError

    failing = Failing()
    for signal in (stream_opened, stream_closed, hub_changed):
        signal.connect(failing)
    try:
        async with stage.live() as reading:
            await stage.ring(*stage.log.append(TOPIC))
            assert await reading.numbers(1) == [1]
        stage.hub.link.set_up(False)
    finally:
        for signal in (stream_opened, stream_closed, hub_changed):
            signal.disconnect(failing)


async def test_stream_that_can_not_be_entered_leaves_nothing(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_USER"] = "20"
    with pytest.raises(TypeError):
        async with stage.open():
            pass
    assert not stage.hub.subscriptions and not stage.hub.by_user
    assert not stage.hub.topics[TOPIC].subscriptions


async def test_receiver_that_cancels_a_stream_leaves_nothing(stage: Stage) -> None:
    told: list[str] = []

    def cancelling(**_: Any) -> None:
        raise asyncio.CancelledError

    def opened(**_: Any) -> None:
        told.append("opened")

    def closed(reason: str, **_: Any) -> None:
        told.append(reason)

    stream_opened.connect(opened)
    stream_opened.connect(cancelling)
    stream_closed.connect(closed)
    try:
        with pytest.raises(asyncio.CancelledError):
            async with stage.open():
                pass
    finally:
        stream_opened.disconnect(opened)
        stream_opened.disconnect(cancelling)
        stream_closed.disconnect(closed)
    assert told == ["opened", "disconnect"]
    assert not stage.hub.subscriptions and not stage.hub.by_user
    assert not stage.hub.topics[TOPIC].subscriptions
