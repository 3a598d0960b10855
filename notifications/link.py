"""A hub's link to the channel layer: one channel, the groups it is in, and whether messages really come through.

The layers tell too little: ``group_add`` on the pub/sub layer returns before Redis has subscribed, a lost connection is
mended without a word and a dead one is never noticed. So nothing here is believed until a message that was sent to a
group has come back (an echo). A pub/sub layer of several Redis hosts is as many links, each of which is lost, and found
again, by itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from channels.layers import InMemoryChannelLayer

from . import doorbell, pubsub

__all__ = ["Link"]

logger = logging.getLogger("notifications")

#: Seconds that joining a batch of groups may take.
JOIN_TIMEOUT = 2.0
#: Seconds between probes, and how long an answer may take. A dead link is known after two that stay away.
PROBE_INTERVAL = 4.0
PROBE_TIMEOUT = 2.0
RETRY_INTERVAL = 1.0
#: What a busy process subscribes to at least when its connection is made anew.
SUBSCRIPTIONS_PER_SECOND = 1000
#: Enough to meet every host by chance; more would be a search for a host that no name is on.
NAMES_TRIED = 2000


class Link:
    """See the module. Its ``receive`` and ``probe`` are run as tasks by the hub.

    :param on_message: called with each message of the channel that is not an echo.
    :param on_change: called with a host's index when the link to it is lost (False) or found again (True).
    :ivar away: the hosts to which it is lost.
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_change: Callable[[int, bool], None]) -> None:
        self.away: set[int] = set()
        self._on_message = on_message
        self._on_change = on_change
        self._channel: str | None = None
        self._has_channel = asyncio.Event()
        self._echoes: dict[str, asyncio.Future[None]] = {}

    @staticmethod
    def hosts() -> int:
        """Return among how many Redis hosts the layer spreads its groups; 0: the in-memory layer.

        1 where it does not tell, or is not there: then that is one link, and it is away.
        """
        try:
            layer = doorbell.channel_layer()
            if isinstance(layer, InMemoryChannelLayer):
                return 0
            return len(getattr(layer, "_shards", None) or getattr(layer, "hosts", None) or [None])
        except Exception:
            return 1

    @classmethod
    def links(cls) -> int:
        """Return how many links there are, each to a host; 1 if the layer (the core layer) tells no hosts apart."""
        return 1 if doorbell.shard_of("") is None else cls.hosts()

    @property
    def up(self) -> bool:
        return not self.away

    async def receive(self) -> None:
        """Take from the channel for ever. Never cancelled by a timer: the pub/sub layer would unsubscribe."""
        while True:
            try:
                if self._channel is None:
                    self._channel = await doorbell.channel_layer().new_channel()
                    self._has_channel.set()
                layer = doorbell.channel_layer()
                self._take(await layer.receive(self._channel))
            except Exception as error:
                for host in range(self.links()):
                    self.set_up(False, error, host=host)
                await asyncio.sleep(RETRY_INTERVAL / 2)
                continue
            for message in pubsub.waiting(layer, self._channel):
                self._take(message)

    def _take(self, message: Any) -> None:
        try:
            if "nonce" in message:
                self._echoed(message["nonce"])
            else:
                self._on_message(message)
        except Exception:
            logger.exception("a message on the channel layer could not be understood: %r", message)

    async def join(self, topics: Iterable[str], *, anyway: bool = False) -> set[str]:
        """Join the groups of these topics; return those whose messages arrive from now on, for certain.

        :param anyway: try even those of a host that is known to be away; else they are left for when it is back.
        """
        by_host: defaultdict[int, list[str]] = defaultdict(list)
        for topic in topics:
            by_host[doorbell.host_of(topic)].append(topic)
        for host in () if anyway else tuple(by_host):
            if host in self.away or doorbell.breakers[host].is_open:
                del by_host[host]
        joined = await asyncio.gather(*map(self._join, by_host.keys(), by_host.values()))
        return {
            topic for topics, confirmed in zip(by_host.values(), joined, strict=True) if confirmed for topic in topics
        }

    async def _join(self, host: int, topics: Sequence[str]) -> bool:
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self._has_channel.wait()
                groups = [doorbell.group_name(topic) for topic in topics]
                if not await pubsub.join(doorbell.channel_layer(), host, self._channel or "", groups):
                    for topic in topics:
                        await self._group("add", topic)
                pubsub.quicken(doorbell.channel_layer())
                # Subscriptions to one host are made in order, so that the last one's echo stands for all.
                await self._echo(topics[-1:] if self.hosts() <= self.links() else topics)
        except Exception as error:
            logger.warning("joining %d groups is not confirmed (%r); the safety poll stands in", len(topics), error)
            return False
        return True

    async def leave(self, topic: str) -> None:
        """Leave a topic's group; if that fails, its messages are ignored."""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self._group("discard", topic)
        except Exception as error:
            logger.info("leaving a group failed: %r", error)

    async def probe(self, alive: Callable[[int], Awaitable[None]]) -> None:
        """Send oneself a message by each host now and then, for ever; call ``alive`` whenever it has come back.

        After two that did not, the connections to that host are made anew.
        """
        if not self.hosts():
            await asyncio.Event().wait()  # Memory can not be cut off.
        async with asyncio.TaskGroup() as group:
            for host in range(self.links()):
                group.create_task(self._probe(host, alive))

    async def _probe(self, host: int, alive: Callable[[int], Awaitable[None]]) -> None:
        # The core layer's groups are on any of its hosts: enough names reach each.
        wanted = 1 if self.hosts() <= self.links() else self.hosts() * 4
        names = (f"probe:{secrets.token_hex(8)}" for _ in range(NAMES_TRIED))
        topics = list(islice((name for name in names if doorbell.host_of(name) == host), wanted))
        missed, joined, relink = 0, False, False
        while True:
            try:
                if relink:
                    await self._relink(host)
                    relink = joined = False
                async with asyncio.timeout(PROBE_TIMEOUT):
                    if not joined:
                        await self._has_channel.wait()
                        for topic in topics:
                            await self._group("add", topic)
                        joined = True
                    await self._echo(topics)
            except Exception as error:
                missed += 1
                if missed >= 2:
                    self.set_up(False, error, host=host)
                    relink = True
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                missed = 0
                await alive(host)
                await asyncio.sleep(PROBE_INTERVAL)

    def set_up(self, up: bool, error: Exception | None = None, *, host: int = 0) -> None:
        """Note that the link to a host works, or does not; tells ``on_change`` if that is news."""
        if up == (host not in self.away):
            return
        name = "the channel layer" if self.links() == 1 else f"host {host + 1} of the channel layer's {self.links()}"
        if up:
            self.away.discard(host)
            logger.info("%s is back", name)
        else:
            self.away.add(host)
            logger.warning("%s is away (%r); events arrive by the safety poll", name, error)
        self._on_change(host, up)

    async def _group(self, what: str, topic: str) -> None:
        await getattr(doorbell.channel_layer(), f"group_{what}")(doorbell.group_name(topic), self._channel)

    async def _echo(self, topics: Sequence[str]) -> None:
        """Send a nonce to each group, again and again, and return when all have come back.

        One that was sent before the layer had subscribed is never heard of again.
        """
        loop = asyncio.get_running_loop()
        nonces = {secrets.token_hex(8): topic for topic in topics}
        waiting = {nonce: loop.create_future() for nonce in nonces}
        self._echoes.update(waiting)
        pause = 0.1
        try:
            while left := {nonce: echo for nonce, echo in waiting.items() if not echo.done()}:
                for nonce in left:
                    message = {"type": doorbell.HINT, "nonce": nonce}
                    await doorbell.send(nonces[nonce], message, probing=True)
                await asyncio.wait(left.values(), timeout=pause)
                pause *= 2
        finally:
            for nonce in nonces:
                self._echoes.pop(nonce, None)

    def _echoed(self, nonce: str) -> None:
        echo = self._echoes.pop(nonce, None)
        if echo is not None and not echo.done():
            echo.set_result(None)

    async def _relink(self, host: int) -> None:
        if doorbell.shard_of("") is None:  # The core layer finds its way back; its groups are joined again.
            return
        layer = doorbell.channel_layer()
        async with asyncio.timeout(PROBE_TIMEOUT + len(pubsub.names_on(layer, host)) / SUBSCRIPTIONS_PER_SECOND):
            await pubsub.reconnect(layer, host)
