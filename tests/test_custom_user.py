"""A site whose user model is its own: an e-mail address as its name, UUID keys, neither staff nor groups."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.servers import ROOT, Site

SETTINGS = """
from tests.settings import *

INSTALLED_APPS = ["daphne", "people", *INSTALLED_APPS]
for name in ("django.contrib.admin", "tests.site"):
    INSTALLED_APPS.remove(name)
AUTH_USER_MODEL = "people.Person"
ROOT_URLCONF = "people.urls"
"""
URLS = """
from django.urls import include, path

urlpatterns = [path("notifications/", include("notifications.urls"))]
"""
MODELS = """
import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
    objects = BaseUserManager()
"""
PUBLISH = """
from django.contrib.auth.models import Group
from people.models import Person

from notifications import broadcast, notify, notify_many
from notifications.access import Principal, authorize, topics_for
from notifications.inbox import mark_read, unread_count
from notifications.log import heads

others = Person.objects.count()
alice = Person(email="alice@example.com")
alice.set_password("password")
alice.save()
first = notify(alice, "hi")
notify_many([alice], "hi, all of you")
notify(Group.objects.create(name="nobody"), "hello?")
sent = broadcast("hi, everyone")
Group.objects.get().delete()
mark_read(alice, [first.pk])
result = {
    "topics": topics_for(alice),
    "authorized": list(authorize([Principal(alice.pk)])[Principal(alice.pk)].topics),
    "unread": unread_count(alice),
    "recipients": sent.recipients - others,
    "head": heads([f"user:{alice.pk}"])[f"user:{alice.pk}"].seq,
    "pk": str(alice.pk),
}
"""


@pytest.fixture(scope="module")
def custom_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The migrated site, on the database of the suite's own kind."""
    folder = tmp_path_factory.mktemp("custom")
    package = folder / "people"
    package.mkdir()
    for name, text in {"__init__": "", "settings": SETTINGS, "urls": URLS, "models": MODELS}.items():
        (package / f"{name}.py").write_text(text)
    site = Site(
        f"sqlite:///{folder / 'db.sqlite3'}",
        settings="people.settings",
        extra={"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )
    site.manage("makemigrations", "people", "--verbosity=0")
    site.manage("migrate", "--verbosity=0")
    return site


def test_custom_user_gets_notifications(custom_site: Site) -> None:
    with custom_site.worker() as worker:
        answer = worker.run(PUBLISH)
    own = f"user:{answer.pop('pk')}"
    assert answer == {
        "topics": [own, "everyone"],
        "authorized": [own, "everyone"],
        "unread": 2,
        "recipients": 1,
        "head": 3,
    }


def test_custom_user_site_is_clean(custom_site: Site) -> None:
    assert "no issues" in custom_site.manage("check")


def test_custom_user_is_found_by_the_commands(custom_site: Site) -> None:
    with custom_site.worker() as worker:
        worker.run("from people.models import Person\nPerson(email='bob@example.com', password='!').save()")
    assert "Notified bob@example.com" in custom_site.manage("notify", "bob@example.com", "hi")
    done = subprocess.run(
        [sys.executable, "-m", "django", "tail", "--user", "bob@example.co"],
        env=custom_site.environment,
        cwd=custom_site.directory,
        text=True,
        capture_output=True,
    )
    assert "Did you mean 'bob@example.com'?" in done.stderr
