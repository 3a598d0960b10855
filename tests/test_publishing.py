"""Publishing: what is accepted, what is written, what it costs, and that the channel layer's absence is no matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, cast
from unittest import mock

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.models import Session
from django.db import DatabaseError, connection, transaction
from django.db.models import Value
from django.db.models.signals import ModelSignal, post_save, pre_save
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy, override

import notifications
from notifications import (
    abroadcast,
    anotify,
    broadcast,
    doorbell,
    notification_published,
    notify,
    notify_many,
    postgresql,
    publish,
    recall,
    statements,
)
from notifications.access import InvalidTopic
from notifications.models import Broadcast, Event, Notification
from notifications.publishing import send, send_due
from tests.servers import ROOT
from tests.site.models import Order

pytestmark = pytest.mark.django_db

TITLE = "Your order shipped"


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def hints() -> Iterator[list[doorbell.Hint]]:
    """The hints that were rung, instead of ringing."""
    rung: list[doorbell.Hint] = []
    with mock.patch.object(doorbell, "ring", rung.extend):
        yield rung


def payloads(topic: str) -> list[dict[str, Any]]:
    return [json.loads(event.payload) for event in Event.objects.filter(topic=topic).order_by("pk")]


def queries(captured: Sequence[dict[str, str]]) -> list[str]:
    """Return what was asked of the database, without what opens and closes transactions."""
    words = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")
    return [query["sql"] for query in captured if not query["sql"].startswith(words)]


@contextmanager
def two_captures() -> Iterator[tuple[CaptureQueriesContext, CaptureQueriesContext]]:
    """A transaction; captured apart are its queries and those that come after its end."""
    inside, after = CaptureQueriesContext(connection), CaptureQueriesContext(connection)
    with ExitStack() as stack, transaction.atomic():
        with inside:
            yield inside, after
        stack.enter_context(after)


def nothing_written() -> bool:
    return not Notification.objects.exists() and not Event.objects.exists() and not Broadcast.objects.exists()


# --- notify


def test_notify_writes_a_row_and_an_event(alice: User) -> None:
    row = notify(alice, TITLE, "by post", kind="order.shipped", level="success", url="/orders/9/", tag="order:9")
    assert Notification.objects.get() == row
    assert row.topic == f"user:{alice.pk}"
    event = Event.objects.get()
    assert (event.topic, event.type) == (row.topic, "notification")
    assert json.loads(event.payload) == {
        "id": row.pk,
        "kind": "order.shipped",
        "level": "success",
        "title": TITLE,
        "body": "by post",
        "url": "/orders/9/",
        "data": {},
        "tag": "order:9",
        "created_at": row.created_at.isoformat(),
    }


def test_notify_defaults(alice: User) -> None:
    row = notify(alice, TITLE)
    assert (row.kind, row.level, row.body, row.url, row.data, row.tag) == ("message", "info", "", "", {}, "")


def test_notify_refers_to_a_row_by_a_long_key(alice: User) -> None:
    session = Session(pk="k" * 255, session_data="", expire_date=timezone.now())
    row = notify(alice, TITLE, target=session)
    row.refresh_from_db()
    assert row.target_id == "k" * 255
    session.pk += "k"
    with pytest.raises(ValueError, match="primary key of target is 256 characters long, more than 255"):
        notify(alice, TITLE, target=session)


def test_notify_payload_with_actor_target_and_expiry(alice: User) -> None:
    order = Order.objects.create(customer=alice, number="A-1")
    expires_at = timezone.now() + timedelta(hours=1)
    row = notify("staff", TITLE, actor=alice, target=order, expires_at=expires_at)
    assert (row.actor, row.target) == (alice, order)
    (payload,) = payloads("staff")
    assert payload["expires_at"] == expires_at.isoformat()
    assert payload["actor"].items() >= {"type": "user", "id": str(alice.pk)}.items()
    assert payload["target"].items() >= {"type": "order", "id": str(order.pk)}.items()


@pytest.fixture
def saves() -> Iterator[mock.Mock]:
    """Django's own ``save()`` of notifications, watched."""
    with mock.patch.object(Notification, "save", autospec=True, side_effect=Notification.save) as save:
        yield save


def assert_notify_returns_what_is_stored(alice: User) -> Notification:
    order = Order.objects.create(customer=alice, number="A-1")
    data, expires_at = {"a": [1, None, "é"]}, timezone.now() + timedelta(hours=1)
    row = notify(alice, TITLE, "é", data=data, tag="t", actor=alice, target=order, expires_at=expires_at)
    found = Notification.objects.get()
    for field in Notification._meta.concrete_fields:
        assert getattr(row, field.attname) == getattr(found, field.attname), field
    assert (row._state.adding, row._state.db) == (False, "default")
    return row


def test_notify_returns_what_is_stored(alice: User, saves: mock.Mock) -> None:
    row = assert_notify_returns_what_is_stored(alice)
    if connection.features.can_return_rows_from_bulk_insert:
        saves.assert_not_called()
    row.title = "again"
    row.save()
    assert Notification.objects.get().title == "again"


@pytest.mark.parametrize("signal", [pre_save, post_save], ids=["pre_save", "post_save"])
def test_notify_tells_receivers_of_djangos_signals(signal: ModelSignal, alice: User) -> None:
    told: list[Any] = []

    def saved(instance: Notification, using: str, raw: bool, **rest: Any) -> None:
        told.append((instance.title, using, raw, rest.get("created", True)))

    signal.connect(saved, sender=Notification)
    try:
        assert_notify_returns_what_is_stored(alice)
    finally:
        signal.disconnect(saved, sender=Notification)
    assert told == [(TITLE, "default", False, True)]


def test_notify_where_an_insert_returns_nothing(alice: User, saves: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(connection.features), "can_return_rows_from_bulk_insert", False)
    monkeypatch.setattr(postgresql, "understood_by", lambda using: False)
    monkeypatch.setattr(statements, "_known_inserts", {})
    assert_notify_returns_what_is_stored(alice)
    saves.assert_called_once()
    assert len(payloads(f"user:{alice.pk}")) == 1


def test_notify_with_a_field_that_the_database_fills_in(
    alice: User, saves: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notification._meta.get_field("tag"), "pre_save", lambda row, add: Value("added"))
    notify(alice, TITLE)
    saves.assert_called_once()
    assert Notification.objects.get().tag == "added"


def test_notify_to_a_group_and_to_topics() -> None:
    group = Group.objects.create(name="editors")
    topics = [notify(to, TITLE).topic for to in (group, "everyone", "staff", "order:9", "préférés/🔔")]
    assert topics == [f"group:{group.pk}", "everyone", "staff", "order:9", "préférés/🔔"]


def deleted_group() -> Group:
    """Return a group as somebody holds it who does not know that it was deleted."""
    group = Group.objects.create(name="editors")
    Group.objects.all().delete()
    return group


@pytest.mark.parametrize(
    "tell",
    [
        lambda group: notify(group, TITLE),
        lambda group: broadcast(TITLE, audience=group),
        lambda group: publish(group, "progress", {}),
    ],
    ids=["notify", "broadcast", "publish"],
)
def test_deleted_group_is_told_nothing(tell: Callable[[Group], Any]) -> None:
    with pytest.raises(ValueError, match="'editors' does not exist any more"):
        tell(deleted_group())
    assert not Event.objects.exists() and not Notification.objects.exists() and not Broadcast.objects.exists()


def test_group_of_the_same_transaction_is_told() -> None:
    with transaction.atomic():
        group = Group.objects.create(name="editors")
        assert notify(group, TITLE).topic == f"group:{group.pk}"


def test_notify_to_a_lazy_user(alice: User) -> None:
    assert notify(SimpleLazyObject(lambda: alice), TITLE).topic == f"user:{alice.pk}"  # type: ignore[arg-type]


def test_notify_stores_translated_text_as_it_reads_now(alice: User) -> None:
    with override("de"):
        row = notify(alice, cast(str, gettext_lazy("Yes")))
    row.refresh_from_db()
    assert row.title == "Ja"


@pytest.mark.parametrize("to", [AnonymousUser(), User(username="unsaved"), Group(name="unsaved"), None, 42, b"staff"])
def test_notify_to_nobody(to: Any) -> None:
    with pytest.raises(TypeError, match="saved user, a group or a topic"):
        notify(to, TITLE)
    assert nothing_written()


@pytest.mark.parametrize("to", ["", " ", "a b", "a\n", "a\0", "a\x7f", "a\x85", "a\u2028b", "\ud800", "x" * 151])
def test_notify_to_what_is_no_topic(to: str) -> None:
    with pytest.raises(InvalidTopic):
        notify(to, TITLE)
    assert nothing_written()


@pytest.mark.parametrize(
    "fields",
    [
        {"title": ""},
        {"title": " \n\t"},
        {"title": "x" * 201},
        {"title": "a\0b"},
        {"title": "\ud83d"},
        {"body": "a\0b"},
        {"body": "\udc00"},
        {"kind": ""},
        {"kind": "order shipped"},
        {"kind": "order..shipped"},
        {"kind": ".order"},
        {"kind": "order."},
        {"kind": "ördér"},
        {"kind": "order\n"},
        {"kind": "x" * 101},
        {"level": "loud"},
        {"level": ""},
        {"tag": "x" * 101},
        {"tag": "a\0"},
        {"url": "javascript:alert(1)"},
        {"url": "JavaScript:alert(1)"},
        {"url": "java\tscript:alert(1)"},
        {"url": " javascript:alert(1)"},
        {"url": "data:text/html,hi"},
        {"url": "vbscript:x"},
        {"url": "//evil.example"},
        {"url": "/\\evil.example"},
        {"url": "\\\\evil.example"},
        {"url": "https:evil.example"},
        {"url": "https:///evil.example"},
        {"url": "http://"},
        {"url": "ftp://example.com/"},
        {"url": "mailto:a@example.com"},
        {"url": "orders/9/"},
        {"url": "/orders/\n9/"},
        {"url": "/orders/ 9/"},
        {"url": "/" + "x" * 2000},
        {"data": [1]},
        {"data": []},
        {"data": "text"},
        {"data": {"a": float("nan")}},
        {"data": {"a": float("inf")}},
        {"data": {"a": object()}},
        {"data": {"a": {1, 2}}},
        {"data": {"a": "\ud800"}},
        {"data": {("a", "b"): 1}},
        {"data": {"a": "b\0c"}},
        {"data": {"a\0": 1}},
        {"data": {"a": [{"b": "\0"}]}},
        {"expires_at": datetime(2030, 1, 1)},
    ],
    ids=repr,
)
@pytest.mark.parametrize("call", [notify, notify_many, broadcast])
def test_what_can_not_be_stored_or_shown_is_refused_before_anything_is_written(
    call: Any, fields: dict[str, Any], alice: User
) -> None:
    given = {"title": TITLE, **fields}
    first: list[Any] = [] if call is broadcast else [alice] if call is notify else [[alice]]
    with pytest.raises(ValueError):
        call(*first, **given)
    # The caller's transaction can go on.
    assert nothing_written()


@pytest.mark.parametrize("fields", [{"target": Order(number="unsaved")}, {"actor": User(username="unsaved")}])
def test_notify_about_what_is_not_saved(fields: dict[str, Any], alice: User) -> None:
    with pytest.raises(ValueError, match="must be saved"):
        notify(alice, TITLE, **fields)
    assert nothing_written()


@pytest.mark.parametrize("fields", [{"title": None}, {"title": 42}, {"body": b"bytes"}, {"url": 1}, {"tag": None}])
def test_what_is_no_text_is_refused(fields: dict[str, Any], alice: User) -> None:
    with pytest.raises(TypeError):
        notify(alice, **{"title": TITLE, **fields})
    assert nothing_written()


@pytest.mark.parametrize(
    "url",
    ["/", "/orders/9/?a=b#c", "?page=2", "#top", "https://example.com", "http://example.com:8000/a", "/%22%3E", "/é"],
)
def test_links_that_lead_to_this_site_or_to_the_web(url: str, alice: User) -> None:
    assert notify(alice, TITLE, url=url).url == url


@pytest.mark.parametrize(
    "text", ["a\nb\r\nc", "\u2028\u2029", "<script>alert(1)</script>", "\u202eevil", "🔔 ünïcode", "\ufeff", "\x1b[31m"]
)
def test_awkward_text_comes_back_as_it_was(text: str, alice: User) -> None:
    row = notify(alice, f"t {text}", text, data={"key": text, text: [text]})
    row.refresh_from_db()
    assert (row.title, row.body, row.data) == (f"t {text}", text, {"key": text, text: [text]})
    (payload,) = payloads(row.topic)
    assert (payload["title"], payload["body"], payload["data"]) == (row.title, row.body, row.data)


def test_data_with_a_backslash_before_u0000_is_no_nul(alice: User) -> None:
    row = notify(alice, TITLE, data={"path": "C:\\u0000", "\\u0000": "\\\\u0000"})
    row.refresh_from_db()
    assert row.data == {"path": "C:\\u0000", "\\u0000": "\\\\u0000"}


def test_notify_in_a_transaction_that_is_rolled_back(alice: User) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        notify(alice, TITLE)
        raise ZeroDivisionError
    assert nothing_written()


@pytest.mark.django_db(transaction=True)
def test_notify_is_two_queries_and_four_after_commit_or_one_each(alice: User) -> None:
    notify(alice, TITLE)
    with two_captures() as (inside, after):
        notify(alice, TITLE)
    expected = (1, 1) if connection.vendor == "postgresql" else (2, 4)
    assert (len(queries(inside.captured_queries)), len(queries(after.captured_queries))) == expected


@pytest.mark.django_db(transaction=True)
def test_notify_outside_of_a_transaction_begins_one_only_where_it_needs_it(alice: User) -> None:
    notify(alice, TITLE)
    with CaptureQueriesContext(connection) as captured:
        notify(alice, TITLE)
    begun = [query["sql"] for query in captured.captured_queries if query["sql"].startswith("BEGIN")]
    assert (len(captured), len(begun)) == ((2, 0) if connection.vendor == "postgresql" else (10, 2))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step_by_step", [False, True])
def test_insert_that_fails_breaks_the_transaction_of_the_caller(
    step_by_step: bool, alice: User, hints: list[doorbell.Hint], monkeypatch: pytest.MonkeyPatch
) -> None:
    if step_by_step:
        monkeypatch.setattr(postgresql, "understood_by", lambda using: False)
    with mock.patch.object(statements, "_known_inserts", {}), mock.patch.object(Event._meta, "db_table", "missing"):
        with pytest.raises(DatabaseError):
            notify(alice, TITLE)
        with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
            with pytest.raises(DatabaseError):
                notify(alice, TITLE)
            User.objects.count()
    assert nothing_written() and not hints
    notify(alice, TITLE)
    assert [(hint.name, hint.seq) for hint in hints] == [(f"user:{alice.pk}", 1)]


@pytest.mark.django_db(transaction=True)
def test_notify_with_the_channel_layer_gone(alice: User, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.CHANNEL_LAYERS = {"other": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    notify(alice, TITLE)
    assert Event.objects.get().seq == 1


@pytest.mark.django_db(transaction=True)
def test_notify_with_a_ring_that_fails(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(doorbell._doorbell, "ring", side_effect=RuntimeError("no loop")):
        notify(alice, TITLE)
    assert Event.objects.get().seq == 1
    assert "ringing failed" in caplog.text


async def test_anotify(serving: None) -> None:
    user = await User.objects.acreate(username="alice")
    row = await anotify(user, TITLE, level="warning")
    assert (await Notification.objects.aget()).pk == row.pk
    assert (await Event.objects.aget()).seq == 1


# --- notify_many


def people(count: int) -> list[User]:
    return User.objects.bulk_create(User(username=f"user{number}", password="!") for number in range(count))


def test_notify_many_writes_one_for_each() -> None:
    users = people(5)
    assert notify_many(users, TITLE, kind="sale") == 5
    assert set(Notification.objects.values_list("topic", "kind")) == {(f"user:{user.pk}", "sale") for user in users}
    assert Event.objects.count() == 5
    assert [payload["id"] for user in users for payload in payloads(f"user:{user.pk}")] == list(
        Notification.objects.order_by("pk").values_list("pk", flat=True)
    )


def test_notify_many_takes_a_queryset_and_a_generator() -> None:
    people(3)
    assert notify_many(User.objects.all(), TITLE) == 3
    assert notify_many((user for user in User.objects.all()), TITLE) == 3
    assert notify_many([], TITLE) == 0


@pytest.mark.parametrize("batch", [1000, 2])
def test_notify_many_notifies_nobody_twice(batch: int) -> None:
    users = people(3)
    with mock.patch("notifications.publishing.BATCH", batch):
        assert notify_many([*users, *users, users[0]], TITLE) == 3
    assert Notification.objects.count() == Event.objects.count() == 3


def test_notify_many_with_somebody_unsaved_notifies_nobody() -> None:
    with mock.patch("notifications.publishing.BATCH", 2), pytest.raises(TypeError):
        notify_many([*people(5), User(username="unsaved")], TITLE)
    assert nothing_written()


def test_notify_many_refuses_what_notify_does_not_know() -> None:
    with pytest.raises(TypeError, match="colour"):
        notify_many(people(1), TITLE, colour="red")


def test_notify_many_queries_grow_with_batches_and_not_with_users() -> None:
    users = people(60)
    counts = []
    for number in (20, 60):
        with CaptureQueriesContext(connection) as captured:
            notify_many(users[:number], TITLE)
        counts.append(len(queries(captured.captured_queries)))
    assert counts == [2, 2]


# --- broadcast


def test_broadcast_to_everyone_is_one_of_each() -> None:
    sender, *_ = people(4)
    row = broadcast("Maintenance at ten", "for an hour", level="warning", url="/status/", sender=sender)
    row.refresh_from_db()
    assert (row.state, row.audience, row.recipients, row.sender) == ("sent", "everyone", 4, sender)
    notification = Notification.objects.get()
    assert (notification.topic, notification.broadcast, notification.kind) == ("everyone", row, "broadcast")
    (payload,) = payloads("everyone")
    assert payload.items() >= {"id": notification.pk, "title": "Maintenance at ten", "level": "warning"}.items()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("users", [10, 10_000])
def test_broadcast_costs_the_same_for_any_number_of_users(users: int, hints: list[doorbell.Hint]) -> None:
    people(users)
    broadcast("warm up")
    hints.clear()
    with CaptureQueriesContext(connection) as captured:
        row = broadcast("Maintenance at ten")
    asked = queries(captured.captured_queries)
    assert len(asked) == (5 if connection.vendor == "postgresql" else 9), asked
    assert row.recipients == users
    assert Event.objects.filter(topic="everyone").count() == 2
    assert [(hint.name, hint.seq, len(hint.events)) for hint in hints] == [("everyone", 2, 1)]


def test_broadcast_to_the_staff() -> None:
    sam, *_ = people(3)
    User.objects.filter(pk=sam.pk).update(is_staff=True)
    assert broadcast(TITLE, audience="staff").recipients == 1
    assert Notification.objects.get().topic == "staff"


def test_broadcast_to_a_group() -> None:
    group = Group.objects.create(name="editors")
    people(3)[0].groups.add(group)
    row = broadcast(TITLE, audience=group)
    assert (row.audience, row.group, row.recipients) == ("group", group, 1)
    assert Notification.objects.get().topic == f"group:{group.pk}"


def test_broadcast_to_chosen_users() -> None:
    users = people(4)
    row = broadcast(TITLE, audience=User.objects.filter(pk__in=[users[0].pk, users[2].pk]))
    assert (row.audience, row.recipients) == ("users", 2)
    topics = set(Notification.objects.values_list("topic", flat=True))
    assert topics == {f"user:{users[0].pk}", f"user:{users[2].pk}"}


@pytest.mark.parametrize("audience", ["all", "", "group:7", [None], [User(username="unsaved")], 42])
def test_broadcast_to_no_audience(audience: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        broadcast(TITLE, audience=audience)
    assert nothing_written()


@pytest.mark.parametrize("field", ["actor", "target", "colour", "topic"])
def test_broadcast_refuses_what_it_does_not_know(field: str, alice: User) -> None:
    with pytest.raises(TypeError, match=field):
        broadcast(TITLE, **cast(Any, {field: alice}))
    assert nothing_written()


async def test_abroadcast(serving: None) -> None:
    row = await abroadcast(TITLE)
    assert row.state == "sent"
    assert await Event.objects.filter(seq=1).acount() == 1


# --- composed and scheduled broadcasts


def composed(**fields: Any) -> Broadcast:
    return Broadcast.objects.create(**{"title": TITLE, **fields})


def test_send_sends_once() -> None:
    (sender,) = people(1)
    row = composed()
    assert send(row, sender=sender) is True
    assert send(row) is False
    assert send(Broadcast.objects.get()) is False
    row.refresh_from_db()
    assert (row.state, row.sender, row.recipients) == ("sent", sender, 1)
    assert row.sent_at is not None
    assert Notification.objects.count() == 1


def test_send_of_a_recalled_broadcast() -> None:
    row = broadcast(TITLE)
    recall(row)
    assert send(row) is False


def test_send_due_sends_what_is_due() -> None:
    now = timezone.now()
    composed(state="scheduled", scheduled_at=now - timedelta(seconds=1), title="due")
    composed(state="scheduled", scheduled_at=now + timedelta(hours=1), title="later")
    composed(title="draft")
    assert send_due() == 1
    assert Notification.objects.get().title == "due"
    assert send_due() == 0


def test_send_due_is_one_query_when_nothing_is() -> None:
    with CaptureQueriesContext(connection) as captured:
        assert send_due() == 0
    assert len(captured.captured_queries) == 1


def test_send_due_goes_on_after_one_that_can_not_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    now = timezone.now()
    orphan = composed(state="scheduled", scheduled_at=now - timedelta(seconds=9), audience="group", title="orphan")
    composed(state="scheduled", scheduled_at=now - timedelta(seconds=1), title="due")
    assert send_due() == 1
    assert Notification.objects.get().title == "due"
    orphan.refresh_from_db()
    # Not tried again each second: somebody has to choose another audience.
    assert orphan.state == "draft"
    assert f"broadcast {orphan.pk} can not be sent" in caplog.text


# --- recall


def test_recall_of_a_notification(alice: User) -> None:
    row = notify(alice, TITLE)
    recall(row)
    row.refresh_from_db()
    assert row.recalled_at is not None
    last = Event.objects.order_by("pk").last()
    assert last is not None
    assert (last.topic, last.type, json.loads(last.payload)) == (row.topic, "recalled", {"ids": [row.pk]})


def test_recall_twice_is_published_once(alice: User) -> None:
    row = notify(alice, TITLE)
    recall(row)
    first = Notification.objects.get().recalled_at
    recall(Notification.objects.get())
    assert Notification.objects.get().recalled_at == first
    assert Event.objects.filter(type="recalled").count() == 1


def test_recall_of_a_broadcast_to_users() -> None:
    users = people(3)
    row = broadcast(TITLE, audience=users)
    recall(row)
    assert row.state == Broadcast.objects.get().state == "recalled"
    assert not Notification.objects.filter(recalled_at=None).exists()
    recalled = Event.objects.filter(type="recalled")
    ids = {event.topic: json.loads(event.payload)["ids"] for event in recalled}
    assert ids == {row.topic: [row.pk] for row in Notification.objects.all()}


@pytest.mark.parametrize("state", ["draft", "scheduled"])
def test_recall_of_what_was_not_sent(state: str) -> None:
    row = composed(state=state)
    with pytest.raises(ValueError, match="not sent"):
        recall(row)
    row.refresh_from_db()
    assert row.state == state
    assert not Event.objects.exists()


# --- publish


def test_publish_is_an_event_and_in_no_inbox(alice: User) -> None:
    publish(alice, "progress", {"percent": 40})
    publish("order:9", "order.moved", {})
    assert payloads(f"user:{alice.pk}") == [{"percent": 40}]
    assert set(Event.objects.values_list("type", flat=True)) == {"progress", "order.moved"}
    assert not Notification.objects.exists()


@pytest.mark.parametrize("type", ["", "ready", "bye", "heartbeat", "reset", "error", "a b", "a\n", "a\0", "x" * 65])
def test_publish_refuses_types(type: str) -> None:
    with pytest.raises(ValueError, match="can not be an event's type"):
        publish("everyone", type, {})
    assert nothing_written()


@pytest.mark.parametrize("type", ["notification", "recalled", "read", "seen", "archived"])
def test_publish_refuses_the_types_of_the_inbox(type: str) -> None:
    # They would be taken for rows that exist.
    with pytest.raises(ValueError, match="can not be an event's type"):
        publish("everyone", type, {})


@pytest.mark.parametrize("data", [None, [], "x", {"a": float("nan")}, {"a": object()}, {"a": "\ud800"}])
def test_publish_refuses_what_is_no_json_object(data: Any) -> None:
    with pytest.raises(ValueError):
        publish("everyone", "progress", data)
    assert nothing_written()


@pytest.mark.parametrize("name", ["seq", "topic"])
def test_publish_refuses_the_names_that_the_protocol_adds(name: str) -> None:
    # A parser takes the last of two: the client would count with the site's own number.
    with pytest.raises(ValueError, match=name):
        publish("everyone", "progress", {name: 1})
    assert nothing_written()


# --- notification_published


class Received:
    """A receiver without a name, as an object or a partial is: Django stumbles over its failure."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.fail = False

    def __call__(self, sender: Any, notification: Notification, **_: Any) -> None:
        assert sender is Notification and notification.pk is not None
        self.titles.append(notification.title)
        if self.fail:
            raise ZeroDivisionError


@pytest.fixture
def received() -> Iterator[Received]:
    received = Received()
    notification_published.connect(received)
    yield received
    notification_published.disconnect(received)


@pytest.mark.django_db(transaction=True)
def test_notification_published_after_commit(alice: User, received: Received) -> None:
    with transaction.atomic():
        notify(alice, "one")
        notify_many([alice], "two")
        assert received.titles == []
    broadcast("three")
    assert received.titles == ["one", "two", "three"]


@pytest.mark.django_db(transaction=True)
def test_notification_published_not_after_rollback(alice: User, received: Received) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        notify(alice, "one")
        raise ZeroDivisionError
    assert received.titles == []


@pytest.mark.django_db(transaction=True)
def test_notification_published_receiver_that_fails_stops_nothing(alice: User, received: Received) -> None:
    received.fail = True
    notify_many([alice, *people(1)], "one")
    assert received.titles == ["one", "one"]
    assert set(Event.objects.values_list("seq", flat=True)) == {1}


# --- the front of the package


def test_public_names_are_all_there() -> None:
    for name in notifications.__all__:
        assert getattr(notifications, name) is not None
    assert set(notifications.__all__) <= set(dir(notifications))


EARLY = """
import sys

import notifications
from asgiref.sync import iscoroutinefunction
from notifications import *
from notifications import __all__, anotify, notify

assert iscoroutinefunction(anotify) and not iscoroutinefunction(notify)
assert "notifications.models" not in sys.modules
try:
    notify("everyone", "too early")
except Exception as error:
    print(type(error).__name__)

import django

django.setup()
assert notifications.notify is not notify
try:
    notify("everyone", "")  # Taken before; does the same.
except ValueError as error:
    print(error)
"""


def test_public_names_can_be_imported_before_the_apps_are_ready() -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    early, empty = done.stdout.splitlines()
    assert early == "AppRegistryNotReady"
    assert "title" in empty


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = notifications.nothing_like_that
