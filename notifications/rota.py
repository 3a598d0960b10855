"""Whose turn it is when everybody is to be looked at once in an interval, and never all of them in one moment."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, takewhile
from math import ceil
from typing import TypeVar

__all__ = ["Rota"]

T = TypeVar("T")


class Rota:
    """Tells who of those who stand in a line comes next; whoever was looked at is put at its end.

    :param at_least: so many, or all, are worth a look together.
    """

    def __init__(self, at_least: int, now: float) -> None:
        self._at_least = at_least
        self._before = now
        self._share = 0.0  # Of everybody: how many are due and have not been looked at.

    def due(self, line: Mapping[T, float], now: float, interval: float) -> tuple[T, ...]:
        """Return who is to be looked at ``now``; to be asked often within ``interval`` (seconds).

        :param line: everybody, with the time of the last look (or of their coming), the longest ago first.
        """
        elapsed, self._before = now - self._before, now
        passed = elapsed / interval if elapsed < interval else 1.0
        if not line:
            self._share = 0.0
            return ()
        self._share = min(self._share + passed, 1.0)
        portion = 1 / max(1, len(line) // self._at_least)
        # Their turn would have come later, as where so many have left that more are waited for.
        overdue = sum(1 for _ in takewhile(lambda at: now - at >= interval, line.values()))
        if self._share < portion and not overdue:
            return ()
        # What is left of the share is for the next times: where many have just come, it would be a crowd of them.
        taken = max(portion, min(self._share, passed), overdue / len(line))
        self._share = max(0.0, self._share - taken)
        return tuple(islice(line, ceil(taken * len(line))))
