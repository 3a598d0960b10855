"""Garbage collection in a serving process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from django.test import override_settings

from notifications import garbage


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.set_threshold(*garbage._defaults)
    yield
    gc.set_threshold(*thresholds)
    if not frozen:
        gc.unfreeze()


def test_collects_less_often_and_leaves_alone_what_is_there() -> None:
    garbage.calm()
    assert gc.get_threshold() == garbage.THRESHOLDS
    assert gc.get_freeze_count() > 0


def test_setting_switches_it_off() -> None:
    with override_settings(NOTIFICATIONS={"TUNE_GC": False}):
        garbage.calm()
    assert gc.get_threshold() == garbage._defaults


def test_site_s_own_thresholds_stay() -> None:
    gc.set_threshold(1234, 5, 6)
    garbage.calm()
    assert gc.get_threshold() == (1234, 5, 6)


def test_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        garbage.calm()
        assert gc.get_threshold() == garbage._defaults
    finally:
        gc.enable()
