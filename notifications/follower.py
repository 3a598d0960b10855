"""Following the log: each event of each topic served here is handed out once and in order, whatever the layer does.

Hints come lost, doubled, reordered and late; a number out of sequence is always noticed, and what is missing is read
from the log, once for everybody. The follower knows topics, not people: who gets an event is in the topic's state.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Protocol

from .batch import Batch
from .envelope import log_envelope
from .subscription import LiveEvent, TopicState, deliver

__all__ = ["Follower", "Log"]

logger = logging.getLogger("notifications")

READ_AT_ONCE = 200
#: Seconds that a hint may be late before what it tells of is read from the log.
GRACE = 0.5
#: Events of a topic that are remembered for those who are a little behind.
RECENT = 64
#: Seconds after a read that failed until it is tried again, whether or not anything else asks for it.
RETRY_AFTER = 1.0


class Log(Protocol):
    """What a hub asks of the database; see :class:`notifications.reader.Reader`."""

    async def identify(self, sessions: Sequence[str]) -> dict[str, Any]: ...
    async def authorize(self, principals: Sequence[Any]) -> dict[Any, Any]: ...
    async def ended(self, principals: Collection[Any]) -> Collection[Any]: ...
    async def heads(self, names: Sequence[str]) -> dict[str, Any]: ...
    async def read(self, topic: str, after: int, limit: int) -> Sequence[tuple[int, str, str]]: ...
    async def advanced(self, look: Any) -> tuple[Sequence[Any], Any]: ...
    async def tidy(self) -> None: ...


class Follower:
    """The topics that a hub serves, and how far it has seen each of them.

    :param spawn: starts a task of the hub's, with a name.
    :param on_event: called with each event after it was handed out.
    """

    def __init__(
        self,
        log: Log,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        on_event: Callable[[LiveEvent], None],
    ) -> None:
        self.topics: dict[str, TopicState] = {}
        self._log = log
        self._spawn = spawn
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._heads: Batch[str, Any] = Batch(self._read_heads, 500)
        self._reads: dict[tuple[str, int], asyncio.Task[list[LiveEvent]]] = {}
        #: What the last safety poll returned for the next one.
        self._look: Any = None
        self._failed: set[TopicState] = set()
        self._undelivered: list[LiveEvent] = []

    async def begin(self, states: Sequence[TopicState]) -> None:
        """Find out where topics stand that are joined; they are known, and their ``ready`` is done, afterwards."""
        read_at = self._loop.time()
        heads = await self._heads.get_many([state.name for state in states])
        for state in states:
            if (head := heads[state.name]) is not None:
                state.id, state.epoch, state.seen, state.seen_at = head.id, head.epoch, head.seq, read_at
            state.known = True
            if not state.ready.done():
                state.ready.set_result(None)
            if state.hinted > state.seen:
                self._repair(state, state.hinted)

    def hint(self, state: TopicState, epoch: str, seq: int, events: Sequence[Sequence[Any]]) -> None:
        """Take a hint: the topic has reached ``seq``, perhaps with the events up to there."""
        if not state.known:
            state.hinted = max(state.hinted, seq)
        elif state.epoch != epoch:
            # A topic that is new here, or began a new life: which of two epochs is the newer one only the log can tell.
            self._repair(state, seq)
        else:
            for number, type, payload in events:
                if number == state.seen + 1:
                    self._hand_out(LiveEvent(state, number, log_envelope(state.name, number, type, payload)))
            if seq > state.seen:
                self._repair(state, seq)

    async def check(self, states: Sequence[TopicState]) -> None:
        """Compare these topics with the log, and read what is missing."""
        read_at = self._loop.time()
        for state, head in zip(states, (await self._heads.get_many([s.name for s in states])).values(), strict=True):
            self._compare(state, head, read_at)

    async def check_advanced(self) -> None:
        """The safety poll: compare the topics that advanced since the last call, whatever the layer brought of them."""
        if not self.topics:
            self._look = None
            return
        read_at, before = self._loop.time(), self._look
        heads, look = await self._log.advanced(before)
        if (before is None) != (look is None):
            # The first look; or the log is not the one it was (an older copy was restored). Nothing is certain, so look
            # at everything.
            await self.check([state for state in self.topics.values() if state.known])
        self._look = look  # Not before: a look at everything that failed is repeated.
        for head in heads:
            if (state := self.topics.get(head.name)) is None:
                continue
            if state.confirmed and state.epoch == head.epoch and state.seen < head.seq:
                # The hint is on its way, as a rule: after a message to thousands of users there are many of them.
                self._loop.call_later(GRACE, self._repair_if_behind, state, head.epoch, head.seq, context=Context())
            else:
                self._compare(state, head, read_at)

    async def refresh(self, state: TopicState) -> None:
        """Bring a topic to where the log stands now."""
        read_at = self._loop.time()
        head = await self._heads.get(state.name)
        if head is None or not self._is_behind(state, head, read_at):
            return
        while state.seen < head.seq and state.epoch == head.epoch:
            events = await self.events_after(state, state.seen)
            if events is None:
                return  # Somebody else looked meanwhile, and went on from where the log stood then.
            fresh = [event for event in events if event.seq > state.seen]
            if not fresh or fresh[0].seq != state.seen + 1:
                if state.seen >= head.seq or (events and not fresh):
                    continue  # Somebody else brought them meanwhile.
                # Trimmed away below us: each connection finds out for itself what it has missed.
                self._jump(state, head)
                return
            for event in fresh:
                self._hand_out(event)

    async def events_after(self, state: TopicState, seq: int) -> list[LiveEvent] | None:
        """Return the next events of a topic, from memory if they are recent; one read serves all who ask for them.

        None if the topic began a new life meanwhile: what was read may be of the old one.
        """
        if seq < state.seen and state.recent and state.recent[0].seq <= seq + 1:
            return [event for event in state.recent if event.seq > seq]
        life, key = state.recent, (state.name, seq)
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self._spawn(self._read(state, seq), "read")
            task.add_done_callback(partial(self._read_done, key))
        events = await asyncio.shield(task)
        # Compared here, without an await before the events are used: it can happen after they were read, too.
        return events if state.recent is life else None

    def _hand_out(self, event: LiveEvent) -> None:
        """The next event of its topic, to everybody who reads it. Can not stall: nobody is waited for."""
        state = event.state
        state.seen = event.seq
        state.seen_at = self._loop.time()
        state.recent.append(event)
        del state.recent[:-RECENT]
        if not self._undelivered:
            # In the next turn: what comes together is written together; and one task may not step another's work.
            self._loop.call_soon(self._deliver, context=Context())
        self._undelivered.append(event)
        self._on_event(event)

    def _deliver(self) -> None:
        undelivered, self._undelivered = self._undelivered, []
        # In the order of each topic; what comes together of several topics is in no order.
        together: defaultdict[TopicState, list[LiveEvent]] = defaultdict(list)
        for event in undelivered:
            together[event.state].append(event)
        for state, events in together.items():
            deliver(tuple(state.subscriptions), events)

    def _compare(self, state: TopicState, head: Any, read_at: float) -> None:
        if head is not None and state.known and self._is_behind(state, head, read_at):
            self._repair(state, head.seq)

    def _is_behind(self, state: TopicState, head: Any, read_at: float) -> bool:
        """Compare with where the log stands; return whether there is something to read.

        :param read_at: loop time before the query was sent.
        """
        if state.id is None:
            state.id, state.epoch = head.id, head.epoch
        elif head.epoch != state.epoch or (head.seq < state.seen and read_at > state.seen_at):
            # A new life, or the same one restored from an older dump: everybody fetches the inbox again.
            self._jump(state, head)
        return bool(head.seq > state.seen)

    def _jump(self, state: TopicState, head: Any) -> None:
        """Go on from where the log stands, and let every connection find out what that means for it."""
        state.id, state.epoch, state.seen, state.seen_at = head.id, head.epoch, head.seq, self._loop.time()
        state.hinted = 0
        state.recent = []  # Another one, by which those who are reading see that this is another life.
        for key in [key for key in self._reads if key[0] == state.name]:
            del self._reads[key]
        self._undelivered = [event for event in self._undelivered if event.state is not state]
        for subscription in tuple(state.subscriptions):
            subscription.fall_back()

    def _repair_if_behind(self, state: TopicState, epoch: str, seq: int) -> None:
        if state.epoch == epoch and state.seen < seq and self.topics.get(state.name) is state:
            self._repair(state, seq)

    def _repair(self, state: TopicState, seq: int) -> None:
        """There are events up to ``seq`` that the layer did not bring: read them once, for everybody."""
        state.hinted = max(state.hinted, seq)
        if not state.repairing:
            state.repairing = True
            self._spawn(self._read_missing(state), "repair")

    async def _read_missing(self, state: TopicState) -> None:
        try:
            hinted = -1
            while hinted != state.hinted:  # Hints that came while we read were not handed out.
                hinted = state.hinted
                await self.refresh(state)
        except Exception:
            logger.exception("reading %s failed; tried again within seconds", state.name)
            # A hint that came meanwhile left it to this task, and the safety poll looks at what advanced lately only.
            if state not in self._failed:
                self._failed.add(state)
                self._spawn(self._read_again(state), "repair")
        finally:
            state.repairing = False

    async def _read_again(self, state: TopicState) -> None:
        try:
            # Spread: what failed together need not be asked for together.
            await asyncio.sleep(RETRY_AFTER * random.uniform(0.5, 1.5))
        finally:
            self._failed.discard(state)
        if self.topics.get(state.name) is state:
            self._repair(state, state.hinted)

    async def _read(self, state: TopicState, after: int) -> list[LiveEvent]:
        rows = await self._log.read(state.name, after, READ_AT_ONCE)
        return [LiveEvent(state, seq, log_envelope(state.name, seq, type, payload)) for seq, type, payload in rows]

    def _read_done(self, key: tuple[str, int], task: asyncio.Task[list[LiveEvent]]) -> None:
        if self._reads.get(key) is task:
            del self._reads[key]
        if not task.cancelled():
            task.exception()  # Those who asked may all be gone.

    async def _read_heads(self, names: list[str]) -> dict[str, Any]:
        return await self._log.heads(names)
