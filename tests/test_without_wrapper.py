"""A site whose ASGI application is not wrapped: its streams are Django's own answers, and work all the same."""

from __future__ import annotations

import asyncio
from typing import Literal

import httpx
import pytest

from tests.conftest import MakeSite

PUBLISH = """
from django.contrib.auth.models import User
from notifications import notify

notify(User.objects.get(username="alice"), "hi")
"""


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_stream_without_wrapper_delivers_and_ends_politely(
    make_site: MakeSite, kind: Literal["daphne", "uvicorn"]
) -> None:
    site = make_site(app="tests.asgi:django_application")
    with site.server(kind) as server, site.worker() as worker:
        async with (
            asyncio.timeout(30),
            httpx.AsyncClient(base_url=server.url, headers=site.headers("alice"), timeout=20) as client,
            client.stream("GET", "/notifications/stream/") as response,
        ):
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 1"
            await asyncio.to_thread(worker.run, PUBLISH)
            async for line in lines:
                if line == "event: notification":
                    break
            # uvicorn would wait for the stream for ever.
            took = asyncio.create_task(asyncio.to_thread(server.terminate))
            rest = [line async for line in lines]
            assert "event: bye" in rest
            assert await took < 5
