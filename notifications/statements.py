"""Statements that take the ORM longer to write than the database to carry out.

To insert one event takes one, to number it four small ones; they are written once for each database, by the ORM still,
in whatever words that database understands (:func:`fetch`, :func:`run`). And a thousand texts are a thousand
parameters, each of which is looked at by the field, by the compiler and by the driver; here they are one
(:func:`among`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, cast

from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.sql import InsertQuery, Query, UpdateQuery

__all__ = ["Statement", "among", "fetch", "insert_of", "run", "update_of"]

#: Returns the query for some values; those must be all its parameters, in the order in which SQL has them.
Statement = Callable[..., Query]


def _array(texts: list[str]) -> str:
    """Return PostgreSQL's text for an array; one that its driver makes takes longer than all the rest."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return '{"' + '","'.join(quoted) + '"}'


#: How a database makes rows of the texts in one parameter, and what makes that of them. PostgreSQL is to know how many
#: there are, which it does of an array, not of JSON: taking one text for a hundred, it reads a table from end to end.
ROWS_OF: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "postgresql": ("SELECT unnest(%s::text[])", _array),
    "sqlite": ("SELECT value FROM json_each(%s)", json.dumps),
}

_known: dict[tuple[str, str, Statement], str] = {}


def fetch(using: str, statement: Statement, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a SELECT as tuples, of text and numbers only: nothing is converted."""
    with connections[using].cursor() as cursor:
        cursor.execute(*_written(using, statement, values))
        return list(cursor.fetchall())


def run(using: str, statement: Statement, *values: Any) -> None:
    """Run an UPDATE or INSERT."""
    with connections[using].cursor() as cursor:
        cursor.execute(*_written(using, statement, values))


def update_of(rows: QuerySet[Any], **fields: Any) -> Query:
    """Return the query of ``rows.update(**fields)``."""
    query = cast(UpdateQuery, rows.query.chain(UpdateQuery))
    query.add_update_values(fields)
    return query


def insert_of(model: type[Model], **fields: Any) -> Query:
    """Return the query that inserts one row with these fields, in the model's order; the database fills in the rest."""
    query = InsertQuery(model)
    named = [field for field in model._meta.concrete_fields if field.name in fields]
    query.insert_values(named, [model(**fields)])
    return query


def among(texts: Iterable[str], using: str) -> Any:
    """Return what to compare a text field with by ``__in``: one parameter for all; on other databases one for each."""
    texts = list(texts)
    if not texts or (vendor := connections[using].vendor) not in ROWS_OF:
        return texts
    rows, parameter = ROWS_OF[vendor]
    return RawSQL(rows, [parameter(texts)])


def _written(using: str, statement: Statement, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    connection = connections[using]
    key = using, connection.vendor, statement
    if (sql := _known.get(key)) is not None:
        return sql, values
    written: Any = statement(*values).get_compiler(connection=connection).as_sql()
    sql, parameters = written[0] if isinstance(written, list) else written  # An INSERT may be several.
    if tuple(parameters) == values:  # Else this database has it in another form, which is right this time only.
        _known[key] = sql
    return sql, tuple(parameters)
