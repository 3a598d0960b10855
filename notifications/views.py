"""The stream and the polling view. The inbox's pages and actions are in :mod:`notifications.inbox_views`."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from . import handover, sessions, shutdown, sse
from .access import Principal, TopicsUnknown, is_for, principal_of
from .envelope import bye
from .hub import AccessUnknown, HubFull, NotAuthorized
from .origin import origin_allowed
from .polling import poll
from .settings import conf
from .stream import current_hub, open_stream

__all__ = ["events", "stream"]

logger = logging.getLogger("notifications")

V = TypeVar("V", bound=Callable[..., Any])
R = TypeVar("R", HttpResponse, StreamingHttpResponse)

#: Requests of one process that look up their session at the same time: each costs a thread and a connection.
LOOKUPS_AT_ONCE = 8

_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def never_atomic(view: V) -> V:
    """Exempt a view from ATOMIC_REQUESTS, which an async view can not have, on every database."""
    for alias in settings.DATABASES:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


@login_not_required  # It answers 401 itself: a script can do nothing with a login page.
@csrf_exempt  # It answers 405 itself: nothing but GET is.
@never_atomic
async def stream(request: HttpRequest) -> HttpResponseBase:
    """``GET``: the user's events as ``text/event-stream`` (WHATWG HTML, 9.2), from ``Last-Event-ID`` or ``?cursor=``.

    An ordinary view as far as middleware, session and limits go; behind :func:`notifications.asgi.wrap` the stream
    itself is written after Django's request has ended, and holds neither a thread nor a database connection.
    """
    if (refusal := _refusal(request)) is not None:
        return refusal
    if current_hub().full:
        return busy()
    principal = await _who(request)
    if principal is None or not is_for(principal.user, request.GET.get("for")):
        return problem(401, handover.LOG_IN)
    slot: handover.Handover | None = request.scope.get(handover.SCOPE_KEY)  # type: ignore[attr-defined]
    if slot is None:
        return _streaming(StreamingHttpResponse(_stream_by_itself(principal, _cursor(request))))
    slot.principal, slot.cursor = principal, _cursor(request)
    return _streaming(HttpResponse(b""))


@login_not_required
@never_atomic
def stream_in_thread(request: HttpRequest) -> HttpResponseBase:
    """As :func:`stream`, without an event loop (see :mod:`notifications.admission`).

    A session is left to be looked up after Django's request, together with those of others.
    """
    if (refusal := _refusal(request)) is not None:
        return refusal
    slot: handover.Handover = request.scope[handover.SCOPE_KEY]  # type: ignore[attr-defined]
    if slot.full:
        return busy()
    slot.session = sessions.untouched_key(request)
    slot.principal = _look_up(request) if slot.session is None else None
    if not slot.accepted:
        return problem(401, handover.LOG_IN)
    slot.cursor, slot.user = _cursor(request), request.GET.get("for")
    return _streaming(HttpResponse(b""))


@login_not_required
@csrf_exempt
@never_atomic
def events(request: HttpRequest) -> HttpResponse:
    """``GET``: what happened since ``?cursor=``, as JSON: ``{"events": [{type, cursor, data}, …], "cursor", "retry"}``.

    The first event is always ``ready``; ``retry`` is how many milliseconds to wait before asking again.
    """
    if request.method != "GET":
        return only_get()
    cursor = request.GET.get("cursor") or None
    if cursor is not None and len(cursor) > conf.cursor_length:
        return problem(400, "The cursor is too long.")
    user = request.user
    answer = None
    try:
        if user.is_authenticated and is_for(user, request.GET.get("for")):
            answer = poll(user, principal_of(user, request.session), cursor)
    except TopicsUnknown:  # What the site's function raised is in the log.
        return busy("What you may read could not be told; ask again in a few seconds.")
    if answer is None:
        return problem(401, handover.LOG_IN)
    items = ",".join(envelope.as_json(position) for envelope, position in answer.frames)
    body = f'{{"events":[{items}],"cursor":{json.dumps(answer.cursor)},"retry":{answer.retry}}}'
    return HttpResponse(body, content_type="application/json", headers={"Cache-Control": "private, no-store"})


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """Return what a request gets that is wrong whoever it is from."""
    scope = getattr(request, "scope", None)
    if scope is None:
        return problem(
            501, "Event streams need an ASGI server (daphne, uvicorn), and this is WSGI; poll events/ instead."
        )
    if request.method != "GET":
        return only_get()
    if not origin_allowed(scope, required=False):
        return problem(403, "This page's origin may not open a stream here.")
    if len(_cursor(request) or "") > conf.cursor_length:
        return problem(400, "The cursor is too long.")
    return None


def _cursor(request: HttpRequest) -> str | None:
    return request.META.get("HTTP_LAST_EVENT_ID") or request.GET.get("cursor") or None


def _streaming(response: R) -> R:
    """Return the answer of which the stream is, or will be, the body."""
    response.headers["Content-Type"] = sse.CONTENT_TYPE
    for name, value in sse.HEADERS.items():
        response.headers[name] = value
    return response


def problem(status: int, sentence: str, **headers: str) -> JsonResponse:
    """Return an error as JSON, which no cache keeps."""
    return JsonResponse({"error": sentence}, status=status, headers={"Cache-Control": "private, no-store", **headers})


def only_get() -> JsonResponse:
    return problem(405, "Only GET is allowed here.", Allow="GET")


def busy(sentence: str = handover.FULL) -> JsonResponse:
    return problem(503, sentence, **{"Retry-After": str(handover.retry_after())})


async def _who(request: HttpRequest) -> Principal | None:
    """Return whom the request is from; sessions of those who come together are looked up together."""
    if (key := sessions.untouched_key(request)) is not None:
        principal: Principal | None = await current_hub().identify(key)
        return principal
    # A site's own way to tell users: in a thread of the request, so only a few at a time.
    semaphore = _lookups.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(LOOKUPS_AT_ONCE))
    async with semaphore:
        return await sync_to_async(_look_up)(request)


def _look_up(request: HttpRequest) -> Principal | None:
    try:
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return None
        return principal_of(user, getattr(request, "session", None))
    finally:
        # At once, and not at the end of the request: the semaphore bounds connections, too.
        _close_connections()


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


async def _stream_by_itself(principal: Principal, cursor: str | None) -> AsyncIterator[bytes]:
    """The stream of a site without the wrapper (system check ``notifications.W007``), as the body of Django's answer.

    The request lasts as long as the stream; what it would hold is given back first.
    """
    shutdown.install(current_hub())
    await sync_to_async(_close_connections)()
    _release_thread()
    try:
        async with open_stream(principal, transport="sse", cursor=cursor) as (subscription, frames):
            sent = 0
            async with aclosing(frames) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    body = handover.encode_frames(batch)
                    yield body
                    sent += len(body)
                    if sent > conf.stream_bytes:
                        subscription.end("slow", 0)
    except NotAuthorized:
        yield bye("revoked", None).as_sse(None)
    except HubFull:
        yield bye("capacity", random.randint(2000, 10_000)).as_sse(None)
    except (AccessUnknown, TimeoutError) as error:
        logger.warning("a stream of user %s could not be opened: %r", principal.user, error)
        yield bye("error", random.randint(1000, 5000)).as_sse(None)
    except Exception:
        # Must not leave here: daphne would keep the socket open, silent, for ever.
        logger.exception("a stream failed; its client is asked to return")
        yield bye("error", random.randint(1000, 5000)).as_sse(None)


def _release_thread() -> None:
    """Shut down the thread that asgiref gave to this request; another comes if it is needed once more."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context is not None else None
    if executor is not None:
        executor.shutdown(wait=False)
