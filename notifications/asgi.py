"""For a site's ``asgi.py``: ``application = notifications.asgi.wrap(get_asgi_application())``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .handover import Application, Receive, Scope, Send

__all__ = ["wrap"]


def wrap(application: Application) -> Application:
    """Return ``application`` with streams that hold nothing, and with the WebSocket at ``SOCKET_PATH``.

    Sites with a ``ProtocolTypeRouter`` of their own use :class:`notifications.handover.StreamHandover` for ``"http"``
    and :data:`notifications.routing.websocket_urlpatterns` instead (``docs/embed.md``).

    :param application: Django's, from ``get_asgi_application()``; calling that first is what sets Django up.
    """
    # Here, because they need Django's apps, and this module is imported at the top of asgi.py.
    from .handover import StreamHandover
    from .routing import websocket_application

    http = StreamHandover(application)

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket_application(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await http(scope, receive, send)

    return wrapped


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's lifespan protocol, which Django's application does not know."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
