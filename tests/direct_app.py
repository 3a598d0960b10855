"""An application that writes directly what it can and sends the rest; run by real servers in ``test_direct.py``."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

from notifications.direct import body_port, frame_header, frame_port
from notifications.mailbox import lighter
from notifications.subscription import Port

#: Longer than a server takes to empty its buffers, with a client that reads.
A_MOMENT = 0.2

#: The type of the last message that came by ``/mailbox``.
last = ""


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global last
    lightened = receive
    if scope["type"] in ("http", "websocket"):
        lightened = lighter(receive, send)
        await lightened()
    if scope.get("path") == "/mailbox":
        # Whether it was recognised; and that the client's end comes by it.
        recognised = str(int(lightened != receive))
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": recognised})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": recognised.encode(), "more_body": True})
        last = (await lightened())["type"]
    elif scope.get("path") == "/last":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": last.encode()})
    elif scope["type"] == "http":
        await body(send)
    elif scope["type"] == "websocket":
        await frames(send)


async def body(send: Any) -> None:
    async def sent(text: str, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

    await send({"type": "http.response.start", "status": 200, "headers": []})
    port = body_port(send)
    await sent("first,")
    await sent(json.dumps(await written(port, chunk, sent)), more=False)


def chunk(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text.encode()), text.encode())


def frame(text: str) -> bytes:
    return frame_header(len(text.encode())) + text.encode()


async def frames(send: Any) -> None:
    async def sent(text: str) -> None:
        await send({"type": "websocket.send", "text": text})

    await send({"type": "websocket.accept"})
    port = frame_port(send)
    await sent("first,")
    await sent(json.dumps(await written(port, frame, sent)))
    await send({"type": "websocket.close", "code": 1000})


async def written(port: Port | None, encoded: Any, sent: Any) -> list[bool]:
    """Write parts with and without pauses between; return which of them were written directly."""
    directly = []
    for number in range(6):
        if number % 2 == 0:
            await asyncio.sleep(A_MOMENT)
        part = f"{number}:{'é' * 200},"
        done = port is not None and port.write(encoded(part))
        if not done or number == 3:
            await sent(part if not done else "again,")
        directly.append(done)
    large = "x" * 8_000_000 + ","
    done = port is not None and port.write(encoded(large))  # More than a socket takes at once.
    if not done:
        await sent(large)
    directly.append(done)
    await asyncio.sleep(A_MOMENT)
    return directly
