"""sse-starlette, as its examples broadcast: one Redis subscription for the process, one queue for each client."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

queues: dict[str, set[asyncio.Queue[str]]] = defaultdict(set)


async def listen() -> None:
    """Hand each message of Redis to the clients of its channel."""
    async with redis.asyncio.from_url(os.environ["REDIS_URL"], decode_responses=True).pubsub() as pubsub:
        await pubsub.psubscribe("events:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                for queue in queues[message["channel"]]:
                    queue.put_nowait(message["data"])


async def events(request: Request) -> EventSourceResponse:
    """A stream of what is for everyone and for one user."""
    channels = ["events:everyone", f"events:{request.query_params['user']}"]
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def stream() -> AsyncIterator[dict[str, Any]]:
        for channel in channels:
            queues[channel].add(queue)
        try:
            yield {"event": "ready", "data": ""}
            while True:
                yield {"event": "notification", "data": await queue.get()}
        finally:
            for channel in channels:
                queues[channel].discard(queue)

    return EventSourceResponse(stream())


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Listen as long as the server runs."""
    task = asyncio.create_task(listen())
    yield
    task.cancel()


application = Starlette(routes=[Route("/events", events)], lifespan=lifespan)
