"""Every app of this repository in one site, so that mypy knows all models."""

from __future__ import annotations

from project import settings as demo

SECRET_KEY = demo.SECRET_KEY
INSTALLED_APPS = [*demo.INSTALLED_APPS, "tests.site"]
DATABASES = demo.DATABASES
DEFAULT_AUTO_FIELD = demo.DEFAULT_AUTO_FIELD
USE_TZ = demo.USE_TZ
