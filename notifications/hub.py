"""The hub: one per process and event loop, between the channel layer and the connections (design: idea 3).

It holds one channel of the layer, joins a group when the first local connection needs a topic and leaves some seconds
after the last has gone, sees to it that each event is handed out once and in order, and reads the log for whatever the
layer did not bring. It knows no model: what it needs from the database it asks of a :class:`Log`.

=============  ======================================================================================================
task           what it does
=============  ======================================================================================================
receive        takes messages from the layer
link           joins and leaves groups, one batch after the other; confirms by echo; reads heads
probe          sends itself a message now and then; without an answer the link is made anew
watch          asks the log which topics advanced: finds what hints lost; does the house-keeping
recheck        asks now and then whether those connected may still read
=============  ======================================================================================================
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from . import doorbell
from .batch import Batch
from .cursor import InvalidCursor, Position, parse_cursor
from .envelope import log_envelope
from .link import Link
from .settings import conf
from .signals import hub_changed, stream_closed, stream_opened
from .subscription import LiveEvent, Mark, Subscription, TopicState

__all__ = ["Hub", "HubFull", "Log", "NotAuthorized"]

logger = logging.getLogger("notifications")

#: Seconds that the database may take to tell where topics stand before a client is sent away.
READY_TIMEOUT = 10.0
#: Seconds a topic nobody reads any more is kept: people click from page to page.
LINGER = 10.0
#: Groups are joined again this often: the core layer forgets them by age.
REJOIN_INTERVAL = 60.0
READ_AT_ONCE = 200


class NotAuthorized(Exception):
    """The user may not read anything: unknown, inactive, or the session has ended."""


class HubFull(Exception):
    """This process has as many streams as ``STREAMS_PER_PROCESS`` allows."""


class Log(Protocol):
    """What the hub asks of the database; see :class:`notifications.reader.Reader`."""

    async def authorize(self, principals: Sequence[Any]) -> dict[Any, Any]: ...
    async def heads(self, names: Sequence[str]) -> dict[str, Any]: ...
    async def read(self, topic: str, after: int, limit: int) -> Sequence[tuple[int, str, str]]: ...
    async def advanced(self, mark: datetime | None) -> tuple[Sequence[Any], datetime | None]: ...
    async def tidy(self) -> None: ...


class Hub:
    """See the module. Create it on the loop that it is to serve, and :meth:`start` it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.topics: dict[str, TopicState] = {}
        self.subscriptions: dict[Subscription, None] = {}
        self.by_user: dict[Any, dict[Subscription, None]] = defaultdict(dict)
        self.link = Link(self._on_message, self._on_link_changed)
        self.closing = False
        self.restarts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._authorizations: Batch[Any, Any] = Batch(self._authorize_all, 500)
        self._heads: Batch[str, Any] = Batch(self._read_heads, 500)
        self._reads: dict[tuple[str, int], asyncio.Task[list[LiveEvent]]] = {}
        self._joins: list[TopicState] = []
        self._link_work = asyncio.Event()
        self._rejoin_at = 0.0

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin to serve; returns at once, also when the layer or the database is away."""
        doorbell.attach(self.loop)
        tasks = {
            "receive": self.link.receive,
            "link": self._keep_linked,
            "probe": self._probe,
            "watch": self._watch,
            "recheck": self._recheck,
        }
        for name, run in tasks.items():
            self._spawn(self._supervised(name, run), name)

    def stop(self) -> None:
        """End all tasks; for tests and commands whose loop goes on."""
        doorbell.detach(self.loop)
        for task in tuple(self._tasks):
            task.cancel()

    def shutdown(self) -> None:
        """End every stream, telling each client another moment to return: a deploy makes no storm."""
        self.closing = True
        spread = conf.reconnect_spread * 1000
        for subscription in tuple(self.subscriptions):
            subscription.end("shutdown", random.randint(500, max(501, int(spread))))

    def _spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        # An empty context: started from a request, the task must not live in that request's (asgiref refuses it).
        task = self.loop.create_task(coroutine, name=f"notifications-{name}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _supervised(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception:
                self.restarts += 1
                logger.exception("the hub's %s task failed and is started again", name)
            await asyncio.sleep(0.5)

    # ---------------------------------------------------------------- connections

    @asynccontextmanager
    async def subscribe(
        self, principal: Any, *, transport: str, cursor: str | None = None
    ) -> AsyncIterator[Subscription]:
        """Enter a connection; it is not live yet, :meth:`replay` makes it so.

        :param principal: whom the connection acts for (:class:`notifications.access.Principal`).
        :param cursor: where its client is; None: everything up to now is known to it.
        :raises NotAuthorized: if there is nothing that it may read.
        :raises HubFull: if this process has too many connections.
        :raises TimeoutError: if the database does not answer.
        """
        if self.closing or len(self.subscriptions) >= conf.streams_per_process:
            raise HubFull
        positions, malformed = self._parse(cursor)
        access = await self._authorizations.get(principal)
        if access is None:
            raise NotAuthorized
        subscription = Subscription(
            principal=principal,
            connection=secrets.token_urlsafe(9),
            transport=transport,
            topics=access.topics,
            malformed=malformed,
            queue_events=conf.queue_events,
            queue_bytes=conf.queue_bytes,
        )
        states = [self._use(name) for name in access.topics]
        reason = "disconnect"
        try:
            # Join before reading where the log stands: an event committed in between would be lost.
            async with asyncio.timeout(READY_TIMEOUT):
                for state in states:
                    await asyncio.shield(state.ready)
            for state in states:
                subscription.marks[state] = self._mark(state, positions, access.since.get(state.name, 0))
                state.subscriptions.add(subscription)
            self._enter(subscription)
            stream_opened.send_robust(
                sender=self, user=principal.user, transport=transport, connection=subscription.connection
            )
            try:
                yield subscription
            finally:
                self._leave(subscription)
                reason = subscription.ended.reason if subscription.ended else reason
                stream_closed.send_robust(
                    sender=self,
                    user=principal.user,
                    transport=transport,
                    connection=subscription.connection,
                    reason=reason,
                )
        finally:
            for state in states:
                state.subscriptions.discard(subscription)
                state.users -= 1
                state.unused_since = self.loop.time()

    @staticmethod
    def _parse(cursor: str | None) -> tuple[dict[int, Position] | None, bool]:
        """Return the positions, and whether the text was no cursor: its client begins now, after one reset."""
        if cursor is None:
            return None, False
        try:
            return parse_cursor(cursor), False
        except InvalidCursor:
            return None, True

    @staticmethod
    def _mark(state: TopicState, positions: dict[int, Position] | None, since: int) -> Mark:
        """Return where a client begins in a topic; what it may not read counts as read (it is clamped to ``since``)."""
        if positions is None or state.id is None:
            return state.here()
        since = min(since, state.seen)
        position = positions.get(state.id)
        if position is None:  # Made before the topic was, or before this user could read it.
            return Mark(state.id, state.epoch, since)
        if position.epoch == state.epoch:
            return Mark(state.id, state.epoch, max(position.seq, since))
        return Mark(state.id, position.epoch, position.seq)

    def _enter(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = None
        own = self.by_user[subscription.principal.user]
        own[subscription] = None
        if len(own) > conf.streams_per_user:
            next(iter(own)).end("capacity", 60_000)

    def _leave(self, subscription: Subscription) -> None:
        self.subscriptions.pop(subscription, None)
        own = self.by_user[subscription.principal.user]
        own.pop(subscription, None)
        if not own:
            del self.by_user[subscription.principal.user]

    async def _authorize_all(self, principals: list[Any]) -> dict[Any, Any]:
        return await self.log.authorize(principals)

    # ---------------------------------------------------------------- replay: the one recovery rule

    async def replay(self, subscription: Subscription) -> AsyncIterator[list[LiveEvent | tuple[TopicState, str]]]:
        """Read the log from where this client is until it has all that the hub has seen; it is live afterwards.

        Yields lists of events, and ``(topic, reason)`` where the client must fetch its inbox again instead.
        The subscription's marks have moved when a list is yielded.
        """
        while True:
            behind = [state for state, mark in subscription.marks.items() if not self._current(state, mark)]
            if not behind:
                # No await since the comparison: nothing can have been handed out in between.
                subscription.live = True
                return
            for state in behind:
                if subscription.ended is not None:
                    return
                yield await self._catch_up(subscription, state)

    @staticmethod
    def _current(state: TopicState, mark: Mark) -> bool:
        return mark.seq == state.seen and mark.epoch == state.epoch

    async def _catch_up(
        self, subscription: Subscription, state: TopicState
    ) -> list[LiveEvent | tuple[TopicState, str]]:
        mark = subscription.marks[state]
        if not mark.epoch and mark.seq == state.seen:  # The topic was born meanwhile, and has nothing yet.
            subscription.marks[state] = state.here()
            return []
        if (mark.epoch and mark.epoch != state.epoch) or mark.seq > state.seen:
            # The client knows more than this process does, or lives in another epoch: the log decides.
            await self._refresh(state)
            if mark.epoch and mark.epoch != state.epoch:
                subscription.marks[state] = state.here()
                return [(state, "epoch")]
            if mark.seq > state.seen:
                subscription.marks[state] = state.here()
                return [(state, "ahead")]
            return []
        events = [event for event in await self._events_after(state, mark.seq) if event.seq <= state.seen]
        if not events or events[0].seq != mark.seq + 1 or events[0].mark.epoch != state.epoch:
            if subscription.marks[state].seq >= state.seen or (events and events[0].mark.epoch != state.epoch):
                return []  # A new epoch came in while we read; look again.
            subscription.marks[state] = state.here()
            return [(state, "floor")]
        subscription.marks[state] = events[-1].mark
        return list(events)

    async def _events_after(self, state: TopicState, seq: int) -> list[LiveEvent]:
        """Return the next events of a topic, from memory if they are recent; one read serves all who ask for them."""
        if seq < state.seen and state.recent and state.recent[0].seq <= seq + 1:
            return [event for event in state.recent if event.seq > seq]
        key = (state.name, seq)
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self._spawn(self._read(state, seq), "read")
            task.add_done_callback(partial(self._read_done, key))
        return await asyncio.shield(task)

    def _read_done(self, key: tuple[str, int], task: asyncio.Task[list[LiveEvent]]) -> None:
        self._reads.pop(key, None)
        if not task.cancelled():
            task.exception()  # Those who asked may all be gone.

    async def _read(self, state: TopicState, after: int) -> list[LiveEvent]:
        rows = await self.log.read(state.name, after, READ_AT_ONCE)
        return [LiveEvent(state, seq, log_envelope(state.name, seq, type, payload)) for seq, type, payload in rows]

    # ---------------------------------------------------------------- in: hints, heads, holes

    def _on_message(self, message: dict[str, Any]) -> None:
        state = self.topics.get(message.get("topic", ""))
        if state is None:
            return
        if message.get("recheck"):
            self._recheck_soon(state)
        elif not state.known:
            state.hinted = max(state.hinted, message["seq"])
        else:
            self._on_hint(state, message["epoch"], message["seq"], message["events"])

    def _on_hint(self, state: TopicState, epoch: str, seq: int, events: Sequence[Sequence[Any]]) -> None:
        if state.epoch != epoch:
            # A topic that is new here, or began a new life: which of two epochs is the newer one only the log can tell.
            self._repair(state, seq)
            return
        for number, type, payload in events:
            if number == state.seen + 1:
                self._hand_out(LiveEvent(state, number, log_envelope(state.name, number, type, payload)))
        if seq > state.seen:
            self._repair(state, seq)

    def _hand_out(self, event: LiveEvent) -> None:
        """The next event of its topic, to everybody who reads it. Can not stall: nobody is waited for."""
        state = event.state
        state.seen = event.seq
        state.seen_at = self.loop.time()
        state.recent.append(event)
        for subscription in tuple(state.subscriptions):
            subscription.push(event)

    def _on_head(self, state: TopicState, head: Any, read_at: float) -> bool:
        """Compare with where the log stands; return whether there is something to read.

        :param read_at: loop time before the query was sent.
        """
        if state.id is None:
            state.id, state.epoch = head.id, head.epoch
        elif head.epoch != state.epoch or (head.seq < state.seen and read_at > state.seen_at):
            # A new life, or the same one restored from an older dump: everybody fetches the inbox again.
            self._begin_anew(state, head)
            return False
        return bool(head.seq > state.seen)

    def _begin_anew(self, state: TopicState, head: Any) -> None:
        state.id, state.epoch, state.seen, state.seen_at = head.id, head.epoch, head.seq, self.loop.time()
        state.hinted = 0
        state.recent.clear()
        for subscription in tuple(state.subscriptions):
            subscription.fall_back()

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
                await self._refresh(state)
        except Exception:
            logger.exception("reading %s failed; tried again within seconds", state.name)
        finally:
            state.repairing = False

    async def _refresh(self, state: TopicState) -> None:
        """Bring a topic to where the log stands now."""
        read_at = self.loop.time()
        head = await self._heads.get(state.name)
        if head is None or not self._on_head(state, head, read_at):
            return
        while state.seen < head.seq and state.epoch == head.epoch:
            events = await self._events_after(state, state.seen)
            fresh = [event for event in events if event.seq > state.seen and event.mark.epoch == state.epoch]
            if not fresh or fresh[0].seq != state.seen + 1:
                if state.seen >= head.seq or (events and not fresh):
                    continue  # Somebody else brought them meanwhile.
                # Trimmed away below us: each connection finds out for itself what it has missed.
                state.seen, state.seen_at = head.seq, self.loop.time()
                state.recent.clear()
                for subscription in tuple(state.subscriptions):
                    subscription.fall_back()
                return
            for event in fresh:
                self._hand_out(event)

    async def _read_heads(self, names: list[str]) -> dict[str, Any]:
        return await self.log.heads(names)

    # ---------------------------------------------------------------- the link to the layer

    def _use(self, name: str) -> TopicState:
        state = self.topics.get(name)
        if state is None:
            state = self.topics[name] = TopicState(name)
            self._joins.append(state)
            self._link_work.set()
        state.users += 1
        return state

    async def _keep_linked(self) -> None:
        """Join and leave, one batch after the other: leaving and joining the same group can not overtake each other."""
        while True:
            try:
                async with asyncio.timeout(LINGER / 2):
                    await self._link_work.wait()
            except TimeoutError:
                pass
            self._link_work.clear()
            await self._leave_unused()
            joins, self._joins = self._joins[:500], self._joins[500:]
            if joins:
                try:
                    await self._join(joins)
                except BaseException:
                    self._joins[:0] = [state for state in joins if not state.known]
                    self._link_work.set()
                    raise
            if self._joins:
                self._link_work.set()

    async def _leave_unused(self) -> None:
        now = self.loop.time()
        for state in [s for s in self.topics.values() if not s.users and s.known and now - s.unused_since > LINGER]:
            if state.users:
                continue
            del self.topics[state.name]
            await self.link.leave(state.name)

    async def _join(self, states: Sequence[TopicState]) -> None:
        if self.link.up and not doorbell.breaker.is_open:
            await self._confirm(states)
        read_at = self.loop.time()
        heads = await self._heads.get_many([state.name for state in states])
        for state in states:
            head = heads.get(state.name)
            if head is not None:
                state.id, state.epoch, state.seen, state.seen_at = head.id, head.epoch, head.seq, read_at
            state.known = True
            if not state.ready.done():
                state.ready.set_result(None)
            if state.hinted > state.seen:
                self._repair(state, state.hinted)

    async def _confirm(self, states: Sequence[TopicState]) -> bool:
        confirmed = await self.link.join([state.name for state in states])
        for state in states:
            state.confirmed = confirmed
        return confirmed

    async def _probe(self) -> None:
        self._rejoin_at = self.loop.time() + REJOIN_INTERVAL
        await self.link.probe(self._on_alive)

    async def _on_alive(self) -> None:
        unconfirmed = any(state.known and not state.confirmed for state in self.topics.values())
        if not self.link.up or unconfirmed or self.loop.time() >= self._rejoin_at:
            await self._rejoin()

    async def _rejoin(self) -> None:
        """Join everything again (the layer forgets groups by age, or by a failover), and see what was missed."""
        states = [state for state in self.topics.values() if state.known]
        was_up = self.link.up
        for start in range(0, len(states), 500):
            if not await self._confirm(states[start : start + 500]):
                return
        self._rejoin_at = self.loop.time() + REJOIN_INTERVAL
        self.link.set_up(True)
        if not was_up:
            # What came while we were deaf is found now, not when a later hint or poll shows a hole.
            read_at = self.loop.time()
            heads = await self._heads.get_many([state.name for state in states])
            for state in states:
                if (head := heads[state.name]) is not None and self._on_head(state, head, read_at):
                    self._repair(state, head.seq)

    def _on_link_changed(self, up: bool) -> None:
        if not up:
            for state in self.topics.values():
                state.confirmed = False
        hub_changed.send_robust(sender=self, up=up)

    # ---------------------------------------------------------------- the safety net

    async def _watch(self) -> None:
        mark: datetime | None = None
        while True:
            try:
                if not self.topics:
                    mark = None
                else:
                    read_at = self.loop.time()
                    heads, mark = await self.log.advanced(mark)
                    for head in heads:
                        state = self.topics.get(head.name)
                        if state is not None and state.known and self._on_head(state, head, read_at):
                            self._repair(state, head.seq)
                await self.log.tidy()
            except Exception as error:
                logger.warning("the safety poll failed (%r); tried again", error)
            await asyncio.sleep(conf.safety_interval or (2.0 if self.link.hosts() else 1.0))

    def _recheck_soon(self, state: TopicState) -> None:
        """Somebody's rights changed. Twice, because a logout is announced before the session is deleted."""
        for delay in (0.05, 1.0):
            self.loop.call_later(delay, lambda: self._spawn(self._recheck_these(tuple(state.subscriptions)), "recheck"))

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(conf.recheck_interval)
            everybody = tuple(self.subscriptions)
            for start in range(0, len(everybody), 500):
                await self._recheck_these(everybody[start : start + 500])

    async def _recheck_these(self, subscriptions: Sequence[Subscription]) -> None:
        """End the streams of those who may not read any more; let those return whose topics changed."""
        try:
            answer = await self._authorizations.get_many({s.principal for s in subscriptions})
        except Exception as error:
            logger.warning("rights could not be checked (%r); streams stay as they are", error)
            return
        for subscription in subscriptions:
            access = answer.get(subscription.principal)
            if access is None:
                subscription.end("revoked", None)
            elif access.topics != subscription.topics:
                subscription.end("access", 0)
