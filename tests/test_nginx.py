"""The nginx configuration of the docs, in a real nginx: streams come through at once, compressed pages around them."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import httpx
import pytest
import websockets

from tests.conftest import MakeSite
from tests.servers import NginxServer, Site

NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify

notify(User.objects.get(username="alice"), "through nginx")
"""


@pytest.fixture
def behind(make_site: MakeSite) -> Site:
    return make_site()


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_stream_comes_through_nginx(behind: Site, kind: Literal["daphne", "uvicorn"], protocol: str) -> None:
    http2 = protocol == "HTTP/2"
    with behind.server(kind) as server, NginxServer([server.port], tls=http2) as nginx, behind.worker() as worker:
        url = f"https://127.0.0.1:{nginx.tls_port}" if http2 else nginx.url
        headers = {**behind.headers("alice"), "Accept-Encoding": "gzip"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10, http2=http2, verify=False) as client:
            page = await client.get("/login/", headers={"Cookie": ""})
            assert page.headers["content-encoding"] == "gzip"
            async with asyncio.timeout(20), client.stream("GET", "/notifications/stream/") as response:
                assert (response.status_code, response.http_version) == (200, protocol)
                lines = response.aiter_lines()
                async for line in lines:
                    if line == "event: ready":
                        break
                await asyncio.to_thread(worker.run, NOTIFY)
                async with asyncio.timeout(10):
                    async for line in lines:
                        if line == "event: notification":
                            break
                assert "through nginx" in await anext(lines)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_websocket_comes_through_nginx(behind: Site, kind: Literal["daphne", "uvicorn"]) -> None:
    with behind.server(kind) as server, NginxServer([server.port]) as nginx, behind.worker() as worker:
        address = nginx.url.replace("http", "ws") + "/ws/notifications/"
        # The Origin of a page that came through nginx: its port is not the server's own.
        async with (
            websockets.connect(
                address,
                additional_headers=behind.headers("alice"),
                origin=websockets.Origin(nginx.url),
                subprotocols=[websockets.Subprotocol("notifications.v1")],
                proxy=None,
            ) as socket,
            asyncio.timeout(20),
        ):
            assert json.loads(await socket.recv())["type"] == "ready"
            await asyncio.to_thread(worker.run, NOTIFY)
            async with asyncio.timeout(10):
                while (event := json.loads(await socket.recv()))["type"] != "notification":
                    pass
    assert event["data"]["title"] == "through nginx"
