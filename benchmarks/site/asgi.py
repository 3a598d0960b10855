"""The site's ``asgi.py``."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

import notifications.asgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.site.settings")
application = notifications.asgi.wrap(get_asgi_application())
