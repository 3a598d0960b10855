"""What counts of a benchmark's tries: the machine was left alone in them, whatever they measured."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import measure
from benchmarks.measure import STOLEN_MOST, TRIES, Run
from benchmarks.processes import Stolen


def measured(monkeypatch: pytest.MonkeyPatch, *stolen: float) -> tuple[int, float]:
    """Return which try counts, and what was stolen in it, if the tries are disturbed so much."""
    shares, tries = list(stolen), list(range(1, len(stolen) + 1))
    monkeypatch.setattr(measure, "Stolen", lambda: SimpleNamespace(percent=lambda: shares.pop(0)))
    run = Run(cast(Any, SimpleNamespace(load=Path("load"))), cast(Any, None), 10)
    figures = run._undisturbed(lambda: {"try": tries.pop(0)})
    assert not tries, "a try that nobody needed was left out, or one was missing"
    return figures["try"], run.stolen


def test_one_try_where_the_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, STOLEN_MOST) == (1, STOLEN_MOST)


def test_again_until_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, 9.0, 2.0, 0.5) == (3, 0.5)


def test_the_least_disturbed_where_it_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, 9.0, 3.0, *[5.0] * (TRIES - 2)) == (2, 3.0)


def test_what_is_told_of_a_run_is_its_worst_part(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [0.7, 0.2]
    monkeypatch.setattr(measure, "Stolen", lambda: SimpleNamespace(percent=lambda: shares.pop(0)))
    run = Run(cast(Any, SimpleNamespace(load=Path("load"))), cast(Any, None), 10)
    for _ in range(2):
        run._undisturbed(dict)
    assert run.stolen == 0.7


def test_share_that_was_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [(100, 1000), (101, 1200)]
    monkeypatch.setattr(Stolen, "_ticks", staticmethod(lambda: ticks.pop(0)))
    assert Stolen().percent() == 0.5


def test_share_that_was_stolen_here() -> None:
    stolen = Stolen()
    time.sleep(0.05)
    assert 0.0 <= stolen.percent() <= 100.0
