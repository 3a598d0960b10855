"""WebSocket routes, for ``ProtocolTypeRouter`` and :func:`notifications.asgi.wrap`.

Order matters: the Origin is checked before anything asks the database, the session after it.
"""

from __future__ import annotations

import logging
import re
from typing import Any, cast

from channels.auth import AuthMiddlewareStack
from django.conf import settings
from django.http import parse_cookie
from django.urls import re_path

from .consumers import NotificationConsumer
from .handover import Application, Receive, Scope, Send
from .origin import origin_allowed
from .sessions import are_django_s_own
from .settings import conf

__all__ = ["OriginCheck", "session_key", "websocket_application", "websocket_urlpatterns"]

logger = logging.getLogger("notifications")


class OriginCheck:
    """Refuse handshakes from other sites' pages with 403, before any session is looked up."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (code := _foreign(scope)) is not None:
            return await _refuse(code, receive, send)
        await self.application(scope, receive, send)


async def websocket_application(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything: path, origin, session, consumer. One function, because its frame lasts as long as the connection."""
    code = 4404 if scope["path"] != conf.socket_path else _foreign(scope)
    if code is not None:
        return await _refuse(code, receive, send)
    if are_django_s_own():
        # The session is looked up together with those of others; other sites' ways are Channels' business.
        await NotificationConsumer(session=session_key(scope))(scope, receive, send)
    else:
        await with_authentication(_with_one_cookie_header(scope), receive, send)


def session_key(scope: Scope) -> str:
    """Return the session key that a handshake brings; empty without one."""
    cookies = parse_cookie(b"; ".join(_cookie_headers(scope)).decode("latin-1"))
    return cookies.get(settings.SESSION_COOKIE_NAME, "")


def _cookie_headers(scope: Scope) -> list[bytes]:
    """Return the cookies; an HTTP/2 client or proxy may send them as several headers (RFC 9113, section 8.2.3)."""
    return [value for name, value in scope["headers"] if name == b"cookie"]


def _with_one_cookie_header(scope: Scope) -> Scope:
    crumbs = _cookie_headers(scope)
    others = [header for header in scope["headers"] if header[0] != b"cookie"]
    return {**scope, "headers": [*others, (b"cookie", b"; ".join(crumbs))]} if len(crumbs) > 1 else scope


def _foreign(scope: Scope) -> int | None:
    """Return the close code for a handshake from another site's page."""
    if origin_allowed(scope, required=True):
        return None
    logger.warning("a WebSocket from another origin was refused: %r", dict(scope["headers"]).get(b"origin"))
    return 4403


async def _refuse(code: int, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": code})


def path_pattern(path: str) -> str:
    """Return what a ``URLRouter`` matches that path, and no other, by."""
    return rf"^{re.escape(path.lstrip('/'))}$"


consumer = cast(Application, NotificationConsumer.as_asgi())
with_authentication = cast(Application, AuthMiddlewareStack(consumer))

#: For a ``URLRouter`` of the site's own, inside its authentication.
websocket_urlpatterns = [re_path(path_pattern(conf.socket_path), cast(Any, OriginCheck(consumer)))]
