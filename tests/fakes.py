"""A log and a channel layer in memory, with a handle on everything that can go wrong with the real ones."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from notifications import doorbell, hub as hub_module, link as link_module, stream
from notifications.access import Access, Principal
from notifications.doorbell import Hint
from notifications.envelope import Frame
from notifications.hub import Hub
from notifications.log import Head, LogEvent
from notifications.stream import open_stream
from notifications.subscription import Subscription

__all__ = ["TOPIC", "FakeLayer", "FakeLog", "FakeTopic", "Reading", "Stage", "eventually", "patched"]

#: What a person of the stage reads, if nothing else is said.
TOPIC = "everyone"

#: Seconds after which what should happen has not happened. Long, because the machine may be busy.
PATIENCE = 20.0


async def eventually(condition: Callable[[], Any], pause: float = 0.005) -> None:
    """Return as soon as ``condition()`` is true.

    :raises TimeoutError: if it stays false.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(pause)


def patched(**values: float) -> ExitStack:
    """Shorter times for the hub and its link."""
    stack = ExitStack()
    for name, value in values.items():
        module = hub_module if hasattr(hub_module, name) else link_module
        stack.enter_context(mock.patch.object(module, name, value))
    return stack


@dataclass
class FakeTopic:
    id: int
    epoch: str = "aa"
    events: list[LogEvent] = field(default_factory=list)
    head: int = 0
    advanced_at: datetime = datetime(2030, 1, 1, tzinfo=UTC)


class FakeLog:
    """What a hub asks of the database (:class:`notifications.follower.Log`), out of a dict.

    :ivar calls: how often each method was called.
    :ivar fails: methods that raise.
    :ivar gates: events that methods wait for, by their names.
    """

    def __init__(self) -> None:
        self.topics: dict[str, FakeTopic] = {}
        self.access: dict[Any, Access | None] = {}
        self.over: set[Any] = set()
        self.calls: Counter[str] = Counter()
        self.keys: dict[str, list[Any]] = defaultdict(list)
        self.fails: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.counted = 3
        self._ids = itertools.count(1)
        self._clock = itertools.count(1)

    def allow(self, user: Any, *topics: str, **since: int) -> Principal:
        """Let a user read topics; return the principal."""
        principal = Principal(user)
        self.access[principal] = Access(topics or (f"user:{user}",), since)
        return principal

    def append(self, name: str, count: int = 1, size: int = 0, type: str = "ping") -> list[Hint]:
        """Add events; return a hint for each of them."""
        topic = self.topics.setdefault(name, FakeTopic(next(self._ids)))
        hints = []
        for _ in range(count):
            topic.head += 1
            topic.advanced_at += timedelta(seconds=next(self._clock))
            event = LogEvent(topic.head, type, f'{{"n":{topic.head},"x":"{"x" * size}"}}')
            topic.events.append(event)
            hints.append(Hint(name, topic.epoch, topic.head, (event,)))
        return hints

    def trim(self, name: str, upto: int) -> None:
        topic = self.topics[name]
        topic.events = [event for event in topic.events if event.seq > upto]

    async def _called(self, method: str, keys: Iterable[Any]) -> None:
        self.calls[method] += 1
        self.keys[method].append(list(keys))
        if gate := self.gates.get(method):
            await gate.wait()
        await asyncio.sleep(0)
        if error := self.fails.get(method):
            raise error

    async def identify(self, sessions: Sequence[str]) -> dict[str, Any]:
        await self._called("identify", sessions)
        return {}

    async def authorize(self, principals: Sequence[Any]) -> dict[Any, Any]:
        await self._called("authorize", principals)
        return {principal: self.access.get(principal) for principal in principals}

    async def ended(self, principals: Collection[Any]) -> set[Any]:
        await self._called("ended", principals)
        return set(principals) & self.over

    async def heads(self, names: Sequence[str]) -> dict[str, Head]:
        # Asked first, answered later: what is appended meanwhile is not in it.
        known = {name: self.topics[name] for name in names if name in self.topics}
        answer = {name: Head(name, topic.id, topic.epoch, topic.head) for name, topic in known.items()}
        await self._called("heads", names)
        return answer

    async def read(self, topic: str, after: int, limit: int) -> list[LogEvent]:
        answer = [event for event in self.topics[topic].events if event.seq > after][:limit]
        await self._called("read", [(topic, after)])
        return answer

    async def advanced(self, look: datetime | None) -> tuple[list[Head], datetime | None]:
        await self._called("advanced", [look])
        latest = max((topic.advanced_at for topic in self.topics.values()), default=None)
        if look is None:
            return [], latest
        heads = [
            Head(name, topic.id, topic.epoch, topic.head)
            for name, topic in self.topics.items()
            if topic.advanced_at > look - timedelta(seconds=10)
        ]
        return heads, latest

    async def tidy(self) -> None:
        await self._called("tidy", [])

    async def unread(self, user: Any) -> int:
        await self._called("unread", [user])
        return self.counted


class FakeLayer:
    """A channel layer of several processes' kind, whose messages and subscriptions can be lost, late or doubled.

    :ivar pass_on: what becomes of a message: the list of messages that arrive.
    :ivar delay: seconds after ``group_add`` has returned until the group's messages arrive.
    :ivar away: raises on whatever is asked.
    """

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.groups: defaultdict[str, set[str]] = defaultdict(set)
        self.pass_on: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda message: [message]
        self.delay = 0.0
        self.away: Exception | None = None
        self.sent: list[dict[str, Any]] = []
        self.adds: list[str] = []
        self.discards: list[str] = []
        self._number = itertools.count(1)

    def _check(self) -> None:
        if self.away is not None:
            raise self.away

    async def new_channel(self, prefix: str = "specific") -> str:
        self._check()
        name = f"{prefix}.{next(self._number)}"
        self.queues[name] = asyncio.Queue()
        return name

    async def receive(self, channel: str) -> dict[str, Any]:
        self._check()
        return await self.queues[channel].get()

    async def group_add(self, group: str, channel: str) -> None:
        self._check()
        self.adds.append(group)
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.groups[group].add, channel)
        else:
            self.groups[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._check()
        self.discards.append(group)
        self.groups[group].discard(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self._check()
        self.sent.append(message)
        for arriving in self.pass_on(message):
            for channel in self.groups[group]:
                self.queues[channel].put_nowait(dict(arriving))


class Reading:
    """One connection, read as a transport reads it."""

    def __init__(self, subscription: Subscription, frames: AsyncIterator[Sequence[Frame]]) -> None:
        self.subscription = subscription
        self._frames = frames
        self._found: list[Frame] = []
        self.cursor = ""

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the type and the data of the next event that is no heartbeat."""
        while True:
            while not self._found:
                async with asyncio.timeout(PATIENCE):
                    self._found = list(await anext(self._frames))
            envelope, cursor = self._found.pop(0)
            self.cursor = cursor or self.cursor
            if envelope.type != "heartbeat":
                return envelope.type, json.loads(envelope.data)

    async def numbers(self, count: int) -> list[int]:
        """Return the numbers of the next events, which must all be of the log."""
        found = [await self.next() for _ in range(count)]
        assert all("seq" in data for _, data in found), found
        return [data["seq"] for _, data in found]

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """Return everything up to the end of the stream."""
        found = []
        try:
            while True:
                found.append(await self.next())
        except StopAsyncIteration:
            return found


class Stage:
    """A hub on a log and a layer that do as they are told."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.layer = FakeLayer()
        self.hub: Hub
        self._users = 0

    def start(self) -> None:
        """Start the hub; late, so that it lives by the settings and the times of its test."""
        if not hasattr(self, "hub"):
            self.hub = stream._hubs[asyncio.get_running_loop()] = Hub(self.log)
            self.hub.start()

    async def ring(self, *hints: Hint) -> None:
        """Let the layer bring these hints, in this order, and the hub take them."""
        for hint in hints:
            await self.layer.group_send(doorbell.group_name(hint.name), hint.message())
        await self.settled()

    async def recheck(self, topic: str) -> None:
        message = {"type": doorbell.HINT, "topic": topic, "recheck": True}
        await self.layer.group_send(doorbell.group_name(topic), message)

    async def settled(self) -> None:
        """Return when the hub has taken all that the layer brought."""
        await eventually(lambda: all(queue.empty() for queue in self.layer.queues.values()), pause=0)
        for _ in range(5):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def open(
        self, *topics: str, user: Any = None, cursor: str | None = None, **since: int
    ) -> AsyncIterator[Reading]:
        self.start()
        self._users += 1
        principal = self.log.allow(user or f"u{self._users}", *(topics or (TOPIC,)), **since)
        async with open_stream(principal, transport="sse", cursor=cursor) as (subscription, frames):
            reading = Reading(subscription, frames)
            assert (await reading.next())[0] == "ready"
            try:
                yield reading
            finally:
                await frames.aclose()  # type: ignore[attr-defined]

    @asynccontextmanager
    async def live(self, *topics: str, **options: Any) -> AsyncIterator[Reading]:
        """Open a connection that waits for what comes, as a transport's task does."""
        async with self.open(*topics, **options) as reading:
            waiting = asyncio.ensure_future(anext(reading._frames))
            await eventually(lambda: reading.subscription.waiter is not None, pause=0)

            async def frames() -> AsyncIterator[Sequence[Frame]]:
                yield await waiting
                async for batch in original:
                    yield batch

            original, reading._frames = reading._frames, frames()
            try:
                yield reading
            finally:
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait([waiting])
                reading._frames = original
