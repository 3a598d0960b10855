"""The hub: where each connection begins, how many there are, who may still read, and that nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError

from notifications import doorbell, hub_changed, stream_closed, stream_opened
from notifications.access import Access, Principal
from notifications.hub import HubFull, NotAuthorized
from notifications.link import Link
from notifications.rota import Rota
from notifications.stream import open_stream
from tests.fakes import PATIENCE, TOPIC, Reading, Stage, eventually, patched

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


@asynccontextmanager
async def readers(stage: Stage, count: int) -> AsyncIterator[tuple[list[Principal], list[list[Principal]]]]:
    """Yield so many people with a stream each, and the looks at their rights, two at a time, that follow."""
    everybody = [Principal(f"reader {number}") for number in range(count)]
    async with AsyncExitStack() as streams:
        for principal in everybody:
            stage.log.access[principal] = Access((TOPIC,))
            await streams.enter_async_context(stage.live(user=principal.user))
        looks = stage.log.keys["authorize"]
        looks.clear()
        with patched(SESSIONS_INTERVAL=0.02), mock.patch.object(Rota, "due", two_of):
            yield everybody, looks


def two_of(rota: Rota, line: Mapping[Any, float], now: float, interval: float) -> tuple[Any, ...]:
    assert list(line.values()) == sorted(line.values())
    return tuple(line)[:2]


async def test_recheck_of_many_takes_a_portion_at_a_time_in_turn(stage: Stage) -> None:
    async with readers(stage, 6) as (everybody, looks):
        await eventually(lambda: len(looks) >= 6)
    assert [len(look) for look in looks[:6]] == [2] * 6
    for turn in (looks[:3], looks[3:6]):
        assert {principal for look in turn for principal in look} == set(everybody)


async def test_recheck_of_some_that_fails_is_tried_again_before_others_are_looked_at(stage: Stage) -> None:
    async with readers(stage, 4) as (everybody, looks):
        stage.log.fails["authorize"] = OSError("away")
        await eventually(lambda: len(looks) >= 3)
        assert {principal for look in looks for principal in look} == set(everybody[:2])
        stage.log.fails.clear()
        await eventually(lambda: {principal for look in looks for principal in look} == set(everybody))


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
        stage.hub.follower._deliver()
        assert len(reading.subscription.queue) == 3
        reading.subscription.end("revoked", None)
        reading._found = list(await task)
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize("name", ["alice", "bob"])
async def test_session_that_ended_in_the_database_ends_its_stream(stage: Stage, name: str, at_once: int) -> None:
    with patched(SESSIONS_INTERVAL=0.02, SESSIONS_AT_ONCE=at_once):
        async with stage.live(user="alice") as alice, stage.live(user="bob") as bob:
            reading, other = (alice, bob) if name == "alice" else (bob, alice)
            stage.log.over.add(Principal(name))
            assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]
            assert other.subscription.ended is None


async def test_look_at_sessions_that_fails_is_repeated(stage: Stage) -> None:
    stage.log.fails["ended"] = OperationalError("the database is away")
    with patched(SESSIONS_INTERVAL=0.02):
        async with stage.live(user="alice") as reading:
            await eventually(lambda: stage.log.calls["ended"] >= 2)
            assert reading.subscription.ended is None
            stage.log.over.add(Principal("alice"))
            del stage.log.fails["ended"]
            assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]


@pytest.mark.parametrize(("hangs", "goes_on"), [("tidy", "ended"), ("ended", "advanced")])
async def test_safety_poll_and_look_at_sessions_do_not_wait_for_each_other(
    stage: Stage, conf: dict[str, Any], hangs: str, goes_on: str
) -> None:
    conf["SAFETY_INTERVAL"] = 0.02
    stage.log.gates[hangs] = asyncio.Event()
    with patched(SESSIONS_INTERVAL=0.02):
        async with stage.live(user="alice"):
            await eventually(lambda: stage.log.calls[hangs] == 1)
            before = stage.log.calls[goes_on]
            await eventually(lambda: stage.log.calls[goes_on] >= before + 3)
    assert stage.log.calls[hangs] == 1


@pytest.mark.parametrize(("hosts", "name"), [(1, "SAFETY_INTERVAL"), (0, "SAFETY_INTERVAL_ALONE")])
async def test_safety_poll_has_an_interval_of_its_own_without_a_shared_layer(
    stage: Stage, conf: dict[str, Any], hosts: int, name: str
) -> None:
    conf["SAFETY_INTERVAL"] = None
    intervals = {"SAFETY_INTERVAL": 3600.0, "SAFETY_INTERVAL_ALONE": 3600.0, name: 0.02}
    with patched(**intervals), mock.patch.object(Link, "hosts", return_value=hosts):
        stage.start()
        await eventually(lambda: stage.log.calls["tidy"] >= 3)


@pytest.mark.parametrize(
    ("past", "after", "pause"),
    [
        (0.0, 0.0, 1.5),
        (0.4, 0.0, 1.1),
        (1.4, 0.0, 1.6),
        (1.52, 0.0, 1.48),
        (0.4, 0.1, 1.2),
        (0.0, 0.1, 1.6),
        (10, 0.1, 2.1),
    ],
)
async def test_what_is_asked_again_and_again_keeps_its_time(
    stage: Stage, past: float, after: float, pause: float
) -> None:
    stage.start()
    stage.hub._started = stage.hub.loop.time() - past
    assert stage.hub._until_next(1.5, after) == pytest.approx(pause, abs=0.05)


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
