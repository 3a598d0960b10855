from __future__ import annotations

from django.conf import settings
from django.db import models


class Order(models.Model):
    """What a site's own model looks like: an owner, a state that changes, no knowledge of notifications."""

    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="orders")
    number = models.CharField(max_length=20)
    status = models.CharField(max_length=20, default="placed")
    note = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return self.number

    def get_absolute_url(self) -> str:
        return f"/orders/{self.pk}/"
