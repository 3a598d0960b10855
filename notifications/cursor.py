"""The cursor: how far a client has got in each of its topics, as one opaque string.

Text form: a version, then ``<topic id>-<epoch>-<seq>`` for each topic, joined by ``.`` (``1.4-9f2c81aa-118``). All
characters are safe in a URL, in an SSE ``id:`` field and in JSON without escaping. The version also keeps the cursor
of a client without topics from being empty, which SSE would take for "no last event id". Clients never look inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["InvalidCursor", "Position", "format_cursor", "is_behind", "join_cursor", "parse_cursor", "progress"]

VERSION = "1"


class Position(NamedTuple):
    """How far a client has got in one topic: events 1 … ``seq`` of the life ``epoch`` are behind it."""

    topic: int
    epoch: str
    seq: int

    @property
    def part(self) -> str:
        """What this position adds to the text of a cursor."""
        return f".{self.topic}-{self.epoch}-{self.seq}"


class InvalidCursor(ValueError):
    """The text is not a cursor that this project ever made."""


# Eighteen digits are what fits every database's 64-bit integer without a further check.
PART = re.compile(r"([0-9]{1,18})-([0-9a-z]{1,16})-([0-9]{1,18})", re.ASCII)


def parse_cursor(text: str) -> dict[int, Position]:
    """Return the positions in ``text`` by topic id.

    :raises InvalidCursor: if anything in it is not of the form that :func:`format_cursor` writes.
    """
    version, *parts = text.split(".")
    if version != VERSION:
        raise InvalidCursor("not a cursor of this version")
    positions: dict[int, Position] = {}
    for part in parts:
        match = PART.fullmatch(part)
        if match is None:
            raise InvalidCursor("not a cursor")
        position = Position(int(match[1]), match[2], int(match[3]))
        positions[position.topic] = position
    return positions


def progress(text: str) -> int:
    """Return a number that grows with each event that a cursor has passed; within one epoch of each topic.

    :raises InvalidCursor: as :func:`parse_cursor`.
    """
    return sum(position.seq for position in parse_cursor(text).values())


def is_behind(text: str, other: str) -> bool:
    """Return whether whoever is at ``other`` has been at ``text``: no topic or epoch of another, no number beyond it.

    :raises InvalidCursor: as :func:`parse_cursor`.
    """
    there = parse_cursor(other)
    return all(
        (reached := there.get(topic)) is not None and reached.epoch == position.epoch and position.seq <= reached.seq
        for topic, position in parse_cursor(text).items()
    )


def join_cursor(parts: Iterable[str]) -> str:
    """Return the cursor made of the :attr:`~Position.part` of each position; the hot path of a stream."""
    return VERSION + "".join(parts)


def format_cursor(positions: Iterable[Position]) -> str:
    """Return the cursor for ``positions``, in the order given."""
    return join_cursor(position.part for position in positions)
