"""The WebSocket's way in: what becomes of a handshake."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.http import parse_cookie

from notifications import routing
from notifications.handover import Receive, Scope, Send

SPLIT = [(b"cookie", b"theme=dark"), (b"origin", b"http://a"), (b"cookie", b"sessionid=abc"), (b"cookie", b"x=y")]
OWN = (b"origin", b"http://testserver"), (b"host", b"testserver")


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ([], ""),
        ([(b"cookie", b"theme=dark")], ""),
        ([(b"cookie", b"theme=dark; sessionid=abc")], "abc"),
        (SPLIT, "abc"),
    ],
)
def test_session_is_found_in_whatever_header_it_came(headers: list[tuple[bytes, bytes]], session: str) -> None:
    assert routing.session_key({"type": "websocket", "headers": headers}) == session


def test_path_is_matched_as_it_is() -> None:
    pattern = routing.path_pattern("/live.v1/")
    assert re.match(pattern, "live.v1/")
    assert not re.match(pattern, "live-v1/")
    assert not re.match(pattern, "live.v1/more")


async def test_other_ways_to_log_in_get_one_header(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.file"
    found: list[Scope] = []

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope)

    monkeypatch.setattr(routing, "with_authentication", called)
    headers = [*OWN, *(header for header in SPLIT if header[0] == b"cookie")]
    application: Any = routing.websocket_application
    await application({"type": "websocket", "path": "/ws/notifications/", "headers": headers}, None, None)

    (scope,) = found
    (cookies,) = [value for key, value in scope["headers"] if key == b"cookie"]
    assert parse_cookie(cookies.decode()) == {"theme": "dark", "sessionid": "abc", "x": "y"}
    assert OWN[0] in scope["headers"]
