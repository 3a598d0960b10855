"""What ``make run`` starts: the demo site without any configuration, on one daphne, stopped by Ctrl-C."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import websockets

from tests.conftest import MakeSite


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_interrupt_stops_the_server_within_two_seconds_with_streams_open(kind: str, make_site: MakeSite) -> None:
    site = make_site()
    headers = site.headers("alice")
    with site.server("uvicorn" if kind == "uvicorn" else "daphne") as server:
        async with (
            asyncio.timeout(20),
            httpx.AsyncClient(base_url=server.url, headers=headers) as client,
            client.stream("GET", "/notifications/stream/") as response,
            websockets.connect(
                f"{server.websocket_url}/ws/notifications/",
                additional_headers=headers,
                origin=websockets.Origin(server.url),
                subprotocols=[websockets.Subprotocol("notifications.v1")],
            ) as socket,
        ):
            lines = response.aiter_lines()
            await anext(lines)
            await socket.recv()
            assert await asyncio.to_thread(server.interrupt) < 2


def test_check_finds_nothing_wrong_with_the_demo(make_site: MakeSite) -> None:
    assert "no issues" in make_site().manage("check", "--fail-level", "INFO")
