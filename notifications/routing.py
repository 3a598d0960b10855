"""WebSocket routes, for ``ProtocolTypeRouter`` and :func:`notifications.asgi.wrap`.

Order matters: the Origin is checked before anything asks the database, the session after it.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from channels.auth import AuthMiddlewareStack
from django.conf import settings
from django.http import parse_cookie
from django.urls import re_path

from .consumers import SESSION, NotificationConsumer
from .handover import Application, Receive, Scope, Send
from .origin import origin_allowed
from .sessions import are_django_s_own
from .settings import conf

__all__ = ["OriginCheck", "websocket_application", "websocket_urlpatterns"]

logger = logging.getLogger("notifications")


class OriginCheck:
    """Refuse handshakes from other sites' pages with 403, before any session is looked up."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if origin_allowed(scope, required=True):
            return await self.application(scope, receive, send)
        logger.warning("a WebSocket from another origin was refused: %r", dict(scope["headers"]).get(b"origin"))
        await receive()
        await send({"type": "websocket.close", "code": 4403})


class SocketPath:
    """Matches ``SOCKET_PATH`` as it is set now."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == conf.socket_path:
            return await self.application(scope, receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 4404})


class SessionCookie:
    """Passes the session cookie on, to be looked up together with others; other sites' ways are Channels' business.

    Cookies that an HTTP/2 client or proxy sent as several headers are put together (RFC 9113, section 8.2.3).
    """

    def __init__(self, application: Application, otherwise: Application) -> None:
        self.application = application
        self.otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        crumbs = [value for name, value in scope["headers"] if name == b"cookie"]
        if len(crumbs) > 1:
            headers = [header for header in scope["headers"] if header[0] != b"cookie"]
            scope = {**scope, "headers": [*headers, (b"cookie", b"; ".join(crumbs))]}
        if not are_django_s_own():
            return await self.otherwise(scope, receive, send)
        cookies = parse_cookie(b"; ".join(crumbs).decode("latin-1"))
        await self.application({**scope, SESSION: cookies.get(settings.SESSION_COOKIE_NAME)}, receive, send)


consumer = cast(Application, NotificationConsumer.as_asgi())

#: For a ``URLRouter`` of the site's own, inside its authentication.
websocket_urlpatterns = [re_path(rf"^{conf.socket_path.lstrip('/')}$", cast(Any, OriginCheck(consumer)))]

#: Everything: path, origin, session, consumer.
websocket_application: Application = SocketPath(
    OriginCheck(SessionCookie(consumer, otherwise=cast(Application, AuthMiddlewareStack(consumer))))
)
