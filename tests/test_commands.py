"""The commands: whom they reach, what they print, and how they refuse."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command

from notifications import doorbell
from notifications.management.commands._layer import host_words
from notifications.models import Broadcast, Event, Notification
from tests.servers import free_port

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def alice() -> User:
    return User.objects.create_user("alice")


def run(*args: str, **options: Any) -> str:
    out = StringIO()
    call_command(*args, stdout=out, no_color=True, **options)
    return out.getvalue()


def refused(*args: str) -> str:
    with pytest.raises(CommandError) as error:
        run(*args)
    assert not Notification.objects.exists()
    assert not Event.objects.exists()
    return str(error.value)


# --- notify


def test_notify_a_user_with_everything(alice: User) -> None:
    out = run(
        "notify", "alice", "Shipped", "--body", "soon", "--url", "/orders/9/", "--level", "success",
        "--kind", "order.shipped", "--tag", "order-9",
    )  # fmt: skip
    notification = Notification.objects.get()
    assert out == f"Notified alice: “Shipped” (notification {notification.pk} on user:{alice.pk})\n"
    shown = (notification.title, notification.body, notification.url, notification.level, notification.kind)
    assert shown == ("Shipped", "soon", "/orders/9/", "success", "order.shipped")
    assert notification.tag == "order-9"


@pytest.mark.parametrize(
    ("to", "topic", "printed"),
    [
        ("everyone", "everyone", "everyone"),
        ("staff", "staff", "the staff"),
        ("order:9", "order:9", "the readers of order:9"),
    ],
)
def test_notify_a_topic(to: str, topic: str, printed: str) -> None:
    assert run("notify", to, "hi").startswith(f"Notified {printed}: “hi”")
    assert Notification.objects.get().topic == topic


def test_notify_a_user_by_id(alice: User) -> None:
    assert "Notified alice" in run("notify", f"user:{alice.pk}", "hi")
    assert Notification.objects.get().topic == f"user:{alice.pk}"


def test_notify_a_group_by_name_or_id() -> None:
    group = Group.objects.create(name="night shift")
    assert "Notified the group night shift" in run("notify", "group:night shift", "hi")
    run("notify", f"group:{group.pk}", "hi")
    assert set(Notification.objects.values_list("topic", flat=True)) == {f"group:{group.pk}"}


def test_notify_an_unknown_user_suggests() -> None:
    User.objects.create_user("alicia")
    assert refused("notify", "alica", "hi") == "There is no user called 'alica'. Did you mean 'alicia' or 'alice'?"


def test_notify_a_user_in_other_capitals_suggests() -> None:
    assert refused("notify", "Alice", "hi") == "There is no user called 'Alice'. Did you mean 'alice'?"


def test_notify_nobody_like_that_suggests_nothing() -> None:
    assert refused("notify", "zz", "hi") == "There is no user called 'zz'."


@pytest.mark.parametrize("pk", ["999999", "x", "9" * 30, ""])
def test_notify_an_unknown_id(pk: str) -> None:
    assert refused("notify", f"user:{pk}", "hi") == f"There is no user with the id {pk!r}."


def test_notify_an_unknown_group_suggests() -> None:
    Group.objects.create(name="editors")
    assert refused("notify", "group:editor", "hi") == "There is no group called 'editor'. Did you mean 'editors'?"


def test_notify_a_user_who_is_called_like_a_topic() -> None:
    user = User.objects.create_user("staff")
    assert f"user:{user.pk}" in refused("notify", "staff", "hi")


def test_notify_a_user_whose_name_has_a_colon() -> None:
    user = User.objects.create_user("a:b")
    run("notify", "a:b", "hi")
    assert Notification.objects.get().topic == f"user:{user.pk}"


def test_notify_a_topic_that_can_not_be() -> None:
    assert "is not a topic" in refused("notify", "order: 9", "hi")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["alice", ""], "needs a title"),
        (["alice", "x" * 201], "201 characters"),
        (["alice", "hi", "--url", "javascript:alert(1)"], "url must be"),
        (["alice", "hi", "--kind", "a b"], "a kind is"),
        (["alice", "hi", "--level", "loud"], "invalid choice: 'loud'"),
    ],
)
def test_notify_refuses_what_can_not_be_shown(arguments: list[str], problem: str) -> None:
    assert problem in refused("notify", *arguments)


# --- broadcast


def test_broadcast_reaches_everyone_by_default() -> None:
    User.objects.create_user("bob")
    out = run("broadcast", "Sale", "--body", "today", "--url", "/sale/", "--level", "warning")
    row = Broadcast.objects.get()
    assert out == f"Sent to everyone (2 people): “Sale” (broadcast {row.pk})\n"
    assert (row.body, row.url, row.level, row.state) == ("today", "/sale/", "warning", "sent")
    assert Notification.objects.get().topic == "everyone"


def test_broadcast_to_staff() -> None:
    User.objects.create_user("boss", is_staff=True)
    assert "Sent to staff (1 person): “hi”" in run("broadcast", "hi", "--audience", "staff")


def test_broadcast_to_a_group(alice: User) -> None:
    group = Group.objects.create(name="editors")
    alice.groups.add(group)
    assert "Sent to the group editors (1 person)" in run("broadcast", "hi", "--audience", "group:editors")
    assert Notification.objects.get().topic == f"group:{group.pk}"


def test_broadcast_to_chosen_users(alice: User) -> None:
    bob = User.objects.create_user("bob")
    User.objects.create_user("carol")
    run("broadcast", "hi", "--audience", "user:alice", "user:bob", "user:alice")
    topics = sorted(Notification.objects.values_list("topic", flat=True))
    assert topics == sorted([f"user:{alice.pk}", f"user:{bob.pk}"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nobody"], "'nobody' is not an audience"),
        (["everyone", "staff"], "'everyone' can not be combined"),
        (["user:alice", "staff"], "'staff' can not be combined"),
        (["user:alcie"], "Did you mean 'alice'?"),
        (["group:x"], "There is no group called 'x'."),
        (["user:"], "There is no user called ''."),
    ],
)
def test_broadcast_refuses_an_audience(words: list[str], problem: str) -> None:
    assert problem in refused("broadcast", "hi", "--audience", *words)
    assert not Broadcast.objects.exists()


def test_broadcast_refuses_a_bad_link() -> None:
    assert "Nothing was sent: url must be" in refused("broadcast", "hi", "--url", "//evil.example/")
    assert not Broadcast.objects.exists()


# --- Without Redis


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("arguments", [("notify", "alice", "hi"), ("broadcast", "hi")], ids=lambda words: words[0])
def test_layer_that_is_away_is_named(
    settings: Any, caplog: pytest.LogCaptureFixture, arguments: tuple[str, ...]
) -> None:
    host = f"127.0.0.1:{free_port()}"
    layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}
    settings.CHANNEL_LAYERS = {"live": {**layer, "CONFIG": {"hosts": [f"redis://:secret@{host}/0"]}}}
    settings.NOTIFICATIONS = {"CHANNEL_LAYER": "live"}
    doorbell.breakers.clear()
    run(*arguments)
    doorbell.breakers.clear()
    (record,) = [record for record in caplog.records if record.name == "notifications"]
    said = record.getMessage()
    assert said.startswith(f"The channel layer 'live' at {host} can not be reached (ConnectionError).")
    assert said.endswith("browsers learn of it by the safety poll, within seconds.")
    assert Notification.objects.count() == 1


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("redis://user:secret@redis.example:6380/0?socket_timeout=3", "redis.example:6380"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        (("redis.example", 6379), "redis.example:6379"),
        ({"address": "rediss://redis.example:6380"}, "redis.example:6380"),
        ({"host": "redis.example"}, "redis.example:6379"),
        ({"sentinels": [("a", 26379), ("b", 26379)], "master_name": "site"}, "a:26379, b:26379"),
        (7, ""),
    ],
)
def test_host_is_called_without_its_password(host: Any, words: str) -> None:
    assert host_words(host) == words
