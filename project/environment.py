"""How the demo's environment variables become Django settings. Pure: text in, values out."""

from __future__ import annotations

from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

__all__ = ["channel_layers", "database", "flag", "words"]

# A read that turns into a write fails at once in SQLite's default, deferred transactions ("database is locked",
# without waiting); IMMEDIATE takes the write lock first and waits for it. WAL lets readers go on meanwhile.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}


def flag(name: str, value: str | None, default: bool) -> bool:
    """Return what ``value`` says: 1, true, yes, on or 0, false, no, off; ``default`` when it is missing or empty.

    :raises ImproperlyConfigured: it says something else. A mistyped ``DEBUG=flase`` must not be taken for either.
    """
    match (value or "").strip().lower():
        case "":
            return default
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}.")


def words(value: str | None) -> list[str]:
    """Return the comma-separated words of ``value``, without blanks around them and without empty ones."""
    return [word for part in (value or "").split(",") if (word := part.strip())]


def database(url: str) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for ``url``: ``sqlite:///path``, ``postgres://user:password@host/name`` …

    Connections are closed at the end of each request (``CONN_MAX_AGE`` 0): under ASGI a kept one belongs to a thread
    that may never serve again.

    :raises ImproperlyConfigured: the URL is not one of a database.
    """
    try:
        entry: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=0))
    except ValueError as error:
        raise ImproperlyConfigured(f"DATABASE_URL cannot be read: {error}") from error
    if entry.get("ENGINE") == "django.db.backends.sqlite3":
        entry["OPTIONS"] = SQLITE_OPTIONS | entry.get("OPTIONS", {})
    return entry


def channel_layers(url: str | None) -> dict[str, Any]:
    """Return ``CHANNEL_LAYERS``: in memory without ``url``, else Redis pub/sub on one or more URLs."""
    hosts = words(url)
    if not hosts:
        return {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    for host in hosts:
        if not host.startswith(("redis://", "rediss://", "unix://")):
            raise ImproperlyConfigured(f"REDIS_URL must be redis://host:port/number, not {host!r}.")
    # Pub/sub, not channels_redis.core: with redis-py 8 that one drops all its consumers after 5 s without a message.
    return {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": hosts}}}
