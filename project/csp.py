"""The Content-Security-Policy header on Django 5.2; Django 6 has its own, for the same setting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

__all__ = ["middleware"]


def protect(response: HttpResponseBase) -> HttpResponseBase:
    """Add the policy of ``SECURE_CSP``, but not to Django's own debug pages, whose styles are inline."""
    if not (settings.DEBUG and response.status_code in (404, 500)):
        policy = "; ".join(f"{name} {' '.join(sources)}" for name, sources in settings.SECURE_CSP.items())
        response.headers.setdefault("Content-Security-Policy", policy)
    return response


@sync_and_async_middleware
def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the header on each response; asynchronous where the chain is, so that it costs no thread."""
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            return protect(await cast("Awaitable[HttpResponseBase]", get_response(request)))

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        return protect(get_response(request))

    return synchronous
