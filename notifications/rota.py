"""Whose turn it is when everybody is to be looked at once in an interval, and never all of them in one moment."""

from __future__ import annotations

from math import ceil

__all__ = ["Rota"]


class Rota:
    """Tells how many of those who stand in a line come next; they go to its end.

    :param at_least: so many, or all, are worth a look together.
    """

    def __init__(self, at_least: int, now: float) -> None:
        self._at_least = at_least
        self._before = now
        self._share = 0.0  # Of everybody: how many are due and have not been looked at.

    def due(self, count: int, now: float, interval: float) -> int:
        """Return how many of ``count`` are to be looked at ``now``; to be asked often within ``interval`` (seconds)."""
        elapsed, self._before = now - self._before, now
        passed = elapsed / interval if elapsed < interval else 1.0
        if not count:
            self._share = 0.0
            return 0
        self._share = min(self._share + passed, 1.0)
        portion = 1 / max(1, count // self._at_least)
        if self._share < portion:
            return 0
        # What is left of the share is for the next times: where many have just come, it would be a crowd of them.
        taken = min(self._share, max(portion, passed))
        self._share -= taken
        return ceil(taken * count)
