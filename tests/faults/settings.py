"""The tests' own site as the fault suite runs it: settings come in by environment variable.

``FAULTS_NOTIFICATIONS`` is the dict ``NOTIFICATIONS`` as JSON, ``FAULTS_LAYER`` is ``core`` for the other layer of
channels-redis.
"""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import CHANNEL_LAYERS

ROOT_URLCONF = "tests.faults.urls"
ASGI_APPLICATION = "tests.faults.asgi.application"
NOTIFICATIONS = json.loads(os.environ.get("FAULTS_NOTIFICATIONS") or "{}")

if os.environ.get("REDIS_URL") and os.environ.get("FAULTS_LAYER") == "core":
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # redis-py 8 gives up reading after 5 s, which is just how long this layer waits (channels-redis #422).
        "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": 20}], "capacity": 10_000},
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
