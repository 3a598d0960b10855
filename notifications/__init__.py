"""Live notifications for Django sites: ``notify(user, "Your order shipped")``, and every open browser shows it.

The names below are the public surface. They are loaded when they are first used, so that this package can be imported
before Django's apps are ready.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
