"""Before ``migrate`` has run: pages and users work without the app's tables, and each place says what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.db.models import Model
from django.template import Context, Template
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from notifications import tables
from notifications.models import Membership, Topic
from tests.servers import Site

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has only just begun."""
    monkeypatch.setattr(tables, "_seen", set())


@contextmanager
def hidden(*models: type[Model]) -> Iterator[None]:
    """Have the tables of these models where nobody looks for them."""
    names = [model._meta.db_table for model in models]

    def rename(pairs: Iterable[tuple[str, str]]) -> None:
        with connection.cursor() as cursor:
            for old, new in pairs:
                cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename((name, f"hidden_{name}") for name in names)
    try:
        yield
    finally:
        rename((f"hidden_{name}", name) for name in names)


@pytest.fixture
def without_tables() -> Iterator[None]:
    """``migrate`` has run for everything but this app."""
    with hidden(*apps.get_app_config("notifications").get_models(include_auto_created=True)):
        yield


def bell(user: User, source: str = "{% notification_bell %}") -> str:
    request = RequestFactory().get("/somewhere/")
    request.user = user
    request.resolver_match = None
    return Template("{% load notifications %}" + source).render(Context({"request": request}))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "notifications"]


# --- What is missing


def test_tables_are_there() -> None:
    assert not tables.missing()


def test_tables_are_missing(without_tables: None) -> None:
    assert tables.missing()


def test_one_table_is_missing() -> None:
    with hidden(Topic):
        assert tables.missing()


def test_database_that_does_not_answer_is_not_called_unmigrated(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> list[str]:
        raise DatabaseError("gone")

    monkeypatch.setattr(connection.introspection, "table_names", broken)
    assert not tables.missing()


def test_other_failures_are_raised() -> None:
    def fail() -> None:
        raise DatabaseError("no space left")

    with pytest.raises(DatabaseError, match="no space left"):
        tables.unless_missing(fail)


def test_tables_that_are_there_cost_nothing_outside_a_transaction() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert tables.unless_missing(lambda: 7) == 7
    assert len(queries) == 0


def test_tables_that_are_there_are_asked_for_once_inside_one() -> None:
    with transaction.atomic():
        tables.unless_missing(lambda: 7)
        with CaptureQueriesContext(connection) as queries:
            assert tables.unless_missing(lambda: 7) == 7
    assert len(queries) == 0


# --- Pages and users


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
def test_bell_without_tables_is_left_out(without_tables: None, caplog: pytest.LogCaptureFixture, inside: bool) -> None:
    user = User.objects.create_user("alice")
    tags = "{% notification_bell %}{% notification_banner %}{% notification_status %}"
    if inside:
        with transaction.atomic():
            assert bell(user, tags).strip() == ""
            assert User.objects.count() == 1
    else:
        assert bell(user, tags).strip() == ""
    assert said(caplog) == [f"notifications: {tables.MISSING}"]


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
def test_users_without_tables_can_be_saved(
    without_tables: None, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    def save() -> None:
        root = User.objects.create_superuser("root")
        root.groups.add(Group.objects.create(name="editors"))
        User.objects.update_or_create(username="sam", defaults={"is_staff": True})

    if inside:
        with transaction.atomic():
            save()
    else:
        save()
    assert set(User.objects.values_list("username", flat=True)) == {"root", "sam"}
    assert set(said(caplog)) == {f"notifications: {tables.MISSING}"}


def test_tables_that_come_later_are_used() -> None:
    with hidden(Membership), transaction.atomic():
        User.objects.create_superuser("root")
    User.objects.create_superuser("second")
    assert Membership.objects.get().user.username == "second"


# --- Commands


@pytest.mark.parametrize(
    "arguments",
    [
        ("notify", "alice", "hi"),
        ("broadcast", "hi"),
        ("tail", "--user", "alice"),
        ("sweep",),
        ("trim",),
        ("rotate_epoch",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_without_tables_says_so(without_tables: None, arguments: tuple[str, ...]) -> None:
    User.objects.create_user("alice")
    with pytest.raises(CommandError) as error:
        call_command(*arguments)
    assert str(error.value) == tables.MISSING


@pytest.mark.processes
def test_fresh_project_before_migrate(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path / 'site.sqlite3'}")
    for app in ("contenttypes", "auth", "sessions"):
        site.manage("migrate", app)
    site.manage("createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
    with pytest.raises(RuntimeError, match=f"CommandError: {tables.MISSING}") as error:
        site.manage("notify", "root", "hi")
    assert "Traceback" not in str(error.value)
