"""The site around the app: URLs, sessions, templates, time zones."""

from __future__ import annotations

from inspect import isclass
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

__all__: list[str] = []


@register(Tags.urls)
def check_urls(**_: Any) -> list[CheckMessage]:
    """Whether the URLs are there."""
    urls = getattr(settings, "ROOT_URLCONF", None)
    if not urls:
        return []
    try:
        reverse("notifications:stream")
    except NoReverseMatch:
        return [
            Warning(
                "The URLs of notifications are not included: there is no stream and no inbox, and the bell can not be "
                "rendered.",
                hint=f'In {urls}: path("notifications/", include("notifications.urls")).',
                id="notifications.W010",
            )
        ]
    except Exception:
        return []  # A URLconf that can not be imported; Django's own check says so.
    return []


@register(Tags.security)
def check_login(**_: Any) -> list[CheckMessage]:
    """Whether a request can be somebody's."""
    messages: list[CheckMessage] = []
    missing = [
        f'"{needed.__module__}.{needed.__name__}"'
        for needed in (SessionMiddleware, AuthenticationMiddleware)
        if not any(is_middleware(name, needed) for name in settings.MIDDLEWARE)
    ]
    if missing:
        messages.append(
            Warning(
                f"MIDDLEWARE lacks {' and '.join(missing)}: nobody is logged in, and so nobody gets notifications.",
                hint="Add it; the authentication comes after the session. Silence this if you log people in yourself.",
                id="notifications.W011",
            )
        )
    kept_in_database = settings.SESSION_ENGINE.endswith((".backends.db", ".backends.cached_db"))
    if kept_in_database and not apps.is_installed("django.contrib.sessions"):
        messages.append(
            Error(
                f"SESSION_ENGINE is {settings.SESSION_ENGINE!r}, and django.contrib.sessions is not installed.",
                hint='Add "django.contrib.sessions" to INSTALLED_APPS and migrate.',
                id="notifications.E008",
            )
        )
    return messages


def is_middleware(name: str, needed: type) -> bool:
    try:
        middleware = import_string(name)
    except Exception:
        return False  # Django will say so.
    return isclass(middleware) and issubclass(middleware, needed)


@register(Tags.templates)
def check_templates(**_: Any) -> list[CheckMessage]:
    """Whether the template tag finds out who looks at the page."""
    needed = "django.template.context_processors.request"
    engines = [
        engine.get("OPTIONS") or {}
        for engine in settings.TEMPLATES
        if engine.get("BACKEND") == "django.template.backends.django.DjangoTemplates"
    ]
    if not engines or any(needed in options.get("context_processors", ()) for options in engines):
        return []
    return [
        Warning(
            "No template engine has the request in its context: {% notification_bell %} renders nothing.",
            hint=f'Add "{needed}" to the context_processors in TEMPLATES.',
            id="notifications.W012",
        )
    ]


@register(Tags.compatibility)
def check_time_zones(**_: Any) -> list[CheckMessage]:
    """Times that name no time zone can not be shown right in a browser somewhere else."""
    if settings.USE_TZ:
        return []
    return [
        Warning(
            "USE_TZ is False: times are sent without a time zone, and expires_at can not be used.",
            hint="Set USE_TZ = True, the default since Django 5.0.",
            id="notifications.W015",
        )
    ]
