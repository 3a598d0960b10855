"""The demo site's settings and application with a link to the channel layer that is probed often.

``SAFETY_INTERVAL`` (seconds) and ``SENTINEL`` (host:port; instead of ``REDIS_URL``) come from the environment.
"""

from __future__ import annotations

import os
from typing import Any

from project.settings import *  # noqa: F403
from project.settings import NOTIFICATIONS as DEMO

INTERVAL = float(os.environ.get("SAFETY_INTERVAL", "1"))
NOTIFICATIONS = {**DEMO, "SAFETY_INTERVAL": INTERVAL}  # type: ignore[dict-item]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"notifications": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}
if "SENTINEL" in os.environ:
    address, _, port = os.environ["SENTINEL"].partition(":")
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [{"sentinels": [(address, int(port))], "master_name": "mymaster"}]},
        }
    }


def __getattr__(name: str) -> Any:
    """Make the application when a server asks for it, not when Django reads the settings."""
    if name != "application":
        raise AttributeError(name)
    from notifications import link

    link.PROBE_INTERVAL, link.PROBE_TIMEOUT = 0.5, 1.0
    from project.asgi import application

    return application
