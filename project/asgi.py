"""The demo site under daphne, uvicorn or any other ASGI server: pages, event streams and WebSockets."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()

import notifications.asgi  # noqa: E402 (it may look at models, which exist only now)

application = notifications.asgi.wrap(django_application)
