"""Settings of the demo site. Without any environment variable: SQLite, no Redis, one process, ``DEBUG``.

============================  =======================================================================================
``DATABASE_URL``              ``postgres://user:password@host:5432/name``; default: the SQLite file ``db.sqlite3``
``REDIS_URL``                 ``redis://host:6379/0``, several separated by commas; default: the in-memory layer
``SECRET_KEY``                needed when ``DEBUG`` is off
``DEBUG``                     1 or 0; default 1, but 0 where ``ALLOWED_HOSTS`` is set: with 1, anybody may log in by one
                              click as anybody of the demo
``ALLOWED_HOSTS``             comma-separated; default: this machine
``CSRF_TRUSTED_ORIGINS``      comma-separated, as ``https://shop.example``; for a site behind a proxy that ends TLS
============================  =======================================================================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from project.environment import channel_layers, database, flag, words

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = flag("DEBUG", os.environ.get("DEBUG"), default=not os.environ.get("ALLOWED_HOSTS"))
SECRET_KEY = os.environ.get("SECRET_KEY") or ("only-for-the-demo-on-this-machine" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("Without DEBUG, set SECRET_KEY to a long random text that nobody else knows.")
ALLOWED_HOSTS = words(os.environ.get("ALLOWED_HOSTS")) or ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = words(os.environ.get("CSRF_TRUSTED_ORIGINS"))

INSTALLED_APPS = [
    "daphne",  # first: its runserver serves ASGI
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "notifications",
    "project.shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware" if django.VERSION >= (6, 0) else "project.csp.middleware",
    # Compresses the pages. The event streams go through it too, and come out whole.
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# Everything from this site, nothing inline: the bell, its streams and the admin all live with it.
SECURE_CSP = {
    "default-src": ["'self'"],
    "object-src": ["'none'"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
}
SECURE_REFERRER_POLICY = "same-origin"

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": database(os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = channel_layers(os.environ.get("REDIS_URL"))

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "shop:start"
LOGOUT_REDIRECT_URL = "shop:home"

NOTIFICATIONS = {
    "KINDS": {
        "order.progress": {"label": _("My orders"), "description": _("Each step of an order of yours.")},
        "order.new": {"label": _("New orders"), "description": _("Somebody ordered something.")},
        "broadcast": {"label": _("Announcements"), "description": _("What the shop has to say.")},
        # Stands in a banner on every page, and can not be muted.
        "shop.notice": {
            "label": _("Important announcements"),
            "description": _("What nobody should miss."),
            "mandatory": True,
        },
    },
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("de", _("German")), ("ar", _("Arabic"))]
LOCALE_PATHS = [BASE_DIR / "project" / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
