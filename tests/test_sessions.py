"""Who session cookies stand for, many at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from notifications.access import Principal
from notifications.sessions import are_django_s_own, principals, untouched_key


class OtherBackend(ModelBackend):
    """Finds users in its own way."""

    def get_user(self, user_id: Any) -> Any:
        return super().get_user(user_id)


OTHER_BACKEND = "tests.test_sessions.OtherBackend"


def log_in(name: str) -> tuple[Any, str]:
    user = get_user_model().objects.create_user(name)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user, client.cookies["sessionid"].value


@pytest.mark.django_db
def test_principals_of_many_in_one_query(django_assert_num_queries: Any) -> None:
    people = [log_in(f"user{number}") for number in range(5)]
    with django_assert_num_queries(1):
        found = principals([key for _, key in people])
    assert found == {key: Principal(user.pk, key, user.get_session_auth_hash()) for user, key in people}


@pytest.mark.django_db
def test_unknown_expired_and_anonymous_sessions_stand_for_nobody() -> None:
    _, expired = log_in("late")
    Session.objects.filter(session_key=expired).update(expire_date=timezone.now() - timedelta(seconds=1))
    anonymous = SessionStore()
    anonymous["cart"] = 1
    anonymous.create()
    assert principals(["unknown", expired, str(anonymous.session_key)]) == {}


@pytest.mark.django_db
@pytest.mark.parametrize("missing", ["_auth_user_id", "_auth_user_backend", "_auth_user_hash"])
def test_session_without_a_part_of_the_login_stands_for_nobody(missing: str) -> None:
    _, key = log_in("alice")
    session = SessionStore(key)
    del session[missing]
    session.save()
    assert principals([key]) == {}


@pytest.mark.django_db
def test_session_of_a_backend_that_was_removed_stands_for_nobody() -> None:
    _, key = log_in("alice")
    with override_settings(AUTHENTICATION_BACKENDS=[OTHER_BACKEND]):
        assert principals([key]) == {}


@pytest.mark.parametrize(
    ("changed", "own"),
    [
        ({}, True),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}, True),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, False),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}, False),
        ({"AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.RemoteUserBackend"]}, True),
        ({"AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.ModelBackend", OTHER_BACKEND]}, False),
    ],
)
def test_only_django_s_own_ways_are_batched(changed: dict[str, Any], own: bool) -> None:
    with override_settings(**changed):
        assert are_django_s_own() is own


def key_seen_by_view(before: Callable[[HttpRequest], object] = lambda request: None) -> str | None:
    seen: list[str | None] = []

    def view(request: HttpRequest) -> HttpResponse:
        before(request)
        seen.append(untouched_key(request))
        return HttpResponse()

    request = RequestFactory().get("/", headers={"cookie": "sessionid=abcdefghijklmnop"})
    SessionMiddleware(AuthenticationMiddleware(view))(request)
    return seen[0]


def test_key_of_an_untouched_request_needs_no_query() -> None:
    assert key_seen_by_view() == "abcdefghijklmnop"


def test_middleware_with_its_own_user_has_the_last_word() -> None:
    def impersonate(request: Any) -> None:
        request.user = SimpleLazyObject(lambda: None)

    assert key_seen_by_view(impersonate) is None


@pytest.mark.django_db
def test_user_that_was_asked_for_already_is_not_looked_up_again() -> None:
    assert key_seen_by_view(lambda request: request.user.is_authenticated) is None


def test_request_without_sessions_has_no_key() -> None:
    assert untouched_key(RequestFactory().get("/")) is None
