"""What a command says when the channel layer is away. Not a command: its name begins with an underscore."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from notifications import doorbell
from notifications.checks.layer import configured_layers, hosts_of
from notifications.settings import conf

__all__ = ["explained", "host_words"]

logger = logging.getLogger("notifications")

#: Seconds to wait for what was rung: longer than the doorbell waits for the layer, so that its answer is still heard.
PATIENCE = doorbell.SEND_TIMEOUT + 0.5


@contextmanager
def explained() -> Iterator[None]:
    """Ring what is published within, and say of a layer that is away what that means to who typed the command."""
    logger.addFilter(explain)
    try:
        yield
        doorbell.flush(PATIENCE)
    finally:
        logger.removeFilter(explain)


def explain(record: logging.LogRecord) -> bool:
    """Rewrite the doorbell's warning: which layer, where, and what it means. Logging goes its usual way."""
    error = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(error, doorbell.LayerUnavailable):
        reason = type(error.__cause__ or error).__name__
        record.msg = (
            "The channel layer %r%s can not be reached (%s). Nothing is lost: browsers learn of it by the safety poll, "
            "within seconds."
        )
        record.args = (conf.channel_layer, where(), reason)
    return True


def where() -> str:
    layer = configured_layers().get(conf.channel_layer)
    config = layer.get("CONFIG") if isinstance(layer, Mapping) else None
    if not isinstance(layer, Mapping) or (not config and "channels_redis" not in str(layer.get("BACKEND"))):
        return ""
    hosts = ", ".join(filter(None, map(host_words, hosts_of(config or {}))))
    return f" at {hosts}" if hosts else ""


def host_words(host: Any) -> str:
    """Return where a host of a Redis layer is, without its password; empty if its form is not known."""
    match host:
        case str():
            parts = urlsplit(host)
            return parts.netloc.rpartition("@")[2] or parts.path
        case {"address": address}:
            return host_words(address)
        case {"sentinels": [*sentinels]}:
            return ", ".join(map(host_words, sentinels))
        case {"host": name}:
            return f"{name}:{host.get('port', 6379)}"
        case (name, port):
            return f"{name}:{port}"
    return ""
