"""The WebSocket's way in: what its middleware makes of a handshake."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import parse_cookie

from notifications.consumers import SESSION
from notifications.handover import Receive, Scope, Send
from notifications.routing import SessionCookie

SPLIT = [(b"cookie", b"theme=dark"), (b"origin", b"http://a"), (b"cookie", b"sessionid=abc"), (b"cookie", b"x=y")]


async def passed_on(headers: list[tuple[bytes, bytes]]) -> tuple[str, Scope]:
    """Return which application a handshake was passed on to, and what it got."""
    found: list[tuple[str, Scope]] = []

    def application(name: str) -> Any:
        async def called(scope: Scope, receive: Receive, send: Send) -> None:
            found.append((name, scope))

        return called

    cookie: Any = SessionCookie(application("ours"), otherwise=application("otherwise"))
    await cookie({"type": "websocket", "headers": headers}, None, None)
    ((name, scope),) = found
    return name, scope


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ([], None),
        ([(b"cookie", b"theme=dark")], None),
        ([(b"cookie", b"theme=dark; sessionid=abc")], "abc"),
        (SPLIT, "abc"),
    ],
)
async def test_session_is_found_in_whatever_header_it_came(
    headers: list[tuple[bytes, bytes]], session: str | None
) -> None:
    name, scope = await passed_on(headers)
    assert (name, scope[SESSION]) == ("ours", session)


async def test_other_ways_to_log_in_get_one_header(settings: Any) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.file"
    name, scope = await passed_on(SPLIT)
    assert (name, SESSION in scope) == ("otherwise", False)
    (cookies,) = [value for key, value in scope["headers"] if key == b"cookie"]
    assert parse_cookie(cookies.decode()) == {"theme": "dark", "sessionid": "abc", "x": "y"}
    assert (b"origin", b"http://a") in scope["headers"]
