"""The people, products and orders that the demo site is shown with."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction
from django.utils.translation import gettext_lazy

from notifications import broadcast
from notifications.inbox import mark_read, visible
from notifications.models import Broadcast
from project.shop.models import Order, Product, Status

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["PEOPLE", "Person", "populate"]


@dataclass(frozen=True)
class Person:
    """Somebody to log in as. The password is known to all: these people exist only with ``DEBUG``."""

    username: str
    group: str
    staff: bool
    part: StrOrPromise

    @property
    def password(self) -> str:
        return f"{self.username}-demo"


PEOPLE = [
    Person("alice", "Customers", False, gettext_lazy("a customer with three orders under way")),
    Person("bob", "Customers", False, gettext_lazy("another customer, who must not see what is Alice’s")),
    Person("carol", "Warehouse", True, gettext_lazy("staff: packs and ships orders, announces, runs the admin")),
]

PRODUCTS = [
    ("Mug", "Stoneware, holds a morning.", "14.00", "mug"),
    ("Teapot", "For two, or for one with a book.", "39.00", "teapot"),
    ("Lamp", "Warm light, no screen.", "59.00", "lamp"),
    ("Fern", "Thrives on being ignored.", "18.50", "fern"),
    ("Clock", "Ticks, quietly.", "34.00", "clock"),
    ("Notebook", "Ninety-six empty pages.", "9.50", "notebook"),
]

UNREAD = 3  # of each person, to begin with

ORDERS = [
    ("bob", "Clock", Status.DELIVERED),
    ("alice", "Notebook", Status.DELIVERED),
    ("bob", "Mug", Status.PACKED),
    ("alice", "Teapot", Status.SHIPPED),
    ("alice", "Lamp", Status.PLACED),
]


@transaction.atomic
def populate() -> None:
    """Create the people, products and orders that are missing; what is there already stays as it is."""
    users = get_user_model().objects
    people = {}
    for person in PEOPLE:
        user, new = users.get_or_create(
            username=person.username,
            defaults={
                "first_name": person.username.title(),
                "email": f"{person.username}@example.com",
                "is_staff": person.staff,
                "is_superuser": person.staff,
            },
        )
        if new:
            user.set_password(person.password)
            user.save(update_fields=["password"])
            user.groups.add(Group.objects.get_or_create(name=person.group)[0])
        people[person.username] = user

    products = {}
    for name, blurb, price, picture in PRODUCTS:
        products[name], _ = Product.objects.get_or_create(
            name=name,
            defaults={"blurb": blurb, "price": Decimal(price), "picture": f"shop/products/{picture}.svg"},
        )

    if not Broadcast.objects.exists():
        broadcast("Welcome to the corner shop", "What you read here arrived while the page was open, or before.")
    if not Order.objects.exists():
        # Step by step, as in life: each step is one save and so one notification.
        for name, product, status in ORDERS:
            order = Order.objects.create(customer=people[name], product=products[product])
            while order.status != status:
                order.advance()
        for user in people.values():
            mark_read(user, [row.pk for row in visible(user).order_by("-pk")[UNREAD:]])
