"""The same stream for those who can only ask: what happened since the cursor, as one answer.

Reads the log directly, because it must work where no hub can run (under WSGI). The rules are the ones of
:func:`notifications.replay.replay`; the contract tests hold both to them.
"""

from __future__ import annotations

import secrets
import threading
import time
from datetime import timedelta
from typing import NamedTuple

from django.contrib.auth.models import AbstractBaseUser

from . import inbox, log
from .access import Access, Principal, TopicsUnknown, authorize
from .cursor import InvalidCursor, Position, format_cursor, parse_cursor
from .envelope import Envelope, control, log_envelope
from .settings import conf

__all__ = ["Answer", "poll"]

#: Events of one topic in one answer; the client asks again at once for the rest.
EVENTS_AT_ONCE = 200
#: Seconds between looks for what a crash left unnumbered: under WSGI there is no hub to do it.
SWEEP_INTERVAL = 5.0
#: What is younger is about to be numbered by whoever committed it.
LEFT_BEHIND = timedelta(seconds=5)

_sweep_lock = threading.Lock()
_swept_at = 0.0


class Answer(NamedTuple):
    """What a poll brings: events with the cursor after each, the last cursor, and when to ask again."""

    frames: list[tuple[Envelope, str]]
    cursor: str
    retry: int


def poll(user: AbstractBaseUser, principal: Principal, cursor: str | None) -> Answer | None:
    """Return what ``user`` may read after ``cursor`` (None: nothing, only where to begin); None: unauthorized.

    ``ready`` is always the first event. ``retry`` is in milliseconds, 0 if there is more to fetch.

    :raises TopicsUnknown: if the site's own ``TOPICS`` function failed.
    """
    _sweep_now_and_then()
    access = authorize([principal])[principal]
    if access is None:
        return None
    if not access.topics:
        raise TopicsUnknown(f"what user {principal.user} may read could not be told; the log says why")
    heads = log.heads(access.topics)
    resets: list[tuple[str, str]] = []
    positions: dict[int, Position] | None = None
    try:
        positions = None if cursor is None else parse_cursor(cursor)
    except InvalidCursor:
        resets.append(("*", "malformed"))
    marks: dict[str, Position] = {}
    for head in heads.values():
        marks[head.name], reason = _begin(head, positions, access)
        if reason:
            resets.append((head.name, reason))
    read: dict[log.Head, list[log.LogEvent]] = {}
    for head in heads.values():
        start = marks[head.name].seq
        if start >= head.seq:
            continue
        rows = log.read(head.name, start, EVENTS_AT_ONCE)
        if rows and rows[0].seq == start + 1:
            read[head] = rows
        else:
            resets.append((head.name, "floor"))
            marks[head.name] = Position(head.id, head.epoch, head.seq)
    # Behind the resets already: who resumed from before them would be reset again and again.
    begin = format_cursor(marks.values())
    ready = control(
        "ready",
        cursor=begin,
        unread=inbox.unread_count(user),
        heartbeat=int(conf.heartbeat * 1000),
        connection=secrets.token_urlsafe(9),
        transport="polling",
        # For a tab that hears the same events from another one, which may be behind.
        positions={name: mark.seq for name, mark in marks.items()},
    )
    frames = [(ready, begin)]
    frames += [(control("reset", topic=topic, reason=reason), begin) for topic, reason in resets]
    for head, rows in read.items():
        for row in rows:
            marks[head.name] = Position(head.id, head.epoch, row.seq)
            envelope = log_envelope(head.name, *row)
            if not access.muted or envelope.kind not in access.muted:
                frames.append((envelope, format_cursor(marks.values())))
    more = any(rows[-1].seq < head.seq for head, rows in read.items())
    return Answer(frames, format_cursor(marks.values()), 0 if more else int(conf.polling_retry * 1000))


def _begin(head: log.Head, positions: dict[int, Position] | None, access: Access) -> tuple[Position, str | None]:
    """Return where a client begins in a topic, and why it must fetch its inbox, if it must."""
    here = Position(head.id, head.epoch, head.seq)
    if positions is None:
        return here, None
    since = min(access.since.get(head.name, 0), head.seq)
    position = positions.get(head.id, Position(head.id, head.epoch, since))
    if position.epoch != head.epoch:
        return here, "epoch"
    if position.seq > head.seq:
        return here, "ahead"
    start = max(position.seq, since)
    if head.seq - start > conf.replay_events:
        return here, "floor"
    return here._replace(seq=start), None


def _sweep_now_and_then() -> None:
    global _swept_at
    with _sweep_lock:
        if time.monotonic() - _swept_at < SWEEP_INTERVAL:
            return
        _swept_at = time.monotonic()
    log.sweep(older_than=LEFT_BEHIND)
