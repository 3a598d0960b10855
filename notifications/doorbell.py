"""The doorbell: the only way from publishing to the channel layer (design: idea 1).

:func:`ring` may be called from any thread; it queues hints and returns at once. They are sent by one event loop: the
loop of a hub where one runs in this process, else a loop of this module's own in a daemon thread, which keeps its
connection open. So a caller neither waits for Redis nor opens a connection. A hint may be lost (a failure is counted,
never raised, and a breaker stops trying while the layer is away); the safety poll of every hub makes up for it.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import hashlib
import itertools
import logging
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NamedTuple

from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.conf import settings

from . import pubsub
from .settings import conf

__all__ = [
    "HINT",
    "Doorbell",
    "Hint",
    "LayerUnavailable",
    "attach",
    "breakers",
    "channel_layer",
    "detach",
    "flush",
    "group_name",
    "host_of",
    "ring",
    "ring_recheck",
    "send",
    "send_to",
    "shard_of",
]

logger = logging.getLogger("notifications")

#: ``type`` of everything this project puts on the channel layer.
HINT = "notifications.hint"
#: A layer that has not taken a hint after this many seconds is as good as away.
SEND_TIMEOUT = 1.0
#: Hints beyond this wait for nobody: the log has them.
QUEUE_LIMIT = 10_000
#: Hints that are sent together, if so many wait, and the layer has a way to do that: half a megabyte at most.
SENT_AT_ONCE = 64


class Hint(NamedTuple):
    """Topic ``name`` has reached ``seq``; ``events`` are ``(seq, type, payload)``, the last of them ``seq``."""

    name: str
    epoch: str
    seq: int
    events: tuple[tuple[int, str, str], ...]

    def message(self) -> dict[str, Any]:
        """Return the channel-layer message; the events travel along only while they are small."""
        small = sum(len(event[2].encode()) for event in self.events) <= conf.hint_bytes
        return {
            "type": HINT,
            "topic": self.name,
            "epoch": self.epoch,
            "seq": self.seq,
            "events": [list(event) for event in self.events] if small else [],
        }


class LayerUnavailable(Exception):
    """The channel layer is not configured, is away, or did not answer in time."""


@dataclass
class Breaker:
    """Stops trying for ``pause`` seconds after ``limit`` failures in a row; the first try after that decides again."""

    limit: int = 3
    pause: float = 5.0
    failures: int = 0
    total_failures: int = 0
    open_until: float = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self.open_until

    def failed(self) -> None:
        self.failures += 1
        self.total_failures += 1
        if self.failures >= self.limit:
            self.open_until = time.monotonic() + self.pause

    def succeeded(self) -> None:
        self.failures = 0
        self.open_until = 0.0


#: One for each Redis host: one that is away is not a reason to spare the others.
breakers: defaultdict[int, Breaker] = defaultdict(Breaker)


def channel_layer() -> Any:
    """Return the configured channel layer; one in memory for a site that configured none at all.

    :raises LayerUnavailable: if ``CHANNEL_LAYERS`` has layers, but none of the name in the setting ``CHANNEL_LAYER``.
    """
    layer = get_channel_layer(conf.channel_layer)
    if layer is not None:
        return layer
    if channel_layers.configs:
        raise LayerUnavailable(f"CHANNEL_LAYERS has no layer named {conf.channel_layer!r}")
    return embedded_layer()


@functools.cache
def embedded_layer() -> InMemoryChannelLayer:
    """Return the layer of a site without ``CHANNEL_LAYERS``: it reaches this process, the safety poll the others."""
    return InMemoryChannelLayer(capacity=QUEUE_LIMIT)


def group_name(topic: str) -> str:
    """Return the channel-layer group of a topic: a hash, because groups allow few characters and fewer than 100.

    Keyed with the site's secret, so that two sites that share a Redis do not hear each other.
    """
    key = _key(settings.SECRET_KEY)
    return "notifications." + hashlib.blake2s(topic.encode(), digest_size=16, key=key).hexdigest()


@functools.cache
def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def host_of(topic: str) -> int:
    """Return on which Redis host of a pub/sub layer a topic's group is: an index of its ``hosts``.

    0 where there is one, or the layer does not tell (see :func:`shard_of`). Call it on the loop that uses the layer.
    """
    return shard_of(topic) or 0


def shard_of(topic: str) -> int | None:
    """As :func:`host_of`, and None if the layer is not there, or spreads its work in a way of its own."""
    try:
        return pubsub.shard_of(channel_layer(), group_name(topic))
    except Exception:  # Whatever is wrong with the layer is told when it is used.
        return None


async def send(topic: str, message: dict[str, Any], *, probing: bool = False) -> None:
    """Send one message to the hubs that serve ``topic``; see :func:`send_to`."""
    await send_to(host_of(topic), [(topic, message)], probing=probing)


async def send_to(host: int, messages: Sequence[tuple[str, dict[str, Any]]], *, probing: bool = False) -> None:
    """Send ``(topic, message)`` pairs, all of one host (:func:`host_of`), to the hubs that serve these topics.

    The only place of the project that sends to the layer.

    :param probing: try whatever the breaker says; if it succeeds, the breaker closes.
    :raises LayerUnavailable: after a second without progress; at once while the breaker is open.
    """
    breaker = breakers[host]
    if breaker.is_open and not probing:
        raise LayerUnavailable("the channel layer failed a moment ago; not tried again yet")
    grouped = [(group_name(topic), message) for topic, message in messages]
    try:
        layer, sent = channel_layer(), False
        if len(grouped) > 1:
            async with asyncio.timeout(SEND_TIMEOUT):
                sent = await pubsub.publish(layer, host, grouped)
        for group, message in () if sent else grouped:
            async with asyncio.timeout(SEND_TIMEOUT):
                await layer.group_send(group, message)
    except Exception as error:
        breaker.failed()
        raise LayerUnavailable(f"the channel layer did not take a message: {error!r}") from error
    breaker.succeeded()


class Doorbell:
    """The queue of hints of this process, and the loop that sends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, dict[str, Any]]] = deque(maxlen=QUEUE_LIMIT)
        self._hubs: list[asyncio.AbstractEventLoop] = []
        self._own: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._number = itertools.count(1)
        self.sent = 0
        self.lost = 0

    def ring(self, messages: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Queue ``(topic, message)`` pairs and return at once; callable from any thread."""
        batch = list(messages)
        if not batch:
            return
        loop = self._loop()
        if loop is None:
            return
        with self._lock:
            self._queue.extend(batch)
            self._idle.clear()
        try:
            loop.call_soon_threadsafe(self._pump, context=Context())
        except RuntimeError:  # The loop was closed in this very moment; the log has the events.
            self._drop()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """A hub runs on ``loop``: send from there, so that hints in this process need no second connection."""
        self._hubs.append(loop)

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The hub on ``loop`` has ended."""
        if loop in self._hubs:
            self._hubs.remove(loop)

    def flush(self, timeout: float = SEND_TIMEOUT) -> bool:
        """Wait up to ``timeout`` seconds until everything queued is sent or given up; return whether it is."""
        return self._idle.wait(timeout)

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        while self._hubs:
            if not self._hubs[-1].is_closed():
                return self._hubs[-1]
            self._hubs.pop()
        try:
            layer = channel_layer()
        except LayerUnavailable:
            return None
        if isinstance(layer, InMemoryChannelLayer):
            # It reaches this process only, and nobody here listens. Its queues are of another loop, too.
            return None
        with self._lock:
            if self._own is None or self._own.is_closed():
                self._own = asyncio.new_event_loop()
                threading.Thread(
                    target=self._own.run_forever, name=f"notifications-doorbell-{next(self._number)}", daemon=True
                ).start()
            return self._own

    def _pump(self) -> None:
        # Runs on the sending loop. One task sends in the order of the queue.
        if self._sender is None or self._sender.done() or self._sender.get_loop() is not asyncio.get_running_loop():
            self._sender = asyncio.get_running_loop().create_task(self._send_queued())

    async def _send_queued(self) -> None:
        failed = False
        while True:
            with self._lock:
                if not self._queue:
                    self._idle.set()
                    return
                at_once = SENT_AT_ONCE if len(self._queue) > 1 and shard_of("") is not None else 1
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), at_once))]
            by_host: defaultdict[int, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
            for topic, message in batch:
                by_host[host_of(topic)].append((topic, message))
            for host, messages in by_host.items():
                try:
                    await send_to(host, messages)
                except Exception as error:  # Whatever it is, the rest of the queue must not wait for ever.
                    self.lost += len(messages)
                    if not failed and not breakers[host].is_open:
                        logger.warning("%s; browsers learn of it by the safety poll", error)
                    failed = True
                else:
                    self.sent += len(messages)

    def _drop(self) -> None:
        with self._lock:
            self.lost += len(self._queue)
            self._queue.clear()
            self._idle.set()


_doorbell = Doorbell()


def ring(hints: Iterable[Hint]) -> None:
    """Tell all hubs, some time soon, how far topics have got. Never blocks, never raises."""
    try:
        _doorbell.ring((hint.name, hint.message()) for hint in hints)
    except Exception:
        logger.exception("ringing failed; browsers learn of it by the safety poll")


def ring_recheck(topics: Iterable[str]) -> None:
    """Tell all hubs to ask again, now, who may read these topics (after a logout, a lost permission …)."""
    try:
        _doorbell.ring((topic, {"type": HINT, "topic": topic, "recheck": True}) for topic in topics)
    except Exception:
        logger.exception("ringing failed; the next regular check will see it")


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """See :meth:`Doorbell.attach`."""
    _doorbell.attach(loop)


def detach(loop: asyncio.AbstractEventLoop) -> None:
    """See :meth:`Doorbell.detach`."""
    _doorbell.detach(loop)


def flush(timeout: float = SEND_TIMEOUT) -> bool:
    """See :meth:`Doorbell.flush`; for processes that end right after publishing."""
    return _doorbell.flush(timeout)


def _after_fork() -> None:
    """The thread and the connection stayed with the parent."""
    global _doorbell
    _doorbell = Doorbell()


atexit.register(flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
