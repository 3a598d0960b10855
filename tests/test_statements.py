"""Statements that the ORM writes once: the same SQL with other values, and never with the first ones."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from django.db import connection
from django.utils import timezone

from notifications import statements
from notifications.models import Event, Notification, Topic
from notifications.statements import among, insert

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_known_inserts", {})


def test_insert_of_other_values(monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any) -> None:
    written = mock.Mock(side_effect=statements._written_insert)
    monkeypatch.setattr(statements, "_written_insert", written)
    given = [("a", "ping", "{}"), ("b%s", "pong", '{"100%": "é"}'), ("a", "ping", "{}")]
    with django_assert_num_queries(3):
        keys = [insert("default", Event, topic=topic, type=type, payload=payload) for topic, type, payload in given]
    written.assert_called_once()
    rows = list(Event.objects.order_by("pk"))
    assert [(row.topic, row.type, row.payload) for row in rows] == given
    assert all(row.seq is None and row.created_at is not None for row in rows)
    if connection.features.can_return_rows_from_bulk_insert:
        assert keys == [row.pk for row in rows]
    else:
        assert keys == [None] * 3


def test_insert_of_other_fields_is_another_statement() -> None:
    insert("default", Topic, name="a", epoch="e", head=1, floor=0)
    insert("default", Topic, head=2, name="b", floor=1, epoch="f")
    assert sorted(Topic.objects.values_list("name", "epoch", "head", "floor")) == [("a", "e", 1, 0), ("b", "f", 2, 1)]


def test_values_are_inserted_as_their_fields_have_them() -> None:
    now = timezone.now()
    values = {"kind": "message", "level": "info", "title": "é %s", "body": "", "url": "", "tag": "", "actor_id": ""}
    insert("default", Notification, **values, topic="a", target_id="7", data={"a": [1, None, "é"]}, created_at=now)
    row = Notification.objects.get()
    assert (row.data, row.created_at, row.target_id, row.title) == ({"a": [1, None, "é"]}, now, "7", "é %s")
    assert row.expires_at is None and row.broadcast_id is None


# --- One parameter for all

STRANGE = ["", "a", "a", "B", 'quo"ted', "back\\slash", "it's", "100%"]
STRANGE += ["é", "\U0001f514", "[1]", "%s", "{a,b}", "NULL", " c "]


def test_texts_are_found_whatever_is_in_them() -> None:
    Topic.objects.bulk_create(Topic(name=name) for name in {*STRANGE, "b", "other"})
    found = Topic.objects.filter(name__in=among(STRANGE, "default")).values_list("name", flat=True)
    assert sorted(found) == sorted(set(STRANGE))


def test_texts_are_one_parameter() -> None:
    sql, parameters = Topic.objects.filter(name__in=among(map(str, range(1000)), "default")).query.sql_with_params()
    assert len(parameters) == 1
    assert len(sql) < 1000


def test_one_text_of_thousands_is_looked_up() -> None:
    Topic.objects.bulk_create(Topic(name=f"topic:{number}") for number in range(5000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    plan = Topic.objects.filter(name__in=among(["topic:7"], "default")).explain()
    assert "Index" in plan or "SEARCH notifications_topic USING" in plan
    assert "Seq Scan on notifications_topic" not in plan


def test_no_texts_are_no_query(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert not list(Topic.objects.filter(name__in=among([], "default")))


def test_on_another_database_each_text_is_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "ROWS_OF", {})
    assert among(iter("ab"), "default") == ["a", "b"]
