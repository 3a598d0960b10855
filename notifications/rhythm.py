"""Heartbeats, and the end of streams that have lasted long enough: one timer for all the connections of a hub.

A timer for each of them would be a kilobyte of each.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from contextvars import Context

from .settings import conf
from .subscription import Subscription

__all__ = ["Rhythm"]

#: Seconds by which a heartbeat, or an end, may be late; a tenth of what is set where that is less.
LATE = 1.0


class Rhythm:
    """See the module. ``subscriptions`` is what the hub has, whenever it is looked at."""

    def __init__(self, subscriptions: Collection[Subscription]) -> None:
        self._subscriptions = subscriptions
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        pause = min(LATE, conf.heartbeat / 10, conf.lifetime / 10)
        # A callback and no task: heartbeats are written in the place of each stream's task (see Stepper).
        self._timer = self._loop.call_later(pause, self._turn, context=Context())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, subscription: Subscription) -> None:
        """Set when a connection is to hear the first heartbeat, and when it is to end.

        Both are spread: streams that began together would end together, and before that hear all their heartbeats in
        the same moment, in which nobody gets anything else.
        """
        now = self._loop.time()
        subscription.ends_at = now + conf.lifetime * random.uniform(0.8, 1.2)
        subscription.beat_at = min(now + conf.heartbeat * random.uniform(0.5, 1.0), subscription.ends_at)

    @staticmethod
    def _next(subscription: Subscription, now: float) -> None:
        at = now + conf.heartbeat
        subscription.beat_at = subscription.ends_at if now < subscription.ends_at < at else at

    def _turn(self) -> None:
        try:
            now = self._loop.time()
            for subscription in [one for one in self._subscriptions if one.beat_at <= now]:
                self._next(subscription, now)
                if subscription.ends_at <= now or not subscription.beat():
                    subscription.tick()
        finally:
            self.start()
