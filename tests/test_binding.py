"""``notify_on``: a site's own models, bound in one declaration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, transaction
from django.db.models.signals import post_save

from notifications import notify_on
from notifications.models import Event, Notification
from tests.site.models import Order

pytestmark = pytest.mark.django_db


@pytest.fixture
def bind() -> Iterator[Callable[..., notify_on]]:
    """``notify_on`` for Order, undone after the test."""
    bindings: list[notify_on] = []

    def make(**declaration: Any) -> notify_on:
        bindings.append(notify_on(Order, **declaration))
        return bindings[-1]

    yield make
    for binding in bindings:
        binding.disconnect()


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


def sent() -> list[tuple[str, str]]:
    return list(Notification.objects.order_by("pk").values_list("topic", "title"))


def test_created_notifies_once(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, to="customer", title="Order {order.number} is placed")
    order = Order.objects.create(customer=alice, number="N1")
    order.status = "packed"
    order.save()
    assert sent() == [(f"user:{alice.pk}", "Order N1 is placed")]
    notification = Notification.objects.get()
    assert (notification.kind, notification.url, notification.target) == (
        "order.created",
        f"/orders/{order.pk}/",
        order,
    )


def test_changed_notifies_when_the_field_changes(bind: Callable[..., notify_on], alice: User) -> None:
    bind(changed="status", to="customer", title="{order.number} is {order.status}")
    order = Order.objects.create(customer=alice, number="N1")
    order.note = "fragile"
    order.save()
    order.status = "packed"
    order.save()
    order.save()
    assert sent() == [(f"user:{alice.pk}", "N1 is packed")]
    assert Notification.objects.get().kind == "order.changed"


def test_changed_compares_with_the_database_not_with_the_instance(bind: Callable[..., notify_on], alice: User) -> None:
    bind(changed=["status"], to="customer", title="{order.status}")
    order = Order.objects.create(customer=alice, number="N1")
    stale = Order.objects.get(pk=order.pk)
    Order.objects.filter(pk=order.pk).update(status="packed")
    stale.status = "packed"
    stale.save()
    assert sent() == []


def test_changed_ignores_a_save_of_other_fields(bind: Callable[..., notify_on], alice: User) -> None:
    bind(changed="status", to="customer", title="{order.status}")
    order = Order.objects.create(customer=alice, number="N1")
    order.status = "packed"
    order.save(update_fields=["note"])
    assert sent() == []


def test_foreign_key_can_be_what_changes(bind: Callable[..., notify_on], alice: User) -> None:
    bob = User.objects.create_user("bob")
    bind(changed="customer", to="customer", title="yours now")
    order = Order.objects.create(customer=alice, number="N1")
    order.customer = bob
    order.save()
    assert sent() == [(f"user:{bob.pk}", "yours now")]


@pytest.mark.parametrize(
    ("to", "topic"),
    [
        ("staff", "staff"),
        ("order:{order.number}", "order:N1"),
        (lambda order: order.customer, "user:{pk}"),
        (lambda order: Group.objects.get_or_create(name="packers")[0], "group:{group}"),
        (lambda order: [order.customer, None], "user:{pk}"),
    ],
)
def test_recipients(bind: Callable[..., notify_on], alice: User, to: Any, topic: str) -> None:
    bind(created=True, to=to, title="new")
    Order.objects.create(customer=alice, number="N1")
    group = Group.objects.filter(name="packers").first()
    assert sent() == [(topic.format(pk=alice.pk, group=group and group.pk), "new")]


def test_nobody_is_notified_for_none(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, to=lambda order: None, title="new")
    Order.objects.create(customer=alice, number="N1")
    assert sent() == []


def test_decorated_function_adds_to_the_declaration(bind: Callable[..., notify_on], alice: User) -> None:
    @bind(changed="status", to="customer", title="{order.status}")
    def moved(order: Order) -> dict[str, Any] | bool | None:
        if order.status == "lost":
            return False
        return {"level": "success", "body": "{not a field}"} if order.status == "delivered" else None

    order = Order.objects.create(customer=alice, number="N1")
    for status in ("packed", "lost", "delivered"):
        order.status = status
        order.save()
    assert [title for _, title in sent()] == ["packed", "delivered"]
    delivered = Notification.objects.order_by("pk").last()
    assert delivered is not None
    # What the function returns is somebody's text: it is not filled in again.
    assert (delivered.level, delivered.body) == ("success", "{not a field}")


@pytest.mark.parametrize("declared", ["customer", "customer_id"])
@pytest.mark.parametrize("saved", [None, ["customer"], ["customer_id"]])
def test_foreign_key_by_either_of_its_names(
    bind: Callable[..., notify_on], alice: User, declared: str, saved: list[str] | None
) -> None:
    bind(changed=declared, to="customer", title="{order.number} is yours now")
    order = Order.objects.create(customer=alice, number="N1")
    bob = User.objects.create_user("bob")
    order.customer = bob
    order.save(update_fields=saved)
    assert sent() == [(f"user:{bob.pk}", "N1 is yours now")]


def test_save_within_another_receiver_of_the_same_save(bind: Callable[..., notify_on], alice: User) -> None:
    def note(instance: Order, **_: Any) -> None:
        if not instance.note:
            instance.note = "noted"
            instance.save()

    post_save.connect(note, sender=Order)
    try:
        bind(changed="status", to="customer", title="{order.number} is {order.status}")
        order = Order.objects.create(customer=alice, number="N1", note="x")
        order.note, order.status = "", "packed"
        order.save()
    finally:
        post_save.disconnect(note, sender=Order)
    assert sent() == [(f"user:{alice.pk}", "N1 is packed")]


def test_save_that_failed_leaves_no_trace(bind: Callable[..., notify_on], alice: User) -> None:
    bind(changed="status", to="customer", title="{order.number} is {order.status}")
    order = Order.objects.create(customer=alice, number="N1")
    order.status, order.customer_id = "packed", None  # type: ignore[assignment]
    with pytest.raises(IntegrityError), transaction.atomic():
        order.save()
    order.customer = alice
    order.save()
    order.save()
    assert sent() == [(f"user:{alice.pk}", "N1 is packed")]


def test_rolled_back_save_notifies_nobody(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, to="customer", title="new")
    with pytest.raises(RuntimeError), transaction.atomic():
        Order.objects.create(customer=alice, number="N1")
        raise RuntimeError
    assert not Notification.objects.exists()
    assert not Event.objects.exists()


def test_fixture_is_no_news(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, to="customer", title="new")
    text = serializers.serialize("json", [Order(pk=7, customer=alice, number="N7")])
    for loaded in serializers.deserialize("json", text):
        loaded.save()
    assert Order.objects.filter(pk=7).exists()
    assert sent() == []


def test_bulk_create_and_update_send_no_signals(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, changed="status", to="customer", title="new")
    Order.objects.bulk_create([Order(customer=alice, number="N1")])
    Order.objects.update(status="packed")
    assert sent() == []


def test_title_that_grows_too_long_is_cut(bind: Callable[..., notify_on], alice: User) -> None:
    bind(created=True, to="customer", title="{order.note}{order.note}")
    Order.objects.create(customer=alice, number="N1", note="x" * 150)
    [(_, title)] = sent()
    assert len(title) == 200
    assert title.endswith("…")


def test_declaration_that_never_notifies_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="never notifies"):
        notify_on(Order, to="customer", title="new")


def test_declaration_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="statsu"):
        notify_on(Order, changed="statsu", to="customer", title="new")


def test_declaration_with_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="lvel"):
        notify_on(Order, created=True, to="customer", title="new", lvel="success")
