"""The tests' own site, wrapped as the README says."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django_application = get_asgi_application()

# Only importable once the apps are ready.
import notifications.asgi  # noqa: E402

application = notifications.asgi.wrap(django_application)
