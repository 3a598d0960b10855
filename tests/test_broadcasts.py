"""Broadcasts: whom one is for, and the count of who has read it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone

from notifications import inbox
from notifications.broadcasts import Reach, reach, recipients
from notifications.models import Broadcast, Membership, Notification, ReadMark
from notifications.publishing import broadcast

pytestmark = pytest.mark.django_db


@pytest.fixture
def people() -> dict[str, User]:
    """alice and bob are editors, carol is staff, dave may not log in."""
    users = {name: User.objects.create_user(name) for name in ("alice", "bob", "carol", "dave")}
    editors = Group.objects.create(name="editors")
    editors.user_set.add(users["alice"], users["bob"], users["dave"])
    User.objects.filter(username="carol").update(is_staff=True)
    User.objects.filter(username="dave").update(is_active=False)
    Membership.objects.update(created_at=timezone.now() - timedelta(days=1))
    User.objects.update(date_joined=timezone.now() - timedelta(days=1))
    return {user.username: user for user in User.objects.all()}


@pytest.mark.parametrize(
    ("audience", "names"),
    [
        ("everyone", ["alice", "bob", "carol"]),
        ("staff", ["carol"]),
        ("group", ["alice", "bob"]),
        ("users", ["bob"]),
    ],
)
def test_recipients_are_those_who_may_log_in(people: dict[str, User], audience: str, names: list[str]) -> None:
    row = Broadcast.objects.create(title="x", audience=audience, group=Group.objects.get())
    row.users.add(people["bob"], people["dave"])
    assert sorted(user.username for user in recipients(row)) == names


def test_recipients_of_a_group_that_is_gone_are_nobody(people: dict[str, User]) -> None:
    assert not recipients(Broadcast.objects.create(title="x", audience="group")).exists()


def audience_of(name: str, people: dict[str, User]) -> Any:
    match name:
        case "group":
            return Group.objects.get()
        case "users":
            return [people["alice"], people["bob"]]
        case _:
            return name


@pytest.mark.parametrize("audience", ["everyone", "group", "users"])
def test_reach_counts_receipts_and_marks(people: dict[str, User], audience: str) -> None:
    row = broadcast("hi", audience=audience_of(audience, people))
    assert reach(row) == Reach(0, 0)

    def own(name: str) -> int:
        return inbox.page(people[name]).rows[0].notification.pk

    inbox.clicked(people["alice"], own("alice"))
    assert reach(row) == Reach(1, 1)
    Notification.objects.update(created_at=timezone.now() - timedelta(hours=2))
    inbox.read_all(people["bob"])
    assert ReadMark.objects.get(user=people["bob"]).read_upto
    assert reach(row) == Reach(2, 1)
    inbox.mark_read(people["bob"], [own("bob")], read=False)
    assert reach(row) == Reach(1, 1)


def test_reach_leaves_out_marks_of_who_was_not_addressed(people: dict[str, User]) -> None:
    to_all, to_editors = broadcast("hi"), broadcast("hi", audience=Group.objects.get())
    Notification.objects.update(created_at=timezone.now() - timedelta(hours=2))
    newcomer = User.objects.create_user("erin")
    newcomer.groups.add(Group.objects.get())
    newest = Notification.objects.order_by("pk").last()
    assert newest is not None
    for user in (newcomer, people["carol"]):
        ReadMark.objects.create(user=user, read_upto=newest.pk)
    assert reach(to_all) == Reach(1, 0)
    assert reach(to_editors) == Reach(0, 0)


def test_reach_takes_a_constant_number_of_queries(people: dict[str, User], django_assert_max_num_queries: Any) -> None:
    users = [User.objects.create_user(f"user{number}") for number in range(20)]
    row = broadcast("hi", audience=users)
    with django_assert_max_num_queries(4):
        reach(row)
