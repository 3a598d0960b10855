"""The channel layer: one that all processes of the site share, and that keeps up."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from inspect import isclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from channels.layers import InMemoryChannelLayer
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.utils.module_loading import import_string

from notifications.settings import Settings, configured

__all__: list[str] = []

IN_MEMORY = "channels.layers.InMemoryChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
CORE = "channels_redis.core.RedisChannelLayer"
EXAMPLE = (
    f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{PUBSUB}", "CONFIG": {{"hosts": ["redis://127.0.0.1:6379/0"]}}}}}}'
)
#: The core layer waits this long for a message; redis-py from version 8 on gives up after its own time, by default 5.
CORE_WAITS = 5.0
#: Programs whose command line says how many processes they start.
SERVERS = ("gunicorn", "uvicorn", "hypercorn", "granian")


@register(Tags.compatibility)
def check_layer(**_: Any) -> list[CheckMessage]:
    """The channel layer that ``CHANNEL_LAYER`` names."""
    layers = configured_layers()
    alias = layer_alias()
    if not layers:
        return check_one_process()
    if alias not in layers:
        close = get_close_matches(alias, layers, n=1, cutoff=0.0)
        return [
            Error(
                f"CHANNEL_LAYERS has no layer {alias!r}, which notifications is to use.",
                hint=f'Add it, or set NOTIFICATIONS["CHANNEL_LAYER"] to one that there is: {close[0]!r}.',
                id="notifications.E003",
            )
        ]
    try:
        backend = import_string(layers[alias]["BACKEND"])
    except Exception as error:
        return [
            Error(
                f"The channel layer {alias!r} can not be imported: {error!r}.",
                hint=f"Install its package, or correct its BACKEND. An example: {EXAMPLE}.",
                id="notifications.E010",
            )
        ]
    if isclass(backend) and issubclass(backend, InMemoryChannelLayer):
        return check_one_process()
    if is_core(backend):
        return check_core(alias, layers[alias].get("CONFIG") or {})
    return []


@register(Tags.compatibility, deploy=True)
def check_deployed_layer(**_: Any) -> list[CheckMessage]:
    """A site that goes into production on the in-memory layer, chosen or not."""
    if count_processes(os.environ, sys.argv) > 1:
        return []  # check_layer says more.
    layers = configured_layers()
    if not layers:
        return [
            Warning(
                "CHANNEL_LAYERS is not set: a layer in memory is used, which reaches one process only. Other processes "
                "learn of an event from the database, about a second later.",
                hint=f"For several processes: {EXAMPLE}. For one: the BACKEND {IN_MEMORY!r}.",
                id="notifications.W001",
            )
        ]
    layer = layers.get(layer_alias())
    if isinstance(layer, Mapping) and layer.get("BACKEND") == IN_MEMORY:
        return [
            Warning(
                "The in-memory channel layer reaches one process only. From any other (a second server process, a "
                "worker, a command) events arrive about a second late, and a logout may end streams a minute late.",
                hint=f"Right if the site is one process. Otherwise: {EXAMPLE}.",
                id="notifications.W003",
            )
        ]
    return []


def configured_layers() -> Mapping[str, Any]:
    layers = getattr(settings, "CHANNEL_LAYERS", None)
    return layers if isinstance(layers, Mapping) else {}


def layer_alias() -> str:
    own: object = configured()
    alias = own.get("CHANNEL_LAYER") if isinstance(own, Mapping) else None
    return alias if isinstance(alias, str) else Settings.channel_layer.default


def is_core(backend: object) -> bool:
    try:
        return isclass(backend) and issubclass(backend, import_string(CORE))
    except ImportError:
        return False


def check_one_process() -> list[CheckMessage]:
    count = count_processes(os.environ, sys.argv)
    if count <= 1:
        return []
    return [
        Warning(
            f"The environment asks for {count} server processes, and the in-memory channel layer reaches one only: "
            "events arrive about a second late in the others, and a logout may end streams a minute late.",
            hint=f"Run one process, or a layer that all share: {EXAMPLE}.",
            id="notifications.W002",
        )
    ]


def count_processes(environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Return how many server processes environment and command line ask gunicorn, uvicorn or their like for."""
    counts = [environment.get(name, "") for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")]
    line = environment.get("GUNICORN_CMD_ARGS", "")
    if arguments and {Path(arguments[0]).stem, Path(arguments[0]).parent.name}.intersection(SERVERS):
        line += " " + " ".join(arguments[1:])
    counts += re.findall(r"(?:^|\s)(?:--workers|-w)[=\s]?\s*(\d+)", line)
    return max((int(count) for count in counts if count.isdecimal()), default=1)


def check_core(alias: str, config: Mapping[str, Any]) -> list[CheckMessage]:
    messages: list[CheckMessage] = [
        Warning(
            f"The channel layer {alias!r} is {CORE}. Delivery stays right, but it orders by the senders' clocks, holds "
            "100 messages a process by default, forgets its groups when Redis restarts, and costs Redis 15 commands "
            "where pub/sub costs one.",
            hint=(
                f"Use {PUBSUB}. If other code of yours needs this layer, add one for notifications alone and name it "
                'in NOTIFICATIONS["CHANNEL_LAYER"]. If it must be this one: "capacity": 10000.'
            ),
            id="notifications.W004",
        )
    ]
    if redis_major() >= 8 and any(waits_too_little(host) for host in hosts_of(config)):
        messages.append(
            Error(
                f"The channel layer {alias!r} is {CORE} with redis-py {version('redis')}, which gives up after 5 "
                "seconds without a message, as long as that layer waits for one: it fails whenever it is quiet.",
                hint=(
                    f'Use {PUBSUB}, or "hosts": [{{"address": "redis://…", "socket_timeout": 20}}]. '
                    "See https://github.com/django/channels_redis/issues/422."
                ),
                id="notifications.E007",
            )
        )
    return messages


def redis_major() -> int:
    try:
        return int(version("redis").split(".")[0])
    except (PackageNotFoundError, ValueError):
        return 0


def hosts_of(config: Mapping[str, Any]) -> Sequence[Any]:
    hosts = config.get("hosts")
    return hosts if isinstance(hosts, list | tuple) and hosts else ["redis://localhost:6379"]


def waits_too_little(host: Any) -> bool:
    """Return whether redis-py would give up on a connection to ``host`` before the core layer has waited."""
    timeout: Any = CORE_WAITS
    address = host.get("address", "") if isinstance(host, Mapping) else host
    if isinstance(address, str) and (given := parse_qs(urlsplit(address).query).get("socket_timeout")):
        timeout = given[0]
    elif isinstance(host, Mapping):
        timeout = host.get("socket_timeout", CORE_WAITS)
    if timeout is None:  # For ever.
        return False
    try:
        return float(timeout) <= CORE_WAITS
    except (TypeError, ValueError):
        return True
