"""The nginx configuration of the docs, in a real nginx: streams come through at once, compressed pages around them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Literal

import httpx
import pytest
import websockets

from tests.conftest import MakeSite
from tests.servers import ROOT, AsgiServer, Server, Site, program

AROUND = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    gzip on;
    gzip_min_length 1;
    gzip_types *;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{configuration}
}}
"""
NOTIFY = """
from django.contrib.auth.models import User
from notifications import notify

notify(User.objects.get(username="alice"), "through nginx")
"""


class Nginx(Server):
    """nginx with ``docs/nginx.conf``, in front of a server of the site."""

    name = "nginx"
    scheme = "http"

    def __init__(self, behind: AsgiServer) -> None:
        super().__init__()
        text = (ROOT / "docs" / "nginx.conf").read_text()
        for old, new in {"listen 80;": f"listen 127.0.0.1:{self.port};", ":8000;": f":{behind.port};"}.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.configuration: Path = self.directory / "nginx.conf"
        self.configuration.write_text(AROUND.format(directory=self.directory, configuration=text))

    def command(self) -> list[str]:
        return [program("nginx"), "-c", str(self.configuration), "-e", "stderr"]


@pytest.fixture
def behind(make_site: MakeSite) -> Site:
    return make_site()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_stream_comes_through_nginx(behind: Site, kind: Literal["daphne", "uvicorn"]) -> None:
    with behind.server(kind) as server, Nginx(server) as nginx, behind.worker() as worker:
        headers = {**behind.headers("alice"), "Accept-Encoding": "gzip"}
        async with httpx.AsyncClient(base_url=nginx.url, headers=headers, timeout=10) as client:
            page = await client.get("/login/", headers={"Cookie": ""})
            assert page.headers["content-encoding"] == "gzip"
            async with asyncio.timeout(20), client.stream("GET", "/notifications/stream/") as response:
                assert response.status_code == 200
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
    with behind.server(kind) as server, Nginx(server) as nginx, behind.worker() as worker:
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
