"""What a person wants of their notifications: muted kinds, transport, toasts, sound, notifications of the system.

A change is published to the person's own topic as ``preferences``, so that their tabs and devices follow, and so that
their open streams begin or cease to carry what was muted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.utils.translation import gettext as _

from .access import user_topic
from .envelope import dumps
from .inbox import Inbox, acting
from .kinds import mutable
from .log import append
from .models import Preference
from .settings import conf

__all__ = ["as_json", "change_preferences", "preferences", "transports"]

SWITCHES = ("toasts", "sound", "system")


def preferences(user: AbstractBaseUser) -> Preference:
    """Return what ``user`` chose; the defaults, unsaved, if they never did."""
    return Inbox(user).preference


def transports() -> list[str]:
    """Return what a person may choose for ``transport``: ``auto``, and what the site offers."""
    return [Preference.Transport.AUTO.value, *conf.transports]


def change_preferences(user: AbstractBaseUser, **values: Any) -> Preference:
    """Change some of what ``user`` wants, and return all of it. Publishes ``preferences`` if anything changed.

    :param muted: the kinds that they do not want, all of them; only declared ones, and not mandatory ones.
    :param transport: ``auto``, ``sse``, ``websocket`` or ``polling``, as far as the site offers it.
    :param toasts: whether new notifications show in a corner of the page; ``sound``, ``system``: likewise.
    :raises ValueError: with a sentence for the person, if a value can not be.
    :raises TypeError: if there is no such preference.
    """
    checked = _checked(values)
    with acting(user) as box:
        preference = box.preference
        before = as_json(preference)
        for name, value in checked.items():
            setattr(preference, name, value)
        after = as_json(preference)
        if after != before:
            preference.save(using=box.using)
            append([(user_topic(user), "preferences", dumps({**after, **asdict(box.counts())}))])
    return preference


def as_json(preference: Preference) -> dict[str, Any]:
    """Return preferences as they go on the wire."""
    return {
        "muted": sorted(preference.muted_kinds),
        "transport": preference.transport if preference.transport in transports() else Preference.Transport.AUTO.value,
        **{name: getattr(preference, name) for name in SWITCHES},
    }


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(values.keys() - {"muted", "transport", *SWITCHES}):
        raise TypeError(_("There is no preference “%(name)s”.") % {"name": unknown[0]})
    checked = dict(values)
    if "muted" in values:
        checked["muted"] = sorted(_muted(values["muted"]))
    if "transport" in values and values["transport"] not in transports():
        raise ValueError(_("Choose one of: %(names)s.") % {"names": ", ".join(transports())})
    for name in SWITCHES:
        if not isinstance(values.get(name, True), bool):
            raise ValueError(_("“%(name)s” is true or false.") % {"name": name})
    return checked


def _muted(value: object) -> set[str]:
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(kind, str) for kind in value):
        raise ValueError(_("“%(name)s” is a list of kinds.") % {"name": "muted"})
    kinds = set(value)
    if wrong := sorted(kinds - mutable()):
        raise ValueError(_("The kind “%(name)s” can not be muted.") % {"name": wrong[0]})
    return kinds
