"""All that this project knows of the insides of channels_redis' pub/sub layer.

What the interface of a channel layer does not tell: on which of several Redis hosts a group is, and how the connection
to one of them is made anew. What it does one by one: a PUBLISH and a SUBSCRIBE for each group, and for each message a
timer, a retry and a health check of redis-py's, which cost more than all that is made of a direct message afterwards.
Whatever is not found as expected (another layer, another version) is None or False here, and is done by the interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.client import PubSub

__all__ = ["QuickPubSub", "join", "names_on", "publish", "quicken", "reconnect", "shard_of", "waiting"]

#: Names of one SUBSCRIBE, when all that a process reads is subscribed to again.
NAMES_AT_ONCE = 500


def shard_of(layer: Any, group: str) -> int | None:
    """Return on which host of the layer's a group is, as an index; None if it is no pub/sub layer.

    Call it, like everything here, on the loop that uses the layer.
    """
    try:
        inner = layer._get_layer()
        if len(inner._shards) == 1:
            return 0
        return int(inner._shards.index(inner._get_shard(inner._get_group_channel_name(group))))
    except (AttributeError, ValueError):
        return None


async def publish(layer: Any, host: int, messages: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    """Send ``(group, message)`` pairs, whose groups are all on that host, in one pipeline; return False if unable to.

    :raises Exception: whatever redis-py raises; any of them may have been sent, or none.
    """
    if type(layer) is not RedisPubSubChannelLayer:  # One of the site's own may do more.
        return False
    try:
        inner = layer._get_layer()
        shard, name, serialize = inner._shards[host], inner._get_group_channel_name, layer.serialize
        lock, connect = shard._lock, shard._ensure_redis
    except (AttributeError, LookupError):
        return False
    async with lock:
        connect()
        pipeline = shard._redis.pipeline(transaction=False)
        for group, message in messages:
            pipeline.publish(name(group), serialize(message))
        await pipeline.execute()
    return True


async def join(layer: Any, host: int, channel: str, groups: Sequence[str]) -> bool:
    """Add a channel to groups, which are all on that host, by one command; return False if unable to.

    As with the layer's own ``group_add``, Redis may not have heard of it yet.

    :raises Exception: whatever redis-py raises; then the channel may be in any of them, or none, and may join again.
    """
    if (shard := _known_shard(layer, host)) is None:
        return False
    try:
        inner = layer._get_layer()
        members, known = inner.groups, channel in inner.channels
        names = [inner._get_group_channel_name(group) for group in groups]
    except AttributeError:
        return False
    if not known:
        return False
    for name in names:
        members.setdefault(name, set()).add(channel)
    await _subscribe(shard, names)
    return True


def _known_shard(layer: Any, host: int) -> Any:
    """Return the layer's connections to a host if :func:`_subscribe` knows its way about in them, else None."""
    if type(layer) is not RedisPubSubChannelLayer:  # One of the site's own may do more.
        return None
    try:
        shard = layer._get_layer()._shards[host]
        shard._lock, shard._subscribed_to, shard._ensure_redis, shard._ensure_receiver, shard._pubsub  # noqa: B018
    except (AttributeError, LookupError):
        return None
    return shard


async def _subscribe(shard: Any, names: Sequence[str]) -> None:
    async with shard._lock:
        new = [name for name in names if name not in shard._subscribed_to]
        if new:
            shard._ensure_redis()
            shard._ensure_receiver()
            await shard._pubsub.subscribe(*new)
            shard._subscribed_to.update(new)


def waiting(layer: Any, channel: str) -> Iterator[Any]:
    """Yield the messages that wait in a channel, without waiting for one; an exception for what is not understood."""
    if type(layer) is not RedisPubSubChannelLayer:
        return
    try:
        queue, deserialize = layer._get_layer().channels[channel], layer.deserialize
        empty, take = queue.empty, queue.get_nowait
    except (AttributeError, LookupError):
        return
    while not empty():
        data = take()
        try:
            yield deserialize(data)
        except Exception as error:
            yield error


def quicken(layer: Any) -> None:
    """Let messages that have come together be read together."""
    for shard in _shards(layer):
        if type(pubsub := getattr(shard, "_pubsub", None)) is PubSub:
            pubsub.__class__ = QuickPubSub


async def reconnect(layer: Any, host: int) -> None:
    """Make the connections to a host anew, keeping everybody's subscriptions, the site's too."""
    inner = layer._get_layer()
    shard = inner._shards[host]
    names = names_on(layer, host)
    known = _known_shard(layer, host) is not None
    await shard.flush()
    if known:
        for start in range(0, len(names), NAMES_AT_ONCE):
            await _subscribe(shard, names[start : start + NAMES_AT_ONCE])
    else:
        for name in names:
            await shard.subscribe(name)
    quicken(layer)


def names_on(layer: Any, host: int) -> list[str]:
    """Return the Redis channels that this process is subscribed to on a host."""
    inner = layer._get_layer()
    return [name for name in (*inner.channels, *inner.groups) if inner._get_shard(name) is inner._shards[host]]


def _shards(layer: Any) -> Sequence[Any]:
    try:
        return tuple(layer._get_layer()._shards)
    except AttributeError:
        return ()


#: What Redis answers to what this connection asks of it; the layer uses no patterns.
CONFIRMATIONS = frozenset({b"subscribe", b"unsubscribe"})


class QuickPubSub(PubSub):
    """redis-py's, but what came together with another message is taken out of the buffer at once."""

    async def get_message(
        self,
        ignore_subscribe_messages: bool = False,
        timeout: float | None = 0.0,  # noqa: ASYNC109 -- redis-py's own.
    ) -> Any:
        response = self._read_already()
        if response is None:
            return await super().get_message(ignore_subscribe_messages, timeout)
        if response[0] == b"message":
            return {"type": "message", "pattern": None, "channel": response[1], "data": response[2]}
        if response[0] in CONFIRMATIONS:
            return await self.handle_message(response, ignore_subscribe_messages)  # type: ignore[no-untyped-call]
        # Redis tells other things by push messages, too: that it is about to move, for one.
        connection: Any = self.connection
        await connection._parser.handle_push_response(response)
        return None

    def _read_already(self) -> Any:
        """Return a whole message that waits in the parser's buffer, or None. (Only hiredis' tells of one.)"""
        try:
            connection: Any = self.connection
            reader = connection._parser._reader
            # What could be there beside messages, if there are health checks, is redis-py's business.
            if not connection.is_connected or connection.health_check_interval or not reader.has_data():
                return None
            connection._parser.handle_push_response  # noqa: B018 -- Asked for before anything is taken out.
            response = reader.gets()
        except AttributeError:
            return None
        if isinstance(response, list):
            return response
        if isinstance(response, Exception):
            raise response
        return None
