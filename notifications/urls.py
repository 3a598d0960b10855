"""Include under any prefix: ``path("notifications/", include("notifications.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views
from .inbox_views import inbox_urls
from .preference_views import preference_urls

app_name = "notifications"

urlpatterns = [
    path("stream/", views.stream, name="stream"),
    path("events/", views.events, name="events"),
    *inbox_urls,
    *preference_urls,
]
