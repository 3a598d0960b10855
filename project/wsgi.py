"""The demo site under a WSGI server: the pages work; the event streams need ASGI, so browsers poll."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
