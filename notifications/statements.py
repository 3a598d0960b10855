"""Statements that take the ORM longer to write than the database to carry out.

The INSERT of one row is written once for each database, by the ORM still, in whatever words that database understands
(:func:`insert`). And a thousand texts are a thousand parameters, each of which is looked at by the field, by the
compiler and by the driver; here they are one (:func:`among`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model
from django.db.models.expressions import RawSQL
from django.db.models.sql import InsertQuery

__all__ = ["KnownInsert", "among", "insert", "written_insert"]


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


class KnownInsert(NamedTuple):
    """The INSERT of a row with these fields; ``returns``: its primary key."""

    sql: str
    fields: Sequence[Field[Any, Any]]
    returns: bool


_known_inserts: dict[tuple[str, str, type[Model], tuple[str, ...]], KnownInsert] = {}


def insert(using: str, model: type[Model], /, **values: Any) -> Any:
    """Insert a row; return its primary key, or None on a database that can not say it in the same breath.

    :param values: what its fields (by ``attname``) are to hold, no expressions; the database fills in the rest.
    """
    known, parameters = written_insert(using, model, values)
    with connections[using].cursor() as cursor:
        cursor.execute(known.sql, parameters)
        return cursor.fetchall()[0][0] if known.returns else None


def written_insert(using: str, model: type[Model], values: dict[str, Any]) -> tuple[KnownInsert, list[Any]]:
    """Return the statement that :func:`insert` runs, which a larger one may hold, and its parameters."""
    connection = connections[using]
    key = using, connection.vendor, model, tuple(values)
    if (known := _known_inserts.get(key)) is None:
        known = _known_inserts[key] = _written_insert(connection, model, values)
    return known, [
        field.get_db_prep_save(value, connection) for field, value in zip(known.fields, values.values(), strict=True)
    ]


def among(texts: Iterable[str], using: str) -> Any:
    """Return what to compare a text field with by ``__in``: one parameter for all; on other databases one for each."""
    texts = list(texts)
    if not texts or (vendor := connections[using].vendor) not in ROWS_OF:
        return texts
    rows, parameter = ROWS_OF[vendor]
    return RawSQL(rows, [parameter(texts)])


def _written_insert(connection: BaseDatabaseWrapper, model: type[Model], values: dict[str, Any]) -> KnownInsert:
    by_name = {field.attname: field for field in model._meta.concrete_fields}
    query, fields = InsertQuery(model), [by_name[name] for name in values]
    query.insert_values(fields, [model(**values)])
    compiler: Any = query.get_compiler(connection=connection)
    if returns := connection.features.can_return_rows_from_bulk_insert:
        compiler.returning_fields = [model._meta.pk]
    ((sql, _),) = compiler.as_sql()
    return KnownInsert(sql, fields, returns)
