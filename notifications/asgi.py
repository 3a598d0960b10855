"""For a site's ``asgi.py``: ``application = notifications.asgi.wrap(get_asgi_application())``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .handover import Application, Receive, Scope, Send

__all__ = ["wrap"]


def wrap(application: Application) -> Application:
    """Return ``application`` with streams that hold nothing, and with the WebSocket at ``SOCKET_PATH``.

    Sites with a ``ProtocolTypeRouter`` of their own wrap what it has for ``"http"``, and add
    :data:`notifications.routing.websocket_urlpatterns` to their own (``docs/embed.md``).

    :param application: Django's, from ``get_asgi_application()``; calling that first is what sets Django up.
    """
    # Here, because they need Django's apps, and this module is imported at the top of asgi.py.
    from django.core.handlers.asgi import ASGIHandler

    from .admission import Admission
    from .handover import StreamHandover
    from .routing import websocket_application
    from .settings import conf

    # Django itself knows neither WebSockets nor lifespan; what else is wrapped (a router) may.
    only_http = isinstance(application, ASGIHandler)

    def elsewhere(scope: Scope) -> Application | None:
        if scope["type"] == "websocket" and (only_http or scope["path"] == conf.socket_path):
            return websocket_application
        return lifespan if scope["type"] == "lifespan" and only_http else None

    # A class of the site's own may treat requests in a way of its own, and must be asked about this one, too.
    return StreamHandover(application, Admission() if type(application) is ASGIHandler else None, elsewhere)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the server's lifespan protocol, which Django's application does not know."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
