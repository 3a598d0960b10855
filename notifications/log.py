"""The log: append in the caller's transaction, number after commit, read from a position (design: ideas 1 and 2).

:func:`append` takes no shared lock, so that publishing can neither deadlock nor slow the site. :func:`drain` numbers
what was committed, one short lock at a time, and rings the doorbell. Whatever a crash leaves unnumbered is found by
:func:`sweep`. All of it is synchronous and runs on the database that the router gives to events.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from django.db import connections, router, transaction
from django.db.models import DateTimeField, Min, QuerySet, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Least, Now

from . import doorbell, failpoints, postgresql
from .models import Event, Topic, new_epoch
from .settings import conf
from .statements import among, insert

__all__ = [
    "Head",
    "LogEvent",
    "Look",
    "advanced",
    "append",
    "database",
    "drain",
    "drain_after_commit",
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
        drain_after_commit(alias, (topic for topic, _, _ in rows))


def drain_after_commit(alias: str, topics: Iterable[str]) -> None:
    """Have topics in which events were inserted drained when the open transaction commits, or now if none is open."""
    # Registered each time, because the callback of a savepoint that is rolled back is forgotten with it;
    # the first one to run takes the names of all.
    names = _named(alias)
    names.update(topics)
    transaction.on_commit(partial(_drain_named, alias, names), using=alias, robust=True)


def _named(alias: str) -> set[str]:
    """Return the topics that a commit of the open transaction drains already, to add to."""
    for _, callback, *_ in reversed(connections[alias].run_on_commit):
        if isinstance(callback, partial) and callback.func is _drain_named:
            names: set[str] = callback.args[1]
            return names
    return set()


def _drain_named(alias: str, waiting: set[str]) -> None:
    names = set(waiting)
    waiting.clear()
    try:
        failpoints.hit("before-drain")
        if names:
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
    number = _number_in_one_statement if postgresql.understood_by(alias) else _number_in_a_transaction
    found, hints, numbered = number(names, alias)
    if missing := [name for name in names if name not in found]:
        # New topics are made outside of any transaction, in order, so that two drains never wait for each other's.
        Topic.objects.using(alias).bulk_create([Topic(name=name) for name in missing], ignore_conflicts=True)
        _, more, count = number(missing, alias)
        return hints + more, numbered + count
    return hints, numbered


def _number_in_one_statement(names: Sequence[str], alias: str) -> tuple[set[str], list[doorbell.Hint], int]:
    found: set[str] = set()
    grouped: defaultdict[tuple[str, str], list[LogEvent]] = defaultdict(list)
    for row in postgresql.number(names, EVENTS_AT_ONCE, alias):
        found.add(row.topic)
        if row.seq is not None:
            grouped[row.topic, row.epoch].append(LogEvent(row.seq, row.type, row.payload))
    hints = [doorbell.Hint(name, epoch, events[-1].seq, tuple(events)) for (name, epoch), events in grouped.items()]
    return found, hints, sum(map(len, grouped.values()))


def _number_in_a_transaction(names: Sequence[str], alias: str) -> tuple[set[str], list[doorbell.Hint], int]:
    grouped: dict[str, list[LogEvent]] = defaultdict(list)
    with transaction.atomic(using=alias):
        topics = {topic.name: topic for topic in _locked(names, alias)}
        waiting = Event.objects.using(alias).filter(topic__in=list(topics), seq=None).order_by("pk")
        events = list(waiting[:EVENTS_AT_ONCE])
        for event in events:
            topic = topics[event.topic]
            topic.head += 1
            event.seq = topic.head
            grouped[event.topic].append(LogEvent(event.seq, event.type, event.payload))
        advanced = [topics[name] for name in grouped]
        for topic in advanced:
            topic.advanced_at = Now()
        Event.objects.using(alias).bulk_update(events, ["seq"])
        Topic.objects.using(alias).bulk_update(advanced, ["head", "advanced_at"])
    hints = [doorbell.Hint(topic.name, topic.epoch, topic.head, tuple(grouped[topic.name])) for topic in advanced]
    return set(topics), hints, len(events)


def _locked(names: Sequence[str], alias: str) -> list[Topic]:
    """Return these topics, locked until the transaction ends, in the order of their ids."""
    connection, topics = connections[alias], Topic.objects.using(alias).filter(name__in=names)
    if (
        not connection.features.has_select_for_update
        and getattr(connection, "transaction_mode", None) not in LOCKING_MODES
    ):
        # SQLite ignores select_for_update; to write first is what takes its lock instead of failing at once later.
        topics.update(advanced_at=Now())
    return list(topics.order_by("pk").select_for_update())


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
    with transaction.atomic(using=alias):
        for topic in _locked([name], alias):
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
        with transaction.atomic(using=alias):
            rows = _locked(batch, alias)
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
