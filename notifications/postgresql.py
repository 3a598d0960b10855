"""What PostgreSQL does in one statement where other databases are asked several times.

A notification is two rows, and to number it takes two more looks and two changes. Each of these statements, and each
BEGIN and COMMIT around them, is a trip to the database and back, which costs both sides more than what is done there.
So what :mod:`notifications.publishing` and :mod:`notifications.log` do step by step, this does at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from .models import Event, Topic
from .statements import written_insert

__all__ = ["Numbered", "insert_with_event", "number", "understood_by"]


class Numbered(NamedTuple):
    """An event that was numbered; or, where ``seq`` is None, a topic of which none was."""

    topic: str
    epoch: str
    seq: int | None
    type: str
    payload: str


#: Locks topics in the order of their ids, and in each of them what waits; numbers it; moves the heads.
#:
#: A statement sees what was committed when it began. If it had to wait for a lock then, PostgreSQL looks at the locked
#: row again ("Read Committed" in its manual, 13.2.1), and so the head is that of now; and so events that another drain
#: has numbered meanwhile are left out, since they were locked, too, before they were counted. Those that were committed
#: after the beginning are seen by the drain of whoever committed them, which is still to come.
#:
#: Its time is that of after the wait: the safety poll looks for topics by it.
NUMBER = """
WITH topic AS MATERIALIZED (
    SELECT id, name, epoch, head FROM {topics} WHERE name {named} ORDER BY id FOR UPDATE
), waiting AS MATERIALIZED (
    SELECT topic.id AS topic_id, topic.head, event.id, event.type, event.payload
    FROM topic CROSS JOIN LATERAL (
        SELECT id, type, payload FROM {events} event WHERE event.topic = topic.name AND event.seq IS NULL
        ORDER BY id LIMIT {limit} FOR UPDATE
    ) event LIMIT {limit}
), numbered AS MATERIALIZED (
    SELECT topic_id, id, type, payload, head + row_number() OVER (PARTITION BY topic_id ORDER BY id) AS seq FROM waiting
), updated AS (
    UPDATE {events} event SET seq = numbered.seq FROM numbered WHERE event.id = numbered.id
), advanced AS (
    UPDATE {topics} topic SET head = last.seq, advanced_at = clock_timestamp()
    FROM (SELECT topic_id, max(seq) AS seq FROM numbered GROUP BY topic_id) last WHERE topic.id = last.topic_id
)
SELECT topic.name, topic.epoch, numbered.seq, numbered.type, numbered.payload
FROM topic LEFT JOIN numbered ON numbered.topic_id = topic.id ORDER BY topic.id, numbered.seq
"""

#: The event's payload holds the notification's id, which nobody knows before.
INSERT_WITH_EVENT = """
WITH inserted AS ({insert}), event AS (
    INSERT INTO {events} (topic, type, payload) SELECT %s, %s, %s::text || inserted.id::text || %s::text FROM inserted
)
SELECT id FROM inserted
"""


def understood_by(using: str) -> bool:
    """Return whether a database is PostgreSQL."""
    return connections[using].vendor == "postgresql"


def number(topics: Sequence[str], limit: int, using: str) -> list[Numbered]:
    """Number up to ``limit`` waiting events of these topics, in one transaction; return them topic by topic, in order.

    Topics that are not in the answer have no row yet.
    """
    # An array would be planned each time, because PostgreSQL does not know how long it is; most drains are of one.
    named, names = ("= %s", topics[0]) if len(topics) == 1 else ("= ANY(%s)", list(topics))
    sql = NUMBER.format(topics=_table(Topic, using), events=_table(Event, using), named=named, limit=limit)
    # Drains follow a commit. In a test of the site's that only seems to commit, what fails must not break all of it.
    apart = nullcontext() if connections[using].get_autocommit() else transaction.atomic(using=using)
    with apart, _cursor(using) as cursor:
        cursor.execute(sql, [names])
        return [Numbered(*row) for row in cursor.fetchall()]


def insert_with_event(using: str, model: type[Model], values: dict[str, Any], event: tuple[str, str, str, str]) -> Any:
    """Insert a row (as :func:`notifications.statements.insert`) and an event that holds its key; return the key.

    :param event: topic, type, and the payload before and after the key.
    """
    known, parameters = written_insert(using, model, values)
    sql = INSERT_WITH_EVENT.format(insert=known.sql, events=_table(Event, using))
    with _cursor(using) as cursor:
        cursor.execute(sql, [*parameters, *event])
        return cursor.fetchone()[0]


@contextmanager
def _cursor(using: str) -> Iterator[CursorWrapper]:
    """Open a cursor; a connection that is found lost is closed, as ``atomic()`` does, so that the next one is new."""
    connection = connections[using]
    try:
        with connection.cursor() as cursor:
            yield cursor
    except BaseException:
        if connection.autocommit and not connection.is_usable():
            connection.close()
        raise


def _table(model: type[Model], using: str) -> str:
    return connections[using].ops.quote_name(model._meta.db_table)
