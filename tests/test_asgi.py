"""The wrapper of a site's ``asgi.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse

from notifications.asgi import wrap
from tests.clients import InProcess


async def call(application: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what ``application`` says to these messages."""
    waiting, said = list(messages), []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: Mapping[str, Any]) -> None:
        said.append(dict(message))

    await application({"headers": [], "path": "/", **scope}, receive, send)
    return said


async def router(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "router", "scope": scope["type"], "path": scope["path"]})


async def test_lifespan_is_answered_for_django() -> None:
    said = await call(
        wrap(get_asgi_application()),
        {"type": "lifespan"},
        {"type": "lifespan.startup"},
        {"type": "lifespan.shutdown"},
    )
    assert [message["type"] for message in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_websocket_at_another_path_is_closed_for_django() -> None:
    said = await call(
        wrap(get_asgi_application()), {"type": "websocket", "path": "/ws/chat/"}, {"type": "websocket.connect"}
    )
    assert [message["type"] for message in said] == ["websocket.close"]


@pytest.mark.parametrize(("type", "path"), [("websocket", "/ws/chat/"), ("lifespan", ""), ("http", "/")])
async def test_what_is_not_ours_is_handed_on_to_a_router(type: str, path: str) -> None:
    said = await call(wrap(router), {"type": type, "path": path}, {"type": f"{type}.first"})
    assert said == [{"type": "router", "scope": type, "path": path}]


async def test_our_websocket_is_not_handed_on(settings: Any) -> None:
    settings.NOTIFICATIONS = {"SOCKET_PATH": "/live/"}
    said = await call(wrap(router), {"type": "websocket", "path": "/live/"}, {"type": "websocket.connect"})
    assert said == [{"type": "websocket.close", "code": 4403}]  # It has no Origin.


class Guarded(ASGIHandler):
    """A site's own, which answers by itself."""

    async def get_response_async(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("not from here", status=451)


async def test_application_of_a_class_of_the_site_s_own_is_asked_about_the_stream(serving: Any) -> None:
    async with InProcess(wrap(Guarded())).get("/notifications/stream/", {}) as response:
        assert response.status == 451
