"""The insides of channels_redis' pub/sub layer: used where they are as expected, and not missed elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import hiredis
import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.client import PubSub

from notifications import doorbell, pubsub
from notifications.link import Link
from notifications.pubsub import QuickPubSub
from tests.servers import RedisServer


def pushed(*items: bytes) -> bytes:
    """Return a push message of Redis' (RESP3)."""
    return b">%d\r\n" % len(items) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)


class Socket:
    """A connection of redis-py's whose parser has read this already."""

    def __init__(self, *read: bytes) -> None:
        self.is_connected = True
        self.health_check_interval = 0
        self._parser = SimpleNamespace(
            _reader=hiredis.Reader(notEnoughData=object(), replyError=ConnectionError),
            handle_push_response=mock.AsyncMock(),
        )
        for data in read:
            self._parser._reader.feed(data)


@pytest.fixture
def quick() -> Iterator[Any]:
    reader: Any = QuickPubSub(mock.Mock())
    yield reader
    reader.connection = None


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> mock.AsyncMock:
    """What redis-py does when nothing was read."""
    monkeypatch.setattr(PubSub, "get_message", patched := mock.AsyncMock(return_value="waited for"))
    return patched


async def test_messages_that_came_together_are_read_together(quick: Any, ordinary: mock.AsyncMock) -> None:
    socket = Socket(
        pushed(b"message", b"a", b"1") + pushed(b"message", b"b", b"2") + pushed(b"message", b"c", b"3")[:-4]
    )
    quick.connection = socket
    found = [await quick.get_message(timeout=0.1) for _ in range(2)]
    assert [(message["type"], message["channel"], message["data"]) for message in found] == [
        ("message", b"a", b"1"),
        ("message", b"b", b"2"),
    ]
    assert await quick.get_message(True, 0.1) == "waited for"  # The third is not there yet.
    ordinary.assert_awaited_once_with(True, 0.1)
    socket._parser._reader.feed(b"\r\n3\r\n"[-4:])


async def test_confirmations_among_messages_are_redis_py_s_business(quick: Any) -> None:
    quick.connection = Socket(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" + pushed(b"message", b"a", b"1"))
    assert await quick.get_message(ignore_subscribe_messages=True, timeout=0.1) is None
    assert (await quick.get_message(ignore_subscribe_messages=True, timeout=0.1))["data"] == b"1"


async def test_what_else_redis_pushes_goes_to_its_own_handler(quick: Any) -> None:
    quick.connection = socket = Socket(pushed(b"MOVING", b"1", b"30") + pushed(b"message", b"a", b"1"))
    assert await quick.get_message(ignore_subscribe_messages=True, timeout=0.1) is None
    socket._parser.handle_push_response.assert_awaited_once_with([b"MOVING", b"1", b"30"])
    assert (await quick.get_message(ignore_subscribe_messages=True, timeout=0.1))["data"] == b"1"


async def test_error_among_messages_is_raised(quick: Any) -> None:
    quick.connection = Socket(b"-LOADING Redis is loading\r\n")
    with pytest.raises(ConnectionError, match="loading"):
        await quick.get_message(timeout=0.1)


@pytest.mark.parametrize("reason", ["disconnected", "health checks", "another parser", "not connected yet"])
async def test_connection_that_is_another_is_read_by_redis_py(
    quick: Any, ordinary: mock.AsyncMock, reason: str
) -> None:
    socket = Socket(pushed(b"message", b"a", b"1"))
    quick.connection = None if reason == "not connected yet" else socket
    socket.is_connected = reason != "disconnected"
    socket.health_check_interval = 30 if reason == "health checks" else 0
    if reason == "another parser":
        del socket._parser._reader
    assert await quick.get_message(timeout=0.1) == "waited for"


# --- With the layer that is installed, and Redis


@pytest.fixture
async def layer(redis_server: RedisServer) -> AsyncIterator[Any]:
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url])
    with mock.patch.object(doorbell, "channel_layer", lambda: layer):
        yield layer
        await layer.flush()


def published(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


async def test_many_messages_go_and_come_at_once(layer: Any, redis_server: RedisServer) -> None:
    channel = await layer.new_channel()
    for number in range(300):
        await layer.group_add(doorbell.group_name(f"topic:{number}"), channel)
    pubsub.quicken(layer)
    assert type(layer._get_layer()._shards[0]._pubsub) is QuickPubSub, "this version is not recognised any more"
    before = published(redis_server)
    with mock.patch.object(type(layer._get_layer()), "group_send", side_effect=AssertionError("one by one")):
        await doorbell.send_to(0, [(f"topic:{number}", {"number": number}) for number in range(300)])
    assert published(redis_server) == before + 300
    found: list[Any] = []
    with mock.patch.object(PubSub, "get_message", autospec=True, side_effect=PubSub.get_message) as waited_for:
        async with asyncio.timeout(20):
            while len(found) < 300:
                found.append(await layer.receive(channel))
                found.extend(pubsub.waiting(layer, channel))
    assert [message["number"] for message in found] == list(range(300))
    assert waited_for.await_count < 100, "messages that came together are read one by one"


def subscribed(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_subscribe", {}).get("calls", 0))


async def test_many_groups_are_joined_at_once(layer: Any, redis_server: RedisServer) -> None:
    channel = await layer.new_channel()
    groups = [doorbell.group_name(f"topic:{number}") for number in range(300)]
    before = subscribed(redis_server)
    assert await pubsub.join(layer, 0, channel, groups[:200])
    assert await pubsub.join(layer, 0, channel, groups), "this version is not recognised any more"
    assert await pubsub.join(layer, 0, channel, groups)  # They are all joined, and Redis is not asked again.
    assert subscribed(redis_server) == before + 2
    async with asyncio.timeout(20):
        for group in (groups[0], groups[199], groups[-1]):
            await layer.group_send(group, {"group": group})
            assert await layer.receive(channel) == {"group": group}
    for group in groups:
        await layer.group_discard(group, channel)
    assert len(pubsub.names_on(layer, 0)) == 1


async def test_link_joins_its_groups_at_once(layer: Any) -> None:
    link = Link(lambda message: None, lambda host, up: None)
    receiving = asyncio.create_task(link.receive())
    topics = {f"topic:{number}" for number in range(100)}
    with mock.patch.object(type(layer._get_layer()), "group_add", side_effect=AssertionError("one by one")):
        assert await link.join(topics) == topics
    assert len(pubsub.names_on(layer, 0)) == 101
    receiving.cancel()
    await asyncio.wait([receiving])


async def test_group_that_could_not_be_joined_is_joined_next_time(layer: Any, redis_server: RedisServer) -> None:
    channel = await layer.new_channel()
    with (
        mock.patch.object(PubSub, "subscribe", side_effect=ConnectionError("away")),
        pytest.raises(ConnectionError, match="away"),
    ):
        await pubsub.join(layer, 0, channel, ["everyone"])
    assert await pubsub.join(layer, 0, channel, ["everyone"])
    async with asyncio.timeout(20):
        await layer.group_send("everyone", {"number": 1})
        assert await layer.receive(channel) == {"number": 1}


async def test_channel_that_the_layer_does_not_know_joins_nothing(layer: Any) -> None:
    assert not await pubsub.join(layer, 0, "specific.unknown", ["everyone"])
    assert pubsub.names_on(layer, 0) == []


async def test_connection_that_was_made_anew_is_quick_too(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add(doorbell.group_name("everyone"), channel)
    assert len(pubsub.names_on(layer, 0)) == 2
    await pubsub.reconnect(layer, 0)
    assert type(layer._get_layer()._shards[0]._pubsub) is QuickPubSub
    async with asyncio.timeout(20):
        await layer.group_send(doorbell.group_name("everyone"), {"number": 1})
        assert await layer.receive(channel) == {"number": 1}


async def test_message_that_is_not_understood_is_not_the_end_of_the_others(layer: Any) -> None:
    channel = await layer.new_channel()
    queue = layer._get_layer().channels[channel]
    for data in (layer.serialize({"number": 1}), b"\xc1", layer.serialize({"number": 2})):
        queue.put_nowait(data)
    first, wrong, last = pubsub.waiting(layer, channel)
    assert (first, last) == ({"number": 1}, {"number": 2})
    assert isinstance(wrong, Exception)


@pytest.mark.parametrize(
    "other", [InMemoryChannelLayer(), RedisChannelLayer(), object(), SimpleNamespace(_get_layer=lambda: object())]
)
async def test_other_layers_are_used_as_they_are(other: Any) -> None:
    assert pubsub.shard_of(other, "group") is None
    assert not await pubsub.publish(other, 0, [("group", {})])
    assert not await pubsub.join(other, 0, "channel", ["group"])
    assert list(pubsub.waiting(other, "channel")) == []
    pubsub.quicken(other)


async def test_layer_of_the_site_s_own_is_used_as_it_is(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(RedisPubSubChannelLayer):  # type: ignore[misc]
        pass

    own = Own(hosts=[redis_server.url])
    channel = await own.new_channel()
    own._get_layer().channels[channel].put_nowait(own.serialize({}))
    assert pubsub.shard_of(own, "group") == 0
    assert not await pubsub.publish(own, 0, [("group", {})])
    assert not await pubsub.join(own, 0, channel, ["group"])
    assert list(pubsub.waiting(own, channel)) == []
    with mock.patch.object(pubsub, "_subscribe", side_effect=AssertionError("all at once")):
        await pubsub.reconnect(own, 0)
    assert own._get_layer()._shards[0]._subscribed_to == {channel}

    async def slowly(group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(0.1)

    own.group_send = mock.AsyncMock(side_effect=slowly)
    monkeypatch.setattr(doorbell, "channel_layer", lambda: own)
    monkeypatch.setattr(doorbell, "SEND_TIMEOUT", 0.2)
    await doorbell.send_to(0, [("everyone", {"number": number}) for number in range(4)])
    assert own.group_send.await_count == 4  # A second for each, not for all.
    await own.flush()


async def test_class_of_the_site_s_own_stays(layer: Any) -> None:
    class Own(PubSub):
        pass

    await layer.new_channel()
    layer._get_layer()._shards[0]._pubsub.__class__ = Own
    pubsub.quicken(layer)
    assert type(layer._get_layer()._shards[0]._pubsub) is Own
