"""The one recovery rule: a connection reads the log from where its client is to what the hub has seen (design: idea 5).

At the start of a stream, after an overflow, after a hole, in a new epoch: always this. Polling follows the same rule,
with a request each time (:mod:`notifications.polling`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from .cursor import InvalidCursor, Position, parse_cursor
from .follower import Follower
from .settings import conf
from .subscription import LiveEvent, Mark, Subscription, TopicState

__all__ = ["place_in", "positions_of", "replay"]


def positions_of(cursor: str | None) -> tuple[dict[int, Position] | None, bool]:
    """Return the positions, and whether the text was no cursor: its client begins now, after one reset."""
    if cursor is None:
        return None, False
    try:
        return parse_cursor(cursor), False
    except InvalidCursor:
        return None, True


def place_in(state: TopicState, positions: dict[int, Position] | None, since: int) -> Mark:
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


async def replay(
    follower: Follower, subscription: Subscription
) -> AsyncIterator[list[LiveEvent | tuple[TopicState, str]]]:
    """Read the log from where this client is until it has all that the hub has seen; it is live afterwards.

    Yields lists of events, and ``(topic, reason)`` where the client must fetch its inbox again instead.
    The subscription's marks have moved when a list is yielded.
    """
    while True:
        behind = [state for state, mark in subscription.marks.items() if not _current(state, mark)]
        if not behind:
            # No await since the comparison: nothing can have been handed out in between.
            subscription.live = True
            return
        for state in behind:
            if subscription.ended is not None:
                return
            yield await _catch_up(follower, subscription, state)


def _current(state: TopicState, mark: Mark) -> bool:
    return mark.seq == state.seen and mark.epoch == state.epoch


async def _catch_up(
    follower: Follower, subscription: Subscription, state: TopicState
) -> list[LiveEvent | tuple[TopicState, str]]:
    mark = subscription.marks[state]
    if not mark.epoch and mark.seq == state.seen:  # The topic was born meanwhile, and has nothing yet.
        subscription.marks[state] = state.here()
        return []
    if (mark.epoch and mark.epoch != state.epoch) or mark.seq > state.seen:
        # The client knows more than this process does, or lives in another epoch: the log decides.
        await follower.refresh(state)
        if mark.epoch and mark.epoch != state.epoch:
            subscription.marks[state] = state.here()
            return [(state, "epoch")]
        if mark.seq > state.seen:
            subscription.marks[state] = state.here()
            return [(state, "ahead")]
        return []
    if state.seen - mark.seq > conf.replay_events:
        # To fetch the inbox is less work for everybody, and all that a person would look at.
        subscription.marks[state] = state.here()
        return [(state, "floor")]
    read = await follower.events_after(state, mark.seq)
    if read is None:  # A new epoch came in while we read; look again.
        return []
    events = [event for event in read if event.seq <= state.seen]
    if not events or events[0].seq != mark.seq + 1:
        if subscription.marks[state].seq >= state.seen:
            return []
        subscription.marks[state] = state.here()
        return [(state, "floor")]
    subscription.marks[state] = events[-1].mark
    return list(events)
