"""Binding a site's own models to notifications: ``@notify_on(Order, changed="status", to="customer", …)``.

Works by Django's ``pre_save`` and ``post_save``. ``bulk_create``, ``bulk_update``, ``QuerySet.update()`` and raw SQL
send no such signals: call :func:`notifications.notify` or :func:`notifications.notify_many` beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.contrib.auth.models import Group
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models
from django.db.models.signals import post_save, pre_save
from django.utils.text import Truncator

from .publishing import DEFAULTS, notify, notify_many

TITLE_LENGTH = 200

__all__ = ["notify_on"]

F = TypeVar("F", bound=Callable[..., Any])
Text = str | Callable[[Any], Any]


class notify_on:
    """Notify somebody whenever a model instance is created, or some of its fields change, by ``save()``.

    As a plain call it declares everything; as a decorator of a function it lets the function decide the rest::

        @notify_on(Order, changed="status", to="customer", title="Order {order.number} is {order.status}")
        def order_moved(order):
            return {"level": "success"} if order.status == "delivered" else None

    The function gets the instance and returns a dict of arguments of :func:`~notifications.notify` that add to the
    declared ones, None to leave them, or False to send nothing.

    :param model: the model class.
    :param created: notify when an instance is saved for the first time.
    :param changed: a field name or several: notify when a save changes one of them in the database (one query more
        for such a save, which reads the old values).
    :param to: who gets it: a path of attributes (``"customer"``, ``"order.customer"``), a topic name (``"staff"``,
        ``"everyone"``, or with a colon ``"order:{order.pk}"``), or a function of the instance. A user, a group, a
        topic name, or an iterable of users; None for nobody.
    :param title, body, url, kind, level, tag: text in which ``{order.number}`` (the model's name in lower case, or
        ``instance``) stands for the instance's attributes, or a function of the instance. ``url`` is
        ``get_absolute_url()`` by default, ``kind`` ``"order.created"`` or ``"order.changed"``, ``target`` the instance.
    :raises ImproperlyConfigured: at import, if a field does not exist or nothing could ever trigger it.
    """

    def __init__(
        self,
        model: type[models.Model],
        *,
        created: bool = False,
        changed: str | Iterable[str] = (),
        to: Any,
        title: Text = "",
        **fields: Any,
    ) -> None:
        self.model = model
        self.created = created
        self.changed = (changed,) if isinstance(changed, str) else tuple(changed)
        self.to = to
        self.title = title
        self.fields = fields
        self.build: Callable[..., Any] | None = None
        self._check()
        uid = f"notifications.{model._meta.label}.{id(self)}"
        if self.changed:
            pre_save.connect(self._before, sender=model, dispatch_uid=uid, weak=False)
        post_save.connect(self._after, sender=model, dispatch_uid=uid, weak=False)
        self._uid = uid

    def __call__(self, function: F) -> F:
        self.build = function
        return function

    def disconnect(self) -> None:
        """Undo the binding; for tests."""
        pre_save.disconnect(sender=self.model, dispatch_uid=self._uid)
        post_save.disconnect(sender=self.model, dispatch_uid=self._uid)

    def _check(self) -> None:
        name = self.model.__name__
        if not self.created and not self.changed:
            raise ImproperlyConfigured(f"notify_on({name}, …) never notifies: give created=True or changed=…")
        for field in self.changed:
            try:
                self.model._meta.get_field(field)
            except FieldDoesNotExist as error:
                raise ImproperlyConfigured(f"notify_on({name}, changed=…): {error}") from error
        if unknown := sorted(self.fields.keys() - DEFAULTS.keys() - {"body"}):
            raise ImproperlyConfigured(f"notify_on({name}, …): unknown argument {unknown[0]!r}")

    def _before(self, instance: Any, raw: bool, update_fields: frozenset[str] | None, using: str, **_: Any) -> None:
        changed = [name for name in self.changed if update_fields is None or self._names(name) & set(update_fields)]
        before = None
        if not raw and changed and instance.pk is not None and not instance._state.adding:
            before = self.model._base_manager.using(using).filter(pk=instance.pk).values(*changed).first()
        # One upon the other: a receiver of the same save may save the instance again.
        self._remember(instance).append(before)

    def _after(self, instance: Any, created: bool, raw: bool, **_: Any) -> None:
        before = None
        if self.changed and (remembered := self._remember(instance)):
            before = remembered.pop()
        if raw:  # A fixture: its rows are not news.
            return
        if created:
            if self.created:
                self._notify(instance, "created")
        elif before is not None and any(self._value(instance, name) != old for name, old in before.items()):
            self._notify(instance, "changed")

    def _names(self, name: str) -> set[str]:
        """Return the names under which ``update_fields`` may have a field: a foreign key has two."""
        field: Any = self.model._meta.get_field(name)
        return {field.name, field.attname}

    def _remember(self, instance: Any) -> list[dict[str, Any] | None]:
        of_all: dict[str, list[dict[str, Any] | None]] = instance.__dict__.setdefault("_notifications_before", {})
        return of_all.setdefault(self._uid, [])

    def _value(self, instance: Any, name: str) -> Any:
        field: Any = self.model._meta.get_field(name)
        value = getattr(instance, field.attname)
        try:
            return field.to_python(value)  # A form's "3" and the database's 3 are the same value.
        except Exception:
            return value

    def _notify(self, instance: Any, what: str) -> None:
        extra = self.build(instance) if self.build is not None else None
        if extra is False:
            return
        arguments: dict[str, Any] = {"kind": f"{self.model._meta.model_name}.{what}", "target": instance}
        if "url" not in self.fields and hasattr(instance, "get_absolute_url"):
            arguments["url"] = instance.get_absolute_url()
        # Only what was declared is filled in: braces in what the function returns are somebody's text.
        for name, value in {"title": self.title, **self.fields}.items():
            if callable(value):
                arguments[name] = value(instance)
            else:
                arguments[name] = self._filled(value, instance) if isinstance(value, str) else value
        arguments |= extra or {}
        to = arguments.pop("to") if "to" in arguments else self._recipients(instance, self.to)
        if to is None:
            return
        # A long name in a title must not make the site's own save() fail.
        arguments["title"] = Truncator(arguments["title"]).chars(TITLE_LENGTH)
        if isinstance(to, str | Group) or hasattr(to, "is_authenticated"):
            notify(to, **arguments)
        else:
            notify_many([user for user in to if user is not None], **arguments)

    def _recipients(self, instance: Any, to: Any) -> Any:
        if callable(to) and not hasattr(to, "is_authenticated"):
            return to(instance)
        if not isinstance(to, str):
            return to
        if ":" in to or to in ("everyone", "staff"):
            return self._filled(to, instance)
        value = instance
        for name in to.split("."):
            value = getattr(value, name)
            if value is None:
                return None
        return value.all() if isinstance(value, models.Manager) else value

    def _filled(self, text: str, instance: Any) -> str:
        if "{" not in text:
            return text
        return text.format(**{"instance": instance, str(self.model._meta.model_name): instance})
