"""The one settings dict, ``NOTIFICATIONS = {…}``, as typed values that are read when they are needed.

Nothing is cached: ``override_settings`` and a changed settings module are seen at once. Every key is described in
``docs/configure.md``; :mod:`notifications.checks` reports unknown keys and wrong types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast, overload

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

__all__ = ["Settings", "conf"]


@dataclass(frozen=True)
class Key(Generic[T]):
    """One key of the dict: its default, the types it accepts and, for numbers, the least value that makes sense."""

    default: T
    types: tuple[type, ...]
    least: float | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name.upper())

    @overload
    def __get__(self, instance: None, owner: type) -> Key[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        own = configured()
        if not isinstance(own, Mapping):
            raise ImproperlyConfigured(f"NOTIFICATIONS must be a dict, not {type(own).__name__}.")
        return own.get(cast(Any, self).name, self.default)

    def problem(self, value: object) -> str | None:
        """Return what is wrong with ``value`` for this key, or None."""
        if (isinstance(value, bool) and bool not in self.types) or not isinstance(value, self.types):
            expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in self.types)
            return f"must be {expected}, not {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, not {value!r}"
        if self.least is not None and isinstance(value, int | float) and value < self.least:
            return f"must be at least {self.least:g}, not {value!r}"
        return None


def configured() -> Mapping[str, Any]:
    """Return the site's own dict as it is now; empty when the site set none."""
    return getattr(django_settings, "NOTIFICATIONS", None) or {}


NUMBER = (int, float)


class Settings:
    """The values of ``NOTIFICATIONS``: attribute ``heartbeat`` is the dict's ``"HEARTBEAT"``."""

    # Where things are
    channel_layer = Key("default", (str,))
    topics = Key[str | None](None, (str, type(None)))
    socket_path = Key("/ws/notifications/", (str,))
    transports = Key[list[str] | tuple[str, ...]](("sse", "websocket", "polling"), (list, tuple))
    kinds = Key[dict[str, Any]]({}, (dict,))
    allowed_origins = Key[list[str] | tuple[str, ...]]((), (list, tuple))

    # The rhythm of a stream, in seconds
    heartbeat = Key(15.0, NUMBER, least=0.05)
    lifetime = Key(600.0, NUMBER, least=0.1)
    recheck_interval = Key(60.0, NUMBER, least=0.1)
    polling_retry = Key(5.0, NUMBER, least=0.1)
    reconnect_spread = Key(10.0, NUMBER, least=0)

    # The safety net, in seconds; None: 1 with the in-memory layer, 1.5 with a shared one
    safety_interval = Key[float | None](None, (int, float, type(None)), least=0.05)
    retention = Key(timedelta(days=7), (timedelta,))

    # Limits
    hint_bytes = Key(8192, (int,), least=0)
    replay_events = Key(10_000, (int,), least=1)
    queue_events = Key(256, (int,), least=1)
    queue_bytes = Key(262_144, (int,), least=1024)
    slow_bytes = Key(1_048_576, (int,), least=1024)
    stream_bytes = Key(4_194_304, (int,), least=1024)
    slow_seconds = Key(30.0, NUMBER, least=0.1)
    streams_per_user = Key(20, (int,), least=1)
    streams_per_process = Key(10_000, (int,), least=1)
    topics_per_stream = Key(64, (int,), least=1)
    cursor_length = Key(4096, (int,), least=64)
    frame_bytes = Key(8192, (int,), least=64)
    frame_rate = Key[tuple[float, float] | list[float]]((20.0, 40.0), (list, tuple))
    database_threads = Key(4, (int,), least=1)
    request_threads = Key(8, (int,), least=1)
    tune_gc = Key(True, (bool,))
    direct_writes = Key(True, (bool,))

    @classmethod
    def keys(cls) -> dict[str, Key[Any]]:
        """Return every known key by its name in the dict."""
        return {name.upper(): value for name, value in vars(cls).items() if isinstance(value, Key)}


conf = Settings()
