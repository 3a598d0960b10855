"""A hub's link to the channel layer: one channel, the groups it is in, and whether messages really come through.

The layers tell too little: ``group_add`` on the pub/sub layer returns before Redis has subscribed, a lost connection is
mended without a word and a dead one is never noticed. So nothing here is believed until a message that was sent to a
group has come back (an echo).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from channels.layers import InMemoryChannelLayer

from . import doorbell

__all__ = ["Link"]

logger = logging.getLogger("notifications")

#: Seconds that joining a batch of groups may take.
JOIN_TIMEOUT = 2.0
#: Seconds between probes, and how long an answer may take. A dead link is known after two that stay away.
PROBE_INTERVAL = 4.0
PROBE_TIMEOUT = 2.0
RETRY_INTERVAL = 1.0


class Link:
    """See the module. Its ``receive`` and ``probe`` are run as tasks by the hub.

    :param on_message: called with each message of the channel that is not an echo.
    :param on_change: called when the link is lost (False) or found again (True).
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_change: Callable[[bool], None]) -> None:
        self.up = True
        self._on_message = on_message
        self._on_change = on_change
        self._channel: str | None = None
        self._has_channel = asyncio.Event()
        self._echoes: dict[str, asyncio.Future[None]] = {}

    @staticmethod
    def hosts() -> int:
        """Return among how many Redis hosts the layer spreads its groups; 0: the in-memory layer."""
        layer = doorbell.channel_layer()
        if isinstance(layer, InMemoryChannelLayer):
            return 0
        return len(getattr(layer, "_shards", None) or getattr(layer, "hosts", None) or [None])

    async def receive(self) -> None:
        """Take from the channel for ever. Never cancelled by a timer: the pub/sub layer would unsubscribe."""
        while True:
            try:
                if self._channel is None:
                    self._channel = await doorbell.channel_layer().new_channel()
                    self._has_channel.set()
                message = await doorbell.channel_layer().receive(self._channel)
            except Exception as error:
                self.set_up(False, error)
                await asyncio.sleep(RETRY_INTERVAL / 2)
                continue
            try:
                if "nonce" in message:
                    self._echoed(message["nonce"])
                else:
                    self._on_message(message)
            except Exception:
                logger.exception("a message on the channel layer could not be understood: %r", message)

    async def join(self, topics: Sequence[str]) -> bool:
        """Join the groups of these topics; return whether it is certain that their messages arrive from now on."""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self._has_channel.wait()
                for topic in topics:
                    await self._group("add", topic)
                # Subscriptions to one host are made in order, so that the last one's echo stands for all.
                await self._echo(topics[-1:] if self.hosts() <= 1 else topics)
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

    async def probe(self, alive: Callable[[], Awaitable[None]]) -> None:
        """Send oneself a message now and then, for ever; call ``alive`` whenever it has come back.

        After two that did not, the connections are made anew.
        """
        hosts = self.hosts()
        if not hosts:
            await asyncio.Event().wait()  # Memory can not be cut off.
        # With several hosts the groups' names decide which host has them: enough names reach each.
        topics = [f"probe:{secrets.token_hex(8)}" for _ in range(1 if hosts == 1 else hosts * 4)]
        missed, joined, relink = 0, False, False
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    if relink:
                        await self._relink()
                        relink = joined = False
                    if not joined:
                        await self._has_channel.wait()
                        for topic in topics:
                            await self._group("add", topic)
                        joined = True
                    await self._echo(topics)
            except Exception as error:
                missed += 1
                if missed >= 2:
                    self.set_up(False, error)
                    relink = True
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                missed = 0
                await alive()
                await asyncio.sleep(PROBE_INTERVAL)

    def set_up(self, up: bool, error: Exception | None = None) -> None:
        """Note that the link works, or does not; tells ``on_change`` if that is news."""
        if up == self.up:
            return
        self.up = up
        if up:
            logger.info("the channel layer is back")
        else:
            logger.warning("the channel layer is away (%r); events arrive by the safety poll", error)
        self._on_change(up)

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

    async def _relink(self) -> None:
        """Make the connections of a pub/sub layer anew, keeping everybody's subscriptions on it, the site's too."""
        layer = doorbell.channel_layer()
        if not hasattr(layer, "_get_layer"):  # The core layer finds its way back; its groups are joined again.
            return
        inner = layer._get_layer()
        channels, groups = inner.channels, inner.groups
        try:
            await layer.flush()
        finally:
            inner.channels, inner.groups = channels, groups
        for name in (*channels, *groups):
            await inner._get_shard(name).subscribe(name)
