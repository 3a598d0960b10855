"""The dict ``NOTIFICATIONS``: its keys, its values, and limits that do not fit together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.utils.module_loading import import_string

from notifications.settings import Settings, conf, configured

__all__: list[str] = []

TRANSPORTS = ("sse", "websocket", "polling")
#: Characters of a cursor for each topic of a stream, in a log that is large already.
CURSOR_PART = 32
#: Bytes of an ``ack`` frame around the cursor.
ACK_FRAME = 32
ORIGIN = re.compile(r"https?://(\*\.)?([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE)
#: What may be said of a kind.
ABOUT_KIND = ("label", "description", "mandatory")
KIND = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)


@register(Tags.compatibility)
def check_settings(**_: Any) -> list[CheckMessage]:
    """The keys of ``NOTIFICATIONS`` and their values, one by one."""
    own = configured()
    if not isinstance(own, Mapping):
        hint = 'Write NOTIFICATIONS = {"HEARTBEAT": 15.0, …}, or leave it out.'
        return [Error(f"NOTIFICATIONS must be a dict, not {type(own).__name__}.", hint=hint, id="notifications.E001")]
    keys = Settings.keys()
    messages: list[CheckMessage] = []
    for name, value in own.items():
        if name not in keys:
            messages.append(unknown_key(name))
        elif problem := keys[name].problem(value) or value_problem(name, value):
            hint = f"Correct it, or leave it out for the default, {keys[name].default!r}."
            messages.append(Error(f'NOTIFICATIONS["{name}"] {problem}.', hint=hint, id="notifications.E002"))
    if not any(isinstance(message, Error) for message in messages):
        messages += [*check_topics(), *check_transports(), *check_origins(), *check_kinds(), *check_limits()]
    return messages


def unknown_key(name: object) -> CheckMessage:
    close = get_close_matches(str(name).upper(), Settings.keys(), n=1)
    hint = f'Did you mean "{close[0]}"?' if close else "Known are " + ", ".join(Settings.keys()) + "."
    return Warning(f'NOTIFICATIONS["{name}"] is not a setting, and has no effect.', hint=hint, id="notifications.W013")


def value_problem(name: str, value: Any) -> str | None:
    """Return what is wrong with a value of the right type, or None."""
    if name == "SOCKET_PATH" and not value.startswith("/"):
        return f"must begin with a slash, not be {value!r}"
    if name == "RETENTION" and value <= timedelta(0):
        return f"must be longer than nothing, not {value!r}"
    if name == "FRAME_RATE" and not (len(value) == 2 and all(is_number(part) and part > 0 for part in value)):
        return f"must be two finite numbers above 0 (frames per second, burst), not {value!r}"
    return None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_topics() -> Iterator[CheckMessage]:
    if not conf.topics:
        return
    hint = 'Name a function of a user that returns topic names: "TOPICS": "shop.notifications.topics".'
    try:
        function = import_string(conf.topics)
    except Exception as error:
        yield Error(
            f'NOTIFICATIONS["TOPICS"], {conf.topics!r}, can not be imported: {error}.',
            hint=hint,
            id="notifications.E004",
        )
    else:
        if not callable(function):
            yield Error(
                f'NOTIFICATIONS["TOPICS"], {conf.topics!r}, is not a function.', hint=hint, id="notifications.E004"
            )


def check_transports() -> Iterator[CheckMessage]:
    unknown = [name for name in conf.transports if name not in TRANSPORTS]
    if unknown or not conf.transports:
        what = f"has an unknown transport, {unknown[0]!r}" if unknown else "is empty, so that no browser can connect"
        hint = 'List some of "sse", "websocket" and "polling", in the order in which browsers are to try them.'
        yield Error(f'NOTIFICATIONS["TRANSPORTS"] {what}.', hint=hint, id="notifications.E005")


def check_origins() -> Iterator[CheckMessage]:
    origins: Sequence[object] = conf.allowed_origins
    for origin in origins:
        if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
            hint = (
                'An entry is scheme, host and, if it is not the usual one, port: "https://shop.example", '
                '"https://*.shop.example". No path and no slash at the end; "*" is not possible.'
            )
            yield Error(
                f'NOTIFICATIONS["ALLOWED_ORIGINS"] has {origin!r}, which is no origin.',
                hint=hint,
                id="notifications.E006",
            )


def check_kinds() -> Iterator[CheckMessage]:
    kinds: Mapping[Any, object] = conf.kinds
    for kind, about in kinds.items():
        if not isinstance(kind, str) or not KIND.fullmatch(kind) or not isinstance(about, Mapping):
            problem = f"{kind!r}, which is not a dotted name with a dict behind it"
        elif unknown := [name for name in about if name not in ABOUT_KIND]:
            problem = f"{kind!r} with {unknown[0]!r}, which means nothing"
        elif not isinstance(about.get("mandatory", False), bool):
            problem = f"{kind!r} with a mandatory that is neither True nor False"
        else:
            continue
        hint = 'Write "KINDS": {"order.shipped": {"label": "Shipped orders", "description": "…", "mandatory": False}}.'
        yield Error(f'NOTIFICATIONS["KINDS"] has {problem}.', hint=hint, id="notifications.E009")


def check_limits() -> Iterator[CheckMessage]:
    """Limits that are right each, and impossible together."""
    if conf.topics_per_stream * CURSOR_PART > conf.cursor_length:
        needed = conf.topics_per_stream * CURSOR_PART
        hint = (
            f'Set "CURSOR_LENGTH" to {needed}, or "TOPICS_PER_STREAM" to {conf.cursor_length // CURSOR_PART}. '
            "Web servers commonly refuse request lines and headers above 8 KB."
        )
        yield Warning(
            f"A cursor over TOPICS_PER_STREAM ({conf.topics_per_stream}) topics may be longer than CURSOR_LENGTH "
            f"({conf.cursor_length}); such a client can not resume.",
            hint=hint,
            id="notifications.W014",
        )
    if conf.frame_bytes < conf.cursor_length + ACK_FRAME:
        yield Warning(
            f"FRAME_BYTES ({conf.frame_bytes}) is too small for an acknowledgement with a cursor of CURSOR_LENGTH "
            f"({conf.cursor_length}); such a WebSocket is closed.",
            hint=f'Set "FRAME_BYTES" to {conf.cursor_length + ACK_FRAME} or more.',
            id="notifications.W014",
        )
    if conf.heartbeat >= conf.lifetime:
        yield Warning(
            f"LIFETIME ({conf.lifetime:g} s) is not longer than HEARTBEAT ({conf.heartbeat:g} s): streams end before "
            "their first heartbeat.",
            hint='A good "LIFETIME" is 10 to 30 minutes, a good "HEARTBEAT" 15 seconds.',
            id="notifications.W014",
        )
