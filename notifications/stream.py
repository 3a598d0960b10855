"""The life of one connection, whatever carries it: ready, replay, live, heartbeat, bye. The one place a stream ends.

A transport takes the frames, encodes them (:class:`~notifications.envelope.Envelope` has the bytes ready) and writes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from . import garbage
from .access import is_for
from .envelope import Frame, bye, control
from .hub import Hub, NotAuthorized
from .reader import Reader
from .replay import replay
from .settings import conf
from .subscription import LiveEvent, Subscription

__all__ = ["current_hub", "open_stream"]

logger = logging.getLogger("notifications")

_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def current_hub() -> Hub:
    """Return the hub of the running event loop, started when it is first asked for."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub(Reader())
        hub.start()
        garbage.calm()
    return hub


def open_stream(principal: Any, *, transport: str, cursor: str | None = None, user: str | None = None) -> OpenStream:
    """Enter a stream: ``async with`` gives its subscription, and an iterator of batches of frames, first ``ready``.

    :param user: for whom the client's page was made (:func:`notifications.access.user_key`); anybody else is refused.
    :raises NotAuthorized, AccessUnknown, HubFull, TimeoutError: as :meth:`notifications.hub.Hub.enter`.
    """
    return OpenStream(current_hub(), principal, transport, cursor, user)


class OpenStream:
    """See :func:`open_stream`. Not made by ``contextlib``: for thousands of streams, its generators are megabytes."""

    __slots__ = ("_arguments", "_hub", "_subscription")

    def __init__(self, hub: Hub, principal: Any, transport: str, cursor: str | None, user: str | None) -> None:
        self._hub = hub
        self._arguments: tuple[Any, str, str | None, str | None] | None = principal, transport, cursor, user
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> tuple[Subscription, AsyncIterator[Sequence[Frame]]]:
        assert self._arguments is not None
        (principal, transport, cursor, user), self._arguments = self._arguments, None
        if not is_for(principal.user, user):
            raise NotAuthorized
        subscription = await self._hub.enter(principal, transport=transport, cursor=cursor)
        try:
            # Who resumes has kept count; to count for thousands that return at once would cost a query each.
            unread = await self._hub.log.unread(principal.user) if cursor is None else None  # type: ignore[attr-defined]
        except BaseException:
            self._hub.leave(subscription)
            raise
        self._subscription = subscription
        return subscription, _frames(self._hub, subscription, unread)

    async def __aexit__(self, *error: object) -> None:
        assert self._subscription is not None
        self._hub.leave(self._subscription)


def _ready(subscription: Subscription, unread: int | None) -> Frame:
    cursor = subscription.cursor()
    envelope = control(
        "ready",
        cursor=cursor,
        unread=unread,
        heartbeat=int(conf.heartbeat * 1000),
        connection=subscription.connection,
        transport=subscription.transport,
    )
    return envelope, cursor


async def _frames(hub: Hub, subscription: Subscription, unread: int | None) -> AsyncIterator[Sequence[Frame]]:
    yield [_ready(subscription, unread)]
    if subscription.malformed:
        yield [(control("reset", topic="*", reason="malformed"), subscription.cursor())]
    while subscription.ended is None:
        if not subscription.live:
            try:
                if taken := subscription.take():
                    yield taken
                async for found in replay(hub.follower, subscription):
                    wanted = [item for item in found if subscription.wants(item)]
                    if wanted and subscription.ended is None:
                        yield [_frame(subscription, item) for item in wanted]
            except Exception:
                logger.exception("a replay failed; the client is asked to return")
                subscription.end("error", random.randint(1000, 5000))
        if taken := subscription.take():
            yield taken
        if subscription.due:
            subscription.due = False
            if hub.loop.time() >= subscription.ends_at:
                subscription.end("lifetime", random.randint(0, 1000))
                break
            yield [subscription.heartbeat()]
        await subscription.wait()
        if subscription.unfinished is not None:
            async with asyncio.timeout(conf.slow_seconds):
                await subscription.finish()
    if taken := subscription.take():
        yield taken
    if subscription.ended is not None:
        yield [(bye(*subscription.ended), None)]


def _frame(subscription: Subscription, item: LiveEvent | tuple[Any, str]) -> Frame:
    """Return an event of a replay with the cursor right after it: a replay that is cut resumes where it was cut."""
    if isinstance(item, LiveEvent):
        return item.envelope, subscription.cursor_with(item.state, item.mark)
    state, reason = item
    return control("reset", topic=state.name, reason=reason), subscription.cursor()
