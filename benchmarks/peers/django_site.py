"""One Django site for both Django peers: django-eventstream, and the consumer of Channels' tutorial.

No login, no session, no middleware and no log behind either of them: what a peer does without is to its advantage here.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

REDIS_URL = os.environ["REDIS_URL"]

SECRET_KEY = "only for benchmarks"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.peers.django_urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "channels", "django_eventstream"]
MIDDLEWARE: list[str] = []
DATABASES: dict[str, dict[str, Any]] = {}
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
}
EVENTSTREAM_REDIS = {"host": "127.0.0.1", "port": urlsplit(REDIS_URL).port, "db": 0}
