"""Whose turn it is: everybody once in an interval, and never all of many together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from notifications.rota import Rota

INTERVAL, TICK, AT_LEAST = 60.0, 1.5, 100


class Line:
    """People in a line, looked at by a rota; who was looked at last when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rota = Rota(AT_LEAST, self.now)
        self.seen: dict[int, float] = {}
        self.names: Iterator[int] = iter(range(1_000_000))
        self.longest = 0.0
        self.looks: list[int] = []

    def come(self, count: int) -> None:
        for _ in range(count):
            self.seen[next(self.names)] = self.now

    def turn(self, tick: float = TICK, interval: float = INTERVAL) -> None:
        self.now += tick
        due = self.rota.due(len(self.seen), self.now, interval)
        assert due <= len(self.seen)
        for name in list(self.seen)[:due]:
            self.longest = max(self.longest, self.now - self.seen.pop(name))
            self.seen[name] = self.now
        if due:
            self.looks.append(due)


@pytest.mark.parametrize("count", [1, 99, 100, 105, 150, 199, 200, 1000, 1234, 5000, 20000])
def test_everybody_is_looked_at_once_in_an_interval(count: int) -> None:
    line = Line()
    line.come(count)
    for _ in range(400):  # Ten intervals.
        line.turn()
    assert line.longest <= INTERVAL + 3 * TICK
    assert 9 * count <= sum(line.looks) <= 10 * count + len(line.looks)  # Portions are rounded up.
    assert max(line.looks) <= max(2 * AT_LEAST, count * TICK / INTERVAL + 1)
    assert min(line.looks) >= min(AT_LEAST, count)


def test_those_who_come_do_not_put_off_those_who_were_there() -> None:
    line = Line()
    for _ in range(120):
        line.come(1 + len(line.seen) // 20)
        line.turn()
    assert len(line.seen) > 500 and line.longest <= INTERVAL + 3 * TICK


def test_many_who_come_together_are_not_looked_at_together() -> None:
    line = Line()
    line.come(50)
    for _ in range(30):
        line.turn()
    assert not line.looks
    line.come(950)
    for _ in range(200):
        line.turn()
    assert max(line.looks) == 100 and line.longest <= INTERVAL + 3 * TICK


def test_nobody_is_due_where_nobody_is_and_the_time_in_which_nobody_was_does_not_count() -> None:
    line = Line()
    for _ in range(100):
        line.turn()
    line.come(1)
    for _ in range(39):
        line.turn()
    assert not line.looks
    line.turn()
    line.turn()
    assert line.looks == [1]


@pytest.mark.parametrize("interval", [0.0, -1.0, TICK])
def test_interval_shorter_than_a_turn_is_everybody_at_each(interval: float) -> None:
    line = Line()
    line.come(1000)
    for _ in range(3):
        line.turn(interval=interval)
    assert line.looks == [1000] * 3


def test_pause_is_caught_up() -> None:
    line = Line()
    line.come(1000)
    line.turn(tick=5 * INTERVAL)  # A laptop was closed, or the database hung.
    assert line.looks == [1000]
    for _ in range(100):
        line.turn()
    assert line.looks[1:] and max(line.looks[1:]) == 100
