"""The settings dict: defaults, read live, every key typed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from notifications.settings import Settings, conf


def test_defaults_without_a_dict(settings: Any) -> None:
    if hasattr(settings, "NOTIFICATIONS"):
        del settings.NOTIFICATIONS
    assert conf.heartbeat == 15.0
    assert conf.retention == timedelta(days=7)
    assert list(conf.transports) == ["sse", "websocket", "polling"]
    assert conf.topics is None


@override_settings(NOTIFICATIONS=None)
def test_dict_may_be_none() -> None:
    assert conf.lifetime == 600.0


def test_values_are_read_when_they_are_needed() -> None:
    for value in (3, 4.5):
        with override_settings(NOTIFICATIONS={"HEARTBEAT": value}):
            assert conf.heartbeat == value
    assert conf.heartbeat == Settings.heartbeat.default


def test_dict_that_is_changed_in_place_is_seen(settings: Any) -> None:
    settings.NOTIFICATIONS = {}
    settings.NOTIFICATIONS["QUEUE_EVENTS"] = 3
    assert conf.queue_events == 3


def test_keys_are_all_there_in_capitals() -> None:
    keys = Settings.keys()
    assert {"HEARTBEAT", "CHANNEL_LAYER", "STREAMS_PER_USER", "FRAME_RATE"} <= keys.keys()
    assert all(name.isupper() for name in keys)


@pytest.mark.parametrize("name", sorted(Settings.keys()))
def test_default_is_of_its_own_type(name: str) -> None:
    key = Settings.keys()[name]
    assert key.problem(key.default) is None


@pytest.mark.parametrize("name", sorted(Settings.keys()))
def test_value_of_another_type_is_a_problem(name: str) -> None:
    problem = Settings.keys()[name].problem(object())
    assert problem is not None and problem.startswith("must be ")


def test_number_below_the_least_is_a_problem() -> None:
    assert Settings.heartbeat.problem(0) == "must be at least 0.05, not 0"
    assert Settings.queue_events.problem(0) == "must be at least 1, not 0"


def test_bool_is_no_number() -> None:
    assert Settings.heartbeat.problem(True) is not None


def test_none_only_where_it_means_something() -> None:
    assert Settings.safety_interval.problem(None) is None
    assert Settings.topics.problem(None) is None
    assert Settings.heartbeat.problem(None) == "must be int or float, not None"


@pytest.mark.parametrize("wrong", [["HEARTBEAT"], "HEARTBEAT", 15])
def test_what_is_no_dict_is_said_in_a_sentence(wrong: object) -> None:
    with override_settings(NOTIFICATIONS=wrong), pytest.raises(ImproperlyConfigured, match="must be a dict, not"):
        _ = conf.heartbeat
