"""One connection's place in the topics it reads: a bounded queue, and a cursor that moves as events are taken from it.

A subscription is *live* while everything the hub has seen is either behind its cursor or in its queue. When it is not
(at the start, after an overflow, after a new epoch) it takes nothing from the hub, and the stream brings it back by
the one recovery rule: replay from the cursor until there is nothing more to read (design: idea 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from .cursor import Position, join_cursor
from .envelope import Envelope, control
from .stepping import Stepper, Unfinished

__all__ = ["BEGINNING", "End", "LiveEvent", "Mark", "Subscription", "TopicState"]


class Mark:
    """A position in one topic and its text in a cursor; shared by all connections that are there."""

    __slots__ = ("epoch", "part", "seq")

    def __init__(self, topic_id: int, epoch: str, seq: int) -> None:
        self.epoch = epoch
        self.seq = seq
        self.part = Position(topic_id, epoch, seq).part if epoch else ""


PART = attrgetter("part")
HEARTBEAT = control("heartbeat")
#: Before the first event of a topic that nothing was ever sent to.
BEGINNING = Mark(0, "", 0)


class LiveEvent:
    """An event of the log as the hub hands it out: its envelope, encoded once, and the position after it."""

    __slots__ = ("envelope", "mark", "seq", "state")

    def __init__(self, state: TopicState, seq: int, envelope: Envelope) -> None:
        self.state = state
        self.seq = seq
        self.envelope = envelope
        self.mark = Mark(state.id or 0, state.epoch, seq)


class TopicState:
    """What a hub knows of a topic that it serves: how far it has seen the log, and who wants it.

    There is one for each user who is connected, so it is kept small.
    """

    __slots__ = (
        *("confirmed", "epoch", "hinted", "id", "known", "name", "ready", "recent", "repairing"),
        *("seen", "seen_at", "subscriptions", "unused_since", "users"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.id: int | None = None  # None: the topic has no row yet, nothing was ever sent to it.
        self.epoch = ""
        self.seen = 0
        self.hinted = 0
        #: Loop time at which ``seen`` last changed: a head read before it says nothing against it.
        self.seen_at = 0.0
        self.known = False
        self.confirmed = False
        self.repairing = False
        self.users = 0
        self.unused_since = 0.0
        self.subscriptions: set[Subscription] = set()
        #: The last events, for those who are a little behind.
        self.recent: list[LiveEvent] = []
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def here(self) -> Mark:
        """Return the mark of somebody who has all that was seen."""
        return BEGINNING if self.id is None else Mark(self.id, self.epoch, self.seen)


class End(NamedTuple):
    """Why a stream ends, and after how many milliseconds its client should return (None: not at all)."""

    reason: str
    retry: int | None


@dataclass(eq=False, slots=True)
class Subscription:
    """See the module. ``wake`` is called whenever there is something to do; it must neither block nor raise."""

    principal: Any
    connection: str
    transport: str
    topics: tuple[str, ...]
    queue_events: int
    queue_bytes: int
    #: Kinds of notifications that are passed over: the cursor moves on, and the next frame carries it, a heartbeat at
    #: the latest if any were passed over since the last one.
    muted: frozenset[str] = frozenset()
    passed_over: bool = False
    marks: dict[TopicState, Mark] = field(default_factory=dict)
    live: bool = False
    malformed: bool = False
    ended: End | None = None
    due: bool = False
    queued_bytes: int = 0
    queue: list[LiveEvent] = field(default_factory=list)
    waiter: asyncio.Future[None] | None = None
    #: How a transport writes, and the ways to do so while the stream's task waits; None: only that task writes.
    write: Callable[[Sequence[tuple[Envelope, str | None]]], Coroutine[Any, Any, None]] | None = None
    write_now: Callable[[Sequence[tuple[Envelope, str | None]]], bool] | None = None
    stepper: Stepper | None = None
    unfinished: Unfinished | None = None

    def push(self, event: LiveEvent) -> None:
        """Queue an event, which :meth:`deliver` is to follow.

        One too many makes the subscription fall back to the log instead of growing.
        """
        if not self.live:
            return
        if self.muted and not self.queue and not self.wants(event):
            # Nothing before it waits, and nobody need be woken.
            self.marks[event.state] = event.mark
            return
        if len(self.queue) >= self.queue_events or self.queued_bytes + event.envelope.size > self.queue_bytes:
            # What is queued is still right and in order; what follows is read from the log after it.
            self.live = not self.queue
            if not self.live:
                return
        self.queue.append(event)
        self.queued_bytes += event.envelope.size

    def writes_by(
        self,
        write: Callable[[Sequence[tuple[Envelope, str | None]]], Coroutine[Any, Any, None]],
        write_now: Callable[[Sequence[tuple[Envelope, str | None]]], bool] | None = None,
    ) -> None:
        """Let live events be written by ``write`` while the stream's task, which calls this, has nothing to do.

        :param write_now: tried first; writes at once and returns True, or writes nothing and returns False.
        """
        self.write, self.write_now, self.stepper = write, write_now, Stepper()

    def deliver(self) -> None:
        """Write what is queued, now if the stream waits for nothing else; called by the hub, outside of any task."""
        if self.queue and not self._write_between(self.take):
            self.wake()

    def beat(self) -> bool:
        """Write a heartbeat as :meth:`deliver` writes events; return False if the stream's task has to."""
        return not self.queue and self._write_between(lambda: [self.heartbeat()])

    def heartbeat(self) -> tuple[Envelope, str | None]:
        """Return the frame of a heartbeat.

        Who hears of nothing but muted kinds would return, one day, to a place that is long trimmed; so it has a cursor
        if any were passed over.
        """
        cursor = self.cursor() if self.passed_over else None
        self.passed_over = False
        return HEARTBEAT, cursor

    def _write_between(self, frames: Callable[[], Sequence[tuple[Envelope, str | None]]]) -> bool:
        """Write ``frames()`` while the stream's task waits; return False if it is awake, or only it may write."""
        if self.write is None or self.stepper is None or self.waiter is None or self.waiter.done():
            return False
        try:
            if (out := frames()) and (self.write_now is None or not self.write_now(out)):
                self.unfinished = self.stepper.step(self.write(out))
        except BaseException as error:  # It ends this stream, and no other that is served in the same round.
            if not self.waiter.done():  # Else it is ending.
                self.waiter.set_exception(error)
        else:
            # Not live: the queue had overflowed, and what follows is to be read from the log.
            if self.unfinished is not None or self.ended is not None or not self.live:
                self.wake()
        return True

    async def finish(self) -> None:
        """Wait until what :meth:`deliver` began to write is written."""
        if self.unfinished is not None:
            unfinished, self.unfinished = self.unfinished, None
            await unfinished

    def wants(self, item: LiveEvent | tuple[TopicState, str]) -> bool:
        """Return whether this is to be delivered: anything but a notification of a muted kind."""
        # What a notification's kind is costs to find out; as a rule nobody has to.
        if not self.muted or not isinstance(item, LiveEvent) or item.envelope.kind not in self.muted:
            return True
        self.passed_over = True
        return False

    def fall_back(self) -> None:
        """Leave the live flow: the topic began a new life, or the hub itself has lost its place."""
        self.live = False
        self.wake()

    def end(self, reason: str, retry: int | None = 0) -> None:
        """End the stream politely. Who lost the right to read gets nothing more; else the first reason stands."""
        if self.ended is not None and (reason != "revoked" or self.ended.reason == "revoked"):
            return
        self.ended = End(reason, retry)
        self.live = False  # What comes from now on, the client reads when it is back.
        if self.barred:
            self.queue.clear()
            self.queued_bytes = 0
        self.wake()

    @property
    def barred(self) -> bool:
        """Whether this ended because something may not be read any more."""
        return self.ended is not None and self.ended.reason in ("access", "revoked")

    def tick(self) -> None:
        """A heartbeat is due."""
        self.due = True
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Return as soon as there is something to do."""
        if self.queue or self.due or self.ended is not None or not self.live:
            return
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def take(self) -> list[tuple[Envelope, str]]:
        """Return everything queued that is not muted, each with the cursor of somebody who has just received it."""
        taken = []
        for event in self.queue:
            self.marks[event.state] = event.mark
            if not self.muted or self.wants(event):
                taken.append((event.envelope, self.cursor()))
        self.queue.clear()
        self.queued_bytes = 0
        return taken

    def cursor(self) -> str:
        """Return how far this connection has got, in all its topics."""
        return join_cursor(map(PART, self.marks.values()))

    def cursor_with(self, state: TopicState, mark: Mark) -> str:
        """Return the cursor with one topic at ``mark`` instead."""
        marks = {**self.marks, state: mark}
        return join_cursor(map(PART, marks.values()))
