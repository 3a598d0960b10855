"""Before ``migrate`` has run: pages and users must work without the app's tables, and what is missing must be said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.apps import apps
from django.db import DatabaseError, connections

from .log import database

__all__ = ["MISSING", "missing", "unless_missing"]

logger = logging.getLogger("notifications")

T = TypeVar("T")

MISSING = "the tables are missing; run manage.py migrate"

#: Databases in which the tables have been seen.
_seen: set[str] = set()


def missing() -> bool:
    """Return whether a table of this app is not there; it asks the database. False if that does not answer."""
    introspection = connections[database()].introspection
    try:
        there = set(introspection.table_names(include_views=True))
    except DatabaseError:
        return False
    models = apps.get_app_config("notifications").get_models(include_auto_created=True)
    return any(introspection.identifier_converter(model._meta.db_table) not in there for model in models)


def unless_missing(do: Callable[[], T]) -> T | None:
    """Return what ``do`` returns; if it can not for want of the tables, say so in the log and return None.

    Costs nothing while the tables are there, but for one query where the first call of a process is in a transaction.
    """
    alias = database()
    if alias not in _seen and connections[alias].in_atomic_block and missing():
        # Not by trying: a query that fails takes the caller's transaction with it.
        logger.error("notifications: %s", MISSING)
        return None
    try:
        result = do()
    except DatabaseError:
        if not missing():
            raise
        logger.error("notifications: %s", MISSING)
        return None
    _seen.add(alias)
    return result
