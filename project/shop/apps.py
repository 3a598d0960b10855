from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ShopConfig(AppConfig):
    name = "project.shop"
    verbose_name = _("Shop")

    def ready(self) -> None:
        """Bind the shop's models to notifications."""
        from project.shop import notifications  # noqa: F401
