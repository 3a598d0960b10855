"""What Django tells the app about people: who joins begins there, whose rights change is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.test.utils import isolate_apps

from notifications import doorbell, notify, receivers, refresh_access
from notifications.models import Membership

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics that were rung for a recheck."""
    topics: list[str] = []
    monkeypatch.setattr(doorbell, "ring_recheck", topics.extend)
    return topics


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def group() -> Group:
    return Group.objects.create(name="packers")


def memberships() -> dict[tuple[int, str], int]:
    return {(row.user_id, row.topic): row.since for row in Membership.objects.all()}


@pytest.mark.parametrize(
    "join",
    [lambda user, group: user.groups.add(group), lambda user, group: group.user_set.add(user)],
    ids=["user.groups", "group.user_set"],
)
def test_joining_a_group_begins_at_its_head(
    alice: User, group: Group, rung: list[str], join: Callable[[User, Group], None]
) -> None:
    notify(group, "before")
    notify(group, "also before")
    join(alice, group)
    assert memberships() == {(alice.pk, f"group:{group.pk}"): 2}
    assert rung == [f"user:{alice.pk}"]


def test_joining_again_begins_there(alice: User, group: Group) -> None:
    alice.groups.add(group)
    alice.groups.remove(group)
    notify(group, "meanwhile")
    alice.groups.add(group)
    assert memberships() == {(alice.pk, f"group:{group.pk}"): 1}


@pytest.mark.parametrize(
    "leave",
    [
        lambda user, group: user.groups.remove(group),
        lambda user, group: group.user_set.remove(user),
        lambda user, group: user.groups.clear(),
        lambda user, group: group.user_set.clear(),
        lambda user, group: group.delete(),
    ],
    ids=["remove", "user_set.remove", "clear", "user_set.clear", "delete"],
)
def test_leaving_a_group_is_rung(
    alice: User, group: Group, rung: list[str], leave: Callable[[User, Group], None]
) -> None:
    alice.groups.add(group)
    rung.clear()
    leave(alice, group)
    assert rung == [f"user:{alice.pk}"]


def test_becoming_staff_begins_at_the_head_of_staff(alice: User, rung: list[str]) -> None:
    notify("staff", "before")
    rung.clear()
    alice.is_staff = True
    alice.save()
    assert memberships() == {(alice.pk, "staff"): 1}
    assert rung == [f"user:{alice.pk}"]


def test_staff_who_stay_staff_keep_their_beginning(alice: User) -> None:
    alice.is_staff = True
    alice.save()
    notify("staff", "news")
    alice.first_name = "Alice"
    alice.save()
    assert memberships() == {(alice.pk, "staff"): 0}


def test_new_staff_user_does_not_see_what_was_said_before() -> None:
    notify("staff", "before")
    sam = User.objects.create_user("sam", is_staff=True)
    assert memberships() == {(sam.pk, "staff"): 1}


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "other"}, {"is_staff": False}])
def test_change_of_a_user_is_rung(alice: User, rung: list[str], change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(alice, name, value)
    alice.save()
    assert rung == [f"user:{alice.pk}"]


def test_login_is_not_rung(alice: User, rung: list[str]) -> None:
    alice.save(update_fields=["last_login"])
    assert rung == []


def test_deleted_user_is_rung(alice: User, rung: list[str]) -> None:
    pk = alice.pk
    alice.delete()
    assert rung == [f"user:{pk}"]


def test_logout_is_rung(alice: User, rung: list[str]) -> None:
    user_logged_out.send(sender=User, request=None, user=alice)
    assert rung == [f"user:{alice.pk}"]


def test_logout_of_nobody_is_no_error(rung: list[str]) -> None:
    user_logged_out.send(sender=None, request=None, user=None)
    assert rung == []


def test_nothing_is_rung_before_the_commit(alice: User, rung: list[str]) -> None:
    with transaction.atomic():
        refresh_access([alice])
        assert rung == []
    assert rung == [f"user:{alice.pk}"]


def test_nothing_is_rung_for_a_rollback(alice: User, rung: list[str]) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        alice.is_active = False
        alice.save()
        raise RuntimeError
    assert rung == []


@pytest.fixture
def employee() -> Iterator[type[User]]:
    """A proxy of the user model, as a site has it for a page of its own in the admin."""
    with isolate_apps("tests.site"):

        class Employee(User):
            class Meta:
                proxy = True
                app_label = "site"

    with mock.patch.object(apps, "get_models", lambda: [User, Employee]):
        receivers.connect()
    yield Employee


def test_proxy_of_the_user_model_is_the_user(employee: type[User], alice: User, rung: list[str]) -> None:
    notify("staff", "before")
    same = employee.objects.get(pk=alice.pk)
    same.is_staff = True
    same.save()
    assert memberships() == {(alice.pk, "staff"): 1}
    assert rung == [f"user:{alice.pk}"]
    same.delete()
    assert rung[1:]
    assert set(rung) == {f"user:{alice.pk}"}
