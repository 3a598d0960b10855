"""What counts of a benchmark's tries: the machine was left alone in them, whatever they measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import measure
from benchmarks.measure import REST, STOLEN_MOST, TRIES, Run
from benchmarks.processes import Stolen


def measured(monkeypatch: pytest.MonkeyPatch, *stolen: float) -> tuple[int, float]:
    """Return which try counts, and what was stolen in it, if the tries are disturbed so much."""
    shares, tries = list(stolen), list(range(1, len(stolen) + 1))
    rests: list[float] = []
    monkeypatch.setattr(measure, "Stolen", lambda: SimpleNamespace(percent=lambda: shares.pop(0)))
    monkeypatch.setattr(measure, "time", SimpleNamespace(sleep=rests.append))
    run = Run(cast(Any, SimpleNamespace(load=Path("load"))), cast(Any, None), 10)
    figures = run._undisturbed(lambda: {"try": tries.pop(0)})
    assert not tries, "too few tries"
    assert rests == [REST, 2 * REST, 4 * REST][: len(stolen) - 1]
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


def test_share_of_the_work_that_was_stolen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat, ticks = tmp_path / "stat", Stolen._ticks
    monkeypatch.setattr(Stolen, "_ticks", staticmethod(lambda: ticks(stat)))
    stat.write_text("cpu  100 0 50 9000 10 5 5 20 7 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    stolen = Stolen()
    stat.write_text("cpu  150 1 90 99000 99 7 11 21 70 0\ncpu0 2 2 3 4 5 6 7 8 9 0\n")
    assert stolen.percent() == 1.0  # 1 of 50 + 1 + 40 + 2 + 6 + 1.
    assert Stolen().percent() == 0.0


def test_share_that_was_stolen_here() -> None:
    assert 0.0 <= Stolen().percent() <= 100.0
