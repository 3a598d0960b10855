"""What the app hears from Django: who loses rights loses the stream, who joins a topic begins where they joined."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from . import doorbell
from .access import STAFF, group_topic, record_membership, user_topic
from .tables import unless_missing

__all__ = ["connect", "refresh_access"]


def refresh_access(users: Iterable[Any]) -> None:
    """After commit, let open streams of these users (or primary keys) follow what they may read now.

    The app does this itself for logout, deactivation, passwords, staff status and groups. Call it when something that
    the site's own ``TOPICS`` function looks at has changed.
    """
    topics = [user_topic(user) for user in users]
    if topics:
        transaction.on_commit(partial(doorbell.ring_recheck, topics), robust=True)


def on_logout(sender: Any, user: Any, **_: Any) -> None:
    if user is not None:
        refresh_access([user])


def on_user_saving(sender: Any, instance: Any, raw: bool, using: str, update_fields: Any, **_: Any) -> None:
    """Remember whether the user was on the staff, to see who joins it."""
    instance._notifications_was_staff = None
    if raw or not hasattr(instance, "is_staff") or (update_fields is not None and "is_staff" not in update_fields):
        return
    if instance._state.adding:
        instance._notifications_was_staff = False
    elif instance.is_staff:
        old = sender._base_manager.using(using).filter(pk=instance.pk).values_list("is_staff", flat=True).first()
        instance._notifications_was_staff = old


def on_user_saved(sender: Any, instance: Any, created: bool, raw: bool, update_fields: Any, **_: Any) -> None:
    if raw:
        return
    if getattr(instance, "is_staff", False) and instance.__dict__.pop("_notifications_was_staff", None) is False:
        unless_missing(partial(record_membership, [instance.pk], [STAFF]))
    # A login saves last_login, and nothing that streams depend on.
    if not created and (update_fields is None or set(update_fields) != {"last_login"}):
        refresh_access([instance])


def on_user_deleted(sender: Any, instance: Any, **_: Any) -> None:
    refresh_access([instance.pk])


def on_groups_changed(sender: Any, instance: Any, action: str, reverse: bool, pk_set: Any, **_: Any) -> None:
    """``user.groups.add(group)`` and ``group.user_set.add(user)`` and their opposites."""
    if action == "pre_clear" and reverse:
        # Afterwards nobody could say who was in the group.
        refresh_access(members(instance))
    elif action == "post_clear" and not reverse:
        refresh_access([instance])
    elif action in ("post_add", "post_remove") and pk_set:
        users = list(pk_set) if reverse else [instance.pk]
        groups = [instance.pk] if reverse else list(pk_set)
        if action == "post_add":
            unless_missing(partial(record_membership, users, list(map(group_topic, groups))))
        refresh_access(users)


def on_group_deleting(sender: Any, instance: Any, **_: Any) -> None:
    refresh_access(members(instance))


def members(group: Any) -> list[Any]:
    """Return the primary keys of a group's users; none with a user model that has no groups."""
    users = get_user_model()
    if not hasattr(users, "groups"):
        return []
    return list(users._base_manager.filter(groups=group).values_list("pk", flat=True))


def connect() -> None:
    """Connect everything, once, when apps are ready."""
    user_model = get_user_model()
    uid = "notifications"
    user_logged_out.connect(on_logout, dispatch_uid=uid)
    # Proxies of a model send signals of their own.
    for model in apps.get_models():
        if model._meta.concrete_model is user_model:
            pre_save.connect(on_user_saving, sender=model, dispatch_uid=uid)
            post_save.connect(on_user_saved, sender=model, dispatch_uid=uid)
            post_delete.connect(on_user_deleted, sender=model, dispatch_uid=uid)
        elif model._meta.concrete_model is Group:
            pre_delete.connect(on_group_deleting, sender=model, dispatch_uid=uid)
    groups = getattr(user_model, "groups", None)
    if groups is not None:
        m2m_changed.connect(on_groups_changed, sender=groups.through, dispatch_uid=uid)
