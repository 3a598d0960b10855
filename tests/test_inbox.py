"""The inbox: what a person may read, what is unread, what their actions change and publish."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import inbox
from notifications.access import TopicsUnknown
from notifications.models import Event, Membership, Notification, ReadMark, Receipt
from notifications.publishing import notify, recall

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(days=400)


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def aged(notification: Notification, age: timedelta) -> Notification:
    """Return the notification as if it had been sent ``age`` ago."""
    notification.created_at = timezone.now() - age
    notification.save(update_fields=["created_at"])
    return notification


def old(to: Any, title: str = "old", **fields: Any) -> Notification:
    """Notify, and make it so old that the mark may pass it."""
    return aged(notify(to, title, **fields), timedelta(hours=2))


def titles(user: User) -> list[str]:
    return [row.notification.title for row in inbox.page(user).rows]


def states(user: User) -> dict[str, tuple[bool, bool, bool]]:
    """Return (read, seen, archived) of each visible notification by its title."""
    rows = [*inbox.page(user).rows, *inbox.page(user, "archived").rows]
    return {row.notification.title: (row.read, row.seen, row.archived) for row in rows}


def published(user: User, type: str | None = None) -> list[dict[str, Any]]:
    """Return the events of what the user did, oldest first."""
    events = Event.objects.filter(topic=f"user:{user.pk}").exclude(type="notification").order_by("pk")
    return [json.loads(event.payload) for event in events if type in (None, event.type)]


# --- When the site's own function fails


@pytest.fixture
def failing(settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}


def test_reading_leaves_the_site_s_topics_out(alice: User, failing: None) -> None:
    for to in (alice, "order:9"):
        notify(to, str(to))
    assert titles(alice) == ["alice"]
    assert inbox.counts(alice) == inbox.Counts(1, 1)


@pytest.mark.parametrize(
    "action", [inbox.read_all, inbox.mark_seen, lambda user: inbox.mark_read(user, [1])], ids=["all", "seen", "one"]
)
def test_acting_is_refused(alice: User, failing: None, action: Callable[[User], Any]) -> None:
    notify("order:9", "nobody was shown this")
    old(alice)
    with pytest.raises(TopicsUnknown):
        action(alice)
    assert not ReadMark.objects.exists() and not Receipt.objects.exists()


# --- What is visible


def test_visible_holds_own_everyone_staff_and_groups(alice: User, bob: User) -> None:
    group = Group.objects.create(name="editors")
    for to in (alice, bob, "everyone", "staff", group, "order:9"):
        notify(to, str(to))
    assert titles(alice) == ["everyone", "alice"]
    alice.is_staff = True
    alice.save()
    alice.groups.add(group)
    Membership.objects.all().delete()
    assert titles(User.objects.get(pk=alice.pk)) == ["editors", "staff", "everyone", "alice"]


def test_visible_everyone_begins_with_the_account(alice: User) -> None:
    aged(notify("everyone", "before the account"), LONG_AGO)
    notify("everyone", "after")
    assert titles(alice) == ["after"]
    assert inbox.unread_count(alice) == 1


def test_visible_own_topic_has_no_beginning(alice: User) -> None:
    aged(notify(alice, "imported"), LONG_AGO)
    assert titles(alice) == ["imported"]


def test_visible_group_begins_with_membership(alice: User) -> None:
    group = Group.objects.create(name="editors")
    aged(notify(group, "before joining"), timedelta(minutes=5))
    alice.groups.add(group)
    Membership.objects.update_or_create(
        user=alice,
        topic=f"group:{group.pk}",
        defaults={"created_at": timezone.now() - timedelta(minutes=1)},
    )
    notify(group, "after joining")
    assert titles(alice) == ["after joining"]


def test_visible_group_ends_with_membership(alice: User) -> None:
    group = Group.objects.create(name="editors")
    alice.groups.add(group)
    Membership.objects.all().delete()
    notify(group, "for editors")
    assert titles(alice) == ["for editors"]
    alice.groups.remove(group)
    assert titles(alice) == []


def test_visible_membership_of_a_topic_that_is_not_readable_gives_nothing(alice: User) -> None:
    Membership.objects.create(user=alice, topic="staff", created_at=timezone.now() - LONG_AGO)
    notify("staff", "secret")
    assert titles(alice) == []


def test_visible_inactive_user_reads_nothing(alice: User) -> None:
    notify(alice, "hi")
    alice.is_active = False
    assert titles(alice) == []


def test_visible_recalled_is_gone(alice: User) -> None:
    recall(notify(alice, "oops"))
    assert titles(alice) == []
    assert inbox.unread_count(alice) == 0


def test_visible_expired_is_gone(alice: User) -> None:
    notify(alice, "over", expires_at=timezone.now() - timedelta(seconds=1))
    notify(alice, "not yet", expires_at=timezone.now() + timedelta(hours=1))
    assert titles(alice) == ["not yet"]


def test_visible_newer_with_the_same_tag_replaces(alice: User, bob: User) -> None:
    notify(alice, "1 file", tag="upload")
    notify(bob, "bob's", tag="upload")
    notify(alice, "untagged")
    notify(alice, "other", tag="download")
    notify(alice, "2 files", tag="upload")
    assert titles(alice) == ["2 files", "other", "untagged"]
    assert titles(bob) == ["bob's"]
    assert inbox.unread_count(alice) == 3


def test_visible_same_tag_on_another_topic_replaces_nothing(alice: User) -> None:
    notify("everyone", "for all", tag="status")
    notify(alice, "for alice", tag="status")
    assert titles(alice) == ["for alice", "for all"]


@pytest.mark.parametrize("end", ["recalled", "expired"])
def test_visible_replaced_stays_replaced_when_its_successor_is(alice: User, end: str) -> None:
    notify(alice, "at ten", tag="maintenance")
    successor = notify(alice, "at eleven", tag="maintenance")
    if end == "recalled":
        recall(successor)
    else:
        Notification.objects.filter(pk=successor.pk).update(expires_at=timezone.now())
    assert titles(alice) == []


def test_visible_takes_a_constant_number_of_queries(alice: User, django_assert_max_num_queries: Any) -> None:
    for name in "abcdef":
        alice.groups.add(Group.objects.create(name=name))
    notify(alice, "hi")
    with django_assert_max_num_queries(3):
        assert len(inbox.visible(alice)) == 1


# --- Counts


def test_unread_count_of_an_empty_inbox(alice: User) -> None:
    assert inbox.counts(alice) == inbox.Counts(0, 0)


def test_unread_count_leaves_out_read_and_archived(alice: User) -> None:
    read, archived, _ = (notify(alice, title) for title in ("read", "archived", "unread"))
    inbox.mark_read(alice, [read.pk])
    inbox.archive(alice, [archived.pk])
    assert inbox.unread_count(alice) == 1


def test_unread_count_is_capped_in_the_database(alice: User) -> None:
    for number in range(7):
        notify(alice, str(number))
    with CaptureQueriesContext(connection) as queries:
        assert inbox.unread_count(alice, cap=5) == 5
        assert inbox.unseen_count(alice, cap=5) == 5
    counting = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert len(counting) == 2
    assert all("LIMIT 5" in sql for sql in counting)


def test_unread_count_cap_covers_both_sides_of_the_mark(alice: User) -> None:
    below = [old(alice, str(number)).pk for number in range(3)]
    inbox.read_all(alice)
    inbox.mark_read(alice, below, read=False)
    for number in range(3):
        notify(alice, f"new {number}")
    assert inbox.unread_count(alice) == 6
    assert inbox.unread_count(alice, cap=4) == 4
    assert inbox.unread_count(alice, cap=2) == 2


def test_unread_count_of_100_means_more(alice: User) -> None:
    Notification.objects.bulk_create(Notification(topic=f"user:{alice.pk}", title="x") for _ in range(inbox.CAP + 20))
    assert inbox.counts(alice) == inbox.Counts(100, 100)


# --- Pages


def test_page_is_newest_first_and_goes_on_below_next(alice: User) -> None:
    for number in range(5):
        notify(alice, str(number))
    first = inbox.page(alice, limit=2)
    second = inbox.page(alice, limit=2, before=first.next)
    third = inbox.page(alice, limit=2, before=second.next)
    pages = [[row.notification.title for row in page.rows] for page in (first, second, third)]
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    assert third.next is None


def test_page_that_is_exactly_full_is_the_last(alice: User) -> None:
    notify(alice, "a")
    notify(alice, "b")
    assert inbox.page(alice, limit=2).next is None


def test_page_shows_no_row_twice_when_one_arrives_meanwhile(alice: User) -> None:
    for number in range(4):
        notify(alice, str(number))
    first = inbox.page(alice, limit=2)
    notify(alice, "new")
    second = inbox.page(alice, limit=2, before=first.next)
    assert [row.notification.title for row in second.rows] == ["1", "0"]


def test_page_by_status(alice: User) -> None:
    for title in ("unread", "read", "archived"):
        notify(alice, title)
    by_title = {notification.title: notification.pk for notification in Notification.objects.all()}
    inbox.mark_read(alice, [by_title["read"]])
    inbox.archive(alice, [by_title["archived"]])

    def shown(status: inbox.Status) -> list[str]:
        return [row.notification.title for row in inbox.page(alice, status).rows]

    assert shown("all") == ["read", "unread"]
    assert shown("unread") == ["unread"]
    assert shown("archived") == ["archived"]


def test_page_unread_goes_on_below_the_mark(alice: User) -> None:
    kept = [old(alice, f"kept {number}").pk for number in range(3)]
    inbox.read_all(alice)
    inbox.mark_read(alice, kept, read=False)
    notify(alice, "new")
    first = inbox.page(alice, "unread", limit=2)
    second = inbox.page(alice, "unread", before=first.next, limit=2)
    assert [row.notification.title for row in (*first.rows, *second.rows)] == ["new", "kept 2", "kept 1", "kept 0"]
    assert second.next is None


def test_page_by_kind(alice: User) -> None:
    notify(alice, "shipped", kind="order.shipped")
    notify(alice, "hello")
    assert [row.notification.title for row in inbox.page(alice, kind="order.shipped").rows] == ["shipped"]
    assert inbox.Inbox(alice).kinds() == ["message", "order.shipped"]


def test_kinds_are_those_that_the_site_declares_and_the_newest(
    alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.NOTIFICATIONS = {"KINDS": {"order.shipped": {}, "account.security": {"mandatory": True}}}
    monkeypatch.setattr(inbox, "RECENT", 1)
    for kind in ("undeclared.old", "order.shipped", "undeclared.new"):
        notify(alice, "hi", kind=kind)
    assert inbox.Inbox(alice).kinds() == ["account.security", "order.shipped", "undeclared.new"]


def test_page_takes_as_many_queries_for_many_rows_as_for_one(alice: User) -> None:
    notify(alice, "x", actor=alice, target=alice)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            for row in inbox.page(alice).rows:
                inbox.as_json(row)
        return len(captured)

    queries()
    one = queries()
    for _ in range(10):
        notify(alice, "x", actor=alice, target=alice)
    assert queries() == one <= 5


def test_as_json_is_the_payload_and_the_state(alice: User) -> None:
    notification = notify(alice, "Shipped", "soon", kind="order.shipped", url="/orders/9/", data={"order": 9})
    (row,) = inbox.page(alice).rows
    assert inbox.as_json(row) == {
        "id": notification.pk,
        "kind": "order.shipped",
        "level": "info",
        "title": "Shipped",
        "body": "soon",
        "url": "/orders/9/",
        "data": {"order": 9},
        "tag": "",
        "created_at": notification.created_at.isoformat(),
        "read": False,
        "seen": False,
        "archived": False,
    }


@pytest.mark.parametrize("url", ["javascript:alert(1)", "//evil.example/", "data:text/html,x", "/\\evil.example"])
def test_href_of_a_bad_link_is_empty(alice: User, url: str) -> None:
    Notification.objects.create(topic=f"user:{alice.pk}", title="written by hand", url=url)
    assert inbox.page(alice).rows[0].href == ""


@pytest.mark.parametrize(
    ("url", "follows"),
    [
        ("/orders/9/", True),
        ("https://elsewhere.example/", True),
        ("http://shop.example:8000/orders/9/", True),
        ("http://Shop.example:8000", True),
        ("http://shop.example/orders/9/", False),
        ("http://elsewhere.example/", False),
        ("http://shop.example:8000@elsewhere.example/", False),
        ("http://[::1", False),
    ],
)
def test_href_leads_to_the_page_s_own_origin_or_is_https(alice: User, url: str, follows: bool) -> None:
    Notification.objects.create(topic=f"user:{alice.pk}", title="written by hand", url=url)
    (row,) = inbox.Inbox(alice, origin="http://shop.example:8000").page().rows
    assert row.href == (url if follows else "")


def test_href_is_https_for_who_does_not_say_where_it_is_shown(alice: User) -> None:
    for url in ("http://shop.example/", "https://shop.example/"):
        notify(alice, "Shipped", url=url)
    assert [row.href for row in inbox.page(alice).rows] == ["https://shop.example/", ""]


# --- Read and unread


def test_mark_read_reads_and_sees(alice: User) -> None:
    notification = notify(alice, "hi")
    change = inbox.mark_read(alice, [notification.pk])
    assert change == inbox.Change((notification.pk,), (notification.pk,), inbox.Counts(0, 0))
    assert states(alice) == {"hi": (True, True, False)}
    assert published(alice) == [{"ids": [notification.pk], "read": True, "unread": 0, "unseen": 0}]


def test_mark_read_twice_publishes_once(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.mark_read(alice, [notification.pk])
    first = Receipt.objects.get()
    change = inbox.mark_read(alice, [notification.pk, notification.pk])
    assert change.found == (notification.pk,)
    assert change.changed == ()
    assert Receipt.objects.get().read_at == first.read_at
    assert len(published(alice)) == 1


def test_mark_read_is_of_one_person(alice: User, bob: User) -> None:
    notification = notify("everyone", "hi")
    inbox.mark_read(alice, [notification.pk])
    assert inbox.unread_count(alice) == 0
    assert inbox.unread_count(bob) == 1
    assert published(bob) == []


@pytest.mark.parametrize("act", [inbox.mark_read, inbox.archive, lambda user, ids: inbox.clicked(user, ids[0])])
def test_action_on_what_is_not_theirs_finds_nothing(
    alice: User, bob: User, act: Callable[[User, list[int]], inbox.Change]
) -> None:
    notification = notify(bob, "private")
    change = act(alice, [notification.pk])
    assert change.found == change.changed == ()
    assert not Receipt.objects.exists()
    assert published(alice) == published(bob) == []


@pytest.mark.parametrize("id", [0, -1, 2**31, 2**63 - 1, 2**63, 10**30])
def test_action_on_an_id_that_can_not_exist_finds_nothing(alice: User, id: int) -> None:
    assert inbox.mark_read(alice, [id]).found == ()


def test_mark_read_of_some_that_are_not_theirs_reads_the_others(alice: User, bob: User) -> None:
    own, foreign = notify(alice, "own"), notify(bob, "foreign")
    change = inbox.mark_read(alice, [own.pk, foreign.pk])
    assert change.found == change.changed == (own.pk,)
    assert inbox.unread_count(bob) == 1


@pytest.mark.parametrize("gone", ["recalled", "expired", "replaced"])
def test_mark_read_of_what_a_page_still_shows_is_no_error(alice: User, gone: str) -> None:
    notification = notify(alice, "hi", tag="t")
    match gone:
        case "recalled":
            recall(notification)
        case "expired":
            Notification.objects.update(expires_at=timezone.now())
        case _:
            notify(alice, "newer", tag="t")
    assert inbox.mark_read(alice, [notification.pk]).found == (notification.pk,)


def test_unread_again_above_the_mark(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.mark_read(alice, [notification.pk])
    change = inbox.mark_read(alice, [notification.pk], read=False)
    assert change.counts == inbox.Counts(1, 0)
    assert states(alice) == {"hi": (False, True, False)}
    assert published(alice)[-1] == {"ids": [notification.pk], "read": False, "unread": 1, "unseen": 0}


def test_unread_again_below_the_mark(alice: User) -> None:
    first, _ = old(alice, "first"), old(alice, "second")
    inbox.read_all(alice)
    inbox.mark_read(alice, [first.pk], read=False)
    assert states(alice) == {"second": (True, True, False), "first": (False, True, False)}
    assert inbox.unread_count(alice) == 1
    inbox.mark_read(alice, [first.pk])
    assert inbox.unread_count(alice) == 0


def test_unread_of_an_unread_one_changes_nothing(alice: User) -> None:
    notification = notify(alice, "hi")
    assert inbox.mark_read(alice, [notification.pk], read=False).changed == ()
    assert published(alice) == []


def test_mark_read_of_many_writes_in_one_statement(alice: User) -> None:
    for _ in range(50):
        notify(alice, "x")
    ids = list(Notification.objects.values_list("pk", flat=True))
    with CaptureQueriesContext(connection) as queries:
        inbox.mark_read(alice, ids)
    assert (
        len([query for query in queries if "notifications_receipt" in query["sql"] and "INSERT" in query["sql"]]) == 1
    )
    assert len(queries) <= 14
    assert inbox.unread_count(alice) == 0


def test_mark_read_that_is_rolled_back_leaves_nothing(alice: User) -> None:
    notification = notify(alice, "hi")
    with pytest.raises(RuntimeError), transaction.atomic():
        inbox.mark_read(alice, [notification.pk])
        raise RuntimeError
    assert inbox.unread_count(alice) == 1
    assert published(alice) == []


# --- Archive


def test_archive_hides_and_unarchive_restores_as_it_was(alice: User) -> None:
    notification = notify(alice, "hi")
    change = inbox.archive(alice, [notification.pk])
    assert change.counts == inbox.Counts(0, 0)
    assert titles(alice) == []
    assert states(alice) == {"hi": (False, True, True)}
    inbox.archive(alice, [notification.pk], archived=False)
    assert states(alice) == {"hi": (False, True, False)}
    assert published(alice) == [
        {"ids": [notification.pk], "archived": True, "unread": 0, "unseen": 0},
        {"ids": [notification.pk], "archived": False, "unread": 1, "unseen": 0},
    ]


def test_archive_below_the_mark_stays_read(alice: User) -> None:
    notification = old(alice)
    inbox.read_all(alice)
    inbox.archive(alice, [notification.pk])
    assert states(alice) == {"old": (True, True, True)}
    inbox.archive(alice, [notification.pk], archived=False)
    assert states(alice) == {"old": (True, True, False)}
    assert inbox.unread_count(alice) == 0


def test_archive_of_a_read_one_stays_read(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.mark_read(alice, [notification.pk])
    inbox.archive(alice, [notification.pk])
    assert states(alice) == {"hi": (True, True, True)}


def test_archive_twice_publishes_once(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.archive(alice, [notification.pk])
    assert inbox.archive(alice, [notification.pk]).changed == ()
    assert len(published(alice)) == 1


# --- Clicked


def test_clicked_reads_and_keeps_the_first_time(alice: User) -> None:
    notification = notify(alice, "hi", url="/x/")
    change = inbox.clicked(alice, notification.pk)
    assert change.changed == (notification.pk,)
    first = Receipt.objects.get()
    assert first.clicked_at is not None
    assert first.read_at is not None
    inbox.mark_read(alice, [notification.pk], read=False)
    inbox.clicked(alice, notification.pk)
    again = Receipt.objects.get()
    assert again.clicked_at == first.clicked_at
    assert again.read_at is not None
    assert [event["read"] for event in published(alice)] == [True, False, True]


def test_clicked_of_a_read_one_publishes_nothing(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.mark_read(alice, [notification.pk])
    read_at = Receipt.objects.get().read_at
    assert inbox.clicked(alice, notification.pk).changed == ()
    receipt = Receipt.objects.get()
    assert receipt.clicked_at is not None
    assert receipt.read_at == read_at
    assert len(published(alice)) == 1


def test_clicked_below_the_mark(alice: User) -> None:
    notification = old(alice)
    inbox.read_all(alice)
    inbox.clicked(alice, notification.pk)
    assert states(alice) == {"old": (True, True, False)}


# --- Seen


def test_seen_empties_the_count_and_reads_nothing(alice: User) -> None:
    old(alice)
    newest = notify(alice, "new")
    change = inbox.mark_seen(alice)
    assert change.counts == inbox.Counts(2, 0)
    assert states(alice) == {"new": (False, True, False), "old": (False, True, False)}
    assert published(alice) == [{"all": True, "before": newest.pk}]


def test_seen_twice_publishes_once(alice: User) -> None:
    notify(alice, "hi")
    inbox.mark_seen(alice)
    inbox.mark_seen(alice)
    assert len(published(alice)) == 1


def test_seen_of_an_empty_inbox_publishes_nothing(alice: User) -> None:
    inbox.mark_seen(alice)
    assert published(alice) == []


def test_seen_then_read_all_reads_what_was_seen(alice: User) -> None:
    old(alice)
    notify(alice, "new")
    inbox.mark_seen(alice)
    inbox.read_all(alice)
    assert inbox.counts(alice) == inbox.Counts(0, 0)


def test_seen_receipt_that_the_mark_passes_later_is_read(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.mark_seen(alice)
    aged(notification, timedelta(hours=2))
    inbox.read_all(alice)
    assert ReadMark.objects.get().read_upto == notification.pk
    assert states(alice) == {"hi": (True, True, False)}


# --- Read all


def test_read_all_reads_and_sees_everything(alice: User) -> None:
    old(alice)
    newest = notify("everyone", "new")
    change = inbox.read_all(alice)
    assert change.counts == inbox.Counts(0, 0)
    assert states(alice) == {"new": (True, True, False), "old": (True, True, False)}
    assert published(alice) == [{"all": True, "before": newest.pk, "unread": 0, "unseen": 0}]


def test_read_all_with_nothing_unread_publishes_nothing(alice: User) -> None:
    notify(alice, "hi")
    inbox.read_all(alice)
    inbox.read_all(alice)
    assert len(published(alice)) == 1


def test_read_all_moves_the_mark_only_over_settled_rows(alice: User) -> None:
    settled = old(alice)
    recent = notify(alice, "recent")
    inbox.read_all(alice)
    assert ReadMark.objects.get().read_upto == settled.pk
    assert Receipt.objects.get().notification_id == recent.pk


def test_read_all_leaves_what_is_committed_later_with_a_smaller_id(alice: User) -> None:
    # Its id was taken first, its transaction commits last.
    id = notify(alice, "slow").pk
    Notification.objects.filter(pk=id).delete()
    notify(alice, "fast")
    inbox.read_all(alice)
    Notification.objects.create(pk=id, topic=f"user:{alice.pk}", title="slow")
    assert states(alice) == {"fast": (True, True, False), "slow": (False, False, False)}
    assert inbox.counts(alice) == inbox.Counts(1, 1)


def test_read_all_before_leaves_what_came_after(alice: User) -> None:
    shown = notify(alice, "on the screen")
    notify(alice, "just arrived")
    change = inbox.read_all(alice, before=shown.pk)
    assert change.counts.unread == 1
    assert states(alice)["just arrived"] == (False, False, False)
    assert published(alice) == [{"all": True, "before": shown.pk, "unread": 1, "unseen": 1}]


def test_read_all_before_with_old_rows_on_both_sides(alice: User) -> None:
    first, second = old(alice, "first"), old(alice, "second")
    inbox.read_all(alice, before=first.pk)
    assert ReadMark.objects.get().read_upto == first.pk
    assert states(alice) == {"second": (False, False, False), "first": (True, True, False)}
    inbox.read_all(alice, before=second.pk)
    assert inbox.unread_count(alice) == 0


@pytest.mark.parametrize("before", [-5, 0, 2**63 - 1])
def test_read_all_with_a_forged_before_stays_within_the_inbox(alice: User, bob: User, before: int) -> None:
    newest = notify(alice, "mine")
    old(bob, "not mine")
    inbox.read_all(alice, before=before)
    if before > 0:
        assert published(alice) == [{"all": True, "before": newest.pk, "unread": 0, "unseen": 0}]
    else:
        assert published(alice) == []
    notify(alice, "later")
    assert inbox.unread_count(alice) == (1 if before > 0 else 2)


def test_read_all_never_moves_the_mark_back(alice: User) -> None:
    first, second = old(alice, "first"), old(alice, "second")
    inbox.read_all(alice)
    inbox.mark_read(alice, [first.pk], read=False)
    inbox.read_all(alice, before=first.pk)
    assert ReadMark.objects.get().read_upto == second.pk
    assert inbox.unread_count(alice) == 0


def test_read_all_reads_what_was_kept_unread_below_the_mark(alice: User) -> None:
    notification = old(alice)
    inbox.read_all(alice)
    inbox.mark_read(alice, [notification.pk], read=False)
    inbox.read_all(alice)
    assert inbox.unread_count(alice) == 0
    assert inbox.page(alice, "unread").rows == []


def test_read_all_does_not_take_anything_out_of_the_archive(alice: User) -> None:
    notification = notify(alice, "hi")
    inbox.archive(alice, [notification.pk])
    notify(alice, "other")
    inbox.read_all(alice)
    assert states(alice)["hi"][2] is True


def test_read_all_of_many_writes_in_batches(alice: User) -> None:
    Notification.objects.bulk_create(
        Notification(topic=f"user:{alice.pk}", title="x") for _ in range(inbox.BATCH + 100)
    )
    with CaptureQueriesContext(connection) as queries:
        inbox.read_all(alice)
    assert len(queries) <= 20
    assert inbox.counts(alice) == inbox.Counts(0, 0)


# --- Databases and neighbours


def test_receipts_of_a_database_that_names_no_target(alice: User) -> None:
    notification = notify(alice, "hi")
    features = type(connection.features)
    with (
        mock.patch.object(features, "supports_update_conflicts_with_target", False),
        mock.patch("django.db.models.query.QuerySet.bulk_create") as bulk_create,
    ):
        inbox._upsert([Receipt(user=alice, notification=notification)], ["read_at"], "default")
    assert bulk_create.call_args.kwargs["unique_fields"] is None
    assert bulk_create.call_args.kwargs["update_conflicts"] is True


def test_receipt_written_by_somebody_else_meanwhile_is_met(alice: User) -> None:
    notification = notify(alice, "hi")
    with inbox.acting(alice) as box:
        (row,) = box.find([notification.pk])
        Receipt.objects.create(user=alice, notification=notification)
        box.write([row], read_at=timezone.now())
    assert Receipt.objects.get().read_at is not None


@contextmanager
def all_at_once(*calls: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run the calls in threads of their own that begin together."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            call()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    yield errors


@pytest.mark.django_db(transaction=True)
def test_actions_at_once_publish_falling_counts(alice: User) -> None:
    ids = [notify(alice, str(number)).pk for number in range(6)]

    def read(id: int) -> Callable[[], object]:
        return lambda: inbox.mark_read(alice, [id])

    with all_at_once(*map(read, ids)) as errors:
        assert errors == []
    events = Event.objects.filter(topic=f"user:{alice.pk}", type="read").order_by("seq")
    assert [json.loads(event.payload)["unread"] for event in events] == [5, 4, 3, 2, 1, 0]


@pytest.mark.django_db(transaction=True)
def test_same_action_at_once_publishes_once(alice: User) -> None:
    notification = notify(alice, "hi")
    with all_at_once(*[lambda: inbox.mark_read(alice, [notification.pk])] * 4) as errors:
        assert errors == []
    assert Event.objects.filter(type="read").count() == 1
    assert Receipt.objects.count() == 1
