"""The databases: connections that end with their request, a SQLite that waits, a view without a transaction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.urls import resolve, reverse

__all__: list[str] = []


@register(Tags.compatibility)
def check_connections(**_: Any) -> list[CheckMessage]:
    """Connections that outlive their request: under ASGI each request has a thread, and so a connection, of its own."""
    if not getattr(settings, "ASGI_APPLICATION", None):
        return []
    return [
        Warning(
            f'DATABASES["{alias}"] keeps connections (CONN_MAX_AGE {database["CONN_MAX_AGE"]!r}). Under ASGI the '
            "thread that a kept connection belongs to ends with its request: connections pile up until the database "
            "refuses more.",
            hint='Set CONN_MAX_AGE to 0. On PostgreSQL, "OPTIONS": {"pool": True} keeps connections in a pool instead.',
            id="notifications.W005",
        )
        for alias, database in settings.DATABASES.items()
        if database.get("CONN_MAX_AGE", 0) != 0
    ]


@register(Tags.compatibility, deploy=True)
def check_sqlite(**_: Any) -> list[CheckMessage]:
    """SQLite as it has to be when many write at once. One developer seldom does, and what fails then fails aloud."""
    from notifications.log import database

    alias = database()
    config = settings.DATABASES.get(alias, {})
    if not config.get("ENGINE", "").endswith(("sqlite3", "spatialite")):
        return []
    options = config.get("OPTIONS") or {}
    missing = []
    if str(options.get("transaction_mode", "")).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        missing.append('"transaction_mode": "IMMEDIATE" (a transaction that reads, then writes, fails at once without)')
    if not writes_ahead(str(config.get("NAME", "")), str(options.get("init_command", ""))):
        missing.append('"init_command": "PRAGMA journal_mode=WAL;" (a reader and a writer wait for each other without)')
    if not missing:
        return []
    return [
        Warning(
            f'DATABASES["{alias}"] is SQLite with settings that make "database is locked" likely.',
            hint=f"Add to its OPTIONS: {', and '.join(missing)}.",
            id="notifications.W006",
        )
    ]


def writes_ahead(name: str, init_command: str) -> bool:
    """Return whether a SQLite database is in WAL mode, by its settings or by its header, or lives in memory."""
    if name in ("", ":memory:") or "mode=memory" in name or re.search(r"journal_mode\s*=\s*wal", init_command, re.I):
        return True
    try:
        with Path(name.removeprefix("file:").partition("?")[0]).open("rb") as file:
            header = file.read(20)
    except OSError:
        return False
    # https://www.sqlite.org/fileformat.html#file_format_version_numbers
    return header[18:20] == b"\x02\x02"


@register(Tags.compatibility)
def check_atomic_requests(**_: Any) -> list[CheckMessage]:
    """The stream's view is exempt from ATOMIC_REQUESTS; a site may have wrapped it in a view that is not."""
    atomic = {alias for alias, database in settings.DATABASES.items() if database.get("ATOMIC_REQUESTS")}
    if not atomic:
        return []
    try:
        view = resolve(reverse("notifications:stream")).func
    except Exception:
        return []  # check_urls says so.
    if atomic <= getattr(view, "_non_atomic_requests", set()):
        return []
    return [
        Warning(
            f"ATOMIC_REQUESTS is on for {', '.join(sorted(atomic))}, and the view at notifications:stream is not "
            "exempt: Django refuses to run an asynchronous view in a transaction.",
            hint="Decorate your view with django.db.transaction.non_atomic_requests, for each of these databases.",
            id="notifications.W016",
        )
    ]
