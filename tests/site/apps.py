from __future__ import annotations

from django.apps import AppConfig


class SiteConfig(AppConfig):
    """A site's own app, with models that tests bind notifications to."""

    name = "tests.site"
    label = "site"
    default_auto_field = "django.db.models.BigAutoField"
