"""Which rounds of a benchmark count: those in which the machine was left alone, whatever they measured."""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.measure import STOLEN
from benchmarks.processes import Stolen
from benchmarks.run import MEDIANS, ROUNDS, STOLEN_MOST, add_round, wants_another

CPU = "CPU us per delivery"


def measured(cost: float | None, stolen: float = 0.0, **wrong: int) -> dict[str, Any]:
    return {**dict.fromkeys(MEDIANS, 1.0), CPU: cost, STOLEN: stolen, "wrong": wrong}


def after(*rounds: dict[str, Any]) -> dict[str, Any]:
    first, *others = rounds
    for found in others:
        add_round(first, found)
    return first


def test_medians_of_the_rounds() -> None:
    figures = after(*map(measured, (3.0, 9.0, 2.0, 1.0, 4.0)))
    assert figures[CPU] == 3.0
    assert [found[CPU] for found in figures["rounds"]] == [3.0, 9.0, 2.0, 1.0, 4.0]


def test_one_that_was_disturbed_does_not_count_once_there_are_enough() -> None:
    figures = after(*(measured(5.0) for _ in range(ROUNDS - 1)), measured(1.0, stolen=2.0))
    assert figures[STOLEN] == 2.0
    assert wants_another(figures)
    add_round(figures, measured(6.0))
    assert (figures[CPU], figures[STOLEN]) == (5.0, 0.0)
    assert not wants_another(figures)


def test_the_first_count_among_those_that_were_left_alone() -> None:
    # Not those with the least of a little: which of them count must not depend on anything that is measured.
    figures = after(*(measured(5.0, stolen=STOLEN_MOST / 2) for _ in range(ROUNDS)), measured(1.0), measured(1.0))
    assert figures[CPU] == 5.0


def test_the_least_disturbed_count_where_none_was_left_alone() -> None:
    figures = after(*(measured(float(stolen), stolen=float(stolen)) for stolen in range(9, 1, -1)))
    assert (figures[CPU], figures[STOLEN]) == (4.0, 6.0)


def test_what_could_not_be_measured() -> None:
    assert after(measured(None), measured(7.0), measured(None))[CPU] == 7.0
    assert after(measured(None), measured(None))[CPU] is None


def test_wrong_deliveries_of_any_round_are_told() -> None:
    figures = after(measured(1.0, lost=1), *(measured(1.0) for _ in range(ROUNDS)), measured(1.0, 50.0, lost=2))
    assert figures["wrong"] == {"lost": 3}


def test_no_more_rounds_after_an_error() -> None:
    assert not wants_another(measured(1.0) | {"error": "RuntimeError: it ended"})


def test_share_that_was_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [(100, 1000), (101, 1200)]
    monkeypatch.setattr(Stolen, "_ticks", staticmethod(lambda: ticks.pop(0)))
    assert Stolen().percent() == 0.5


def test_share_that_was_stolen_here() -> None:
    stolen = Stolen()
    time.sleep(0.05)
    assert 0.0 <= stolen.percent() <= 100.0
