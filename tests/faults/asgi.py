"""The application of the fault suite's servers: the tests' site, with instruments to look inside and to break it.

``GET /faults/state`` tells what the process holds, without asking the database. ``GET /faults/raise?at=NAME&times=N``
lets the next calls at a place of the stream's path raise; ``GET /faults/clock?by=SECONDS`` steps the wall clock. A
production server has none of this: it is all done from here.
"""

from __future__ import annotations

import functools
import gc
import inspect
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

import django.utils.timezone  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402

import notifications.asgi  # noqa: E402
from notifications import doorbell, handover, hub, link, reader, replay, stream, subscription  # noqa: E402
from notifications.envelope import Envelope  # noqa: E402

wrapped = notifications.asgi.wrap(django_application)

if "FAULTS_LINGER" in os.environ:
    hub.LINGER = float(os.environ["FAULTS_LINGER"])

# ---- queries, by who asked: the hub's pool ("notifications-db_0" …) or requests

queries: Counter[str] = Counter()
opened: Counter[str] = Counter()


def count_query(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    who = "hub" if threading.current_thread().name.startswith("notifications-db") else "requests"
    queries[who] += 1
    tables = sql.split("WHERE")[0]
    for table in ("event", "topic", "notification"):
        if f'notifications_{table}"' in tables:
            queries[f"{who} {table}"] += 1
    if any(name in tables for name in ("auth_user", "django_session", "notifications_membership", "_preference")):
        queries[f"{who} authorize"] += 1
    return execute(sql, params, many, context)


def on_connection(connection: Any, **_: Any) -> None:
    opened["connections"] += 1
    if count_query not in connection.execute_wrappers:
        connection.execute_wrappers.append(count_query)


connection_created.connect(on_connection)

# ---- groups joined

joins: Counter[str] = Counter()
join_group = link.Link.join


async def count_joins(self: link.Link, topics: Any, **options: Any) -> set[str]:
    joins["topics"] += len(topics)
    return await join_group(self, topics, **options)


link.Link.join = count_joins  # type: ignore[method-assign]

# ---- exceptions, at each await of a stream

armed: Counter[str] = Counter()
KINDS = {"runtime": RuntimeError, "type": TypeError, "os": ConnectionResetError}
kind = "runtime"
breakable_sends = False


def fails(name: str) -> None:
    if armed[name] > 0:
        armed[name] -= 1
        raise KINDS[kind](f"injected at {name}")


def breakable(name: str, owner: Any, attribute: str) -> None:
    function = getattr(owner, attribute)

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def replaced_iterator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            fails(name)
            async for item in function(*args, **kwargs):
                yield item
                fails(f"{name}, later")

        setattr(owner, attribute, replaced_iterator)
    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def replaced(*args: Any, **kwargs: Any) -> Any:
            fails(name)
            return await function(*args, **kwargs)

        setattr(owner, attribute, replaced)
    else:

        @functools.wraps(function)
        def replaced_function(*args: Any, **kwargs: Any) -> Any:
            fails(name)
            return function(*args, **kwargs)

        setattr(owner, attribute, replaced_function)


for place, owner, attribute in (
    ("authorize", reader.Reader, "authorize"),
    ("heads", reader.Reader, "heads"),
    ("read", reader.Reader, "read"),
    ("unread", reader.Reader, "unread"),
    ("replay", stream, "replay"),
    ("catch up", replay, "_catch_up"),
    ("wait", subscription.Subscription, "wait"),
    ("take", subscription.Subscription, "take"),
    ("encode", handover, "encode_frames"),
    ("encode json", Envelope, "as_json"),
):
    breakable(place, owner, attribute)

# ---- the wall clock

step = 0.0
real_time, real_now = time.time, django.utils.timezone.now


def set_clock(seconds: float) -> None:
    """Step what this process takes for the time of day; monotonic clocks do not move, as in a real machine."""
    global step
    step = seconds
    time.time = lambda: real_time() + step
    django.utils.timezone.now = lambda: datetime.now(UTC) + timedelta(seconds=step)


# ---- what the process holds


@functools.cache
def find_server() -> Any:
    """Return daphne's or uvicorn's own object that knows its connections."""
    return next((thing for thing in gc.get_objects() if type(thing).__name__ in ("Server", "ServerState")), None)


def state() -> dict[str, Any]:
    hubs = list(stream._hubs.values())
    return {
        "queries": queries,
        "opened": opened["connections"],
        "up": all(found.link.up for found in hubs),
        "confirmed": all(topic.confirmed for found in hubs for topic in found.topics.values()),
        "subscriptions": sum(len(found.subscriptions) for found in hubs),
        "joins": joins["topics"],
        "users": [str(s.principal.user) for found in hubs for s in found.subscriptions],
        "transports": [s.transport for found in hubs for s in found.subscriptions],
        "topics": sum(len(found.topics) for found in hubs),
        "restarts": sum(found.restarts for found in hubs),
        "sent": doorbell._doorbell.sent,
        "lost": doorbell._doorbell.lost,
        "breaker": any(breaker.is_open for breaker in doorbell.breakers.values()),
        # What the server itself still has: daphne keeps it for ever when an application's exception gets out.
        "connections": len(getattr(find_server(), "connections", ())),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The site; and, under ``/faults/``, the instruments."""
    global kind, breakable_sends
    if scope["type"] != "http" or not scope["path"].startswith("/faults/"):

        async def breakable_send(message: Any) -> None:
            if message["type"] != "http.response.start":
                fails("send")
            await send(message)

        # Otherwise the server's own, so that live events are written past it as they are in a site.
        return await wrapped(scope, receive, breakable_send if breakable_sends else send)
    query = dict(parse_qsl(scope["query_string"].decode()))
    answer: Any = {}
    match scope["path"]:
        case "/faults/state":
            answer = state()
        case "/faults/breakable":
            breakable_sends = True
        case "/faults/raise":
            kind = query.get("kind", "runtime")
            armed[query["at"]] = int(query.get("times", 1))
        case "/faults/armed":
            answer = +armed
        case "/faults/clock":
            set_clock(float(query["by"]))
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
