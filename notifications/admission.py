"""Whether an event stream may begin, asked of Django in one hop to a thread.

Django's ASGI handler makes a hop of its own for nearly every method of every middleware: with the seven of
``startproject`` that is fifteen hops, two new threads and 3 ms of CPU for a view that does nothing, and a thousand
browsers that return after a deploy wait for a thousand times that. So requests for the event stream, and no others, run
through the same middleware in its synchronous form, as under a WSGI server: once into a thread, and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.core.signals import request_started
from django.urls import Resolver404, resolve, set_script_prefix

from . import views
from .handover import SCOPE_KEY, UNOPENED, Receive, Scope, Send
from .settings import conf
from .stream import current_hub
from .threads import DatabaseThreads

__all__ = ["Admission"]

#: Seconds after which it is asked whether the client is still there, and that a request waits for a thread after them.
SOON, PATIENCE = 1.0, 10.0


class Admission(ASGIHandler):
    """Django's application for requests that :meth:`takes` says yes to."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)

    @cached_property
    def _respond(self) -> Callable[[Scope], Coroutine[Any, Any, Any]]:
        # Not before it is needed: settings are not read while the site's asgi.py is imported.
        threads: Any = DatabaseThreads(conf.request_threads)
        return sync_to_async(self.respond, thread_sensitive=False, executor=threads)

    @staticmethod
    def takes(scope: Scope) -> bool:
        """Return whether this is a request for the event stream."""
        if scope["method"] != "GET" or not scope["path"].endswith("/stream/"):
            return False
        return _is_stream(scope["path"].removeprefix(scope.get("root_path") or ""), settings.ROOT_URLCONF)  # type: ignore[misc]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handover, hub = scope[SCOPE_KEY], current_hub()
        if not hub.full:
            handover.turn = await hub.turns.take()
        handover.full = hub.full
        # In a context of its own: what the site's middleware leaves in it would last as long as the stream.
        asked = asyncio.create_task(self._respond(scope))
        if not (await asyncio.wait({asked}, timeout=SOON))[0] and not await self._patiently(asked, receive):
            asked.cancel()  # If it still waits for a thread, it needs none any more.
            return await self.send_response(views.busy(UNOPENED), send)
        response = asked.result()
        try:
            await self.send_response(response, send)
        finally:
            if response.streaming:
                await sync_to_async(response.close)()

    async def _patiently(self, asked: asyncio.Task[Any], receive: Receive) -> bool:
        """Wait for an answer that takes its time; return False if the client goes, or it takes too long."""
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({asked, gone}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        return asked.done()

    def respond(self, scope: Scope) -> Any:
        """Return the site's answer; to be called in a thread."""
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=type(self), scope=scope)
        request, problem = self.create_request(scope, BytesIO())
        response: Any = problem if request is None else self.get_response(request)
        response._handler_class = type(self)
        if not response.streaming:
            response.close()  # Here, where its database connections are.
        return response

    def resolve_request(self, request: Any) -> Any:
        """As Django's, with the stream's view in the form that needs no event loop."""
        callback, arguments, named = super().resolve_request(request)
        return views.stream_in_thread if callback is views.stream else callback, arguments, named


# Django resolves the request again in either of the two ways, so that what is remembered wrongly (URLs by language, or
# changed while the site runs) is answered by the right view all the same.
@lru_cache(maxsize=64)
def _is_stream(path: str, urlconf: str) -> bool:
    try:
        return resolve(path, urlconf).func is views.stream
    except Resolver404:
        return False


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
