"""One connection's place in the topics it reads: a bounded queue, and a cursor that moves as events are taken from it.

A subscription is *live* while everything the hub has delivered is behind its cursor or in its queue. When it is not
(at the start, after an overflow, after a new epoch) it takes nothing from the hub, and the stream brings it back by
the one recovery rule: replay from the cursor until there is nothing more to read (design: idea 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from .cursor import Position, join_cursor
from .envelope import Envelope, Frame, control
from .kinds import NONE_MUTED
from .stepping import Stepper, Unfinished

__all__ = ["BEGINNING", "End", "Framing", "LiveEvent", "Mark", "Port", "Subscription", "TopicState", "deliver"]


class Mark:
    """A position in one topic and its text in a cursor; shared by all connections that are there."""

    __slots__ = ("epoch", "part", "seq")

    def __init__(self, topic_id: int, epoch: str, seq: int) -> None:
        self.epoch = epoch
        self.seq = seq
        self.part = Position(topic_id, epoch, seq).part if epoch else ""


PART = attrgetter("part")
#: What is written to one connection in one go.
PIECE_EVENTS, PIECE_BYTES = 64, 65_536
HEARTBEAT = control("heartbeat")
#: Before the first event of a topic that nothing was ever sent to.
BEGINNING = Mark(0, "", 0)


class LiveEvent:
    """An event of the log as the hub hands it out: its envelope, encoded once, and the position after it."""

    __slots__ = ("envelope", "mark", "part", "seq", "state")

    def __init__(self, state: TopicState, seq: int, envelope: Envelope) -> None:
        self.state = state
        self.seq = seq
        self.envelope = envelope
        self.mark = Mark(state.id or 0, state.epoch, seq)
        self.part = self.mark.part.encode()


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
        #: In the order in which they came, which is that of their memory: a round through them is faster so.
        self.subscriptions: dict[Subscription, None] = {}
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


class Framing(dict[int, bytes]):
    """An event as one kind of connection has it on the wire, but for the cursor, which is each connection's own.

    What comes before a cursor may say how long all is; ``framing[n]`` comes before one of which ``n`` bytes are the
    connection's own, and ``part`` is the event's.
    """

    __slots__ = ("part", "tail")

    def __init__(self, envelope: Envelope, part: bytes) -> None:
        self.part = part
        self.tail = self.end(envelope)

    @staticmethod
    def end(envelope: Envelope) -> bytes:
        """Return what comes after a cursor."""
        raise NotImplementedError

    def start(self, length: int) -> bytes:
        """Return what comes before a cursor of so many bytes in all."""
        raise NotImplementedError

    @staticmethod
    def encode(envelope: Envelope, cursor: str | None) -> bytes:
        """Return a single frame, of which nothing is shared."""
        raise NotImplementedError

    def __missing__(self, length: int) -> bytes:
        start = self[length] = self.start(length + len(self.part))
        return start

    def around(self, before: bytes, after: bytes) -> bytes:
        """Return all of it, with the connection's own two parts of a cursor."""
        return b"".join((self[len(before) + len(after)], before, self.part, after, self.tail))


class Port(Protocol):
    """A way past a server's ``send()``; see :mod:`notifications.direct`."""

    @property
    def framing(self) -> type[Framing]:
        """How events are on this kind of wire."""

    def write(self, data: bytes) -> bool:
        """Write bytes if ``send()`` would write them at once; else return False, and they are left to it."""


@dataclass(eq=False, slots=True)
class Subscription:
    """See the module. A transport that can, gives it :attr:`write`, and perhaps a :attr:`port`."""

    principal: Any
    connection: str
    transport: str
    topics: tuple[str, ...]
    queue_events: int
    queue_bytes: int
    #: Kinds of notifications that are passed over: the cursor moves on, and the next frame carries it, a heartbeat at
    #: the latest if any were passed over since the last one.
    muted: frozenset[str] = NONE_MUTED
    passed_over: bool = False
    live: bool = False
    malformed: bool = False
    ended: End | None = None
    #: A heartbeat, or the end, is due; and the loop times at which that is so (see :mod:`notifications.rhythm`).
    due: bool = False
    beat_at: float = inf
    ends_at: float = inf
    queued_bytes: int = 0
    queue: list[LiveEvent] = field(default_factory=list)
    waiter: asyncio.Future[None] | None = None
    #: The stream's task waits and there is nothing for it to do: an event may be written in its place, at once.
    idle: bool = False
    #: How a transport writes, and what lets that happen while the stream's task waits; None: only that task writes.
    write: Callable[[Sequence[Frame]], Coroutine[Any, Any, None]] | None = None
    stepper: Stepper | None = None
    unfinished: Unfinished | None = None
    #: Where finished bytes can be written instead, as a rule.
    port: Port | None = None
    #: The last event that was taken, which `_marks` does not know of yet, and the bytes of the cursor around its place.
    moved: LiveEvent | None = None
    cursor_before: bytes = b""
    cursor_after: bytes = b""
    _marks: dict[TopicState, Mark] = field(default_factory=dict)

    # ---------------------------------------------------------------- where it is

    @property
    def marks(self) -> dict[TopicState, Mark]:
        """How far this connection has got in each topic."""
        if self.moved is not None:
            self._marks[self.moved.state] = self.moved.mark
            self.moved = None
        return self._marks

    def _mark_in(self, state: TopicState) -> Mark:
        moved = self.moved
        return moved.mark if moved is not None and moved.state is state else self._marks[state]

    def cursor(self) -> str:
        """Return how far this connection has got, in all its topics."""
        if self.moved is not None:
            return self._cursor_at(self.moved)
        return join_cursor(map(PART, self._marks.values()))

    def cursor_with(self, state: TopicState, mark: Mark) -> str:
        """Return the cursor with one topic at ``mark`` instead."""
        marks = {**self.marks, state: mark}
        return join_cursor(map(PART, marks.values()))

    def _move_to(self, event: LiveEvent) -> None:
        """Note that an event was taken: as long as they are of one topic, nothing else of the cursor changes."""
        if self.moved is None or self.moved.state is not event.state:
            marks = tuple(self.marks.items())
            place = [state for state, _ in marks].index(event.state)
            self.cursor_before = join_cursor(mark.part for _, mark in marks[:place]).encode()
            self.cursor_after = "".join(mark.part for _, mark in marks[place + 1 :]).encode()
        self.moved = event

    def _cursor_at(self, event: LiveEvent) -> str:
        """Return the cursor after an event of the topic of `moved`."""
        return b"".join((self.cursor_before, event.part, self.cursor_after)).decode()

    # ---------------------------------------------------------------- what is to be written

    def push(self, event: LiveEvent) -> None:
        """Queue an event, which :meth:`flush` is to follow.

        One too many makes the subscription fall back to the log instead of growing.
        """
        seq = self._mark_in(event.state).seq
        if not self.live or event.seq <= seq:  # It was read from the log a moment ago.
            return
        if event.seq != seq + 1 and not self.queue:
            return self.fall_back()  # Whatever became of those in between.
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

    def take(self) -> list[Frame]:
        """Return everything queued that is not muted, each with the cursor of somebody who has just received it."""
        taken: list[Frame] = []
        for event in self.queue:
            self._move_to(event)
            if not self.muted or self.wants(event):
                taken.append((event.envelope, self.cursor()))
        self.queue.clear()
        self.queued_bytes = 0
        return taken

    def wants(self, item: LiveEvent | tuple[TopicState, str]) -> bool:
        """Return whether this is to be delivered: anything but a notification of a muted kind."""
        # What a notification's kind is costs to find out; as a rule nobody has to.
        if not self.muted or not isinstance(item, LiveEvent) or item.envelope.kind not in self.muted:
            return True
        self.passed_over = True
        return False

    def heartbeat(self) -> Frame:
        """Return the frame of a heartbeat.

        Who hears of nothing but muted kinds would return, one day, to a place that is long trimmed; so it has a cursor
        if any were passed over.
        """
        cursor = self.cursor() if self.passed_over else None
        self.passed_over = False
        return HEARTBEAT, cursor

    # ---------------------------------------------------------------- writing in the place of the stream's task

    def writes_by(self, write: Callable[[Sequence[Frame]], Coroutine[Any, Any, None]], port: Port | None) -> None:
        """Let live events be written while the stream's task, which calls this, has nothing to do.

        :param port: tried first.
        """
        self.write, self.port, self.stepper = write, port, Stepper()

    def follow(self, events: Sequence[LiveEvent]) -> None:
        """Take the next events of one topic: write them if the task has nothing else to do, or queue them."""
        moved, event = self.moved, events[0]
        if (
            self.idle
            and moved is not None
            and moved.state is event.state
            and moved.seq + 1 == event.seq
            and not self.muted
            # The task may have been cancelled, and `idle` does not say so.
            and self.waiter is not None
            and not self.waiter.done()
        ):
            self.moved = events[-1]
            try:
                self.step([(event.envelope, self._cursor_at(event)) for event in events])
            except BaseException as error:  # As the task would have had it: that it is cancelled, for one.
                self.fail(error)
        else:
            for event in events:
                self.push(event)
            self.flush()

    def flush(self) -> None:
        """Write what is queued, now if the stream waits for nothing else; called by the hub, outside of any task."""
        if self.queue and not self._write_between(self.take):
            self.wake()

    def beat(self) -> bool:
        """Write a heartbeat as :meth:`flush` writes events; return False if the stream's task has to."""
        return not self.queue and self._write_between(lambda: [self.heartbeat()])

    def _write_between(self, frames: Callable[[], Sequence[Frame]]) -> bool:
        """Write ``frames()`` while the stream's task waits; return False if it is awake, or only it may write."""
        if self.stepper is None or self.waiter is None or self.waiter.done():
            return False
        try:
            if not (out := frames()):
                pass
            elif (port := self.port) is None or not port.write(
                b"".join([port.framing.encode(*frame) for frame in out])
            ):
                self.step(out)
        except BaseException as error:
            self.fail(error)
        else:
            # Not live: the queue had overflowed, and what follows is to be read from the log.
            if self.ended is not None or not self.live:
                self.wake()
        return True

    def step(self, frames: Sequence[Frame]) -> None:
        """Begin to write as the stream's task would, which finishes it if that can not be done at once."""
        assert self.stepper is not None and self.write is not None
        self.unfinished = self.stepper.step(self.write(frames))
        if self.unfinished is not None:
            self.wake()

    def fail(self, error: BaseException) -> None:
        """End this stream by an error, and no other that is served in the same round."""
        self.idle = False
        self.live = False  # What was not written is read from the log, by this stream if it was not waiting.
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error)

    async def finish(self) -> None:
        """Wait until what was begun in the place of the stream's task is written."""
        if self.unfinished is not None:
            unfinished, self.unfinished = self.unfinished, None
            await unfinished

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
        """A heartbeat, or the end, is due."""
        self.due = True
        self.wake()

    def wake(self) -> None:
        """There is something to do for the stream's task; neither blocks nor raises."""
        self.idle = False
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Return as soon as there is something to do."""
        if self.queue or self.due or self.ended is not None or not self.live:
            return
        self.waiter = asyncio.get_running_loop().create_future()
        self.idle = self.stepper is not None
        try:
            await self.waiter
        finally:
            self.waiter = None
            self.idle = False


def deliver(subscriptions: Sequence[Subscription], events: Sequence[LiveEvent]) -> None:
    """Hand events of one topic to all of these; called by the hub, outside of any task.

    Those that have nothing else to do, and a port, are written to here. That is all that is done for a connection, as a
    rule, and it is done for thousands in one round. So it calls little, and looks at as little of each connection as it
    can, since none of that is in a cache.
    """
    for piece in _pieces(events):
        _deliver(subscriptions, piece)


def _deliver(subscriptions: Sequence[Subscription], events: Sequence[LiveEvent]) -> None:
    first, last = events[0], events[-1]
    state, seq = first.state, first.seq - 1
    framings: dict[type[Framing], list[Framing]] = {}
    for subscription in subscriptions:
        try:
            moved, port = subscription.moved, subscription.port
            if (
                port is None
                or moved is None
                or moved.seq != seq
                or moved.state is not state
                or not subscription.idle
                or subscription.muted
            ):
                subscription.follow(events)
                continue
            if (framed := framings.get(port.framing)) is None:
                framed = framings[port.framing] = [port.framing(event.envelope, event.part) for event in events]
            before, after = subscription.cursor_before, subscription.cursor_after
            if first is last:
                one = framed[0]
                data = b"".join((one[len(before) + len(after)], before, one.part, after, one.tail))
            else:
                data = b"".join([one.around(before, after) for one in framed])
            if port.write(data):
                subscription.moved = last
            else:
                subscription.follow(events)
        except Exception as error:
            subscription.fail(error)


def _pieces(events: Sequence[LiveEvent]) -> Iterator[Sequence[LiveEvent]]:
    """Divide what came at once, so that a client that does not keep up gets the rest by its queue, which is bounded."""
    piece: list[LiveEvent] = []
    size = 0
    for event in events:
        if piece and (len(piece) >= PIECE_EVENTS or size + event.envelope.size > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += event.envelope.size
    yield piece
