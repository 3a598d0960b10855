"""An application that writes directly what it can and sends the rest; run by real servers in ``test_direct.py``."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

from notifications.direct import Writer, body_writer, frame_writer, text_frame

#: Longer than a server takes to empty its buffers, with a client that reads.
A_MOMENT = 0.2


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await body(send)
    elif scope["type"] == "websocket":
        await receive()
        await frames(send)


async def body(send: Any) -> None:
    async def sent(text: str, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

    await send({"type": "http.response.start", "status": 200, "headers": []})
    writer = body_writer(send)
    await sent("first,")
    await sent(json.dumps(await written(writer, lambda text: text.encode(), sent)), more=False)


async def frames(send: Any) -> None:
    async def sent(text: str) -> None:
        await send({"type": "websocket.send", "text": text})

    await send({"type": "websocket.accept"})
    writer = frame_writer(send)
    await sent("first,")
    await sent(json.dumps(await written(writer, lambda text: text_frame(text.encode()), sent)))
    await send({"type": "websocket.close", "code": 1000})


async def written(writer: Writer | None, encoded: Any, sent: Any) -> list[bool]:
    """Write parts with and without pauses between; return which of them were written directly."""
    directly = []
    for number in range(6):
        if number % 2 == 0:
            await asyncio.sleep(A_MOMENT)
        part = f"{number}:{'é' * 200},"
        done = writer is not None and writer(encoded(part))
        if not done or number == 3:
            await sent(part if not done else "again,")
        directly.append(done)
    large = "x" * 8_000_000 + ","
    done = writer is not None and writer(encoded(large))  # More than a socket takes at once.
    if not done:
        await sent(large)
    directly.append(done)
    await asyncio.sleep(A_MOMENT)
    return directly
