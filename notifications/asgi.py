"""For a site's ``asgi.py``: ``application = notifications.asgi.wrap(get_asgi_application())``."""

from __future__ import annotations

from . import shutdown
from .handover import Application, Receive, Scope, Send, StreamHandover
from .routing import websocket_application

__all__ = ["StreamHandover", "wrap"]


def wrap(application: Application) -> Application:
    """Return ``application`` with streams that hold nothing, and with the WebSocket at ``SOCKET_PATH``.

    Call it after ``get_asgi_application()``, which sets Django up. Sites with a ``ProtocolTypeRouter`` of their own use
    :class:`StreamHandover` for ``"http"`` and :data:`notifications.routing.websocket_urlpatterns` instead.
    """
    http = StreamHandover(application)

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket_application(scope, receive, send)
        elif scope["type"] == "lifespan":
            await shutdown.lifespan(scope, receive, send)
        else:
            await http(scope, receive, send)

    return wrapped
