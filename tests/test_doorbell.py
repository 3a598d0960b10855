"""The doorbell: rings from anywhere, waits for nobody, and a layer that is away costs nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from channels.layers import InMemoryChannelLayer
from django.test import override_settings

from notifications import doorbell
from notifications.doorbell import Breaker, Doorbell, Hint, LayerUnavailable
from tests.fakes import FakeLayer, eventually
from tests.servers import RedisServer, wait_until

HINT = Hint("everyone", "aa", 7, ((7, "ping", "{}"),))


def ringers() -> list[threading.Thread]:
    """Return the threads of doorbells, this test's and those that other tests have left running."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("notifications-doorbell")]


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    """A doorbell of its own for the module, as a fresh process has it."""
    bell = Doorbell()
    before = set(ringers())
    with mock.patch.multiple(doorbell, _doorbell=bell, breakers=defaultdict(Breaker)):
        yield bell
    if (loop := bell._own) is not None:
        (thread,) = set(ringers()) - before

        def end() -> None:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.call_later(0.01, loop.stop)

        loop.call_soon_threadsafe(end)
        thread.join(10)
        loop.close()


@pytest.fixture
def layer(bell: Doorbell) -> Iterator[FakeLayer]:
    layer = FakeLayer()
    with mock.patch.object(doorbell, "channel_layer", lambda: layer):
        yield layer


def seqs(layer: FakeLayer) -> list[int]:
    return [message["seq"] for message in layer.sent]


def hints(*numbers: int) -> list[Hint]:
    return [HINT._replace(seq=number) for number in numbers]


# --- Hints


def test_hint_carries_small_events() -> None:
    assert HINT.message() == {
        "type": "notifications.hint",
        "topic": "everyone",
        "epoch": "aa",
        "seq": 7,
        "events": [[7, "ping", "{}"]],
    }


@override_settings(NOTIFICATIONS={"HINT_BYTES": 100})
def test_hint_leaves_large_events_to_the_log() -> None:
    events = tuple((number, "ping", "x" * 40) for number in (5, 6, 7))
    assert HINT._replace(events=events).message()["events"] == []
    assert len(HINT._replace(events=events[1:]).message()["events"]) == 2
    assert HINT._replace(events=((7, "ping", "é" * 60),)).message()["events"] == []


def test_group_name_is_one_for_the_layer_and_one_for_the_site() -> None:
    names = {doorbell.group_name(topic) for topic in ("everyone", "user:1", "préférés/🔔", "x" * 150)}
    assert len(names) == 4
    layer = InMemoryChannelLayer()
    for name in names:
        assert layer.require_valid_group_name(name)
    with override_settings(SECRET_KEY="another site's"):
        assert doorbell.group_name("everyone") not in names


# --- The layer


def test_channel_layer_is_the_one_that_is_named() -> None:
    memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with override_settings(CHANNEL_LAYERS={"default": memory, "other": memory}):
        default = doorbell.channel_layer()
        with override_settings(NOTIFICATIONS={"CHANNEL_LAYER": "other"}):
            assert doorbell.channel_layer() is not default


def test_channel_layer_of_a_site_without_any_is_in_memory() -> None:
    with override_settings(CHANNEL_LAYERS={}):
        assert isinstance(doorbell.channel_layer(), InMemoryChannelLayer)
        assert doorbell.channel_layer() is doorbell.channel_layer()


@override_settings(NOTIFICATIONS={"CHANNEL_LAYER": "missing"})
def test_channel_layer_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(LayerUnavailable, match="missing"):
        doorbell.channel_layer()


class Unknown:
    """A pub/sub layer that is made in another way inside."""

    def __init__(self, *hosts: str) -> None:
        self._shards = hosts

    def _get_layer(self) -> Any:
        return self

    def _get_shard(self, name: str) -> Any:
        raise TypeError("made in another way")


def unavailable() -> Any:
    raise LayerUnavailable("no layer of that name")


BROKEN = {"misnamed": unavailable, "made in another way": lambda: Unknown("one", "two"), "empty": object}


@pytest.mark.parametrize("broken", BROKEN)
def test_host_of_a_layer_that_does_not_tell_is_the_first(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "channel_layer", BROKEN[broken])
    assert doorbell.host_of("everyone") == 0
    assert doorbell.shard_of("everyone") is None


@pytest.mark.parametrize("broken", BROKEN)
async def test_queue_is_emptied_whatever_is_wrong_with_the_layer(
    broken: str, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "channel_layer", BROKEN[broken])
    doorbell.attach(asyncio.get_running_loop())
    doorbell.ring(hints(1, 2, 3))
    assert await asyncio.to_thread(doorbell.flush, 10)
    assert bell.lost == 3
    doorbell.detach(asyncio.get_running_loop())


async def test_queue_is_emptied_after_a_mistake(bell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "send_to", mock.AsyncMock(side_effect=ZeroDivisionError))
    doorbell.attach(asyncio.get_running_loop())
    doorbell.ring(hints(1, 2))
    assert await asyncio.to_thread(doorbell.flush, 10)
    assert bell.lost == 2
    doorbell.detach(asyncio.get_running_loop())


# --- Ringing, from anywhere


def test_ring_without_a_loop_sends_by_a_thread_of_its_own(bell: Doorbell, layer: FakeLayer) -> None:
    before = len(ringers())
    doorbell.ring(hints(1, 2))
    assert doorbell.flush(10)
    doorbell.ring(hints(3))
    assert doorbell.flush(10)
    assert seqs(layer) == [1, 2, 3]
    assert len(ringers()) == before + 1
    assert all(thread.daemon for thread in ringers())


def test_ring_from_many_threads_loses_nothing(bell: Doorbell, layer: FakeLayer) -> None:
    def work(start: int) -> None:
        for number in range(start, start + 50):
            doorbell.ring(hints(number))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doorbell.flush(10)
    assert sorted(seqs(layer)) == list(range(400))
    assert bell.sent == 400


async def test_ring_on_the_loop_of_a_hub_sends_from_there(bell: Doorbell, layer: FakeLayer) -> None:
    doorbell.attach(asyncio.get_running_loop())
    doorbell.ring(hints(1))
    assert seqs(layer) == []  # Nothing is sent within the call.
    await asyncio.to_thread(doorbell.ring, hints(2))
    await eventually(lambda: seqs(layer) == [1, 2])
    assert bell._own is None
    doorbell.detach(asyncio.get_running_loop())


async def test_ring_on_a_loop_without_a_hub(bell: Doorbell, layer: FakeLayer) -> None:
    doorbell.ring(hints(1))
    assert await asyncio.to_thread(doorbell.flush, 10)
    assert seqs(layer) == [1]


def test_ring_after_a_hub_s_loop_was_closed(bell: Doorbell, layer: FakeLayer) -> None:
    loop = asyncio.new_event_loop()
    doorbell.attach(loop)
    loop.close()
    doorbell.ring(hints(1))
    assert doorbell.flush(10)
    assert seqs(layer) == [1]


def test_ring_on_a_loop_that_is_closed_in_that_moment(bell: Doorbell, layer: FakeLayer) -> None:
    loop = mock.Mock(spec=asyncio.AbstractEventLoop)
    loop.is_closed.return_value = False
    loop.call_soon_threadsafe.side_effect = RuntimeError("Event loop is closed")
    doorbell.attach(loop)
    doorbell.ring(hints(1, 2))
    assert doorbell.flush(0)
    assert bell.lost == 2
    doorbell.detach(loop)


def test_ring_in_memory_without_a_hub_reaches_nobody(bell: Doorbell) -> None:
    doorbell.ring(hints(1))
    assert doorbell.flush(0)
    assert bell._own is None


def test_ring_of_nothing(bell: Doorbell, layer: FakeLayer) -> None:
    doorbell.ring([])
    assert doorbell.flush(0)
    assert bell._own is None


def test_ring_with_a_layer_that_is_not_there(bell: Doorbell) -> None:
    with override_settings(NOTIFICATIONS={"CHANNEL_LAYER": "missing"}):
        doorbell.ring(hints(1))
    assert doorbell.flush(0)


def test_ring_never_raises(bell: Doorbell, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(bell, "ring", side_effect=ZeroDivisionError):
        doorbell.ring(hints(1))
        doorbell.ring_recheck(["everyone"])
    assert caplog.text.count("ringing failed") == 2


def test_ring_recheck(bell: Doorbell, layer: FakeLayer) -> None:
    doorbell.ring_recheck(["user:1", "user:2"])
    assert doorbell.flush(10)
    assert [(message["topic"], message["recheck"]) for message in layer.sent] == [("user:1", True), ("user:2", True)]


def test_queue_has_a_bound(bell: Doorbell, layer: FakeLayer) -> None:
    with mock.patch.object(bell, "_loop", return_value=mock.Mock()):
        doorbell.ring(hints(*range(doorbell.QUEUE_LIMIT + 10)))
    assert len(bell._queue) == doorbell.QUEUE_LIMIT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_ring_in_a_forked_child(bell: Doorbell, layer: FakeLayer) -> None:
    doorbell.ring(hints(1))
    assert doorbell.flush(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the threads that this is about.
        child = os.fork()
    if child == 0:  # pragma: no cover – the parent cannot see it
        status = 1
        try:
            doorbell.ring(hints(2))
            status = 0 if doorbell.flush(10) and seqs(layer) == [1, 2] else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    doorbell.ring(hints(3))
    assert doorbell.flush(10)
    assert seqs(layer) == [1, 3]


# --- A layer that is away


def test_layer_that_is_away_costs_the_caller_nothing(
    bell: Doorbell, layer: FakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    layer.away = OSError("refused")
    began = time.monotonic()
    for number in range(100):
        doorbell.ring(hints(number))
    assert time.monotonic() - began < 0.5
    assert doorbell.flush(10)
    assert bell.lost == 100
    assert doorbell.breakers[0].is_open and doorbell.breakers[0].total_failures == 3
    # One line, not a hundred.
    assert caplog.text.count("browsers learn of it by the safety poll") <= 3


def test_layer_that_hangs_is_given_up_after_a_second_and_then_at_once(bell: Doorbell, layer: FakeLayer) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    with mock.patch.object(layer, "group_send", hang), mock.patch.object(doorbell, "SEND_TIMEOUT", 0.05):
        doorbell.ring(hints(*range(50)))
        assert doorbell.flush(10)
    assert bell.lost == 50
    assert doorbell.breakers[0].total_failures == 3


def test_flush_gives_up(bell: Doorbell, layer: FakeLayer) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    with mock.patch.object(layer, "group_send", hang):
        doorbell.ring(hints(1))
        assert doorbell.flush(0.05) is False
        wait_until(lambda: bell.lost == 1)
    assert doorbell.flush(10)


async def test_send_raises_one_error_for_whatever_goes_wrong(bell: Doorbell, layer: FakeLayer) -> None:
    for error in (OSError("refused"), RuntimeError("closed"), ValueError("?")):
        layer.away = error
        with pytest.raises(LayerUnavailable):
            await doorbell.send("everyone", {})
    # The breaker is open: not even tried.
    layer.away = None
    with pytest.raises(LayerUnavailable, match="not tried again"):
        await doorbell.send("everyone", {})
    doorbell.breakers[0].open_until = 0
    await doorbell.send("everyone", {"seq": 1})
    assert doorbell.breakers[0].failures == 0


def test_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(limit=3, pause=60)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open


def test_breaker_tries_once_after_its_pause() -> None:
    breaker = Breaker(limit=2, pause=60)
    breaker.failed()
    breaker.failed()
    breaker.open_until = time.monotonic() - 1
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open  # One is enough now.
    breaker.succeeded()
    assert not breaker.is_open


def test_ring_reaches_a_real_redis_over_one_connection(bell: Doorbell, redis_server: RedisServer) -> None:
    layers = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [redis_server.url]},
        }
    }
    with override_settings(CHANNEL_LAYERS=layers):
        before = redis_server.calls("publish")
        with redis_server.client() as client:
            connections = int(client.info("stats")["total_connections_received"])
            for number in range(20):
                doorbell.ring(hints(number))
                assert doorbell.flush(10)
            after = int(client.info("stats")["total_connections_received"])
        assert redis_server.calls("publish") == before + 20
        # One, and the two that asked for the number of calls.
        assert after - connections <= 2
        assert bell._own is not None
        flushing = asyncio.run_coroutine_threadsafe(doorbell.channel_layer().flush(), bell._own)
        flushing.result(10)
