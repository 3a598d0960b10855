"""Polling: the same stream for those who can only ask."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from notifications import log, notify, polling, publish
from notifications.access import Principal
from notifications.cursor import Position, format_cursor
from notifications.models import Event, Topic
from notifications.polling import Answer, poll

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


def polled(user: User, cursor: str | None = None) -> Answer:
    answer = poll(user, Principal(user.pk), cursor)
    assert answer is not None
    return answer


def found(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    return [(envelope.type, json.loads(envelope.data)) for envelope, _ in answer.frames]


def test_poll_without_a_cursor_tells_where_to_begin(alice: User) -> None:
    notify(alice, "one")
    answer = polled(alice)
    ((type, data),) = found(answer)
    assert (type, data["cursor"], data["unread"], data["transport"]) == ("ready", answer.cursor, 1, "polling")
    assert answer.retry == 5000


def test_poll_brings_what_came_since(alice: User) -> None:
    cursor = polled(alice).cursor
    notify(alice, "one")
    notify("everyone", "two")
    answer = polled(alice, cursor)
    (first, _), *events = found(answer)
    assert first == "ready"
    assert {data["title"] for _, data in events} == {"one", "two"}
    assert polled(alice, answer.cursor).cursor == answer.cursor
    assert len(found(polled(alice, answer.cursor))) == 1


def test_poll_says_which_numbers_its_events_come_after(alice: User) -> None:
    notify(alice, "one")
    notify("everyone", "two")
    cursor = polled(alice).cursor
    notify(alice, "three")
    (_, ready), (_, event) = found(polled(alice, cursor))
    assert ready["positions"] == {f"user:{alice.pk}": 1, "everyone": 1}
    assert (event["topic"], event["seq"]) == (f"user:{alice.pk}", 2)


def test_poll_that_leaves_some_says_to_come_back_at_once(alice: User) -> None:
    cursor = polled(alice).cursor
    for number in range(5):
        publish(alice, "count", {"number": number})
    numbers, retries = [], []
    with mock.patch.object(polling, "EVENTS_AT_ONCE", 2):
        for _ in range(3):
            answer = polled(alice, cursor)
            cursor = answer.cursor
            numbers += [data["number"] for type, data in found(answer) if type == "count"]
            retries.append(answer.retry)
    assert numbers == [0, 1, 2, 3, 4]
    assert retries == [0, 0, 5000]


def test_poll_has_a_cursor_after_each_event(alice: User) -> None:
    cursor = polled(alice).cursor
    for number in range(4):
        publish((alice, "everyone")[number % 2], "count", {"number": number})
    frames = polled(alice, cursor).frames
    for at, (_, position) in enumerate(frames):
        assert [envelope.data for envelope, _ in polled(alice, position).frames[1:]] == [
            envelope.data for envelope, _ in frames[at + 1 :]
        ]


def test_poll_below_the_floor_is_reset_once(alice: User) -> None:
    for _ in range(4):
        publish(alice, "count", {})
    Event.objects.filter(seq__lte=3).update(created_at=timezone.now() - timedelta(days=30))
    assert log.trim() == 3
    topic = Topic.objects.get()
    answer = polled(alice, format_cursor([Position(topic.pk, topic.epoch, 1)]))
    assert found(answer)[1:] == [("reset", {"topic": topic.name, "reason": "floor"})]
    # By the cursor of any of its events, too.
    for cursor in (answer.cursor, *(position for _, position in answer.frames)):
        assert len(found(polled(alice, cursor))) == 1


@pytest.mark.parametrize(("epoch", "seq", "reason"), [("zz", 1, "epoch"), (None, 99, "ahead")])
def test_poll_from_elsewhere_is_reset_once(alice: User, epoch: str | None, seq: int, reason: str) -> None:
    publish(alice, "count", {})
    topic = Topic.objects.get()
    answer = polled(alice, format_cursor([Position(topic.pk, epoch or topic.epoch, seq)]))
    assert found(answer)[1:] == [("reset", {"topic": topic.name, "reason": reason})]
    for cursor in (answer.cursor, *(position for _, position in answer.frames)):
        assert len(found(polled(alice, cursor))) == 1


def test_poll_with_a_malformed_cursor_is_reset_once(alice: User) -> None:
    publish(alice, "count", {})
    answer = polled(alice, "nonsense")
    assert found(answer)[1:] == [("reset", {"topic": "*", "reason": "malformed"})]
    assert len(found(polled(alice, answer.cursor))) == 1


def test_poll_of_more_than_is_replayed_is_a_reset(alice: User, settings: Any) -> None:
    settings.NOTIFICATIONS = {"REPLAY_EVENTS": 2}
    cursor = polled(alice).cursor
    for _ in range(3):
        publish(alice, "count", {})
    assert [type for type, _ in found(polled(alice, cursor))] == ["ready", "reset"]


def test_poll_of_who_may_not_read(alice: User) -> None:
    User.objects.update(is_active=False)
    assert poll(alice, Principal(alice.pk), None) is None


def test_poll_numbers_what_a_crash_left_behind(alice: User) -> None:
    # Under WSGI there is no hub that would.
    cursor = polled(alice).cursor
    Event.objects.create(topic=f"user:{alice.pk}", type="count", payload="{}")
    with mock.patch.object(polling, "SWEEP_INTERVAL", 0.0):
        # What was committed a moment ago is left to whoever committed it.
        assert [type for type, _ in found(polled(alice, cursor))] == ["ready"]
        Event.objects.update(created_at=timezone.now() - timedelta(seconds=6))
        polled(alice)
    assert [type for type, _ in found(polled(alice, cursor))] == ["ready", "count"]


def test_poll_sweeps_only_now_and_then(alice: User) -> None:
    with mock.patch.object(polling, "_swept_at", 0.0), mock.patch.object(log, "sweep") as sweep:
        for _ in range(5):
            polled(alice)
    assert sweep.call_count == 1


def test_poll_where_nothing_happened_is_few_queries(alice: User) -> None:
    publish(alice, "count", {})
    cursor = polled(alice).cursor
    with CaptureQueriesContext(connection) as captured:
        polled(alice, cursor)
    # Rights: 3 without a session; heads: 1; the unread count, with what it needs to know: 6.
    assert len(captured.captured_queries) <= 10, [query["sql"][:80] for query in captured.captured_queries]


def test_poll_when_the_site_s_topics_fail(alice: User, client: Client, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}
    client.force_login(alice)
    response = client.get(reverse("notifications:events"))
    assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (503, True)
    assert "ask again" in response.json()["error"]
