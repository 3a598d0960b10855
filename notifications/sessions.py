"""Who session cookies stand for, many at once: one query for all those who connect in the same moment.

Opening each session in the ordinary way costs a new connection to the database and two queries for each client, on
Channels' one thread for WebSockets; when a thousand clients return after a deploy, that is most of what they wait for.
Here only Django's own ways are taken: sessions in the database, users found by their primary key. Whatever a site does
differently (:func:`are_django_s_own`) is asked in the ordinary way.

What is returned is a claim, which :func:`notifications.access.authorize` checks before anything is sent: that the user
exists and is active, and that the session's hash is the one of the user's present password.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.backends import BaseBackend, ModelBackend
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.functional import SimpleLazyObject, empty
from django.utils.module_loading import import_string

from .access import Principal
from .statements import among

__all__ = ["are_django_s_own", "principals", "untouched_key"]

ENGINES = frozenset({"django.contrib.sessions.backends.db", "django.contrib.sessions.backends.cached_db"})


def are_django_s_own() -> bool:
    """Return whether this site keeps sessions in Django's table and finds users as Django's ``ModelBackend`` does."""
    return settings.SESSION_ENGINE in ENGINES and all(
        getattr(import_string(path), "get_user", None) in (ModelBackend.get_user, BaseBackend.get_user, None)
        for path in settings.AUTHENTICATION_BACKENDS
    )


def untouched_key(request: Any) -> str | None:
    """Return the session key of a request whose user nobody has asked for yet and only Django has a say in; or None."""
    user, session = request.__dict__.get("user"), request.__dict__.get("session")
    if type(user) is not SimpleLazyObject or type(session).__module__ not in ENGINES or not are_django_s_own():
        return None
    parts = vars(user)
    if parts["_wrapped"] is not empty or parts["_setupfunc"].__module__ != "django.contrib.auth.middleware":
        return None
    session.accessed = True  # It has been, as far as caches are concerned: the answer varies by cookie.
    key: str | None = session.session_key
    return key


def principals(keys: Iterable[str]) -> dict[str, Principal]:
    """Return whom these sessions stand for, in one query; those that are not logged in are not in the answer."""
    store = import_module(settings.SESSION_ENGINE).SessionStore()
    # A cookie can say anything, and one text that the database refuses would be everybody's failure.
    possible = [key for key in keys if key.isascii() and key.isprintable()]
    sessions = store.model._default_manager
    rows = sessions.filter(session_key__in=among(possible, sessions.db), expire_date__gt=timezone.now())
    answer = {}
    for key, data in rows.values_list("session_key", "session_data"):
        principal = _principal(key, store.decode(data))
        if principal is not None:
            answer[key] = principal
    return answer


def _principal(key: str, session: dict[str, Any]) -> Principal | None:
    backend, hash = session.get(BACKEND_SESSION_KEY), session.get(HASH_SESSION_KEY)
    if not isinstance(backend, str) or backend not in settings.AUTHENTICATION_BACKENDS or not hash:
        return None
    if getattr(import_string(backend), "get_user", None) is not ModelBackend.get_user:
        return None
    try:
        user = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
    except (KeyError, ValidationError):
        return None
    return Principal(user, key, hash)
