"""The link to the channel layer: groups joined, left and joined again, and a layer that is away or swallows all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from notifications import doorbell, hub_changed
from tests.fakes import TOPIC, FakeLayer, Stage, eventually, patched

QUICK = {"PROBE_INTERVAL": 0.03, "PROBE_TIMEOUT": 0.1, "JOIN_TIMEOUT": 0.2, "RETRY_INTERVAL": 0.03}


@pytest.fixture
def changes() -> Iterator[list[bool]]:
    """What ``hub_changed`` told."""
    told: list[bool] = []

    def on_change(up: bool, **_: Any) -> None:
        told.append(up)

    hub_changed.connect(on_change)
    yield told
    hub_changed.disconnect(on_change)


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


async def test_group_that_is_left_while_others_are_joined_again_stays_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, blocked, go_on = doorbell.group_name("left"), asyncio.Event(), asyncio.Event()
    add = stage.layer.group_add

    async def slow_add(name: str, channel: str) -> None:
        if name == doorbell.group_name("kept"):
            blocked.set()
            await go_on.wait()
        await add(name, channel)

    with patched(LINGER=0.05, TOGETHER=1):
        async with stage.live("kept", user="alice"):
            async with stage.live("left", user="bob"):
                monkeypatch.setattr(stage.layer, "group_add", slow_add)
                rejoining = asyncio.ensure_future(stage.hub._rejoin(0))
                await blocked.wait()
            await asyncio.sleep(0.2)  # Longer than it lingers.
            go_on.set()
            await rejoining
            await eventually(lambda: "left" not in stage.hub.topics and group in stage.layer.discards)
            assert not stage.layer.groups[group]
