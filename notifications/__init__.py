"""Live notifications for Django sites: ``notify(user, "Your order shipped")``, and every open browser shows it.

The names below are the public surface. They are loaded when they are first used, so that this package, and any of them,
can be imported before Django's apps are ready.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from asgiref.sync import markcoroutinefunction
from django.apps import apps as registry  # Not "apps", which is a module of this package.

if TYPE_CHECKING:
    from .binding import notify_on
    from .publishing import abroadcast, anotify, broadcast, notify, notify_many, publish, recall
    from .receivers import refresh_access
    from .signals import hub_changed, notification_published, stream_closed, stream_opened

__all__ = [
    "abroadcast",
    "anotify",
    "broadcast",
    "hub_changed",
    "notification_published",
    "notify",
    "notify_many",
    "notify_on",
    "publish",
    "recall",
    "refresh_access",
    "stream_closed",
    "stream_opened",
]

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("abroadcast", "anotify", "broadcast", "notify", "notify_many", "publish", "recall"), "publishing"),
    **dict.fromkeys(("hub_changed", "notification_published", "stream_closed", "stream_opened"), "signals"),
    "notify_on": "binding",
    "refresh_access": "receivers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not registry.apps_ready and _HOMES[name] != "signals":
        return _later(name)
    value = globals()[name] = _load(name)
    return value


def _load(name: str) -> Any:
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


@cache
def _later(name: str) -> Callable[..., Any]:
    """Return what calls the function of that name, for a module that wants it before there may be models."""

    def later(*args: Any, **kwargs: Any) -> Any:
        return _load(name)(*args, **kwargs)

    later.__name__ = later.__qualname__ = name
    return markcoroutinefunction(later) if name in ("abroadcast", "anotify") else later


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
