"""Who may read which topic, and from where on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import publish
from notifications.access import (
    Access,
    InvalidTopic,
    Principal,
    authorize,
    cursor_for,
    ended,
    group_topic,
    known_topics,
    principal_of,
    record_membership,
    topic_name,
    topics_for,
    user_topic,
)
from notifications.cursor import parse_cursor
from notifications.log import drain
from notifications.models import Membership, Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice", password="password")


def logged_in(user: User) -> Principal:
    """Return the principal of a real session."""
    client = Client()
    client.force_login(user)
    return principal_of(user, client.session)


def access(principal: Principal) -> Access | None:
    return authorize([principal])[principal]


def own_topics(user: User) -> list[str]:
    return [f"order:{user.username}", "everyone", f"order:{user.username}"]


def bad_topics(user: User) -> list[str]:
    return ["not a topic"]


def many_topics(user: User) -> list[str]:
    return [f"order:{number}" for number in range(100)]


# --- Topics


def test_topics_of_a_customer(alice: User) -> None:
    assert topics_for(alice) == [f"user:{alice.pk}", "everyone"]


def test_topics_of_the_staff_and_of_groups(alice: User) -> None:
    groups = [Group.objects.create(name=name) for name in "ab"]
    alice.is_staff = True
    for group in groups:  # Those that are added together are in no order.
        alice.groups.add(group)
    assert topics_for(alice) == [f"user:{alice.pk}", "everyone", "staff", *(f"group:{group.pk}" for group in groups)]


def test_topics_of_who_may_not_log_in(alice: User) -> None:
    assert topics_for(AnonymousUser()) == []
    alice.is_active = False
    assert topics_for(alice) == []


def test_topics_of_the_site_are_added_once(alice: User, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.own_topics"}
    assert topics_for(alice) == [f"user:{alice.pk}", "everyone", "order:alice"]


def test_topics_of_the_site_that_are_none(alice: User, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.bad_topics"}
    with pytest.raises(InvalidTopic):
        topics_for(alice)


def test_topics_have_a_limit(alice: User, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.many_topics", "TOPICS_PER_STREAM": 10}
    topics = topics_for(alice)
    assert len(topics) == 10 and topics[0] == f"user:{alice.pk}"
    assert "TOPICS_PER_STREAM cuts them to 10" in caplog.text


def test_topic_names(alice: User) -> None:
    group = Group.objects.create(name="a")
    assert user_topic(alice) == user_topic(alice.pk) == topic_name(alice) == f"user:{alice.pk}"
    assert group_topic(group) == group_topic(group.pk) == topic_name(group) == f"group:{group.pk}"
    assert topic_name("order:9") == "order:9"


# --- Authorizing


def test_authorize_a_session(alice: User) -> None:
    assert access(logged_in(alice)) == Access((f"user:{alice.pk}", "everyone"), {f"user:{alice.pk}": 0, "everyone": 0})


def test_authorize_without_a_session(alice: User) -> None:
    assert access(Principal(alice.pk)) is not None


def test_authorize_nobody(alice: User) -> None:
    assert authorize([]) == {}
    assert access(Principal(alice.pk + 1)) is None


def test_authorize_an_inactive_user(alice: User) -> None:
    principal = logged_in(alice)
    User.objects.update(is_active=False)
    assert access(principal) is None


def test_authorize_after_logout(alice: User) -> None:
    principal = logged_in(alice)
    Session.objects.all().delete()
    assert access(principal) is None
    assert ended([principal]) == {principal}


def test_authorize_an_expired_session(alice: User) -> None:
    principal = logged_in(alice)
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert access(principal) is None
    assert ended([principal]) == {principal}


def test_authorize_after_a_new_password(alice: User) -> None:
    principal = logged_in(alice)
    alice.set_password("another")
    alice.save()
    assert access(principal) is None
    assert access(logged_in(alice)) is not None


def test_authorize_while_secret_keys_are_rotated(alice: User, settings: Any) -> None:
    principal = logged_in(alice)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert access(principal) is not None
    settings.SECRET_KEY_FALLBACKS = []
    assert access(principal) is None


def test_authorize_many_in_four_queries(alice: User) -> None:
    group = Group.objects.create(name="a")
    principals = []
    for number in range(20):
        user = User.objects.create(username=f"user{number}", is_staff=number % 2 == 0)
        if number % 3 == 0:
            user.groups.add(group)
        principals.append(logged_in(user))
    with CaptureQueriesContext(connection) as captured:
        answer = authorize([*principals, Principal(0)])
    assert len(captured.captured_queries) <= 4
    assert answer[Principal(0)] is None
    for number, principal in enumerate(principals):
        found = answer[principal]
        assert found is not None
        assert ("staff" in found.topics) == (number % 2 == 0)
        assert (f"group:{group.pk}" in found.topics) == (number % 3 == 0)


def test_authorize_when_the_site_s_function_fails_for_one(
    alice: User, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.own_topics"}
    bob = User.objects.create_user("bob")

    def failing(user: User) -> list[str]:
        if user == alice:
            raise ZeroDivisionError
        return []

    with mock.patch("tests.test_access.own_topics", failing):
        answer = authorize([Principal(alice.pk), Principal(bob.pk)])
    assert answer[Principal(alice.pk)] == Access(())
    assert answer[Principal(bob.pk)] == Access((f"user:{bob.pk}", "everyone"), {f"user:{bob.pk}": 0, "everyone": 0})
    assert "TOPICS failed" in caplog.text


@pytest.mark.parametrize(
    "engine", ["db", "cached_db", "cache", "file", "signed_cookies"], ids=lambda engine: f"sessions.{engine}"
)
def test_authorize_with_each_session_engine(alice: User, settings: Any, engine: str, tmp_path: Any) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    client = Client()
    client.force_login(alice)
    session = client.session
    principal = principal_of(alice, session)
    assert access(principal) is not None
    assert ended([principal]) == set()
    session.flush()
    # A cookie that is the session itself can not be ended from here.
    assert (access(principal) is None) == (engine != "signed_cookies")


def test_ended_is_one_query(alice: User) -> None:
    principals = [logged_in(alice) for _ in range(5)]
    with CaptureQueriesContext(connection) as captured:
        assert ended(principals) == set()
    assert len(captured.captured_queries) == 1
    assert ended([Principal(alice.pk)]) == set()


# --- Since when


def advance(topic: str, count: int) -> None:
    for _ in range(count):
        publish(topic, "ping", {})
    drain([topic])


def test_membership_begins_where_the_topic_is(alice: User) -> None:
    advance("group:1", 3)
    record_membership([alice.pk], ["group:1", "staff"])
    assert dict(Membership.objects.values_list("topic", "since")) == {"group:1": 3, "staff": 0}


def test_membership_begins_anew_for_who_comes_back(alice: User) -> None:
    record_membership([alice.pk], ["staff"])
    first = Membership.objects.get()
    advance("staff", 2)
    record_membership([alice.pk], ["staff"])
    again = Membership.objects.get()
    assert (first.since, again.since) == (0, 2)
    assert again.created_at > first.created_at


def test_membership_of_many_is_a_few_queries(alice: User) -> None:
    users = User.objects.bulk_create(User(username=f"user{number}") for number in range(200))
    record_membership([users[0].pk], ["staff"])
    with CaptureQueriesContext(connection) as captured:
        record_membership([user.pk for user in users] + [users[0].pk], ["staff", "group:1"])
    assert len(captured.captured_queries) <= 4
    assert Membership.objects.count() == 400


def test_authorize_tells_since_when(alice: User) -> None:
    group = Group.objects.create(name="a")
    advance(f"group:{group.pk}", 2)
    alice.groups.add(group)
    found = access(Principal(alice.pk))
    assert found is not None
    assert found.since == {f"user:{alice.pk}": 0, "everyone": 0, f"group:{group.pk}": 2}


# --- When the site's function fails


def failing_topics(user: User) -> list[str]:
    raise ZeroDivisionError


def topics_of_a_missing_table(user: User) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM table_that_is_not_there")
    return []


@pytest.mark.parametrize("function", ["failing_topics", "bad_topics", "topics_of_a_missing_table", "is_not_there"])
def test_pages_have_the_topics_that_are_known(
    alice: User, settings: Any, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    advance("everyone", 2)
    settings.NOTIFICATIONS = {"TOPICS": f"tests.test_access.{function}"}
    assert known_topics(alice) == ([f"user:{alice.pk}", "everyone"], False)
    assert f"TOPICS failed for user {alice.pk}" in caplog.text
    # A cursor without those of the site would bring their whole logs as news.
    assert cursor_for(alice) == ""


def test_known_topics_are_all_that_there_are(alice: User, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.own_topics"}
    assert known_topics(alice) == (topics_for(alice), True)
    assert known_topics(AnonymousUser()) == ([], True)


# --- Cursors for pages


def test_cursor_for_a_person(alice: User) -> None:
    advance("everyone", 2)
    advance("staff", 1)
    advance("user:0", 1)
    topic = Topic.objects.get(name="everyone")
    (position,) = parse_cursor(cursor_for(alice)).values()
    assert position == (topic.pk, topic.epoch, 2)


def test_cursor_for_a_person_is_two_queries(alice: User) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert cursor_for(alice) == "1"
    assert len(captured.captured_queries) == 2
