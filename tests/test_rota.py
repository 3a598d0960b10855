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
        #: When each was looked at last.
        self.seen: dict[int, float] = {}
        self.names: Iterator[int] = iter(range(1_000_000))
        self.longest = 0.0
        self.looks: list[int] = []

    def come(self, count: int) -> None:
        for _ in range(count):
            self.seen[next(self.names)] = self.now

    def go(self, count: int) -> None:
        for name in list(self.seen)[::-1][:count]:
            del self.seen[name]

    def turn(self, tick: float = TICK, interval: float = INTERVAL, fails: bool = False) -> None:
        self.now += tick
        due = self.rota.due(self.seen, self.now, interval)
        assert due == tuple(self.seen)[: len(due)]
        if due:
            self.looks.append(len(due))
        if fails:
            return
        for name in due:
            self.longest = max(self.longest, self.now - self.seen.pop(name))
            self.seen[name] = self.now


@pytest.mark.parametrize("count", [1, 99, 100, 105, 150, 199, 200, 1000, 1234, 5000, 20000])
def test_everybody_is_looked_at_once_in_an_interval(count: int) -> None:
    line = Line()
    line.come(count)
    for _ in range(400):  # Ten intervals.
        line.turn()
    assert line.longest <= INTERVAL + TICK
    assert 9 * count <= sum(line.looks) <= 10 * count + len(line.looks)  # Portions are rounded up.
    assert max(line.looks) <= max(2 * AT_LEAST, count * TICK / INTERVAL + 1)
    assert min(line.looks) >= min(AT_LEAST, count)


def test_those_who_come_do_not_put_off_those_who_were_there() -> None:
    line = Line()
    for _ in range(120):
        line.come(1 + len(line.seen) // 20)
        line.turn()
    assert len(line.seen) > 500 and line.longest <= INTERVAL + TICK


def test_many_who_come_together_are_not_looked_at_together() -> None:
    line = Line()
    line.come(50)
    for _ in range(30):
        line.turn()
    assert not line.looks
    line.come(950)
    for _ in range(200):
        line.turn()
    assert max(line.looks) == 100 and line.longest <= INTERVAL + TICK


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


@pytest.mark.parametrize(("before", "after"), [(1000, 150), (200, 199), (20000, 120), (5000, 1)])
@pytest.mark.parametrize("turns", [81, 85, 93, 119])
def test_those_who_leave_do_not_put_off_those_who_stay(before: int, after: int, turns: int) -> None:
    line = Line()
    line.come(before)
    for _ in range(turns):
        line.turn()
    line.go(before - after)
    for _ in range(200):
        line.turn()
    assert line.longest <= INTERVAL + TICK
    assert len(line.seen) == after


def test_those_whose_look_failed_are_the_next() -> None:
    line = Line()
    line.come(1000)
    for _ in range(100):
        line.turn()
    for _ in range(20):  # The database is away for half of the interval.
        line.turn(fails=True)
    away = list(line.seen)
    line.turn()
    assert 500 <= line.looks[-1] <= 600
    assert list(line.seen)[-line.looks[-1] :] == away[: line.looks[-1]]
    assert line.longest <= 1.5 * INTERVAL + 2 * TICK
    for _ in range(200):
        line.turn()
    assert max(line.looks[-10:]) == 100 and line.longest <= 1.5 * INTERVAL + 2 * TICK
