"""The life of one connection: ready, replay, live, heartbeat, bye."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from notifications.envelope import Frame
from notifications.stream import open_stream
from tests.fakes import PATIENCE, TOPIC, Reading, Stage, eventually


def shown(batch: Sequence[Frame]) -> list[tuple[str, Any, str | None]]:
    return [(envelope.type, json.loads(envelope.data), cursor) for envelope, cursor in batch]


async def batch(reading: Reading) -> list[tuple[str, Any, str | None]]:
    async with asyncio.timeout(PATIENCE):
        return shown(await anext(reading._frames))


async def test_ready_tells_all_that_a_client_needs(stage: Stage, conf: dict[str, Any]) -> None:
    conf["HEARTBEAT"] = 2.5
    stage.start()
    stage.log.append(TOPIC, 2)
    principal = stage.log.allow("alice", TOPIC)
    async with open_stream(principal, transport="websocket") as (subscription, frames):
        ((type, data, cursor),) = shown(await anext(frames))
        assert (type, cursor) == ("ready", "1.1-aa-2")
        assert data == {
            "cursor": "1.1-aa-2",
            "unread": 3,
            "heartbeat": 2500,
            "connection": subscription.connection,
            "transport": "websocket",
        }
        await frames.aclose()  # type: ignore[attr-defined]


async def test_ready_of_who_resumes_counts_nothing(stage: Stage) -> None:
    stage.log.append(TOPIC, 2)
    async with stage.open(cursor="1.1-aa-1") as reading:
        assert reading.cursor == "1.1-aa-1"
        assert stage.log.calls["unread"] == 0


async def test_replay_comes_in_batches_with_the_cursor_after_each_event(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    async with stage.open(cursor="1.1-aa-1") as reading:
        assert [(data["seq"], cursor) for _, data, cursor in await batch(reading)] == [(2, "1.1-aa-2"), (3, "1.1-aa-3")]


async def test_replay_of_several_topics_keeps_the_place_in_the_others(stage: Stage) -> None:
    stage.log.append("a", 2)
    stage.log.append("b", 2)
    async with stage.open("a", "b", cursor="1.1-aa-1.2-aa-1") as reading:
        assert [cursor for _, _, cursor in await batch(reading)] == ["1.1-aa-2.2-aa-1"]
        assert [cursor for _, _, cursor in await batch(reading)] == ["1.1-aa-2.2-aa-2"]


async def test_live_events_wait_for_the_replay(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    stage.log.gates["read"] = asyncio.Event()
    async with stage.open(cursor="1.1-aa-1") as reading:
        task = asyncio.ensure_future(anext(reading._frames))
        await eventually(lambda: stage.log.calls["read"])
        await stage.ring(*stage.log.append(TOPIC, 2))
        stage.log.gates.pop("read").set()
        reading._found = list(await task)
        assert await reading.numbers(4) == [2, 3, 4, 5]


async def test_replay_that_grows_while_it_is_read(stage: Stage) -> None:
    stage.log.append(TOPIC, 450)
    async with stage.open(cursor="1.1-aa-0") as reading:
        assert await reading.numbers(10) == list(range(1, 11))
        await stage.ring(*stage.log.append(TOPIC, 300))
        assert await reading.numbers(740) == list(range(11, 751))


async def test_heartbeats_come_and_leave_the_cursor(stage: Stage, conf: dict[str, Any]) -> None:
    conf["HEARTBEAT"] = 0.05
    async with stage.open() as reading:
        for _ in range(3):
            assert await batch(reading) == [("heartbeat", {}, None)]


async def test_lifetime_ends_the_stream(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"LIFETIME": 0.2, "HEARTBEAT": 0.05}
    began = asyncio.get_running_loop().time()
    async with stage.open() as reading:
        ((type, data),) = await reading.rest()
        assert (type, data["reason"]) == ("bye", "lifetime")
        assert 0 <= data["retry"] <= 1000
    assert asyncio.get_running_loop().time() - began >= 0.15


async def test_lifetime_that_is_shorter_than_a_heartbeat(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"LIFETIME": 0.1, "HEARTBEAT": 0.2}
    async with stage.open() as reading:
        *before, last = [type for type, _ in await reading.rest()]
        assert last == "bye"
        assert before in ([], ["heartbeat"])  # The first comes a little early.


async def test_malformed_cursor_is_one_reset_and_begins_now(stage: Stage) -> None:
    stage.log.append(TOPIC, 2)
    async with stage.open(cursor="nonsense") as reading:
        assert reading.cursor == "1.1-aa-2"
        assert await batch(reading) == [("reset", {"topic": "*", "reason": "malformed"}, "1.1-aa-2")]


async def test_reset_carries_the_cursor_behind_it(stage: Stage) -> None:
    stage.log.append(TOPIC, 5)
    async with stage.open(cursor="1.1-zz-3") as reading:
        assert reading.cursor == "1.1-zz-3"  # Until the reset has arrived.
        assert await batch(reading) == [("reset", {"topic": TOPIC, "reason": "epoch"}, "1.1-aa-5")]


async def test_events_that_are_queued_come_before_bye(stage: Stage) -> None:
    stage.log.append(TOPIC)
    async with stage.live() as reading:
        await stage.ring(*stage.log.append(TOPIC, 2))
        reading.subscription.end("shutdown", 9)
        assert [type for type, _ in await reading.rest()] == ["ping", "ping", "bye"]


async def test_replay_stops_for_who_may_not_read_any_more(stage: Stage) -> None:
    stage.log.append(TOPIC, 450)
    async with stage.open(cursor="1.1-aa-0") as reading:
        await reading.numbers(5)
        reading._found.clear()
        reading.subscription.end("revoked", None)
        assert await reading.rest() == [("bye", {"reason": "revoked", "retry": None})]


async def test_left_stream_has_no_timer(stage: Stage, conf: dict[str, Any]) -> None:
    conf["HEARTBEAT"] = 0.05
    async with stage.live() as reading:
        pass
    assert reading.subscription.due is False
    await asyncio.sleep(0.1)
    assert reading.subscription.due is False


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_connection_is_named(stage: Stage, transport: str) -> None:
    stage.start()
    principal = stage.log.allow("alice", TOPIC)
    async with open_stream(principal, transport=transport) as (subscription, _):
        assert subscription.transport == transport
        assert len(subscription.connection) >= 12
