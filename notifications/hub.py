"""The hub: one per process and event loop, between the channel layer and the connections (design: idea 3).

It holds one channel of the layer, joins a group when the first local connection needs a topic and leaves some seconds
after the last has gone, lets connections in, and asks again and again who may still read. It knows no model; what it
needs from the database it asks of a :class:`~notifications.follower.Log`.

=============  ======================================================================================================
task           what it does
=============  ======================================================================================================
receive        takes messages from the layer
link           joins and leaves groups, one batch after the other; confirms by echo; reads heads
probe          sends itself a message now and then; without an answer the link is made anew
watch          asks the log which topics advanced: finds what hints lost; does the house-keeping
recheck        asks whether those connected may still read, of a portion of them at a time
sessions       asks all the time whether their sessions are still there
=============  ======================================================================================================
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from django.dispatch import Signal

from . import doorbell
from .batch import Batch
from .follower import Follower, Log
from .link import Link
from .replay import place_in, positions_of
from .rhythm import Rhythm
from .rota import Rota
from .settings import conf
from .signals import hub_changed, stream_closed, stream_opened, tell
from .subscription import LiveEvent, Subscription, TopicState
from .turns import Turns

__all__ = ["AccessUnknown", "Hub", "HubFull", "Log", "NotAuthorized"]

logger = logging.getLogger("notifications")

#: Seconds that the database may take to tell where topics stand before a client is sent away.
READY_TIMEOUT = 10.0
#: Seconds a topic nobody reads any more is kept: people click from page to page.
LINGER = 10.0
#: Seconds between two safety polls where the site sets nothing else: with a layer that is shared, and without.
SAFETY_INTERVAL, SAFETY_INTERVAL_ALONE = 1.5, 1.0
#: Sessions looked up in one query, and seconds between two such queries.
SESSIONS_AT_ONCE = 1500
SESSIONS_INTERVAL = 1.5
#: Seconds from a safety poll to the look at sessions that falls together with it.
AFTER_POLL = 0.1
#: What is asked or done for many is done for so many together.
TOGETHER = 500
#: So many, or all, are due before a look at the rights of those connected is worth its queries.
RECHECK_AT_ONCE = 100
#: Groups are joined again this often: the core layer forgets them by age.
REJOIN_INTERVAL = 60.0


class NotAuthorized(Exception):
    """The user may not read anything: unknown, inactive, or the session has ended."""


class AccessUnknown(Exception):
    """The site's own ``TOPICS`` function failed; what it raised is in the log."""


class HubFull(Exception):
    """This process has as many streams as ``STREAMS_PER_PROCESS`` allows."""


class Hub:
    """See the module. Create it on the loop that it is to serve, and :meth:`start` it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.follower = Follower(log, self._spawn, self._on_event)
        self.topics = self.follower.topics
        #: When the rights of each were looked at last, the longest ago first.
        self.subscriptions: dict[Subscription, float] = {}
        self.by_user: dict[Any, list[Subscription]] = defaultdict(list)
        self.rhythm = Rhythm(self.subscriptions)
        self.turns = Turns()
        self.link = Link(self._on_message, self._on_link_changed)
        self.closing = False
        self.restarts = 0
        self._started = self.loop.time()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sessions: Batch[str, Any] = Batch(self._identify_all, TOGETHER)
        self._authorizations: Batch[Any, Any] = Batch(self._authorize_all, TOGETHER)
        self._joins: list[TopicState] = []
        self._link_work = asyncio.Event()
        self._leaving = asyncio.Lock()
        self._rejoin_at: dict[int, float] = {}

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin to serve; returns at once, also when the layer or the database is away."""
        doorbell.attach(self.loop)
        self.rhythm.start()
        tasks = {
            "receive": self.link.receive,
            "link": self._keep_linked,
            "probe": self._probe,
            "watch": self._watch,
            "recheck": self._recheck,
            "sessions": self._watch_sessions,
        }
        for name, run in tasks.items():
            self._spawn(self._supervised(name, run), name)

    def stop(self) -> None:
        """End all tasks; for tests and commands whose loop goes on."""
        doorbell.detach(self.loop)
        self.rhythm.stop()
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

    async def identify(self, session: str) -> Any:
        """Return whom a session key stands for (see :mod:`notifications.sessions`), or None."""
        return await self._sessions.get(session)

    async def enter(self, principal: Any, *, transport: str, cursor: str | None = None) -> Subscription:
        """Let a connection in; it is not live yet, a replay makes it so. Whoever calls this calls :meth:`leave`.

        :param principal: whom the connection acts for (:class:`notifications.access.Principal`).
        :param cursor: where its client is; None: everything up to now is known to it.
        :raises NotAuthorized: if there is nothing that it may read.
        :raises AccessUnknown: if the site could not tell what it may read.
        :raises HubFull: if this process has too many connections.
        :raises TimeoutError: if the database does not answer.
        """
        self._check_room()
        positions, malformed = positions_of(cursor)
        access = await self._authorizations.get(principal)
        if access is None:
            raise NotAuthorized
        if not access.topics:
            raise AccessUnknown(f"what user {principal.user} may read could not be told")
        subscription = Subscription(
            principal=principal,
            connection=secrets.token_urlsafe(9),
            transport=transport,
            topics=access.topics,
            muted=access.muted,
            malformed=malformed,
            queue_events=conf.queue_events,
            queue_bytes=conf.queue_bytes,
        )
        states = [self._use(name) for name in access.topics]
        try:
            # Join before reading where the log stands: an event committed in between would be lost.
            async with asyncio.timeout(READY_TIMEOUT):
                for state in states:
                    if not state.known:
                        await asyncio.shield(state.ready)
            # Again: others entered while this one waited, or the process began to stop.
            self._check_room()
            for state in states:
                subscription.marks[state] = place_in(state, positions, access.since.get(state.name, 0))
                state.subscriptions[subscription] = None
            self._enter(subscription)
        except BaseException:
            self._forget(subscription, states)
            raise
        try:
            self._tell(stream_opened, subscription)
        except BaseException:
            self.leave(subscription)  # Whoever heard of the beginning hears of the end, even so.
            raise
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Let a connection go."""
        self._forget(subscription, list(subscription.marks))
        reason = subscription.ended.reason if subscription.ended else "disconnect"
        self._tell(stream_closed, subscription, reason=reason)

    @property
    def full(self) -> bool:
        """Whether no connection is let in: there are too many, or this process is about to end."""
        return self.closing or len(self.subscriptions) >= conf.streams_per_process

    def _check_room(self) -> None:
        if self.full:
            raise HubFull

    def _enter(self, subscription: Subscription) -> None:
        self.subscriptions[subscription] = self.loop.time()
        self.rhythm.begin(subscription)
        own = self.by_user[subscription.principal.user]
        own.append(subscription)
        # Those that were told before may take their time to go.
        staying = [other for other in own if other.ended is None]
        if len(staying) > conf.streams_per_user:
            staying[0].end("capacity", 60_000)

    def _forget(self, subscription: Subscription, states: Sequence[TopicState]) -> None:
        self.subscriptions.pop(subscription, None)
        own = self.by_user[subscription.principal.user]
        if subscription in own:
            own.remove(subscription)
        if not own:
            del self.by_user[subscription.principal.user]
        for state in states:
            state.subscriptions.pop(subscription, None)
            state.users -= 1
            state.unused_since = self.loop.time()

    def _tell(self, signal: Signal, subscription: Subscription, **named: str) -> None:
        user, transport = subscription.principal.user, subscription.transport
        tell(signal, sender=self, user=user, transport=transport, connection=subscription.connection, **named)

    async def _identify_all(self, sessions: list[str]) -> dict[str, Any]:
        return await self.log.identify(sessions)

    async def _authorize_all(self, principals: list[Any]) -> dict[Any, Any]:
        return await self.log.authorize(principals)

    # ---------------------------------------------------------------- the link to the layer

    def _on_message(self, message: dict[str, Any]) -> None:
        state = self.topics.get(message.get("topic", ""))
        if state is None:
            return
        if message.get("recheck"):
            self._recheck_soon(state)
        else:
            self.follower.hint(state, message["epoch"], message["seq"], message["events"])

    def _on_event(self, event: LiveEvent) -> None:
        if event.envelope.type == "preferences":
            # What is muted is asked again; through the log, so that it takes effect without a channel layer, too.
            self._recheck_soon(event.state)

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
            joins, self._joins = self._joins[:TOGETHER], self._joins[TOGETHER:]
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
            if self._leaving.locked():
                return  # Groups are being joined again; those who wait to join must not wait for that.
            if state.users:
                continue
            async with self._leaving:
                del self.topics[state.name]
                await self.link.leave(state.name)

    async def _join(self, states: Sequence[TopicState]) -> None:
        await self._confirm(states)
        await self.follower.begin(states)

    async def _confirm(self, states: Sequence[TopicState], *, anyway: bool = False) -> bool:
        """Join these topics' groups; return whether all are joined for certain."""
        confirmed = await self.link.join([state.name for state in states], anyway=anyway)
        for state in states:
            state.confirmed = state.name in confirmed
        return len(confirmed) == len(states)

    async def _probe(self) -> None:
        self._rejoin_at = {}
        await self.link.probe(self._on_alive)

    async def _on_alive(self, host: int) -> None:
        now = self.loop.time()
        due = now >= self._rejoin_at.setdefault(host, now + REJOIN_INTERVAL)
        if due or host in self.link.away or self._unconfirmed(host):
            await self._rejoin(host)

    def _unconfirmed(self, host: int) -> bool:
        # Of this host only: while another is away, all of its topics are unconfirmed.
        return any(s.known and not s.confirmed and doorbell.host_of(s.name) == host for s in self.topics.values())

    async def _rejoin(self, host: int) -> None:
        """Join all topics of a host again (the layer forgets groups by age, or by a failover); see what was missed."""
        states = [state for state in self.topics.values() if state.known and doorbell.host_of(state.name) == host]
        was_away = host in self.link.away
        for start in range(0, len(states), TOGETHER):
            async with self._leaving:  # Who joined again what is being left would stay in it.
                some = states[start : start + TOGETHER]
                staying = [state for state in some if self.topics.get(state.name) is state]
                if not await self._confirm(staying, anyway=True):
                    return
        self._rejoin_at[host] = self.loop.time() + REJOIN_INTERVAL
        self.link.set_up(True, host=host)
        if was_away:
            # What came while we were deaf is found now, not when a later hint or poll shows a hole.
            await self.follower.check(states)

    def _on_link_changed(self, host: int, up: bool) -> None:
        if not up:
            for state in self.topics.values():
                if doorbell.host_of(state.name) == host:
                    state.confirmed = False
        if len(self.link.away) == (0 if up else 1):  # The first of several hosts has gone, or the last has come back.
            tell(hub_changed, sender=self, up=up)

    # ---------------------------------------------------------------- the safety net

    async def _watch(self) -> None:
        while True:
            try:
                await self.follower.check_advanced()
                await self.log.tidy()
            except Exception as error:
                logger.warning("the safety poll failed (%r); tried again", error)
            alone = not self.link.hosts()
            interval = conf.safety_interval or (SAFETY_INTERVAL_ALONE if alone else SAFETY_INTERVAL)
            await asyncio.sleep(self._until_next(interval))

    def _until_next(self, interval: float, after: float = 0.0) -> float:
        """Return the seconds until the next whole number of intervals since the start, at least half of one.

        Timed so, a look at sessions, ``after`` a safety poll, stays there, and finds its connection still open.
        """
        pause = interval - (self.loop.time() - self._started - after) % interval
        return pause if pause >= interval / 2 else pause + interval

    def _recheck_soon(self, state: TopicState) -> None:
        """Somebody's rights changed. Twice, because a logout is announced before the session is deleted."""
        for delay in (0.05, 1.0):
            self.loop.call_later(delay, lambda: self._spawn(self._recheck_these(tuple(state.subscriptions)), "recheck"))

    async def _recheck(self) -> None:
        """Look at everybody's rights once in ``RECHECK_INTERVAL``, a portion at a time: no message waits for all."""
        rota = Rota(RECHECK_AT_ONCE, self.loop.time())
        while True:
            interval = conf.recheck_interval
            await asyncio.sleep(min(self._until_next(SESSIONS_INTERVAL, after=2 * AFTER_POLL), interval))
            due = rota.due(self.subscriptions, self.loop.time(), interval)
            for start in range(0, len(due), TOGETHER):
                looked_at = due[start : start + TOGETHER]
                if not await self._recheck_these(looked_at):
                    continue  # They stay in front.
                for subscription in looked_at:  # To the end of the line, where those begin who come.
                    if self.subscriptions.pop(subscription, None) is not None:
                        self.subscriptions[subscription] = self.loop.time()

    async def _watch_sessions(self) -> None:
        """A session can end without a word from Django (deleted in the database, or by another system)."""
        left: list[Subscription] = []
        while True:
            await asyncio.sleep(self._until_next(SESSIONS_INTERVAL, after=AFTER_POLL))
            left = left or list(self.subscriptions)
            subscriptions, left = left[:SESSIONS_AT_ONCE], left[SESSIONS_AT_ONCE:]
            if not subscriptions:
                continue
            try:
                ended = await self.log.ended({subscription.principal for subscription in subscriptions})
            except Exception as error:
                logger.info("sessions could not be looked up (%r); streams stay as they are", error)
                continue
            for subscription in subscriptions:
                if subscription.principal in ended:
                    subscription.end("revoked", None)

    async def _recheck_these(self, subscriptions: Sequence[Subscription]) -> bool:
        """End the streams of those who may not read any more; let those return whose topics changed.

        What somebody muted changes in place. Returns False if the database did not tell.
        """
        try:
            answer = await self._authorizations.get_many({s.principal for s in subscriptions})
        except Exception as error:
            logger.warning("rights could not be checked (%r); streams stay as they are", error)
            return False
        for subscription in subscriptions:
            access = answer.get(subscription.principal)
            if access is None:
                subscription.end("revoked", None)
            elif access.topics and access.topics != subscription.topics:
                subscription.end("access", 0)
            else:
                subscription.muted = access.muted
        return True
