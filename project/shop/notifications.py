"""Who hears of what: the shop's orders bound to notifications, in two declarations.

Saving an order anywhere (the staff's desk, the Django admin, a shell, a management command) is enough.
"""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from notifications import notify_on
from notifications.models import Level
from project.shop.models import Order, Status

__all__ = ["order_placed", "order_progress", "progress"]

PROGRESS = {
    Status.PLACED: "Thank you! We have your order of “{product}”.",
    Status.PACKED: "“{product}” is packed.",
    Status.SHIPPED: "“{product}” is on its way to you.",
    Status.DELIVERED: "“{product}” has arrived.",
}


def progress(order: Order) -> str:
    """Return in one sentence how far ``order`` has come, for its customer."""
    return PROGRESS[Status(order.status)].format(product=order.product)


@notify_on(
    Order,
    created=True,
    changed="status",
    to="customer",
    kind="order.progress",
    title=progress,
    body="Order {order.number}",
    url=Order.get_absolute_url,
)
def order_progress(order: Order) -> dict[str, Any]:
    """Tell the customer of each step; the last one is good news."""
    return {
        "level": Level.SUCCESS if order.status == Status.DELIVERED else Level.INFO,
        "data": {"order": order.pk, "status": order.status},
    }


@notify_on(
    Order,
    created=True,
    to="staff",
    kind="order.new",
    title="{order.customer} ordered “{order.product}”.",
    body="Order {order.number} waits to be packed.",
)
def order_placed(order: Order) -> dict[str, Any]:
    """Tell the staff that there is something to pack."""
    return {"url": reverse("shop:desk")}
