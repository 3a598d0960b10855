"""The log: append in the caller's transaction, number after commit, read from a position (design: ideas 1 and 2).

:func:`append` takes no shared lock, so that publishing can neither deadlock nor slow the site. :func:`drain` numbers
what was committed, one short lock at a time, and rings the doorbell. Whatever a crash leaves unnumbered is found by
:func:`sweep`. All of it is synchronous and runs on the database that the router gives to events.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from django.db import connections, router, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import DateTimeField, Min, QuerySet, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Least, Now
from django.db.models.sql import Query

from . import doorbell, failpoints
from .models import Event, Topic, new_epoch
from .settings import conf
from .statements import among, fetch, insert, run, update_of

__all__ = [
    "Head",
    "LogEvent",
    "Look",
    "advanced",
    "append",
    "database",
    "drain",
    "heads",
    "newest_undrained",
    "read",
    "rotate_epoch",
    "sweep",
    "trim",
]

logger = logging.getLogger("notifications")

T = TypeVar("T")

#: How much one short lock covers; more is numbered by another round.
TOPICS_AT_ONCE = 200
EVENTS_AT_ONCE = 500
#: What a drain reads of them, in the order in which the models have it.
TOPIC_FIELDS, EVENT_FIELDS = ("id", "name", "epoch", "head", "floor"), ("id", "topic", "type", "payload")
#: Ways of SQLite's to begin a transaction in which nobody else writes.
LOCKING_MODES = ("IMMEDIATE", "EXCLUSIVE")
#: A drain's UPDATE and its COMMIT are this far apart at most; the safety poll looks back by as much.
OVERLAP = timedelta(seconds=10)
#: After so long without anything new it does not look back any more.
QUIET = timedelta(minutes=1)


class Head(NamedTuple):
    """Where a topic's log stands."""

    name: str
    id: int
    epoch: str
    seq: int


class Look(NamedTuple):
    """A look at which topics advanced, by the database's clock.

    :ivar latest: when the last of them did.
    :ivar at: when we looked.
    :ivar changed: when we first saw ``latest``.
    """

    latest: datetime
    at: datetime
    changed: datetime


class LogEvent(NamedTuple):
    """One numbered event; ``payload`` is JSON text."""

    seq: int
    type: str
    payload: str


def database() -> str:
    """Return the alias of the database that holds the log."""
    return router.db_for_write(Event)


def append(events: Iterable[tuple[str, str, str]]) -> None:
    """Insert ``(topic, type, payload)`` events, unnumbered, in the caller's transaction; they are drained after commit.

    One INSERT for all of them, no lock on anything shared. A rollback leaves nothing behind.
    """
    alias = database()
    rows = list(events)
    if not rows:
        return
    with transaction.atomic(using=alias, savepoint=False):
        if len(rows) == 1:
            ((topic, type, payload),) = rows
            insert(alias, Event, topic=topic, type=type, payload=payload)
        else:
            new = [Event(topic=topic, type=type, payload=payload) for topic, type, payload in rows]
            Event.objects.using(alias).bulk_create(new, batch_size=1000)
        names = _waiting(alias)
        if not _will_drain(alias):  # What was named in a transaction that was rolled back since then.
            names.clear()
        names.update(topic for topic, _, _ in rows)
        # Registered each time, because the callback of a savepoint that is rolled back is forgotten with it;
        # the first one to run takes the names of all.
        transaction.on_commit(partial(_drain_waiting, alias), using=alias, robust=True)


def _waiting(alias: str) -> set[str]:
    """Return the topics named on this connection since its last commit."""
    connection = connections[alias]
    names: set[str] | None = getattr(connection, "notifications_waiting", None)
    if names is None:
        names = set()
        connection.notifications_waiting = names  # type: ignore[attr-defined]
    return names


def _will_drain(alias: str) -> bool:
    """Return whether a commit of the open transaction drains already."""
    return any(
        isinstance(entry[1], partial) and entry[1].func is _drain_waiting
        for entry in reversed(connections[alias].run_on_commit)
    )


def _drain_waiting(alias: str) -> None:
    waiting = _waiting(alias)
    names = set(waiting)
    waiting.clear()
    failpoints.hit("before-drain")
    if names:
        try:
            drain(names, using=alias)
        except Exception:
            # Committed, only not numbered yet: the caller has done its part, and the sweeper will do ours.
            logger.exception("draining %d topics failed; the sweeper will repeat it", len(names))


def drain(topics: Iterable[str], *, using: str | None = None) -> int:
    """Number the waiting events of these topics and ring the doorbell; return how many were numbered.

    Idempotent and safe to run from any number of processes at once: numbers are given under the topics' row locks,
    taken in the order of their ids.
    """
    alias = using or database()
    total = 0
    for names in _batches(sorted(set(topics)), TOPICS_AT_ONCE):
        while True:
            hints, numbered = _number(names, alias)
            failpoints.hit("before-hint")
            doorbell.ring(hints)
            total += numbered
            if numbered < EVENTS_AT_ONCE:
                break
    return total


def _number(names: Sequence[str], alias: str) -> tuple[list[doorbell.Hint], int]:
    with _transaction(alias) as cursor:
        topics = {topic.name: topic for topic in _locked(names, cursor)}
        if len(topics) == len(names):
            return _number_locked(topics, cursor)
    # New topics are made outside of the transaction, in order, so that two drains never wait for each other's.
    missing = [Topic(name=name) for name in names if name not in topics]
    Topic.objects.using(alias).bulk_create(missing, ignore_conflicts=True)
    with _transaction(alias) as cursor:
        return _number_locked({topic.name: topic for topic in _locked(names, cursor)}, cursor)


@contextmanager
def _transaction(alias: str) -> Iterator[CursorWrapper]:
    """Begin a transaction and yield one cursor for all of its statements."""
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        yield cursor


def _locked(names: Sequence[str], cursor: CursorWrapper) -> list[Topic]:
    connection, alias = cursor.db, cursor.db.alias
    if (
        not connection.features.has_select_for_update
        and getattr(connection, "transaction_mode", None) not in LOCKING_MODES
    ):
        # SQLite ignores select_for_update; to write first is what takes its lock instead of failing at once later.
        Topic.objects.using(alias).filter(name__in=names).update(advanced_at=Now())
    if len(names) == 1:
        return [Topic.from_db(alias, TOPIC_FIELDS, row) for row in fetch(cursor, _lock, *names)]
    return list(Topic.objects.using(alias).filter(name__in=names).order_by("pk").select_for_update())


def _number_locked(topics: dict[str, Topic], cursor: CursorWrapper) -> tuple[list[doorbell.Hint], int]:
    alias = cursor.db.alias
    if len(topics) == 1:
        events = [Event.from_db(alias, EVENT_FIELDS, row) for row in fetch(cursor, _waiting_in, *topics)]
    else:
        waiting = Event.objects.using(alias).filter(topic__in=list(topics), seq=None).order_by("pk")
        events = list(waiting[:EVENTS_AT_ONCE])
    grouped: dict[str, list[LogEvent]] = defaultdict(list)
    for event in events:
        topic = topics[event.topic]
        topic.head += 1
        event.seq = topic.head
        grouped[event.topic].append(LogEvent(event.seq, event.type, event.payload))
    advanced = [topics[name] for name in grouped]
    if len(events) == 1:
        run(cursor, _number_one, events[0].seq, events[0].pk)
    else:
        Event.objects.using(alias).bulk_update(events, ["seq"])
    if len(advanced) == 1:
        run(cursor, _advance_one, advanced[0].head, advanced[0].pk)
    else:
        for topic in advanced:
            topic.advanced_at = Now()
        Topic.objects.using(alias).bulk_update(advanced, ["head", "advanced_at"])
    hints = [doorbell.Hint(topic.name, topic.epoch, topic.head, tuple(grouped[topic.name])) for topic in advanced]
    return hints, len(events)


# The statements for the drain of one topic with one event, which most are.


def _lock(name: str) -> Query:
    return Topic.objects.filter(name=name).select_for_update().values_list(*TOPIC_FIELDS).query


def _waiting_in(topic: str) -> Query:
    rows = Event.objects.filter(topic=topic, seq=None).order_by("pk").values_list(*EVENT_FIELDS)
    return rows[:EVENTS_AT_ONCE].query


def _number_one(seq: int, pk: int) -> Query:
    return update_of(Event.objects.filter(pk=pk), seq=seq)


def _advance_one(head: int, pk: int) -> Query:
    return update_of(Topic.objects.filter(pk=pk), head=head, advanced_at=Now())


def newest_undrained() -> int | None:
    """Return the highest id of the events that are committed and not numbered yet; None: there are none.

    Where they are more than some hundreds, it is that of some of them.
    """
    # Not MAX(): for that, PostgreSQL may go through the primary key instead of the few that wait.
    return max(_undrained().values_list("pk", flat=True)[:EVENTS_AT_ONCE], default=None)


def sweep(upto: int | None = None, *, older_than: timedelta = timedelta()) -> int:
    """Drain what a crash between a commit and its drain left behind; return how many events it numbered.

    What was committed a moment ago is about to be numbered by whoever committed it, and to compete for it would help
    nobody. So a process that looks again and again leaves that alone:

    :param upto: only topics in which an event with at most this id waits, such as :func:`newest_undrained` returned
        the last time.
    :param older_than: only topics in which an event of at least this age waits.
    """
    events = _undrained() if upto is None else _undrained().filter(pk__lte=upto)
    if older_than:
        events = events.filter(created_at__lte=Now() - older_than)
    names = list(events.values_list("topic", flat=True).distinct()[:TOPICS_AT_ONCE])
    return drain(names) if names else 0


def _undrained() -> QuerySet[Event]:
    return Event.objects.using(database()).filter(seq=None).order_by()


def heads(names: Iterable[str]) -> dict[str, Head]:
    """Return where these topics stand, in one query; topics that nothing was ever sent to are not in the answer."""
    rows = Topic.objects.using(database()).filter(name__in=among(names, database()))
    return {row[0]: Head(*row) for row in rows.values_list("name", "id", "epoch", "head")}


def read(topic: str, after: int, limit: int) -> list[LogEvent]:
    """Return up to ``limit`` events of a topic numbered above ``after``, in order."""
    rows = Event.objects.using(database()).filter(topic=topic, seq__gt=after).order_by("seq")
    return [
        LogEvent(seq or 0, type, payload) for seq, type, payload in rows.values_list("seq", "type", "payload")[:limit]
    ]


def advanced(look: Look | None) -> tuple[list[Head], Look | None]:
    """Return the topics that advanced since ``look``, and this look, for the next call; None: since now.

    Looks back further, so that a commit that took its time is not passed over. If nothing is as new as what had
    advanced last, this is not the log it was (an older copy was restored), or the database's clock was set back: the
    look returned is then None. One query when all has been quiet for a minute, else two.
    """
    topics = Topic.objects.using(database())
    newest = topics.order_by("-advanced_at").values_list("advanced_at", Now()).first()
    now = None if newest is None else Look(newest[0], newest[1], changed=newest[1])
    if look is None:
        return [], now
    if now is None or now.latest < look.latest:
        return [], None
    if now.latest == look.latest:
        now = now._replace(changed=look.changed)
        if look.changed < look.at - QUIET and look.at <= now.at:
            return [], now
    # Without the time of each: to make thousands of those takes longer than all the rest.
    since = Least(Value(min(look.latest, look.at), DateTimeField()), Now()) - OVERLAP
    rows = topics.filter(advanced_at__gt=since).values_list("name", "id", "epoch", "head")
    return [Head(*row) for row in rows], now


def trim(*, older_than: timedelta | None = None, batch: int = 500) -> int:
    """Delete a batch of events older than ``older_than`` (default: ``RETENTION``) from the bottom of their logs.

    Call until it returns 0. Each topic's ``floor`` moves in the same transaction, so that a client whose cursor is
    below it is told to fetch its inbox instead of missing events silently.
    """
    alias = database()
    cutoff = Now() - (conf.retention if older_than is None else older_than)
    old = Event.objects.using(alias).filter(created_at__lt=cutoff).exclude(seq=None).order_by("created_at")
    deleted, looked_at = 0, list[str]()
    # Old events can all be above younger ones of their topics, which keep them; what is behind them in age is not.
    while not deleted and (names := set(old.exclude(topic__in=looked_at).values_list("topic", flat=True)[:batch])):
        looked_at += names
        deleted = sum(_trim(name, cutoff, batch, alias) for name in sorted(names))
    return deleted


def _trim(name: str, cutoff: Combinable, batch: int, alias: str) -> int:
    """Delete the lowest events of a topic up to the first that is younger than ``cutoff``, and raise its floor."""
    with _transaction(alias) as cursor:
        for topic in _locked([name], cursor):
            rows = Event.objects.using(alias).filter(topic=name)
            kept = rows.filter(created_at__gte=cutoff).aggregate(first=Min("seq"))["first"]
            # Not from the floor: rows may be missing above it, deleted by hand.
            lowest = rows.aggregate(first=Min("seq"))["first"] or 0
            floor = max(topic.floor, min(topic.head if kept is None else kept - 1, lowest + batch - 1))
            Topic.objects.using(alias).filter(pk=topic.pk).update(floor=floor)
            return rows.filter(seq__lte=floor).delete()[0]
    return 0


def rotate_epoch(topics: Iterable[str] | None = None) -> int:
    """Begin a new life of these topics (default: all), as after restoring a dump; return how many there were.

    Every client of theirs gets one ``reset`` and fetches its inbox again.
    """
    alias = database()
    names = Topic.objects.using(alias).values_list("name", flat=True)
    if topics is not None:
        names = names.filter(name__in=list(topics))
    count = 0
    for batch in _batches(sorted(names), TOPICS_AT_ONCE):
        with _transaction(alias) as cursor:
            rows = _locked(batch, cursor)
            for topic in rows:
                topic.epoch = new_epoch()
                topic.advanced_at = Now()
            Topic.objects.using(alias).bulk_update(rows, ["epoch", "advanced_at"])
        doorbell.ring([doorbell.Hint(topic.name, topic.epoch, topic.head, ()) for topic in rows])
        count += len(rows)
    return count


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
