"""SQL that the ORM writes once, to be run again and again with other values.

To number one event takes four small statements; the ORM needs longer to write each of them than the database to carry
it out. So they are written once for each database, by the ORM still, in whatever words that database understands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django.db import connections
from django.db.models import QuerySet
from django.db.models.sql import Query, UpdateQuery

__all__ = ["Statement", "fetch", "run", "update_of"]

#: Returns the query for some values; those must be all its parameters, in the order in which SQL has them.
Statement = Callable[..., Query]

_known: dict[tuple[str, str, Statement], str] = {}


def fetch(using: str, statement: Statement, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a SELECT as tuples, of text and numbers only: nothing is converted."""
    with connections[using].cursor() as cursor:
        cursor.execute(*_written(using, statement, values))
        return list(cursor.fetchall())


def run(using: str, statement: Statement, *values: Any) -> None:
    """Run an UPDATE."""
    with connections[using].cursor() as cursor:
        cursor.execute(*_written(using, statement, values))


def update_of(rows: QuerySet[Any], **fields: Any) -> Query:
    """Return the query of ``rows.update(**fields)``."""
    query = cast(UpdateQuery, rows.query.chain(UpdateQuery))
    query.add_update_values(fields)
    return query


def _written(using: str, statement: Statement, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    connection = connections[using]
    key = using, connection.vendor, statement
    if (sql := _known.get(key)) is not None:
        return sql, values
    sql, parameters = statement(*values).get_compiler(connection=connection).as_sql()
    if tuple(parameters) == values:  # Else this database has it in another form, which is right this time only.
        _known[key] = sql
    return sql, tuple(parameters)
