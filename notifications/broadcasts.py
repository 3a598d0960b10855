"""Broadcasts: whom one is for, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Exists, OuterRef, QuerySet

from .access import EVERYONE, user_topic
from .models import Broadcast, Membership, Notification, ReadMark, Receipt

__all__ = ["Reach", "people", "reach", "recipients"]


@dataclass(frozen=True)
class Reach:
    """How many people have read a broadcast, and how many followed its link."""

    read: int
    clicked: int


def people() -> QuerySet[Any]:
    """Return the users who may log in."""
    users: QuerySet[Any] = get_user_model()._default_manager.all()
    return users.filter(is_active=True) if _has_field("is_active") else users


def recipients(broadcast: Broadcast) -> QuerySet[Any]:
    """Return the people whom a saved broadcast is, or would be, for now."""
    users = people()
    match broadcast.audience:
        case Broadcast.Audience.EVERYONE:
            return users
        case Broadcast.Audience.STAFF:
            return users.filter(is_staff=True) if _has_field("is_staff") else users.none()
        case Broadcast.Audience.GROUP:
            known = broadcast.group_id and _has_field("groups")
            return users.filter(groups=broadcast.group_id) if known else users.none()
        case _:
            return users.filter(pk__in=broadcast.users.order_by().values("pk"))


def reach(broadcast: Broadcast) -> Reach:
    """Return how many have read a broadcast and followed its link, marks of "all read" included."""
    receipts = Receipt.objects.filter(notification__broadcast=broadcast)
    read = receipts.exclude(read_at=None).count()
    clicked = receipts.exclude(clicked_at=None).count()
    if broadcast.audience == Broadcast.Audience.USERS:
        read += _read_by_mark(broadcast)
    else:
        for notification in Notification.objects.filter(broadcast=broadcast):
            read += _readers_by_mark(broadcast, notification).count()
    return Reach(read, clicked)


def _readers_by_mark(broadcast: Broadcast, notification: Notification) -> QuerySet[ReadMark]:
    """Return the marks that passed a shared notification, of people it was for and who have no receipt for it."""
    own = Receipt.objects.filter(user=OuterRef("user"), notification=notification)
    marks = ReadMark.objects.filter(
        ~Exists(own), read_upto__gte=notification.pk, user__in=recipients(broadcast).order_by().values("pk")
    )
    if notification.topic == EVERYONE:
        if _has_field("date_joined"):
            marks = marks.filter(user__date_joined__lte=notification.created_at)
    else:
        later = Membership.objects.filter(
            user=OuterRef("user"), topic=notification.topic, created_at__gt=notification.created_at
        )
        marks = marks.filter(~Exists(later))
    return marks


def _read_by_mark(broadcast: Broadcast) -> int:
    """Return how many chosen users' marks passed their own notification without a receipt for it."""
    own = Receipt.objects.filter(notification=OuterRef("pk"))
    rows = Notification.objects.filter(~Exists(own), broadcast=broadcast).order_by().values_list("topic", "pk")
    marks = ReadMark.objects.filter(user__in=broadcast.users.order_by().values("pk"), read_upto__gt=0)
    upto = {user_topic(user): mark for user, mark in marks.values_list("user", "read_upto")}
    return sum(pk <= upto.get(topic, 0) for topic, pk in rows)


def _has_field(name: str) -> bool:
    try:
        get_user_model()._meta.get_field(name)
    except FieldDoesNotExist:
        return False
    return True
