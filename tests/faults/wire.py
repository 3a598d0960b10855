"""Just enough HTTP and WebSocket on a bare socket for clients that misbehave, and for thousands that do not.

Every byte is in the hands of the test: a client may stop reading, fragment without end, or go away in the middle.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

__all__ = ["Closed", "Event", "EventStream", "Refused", "WebSocket", "connect", "request"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    """The server answered with something else than a stream."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def retry_after(self) -> float | None:
        """Seconds that ``Retry-After`` asks for."""
        value = self.headers.get("retry-after")
        return float(value) if value else None


class Closed(Exception):
    """The connection has ended: a WebSocket's close code, or None when it simply broke off."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


@dataclass(slots=True)
class Event:
    """One event as it came over the wire, whatever the transport."""

    type: str
    cursor: str
    data: dict[str, Any]
    size: int


async def connect(
    address: tuple[str, int], *, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection; a small ``receive_buffer`` (bytes) lets a server notice soon that nobody reads."""
    if not receive_buffer:
        return await asyncio.open_connection(*address)
    sock = socket.socket()
    sock.setblocking(False)
    # Before connecting, because the window is agreed upon then.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return await asyncio.open_connection(sock=sock, limit=2**12)


def head(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        raise Closed from error
    first, *lines = text.rstrip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ", 2)[1]), headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        return b"".join([chunk async for chunk in chunks(reader)])
    return await reader.read()


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body.

    :raises Closed: if the connection breaks off before the last one.
    """
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise Closed from error


async def request(
    address: tuple[str, int],
    path: str,
    *,
    cookie: str = "",
    method: str = "GET",
    seconds: float = 30.0,
    body: bytes = b"",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Make one request on a connection of its own and return status, headers (lower case) and body."""
    async with asyncio.timeout(seconds):
        reader, writer = await connect(address)
        try:
            sent = {"Host": f"{address[0]}:{address[1]}", "Connection": "close", **headers}
            if cookie:
                sent["Cookie"] = f"sessionid={cookie}"
            writer.write(head(method, path, sent, body))
            status, answer = await read_head(reader)
            return status, answer, await read_body(reader, answer)
        finally:
            writer.close()


@dataclass
class EventStream:
    """An SSE connection; iterate over :meth:`events`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str]

    @classmethod
    async def open(
        cls,
        address: tuple[str, int],
        path: str,
        *,
        cookie: str = "",
        cursor: str = "",
        receive_buffer: int = 0,
        **headers: str,
    ) -> EventStream:
        """Connect and return when the head has arrived.

        :raises Refused: on any status but 200.
        """
        reader, writer = await connect(address, receive_buffer=receive_buffer)
        try:
            sent = {"Host": f"{address[0]}:{address[1]}", "Accept": "text/event-stream", **headers}
            if cookie:
                sent["Cookie"] = f"sessionid={cookie}"
            if cursor:
                sent["Last-Event-ID"] = cursor
            writer.write(head("GET", path, sent))
            status, answer = await read_head(reader)
            if status != 200:
                raise Refused(status, answer, await read_body(reader, answer))
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, answer)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the stream ends as it should.

        :raises Closed: if it breaks off instead.
        """
        buffer = b""
        async for chunk in chunks(self.reader):
            buffer += chunk
            while (end := buffer.find(b"\n\n")) >= 0:
                event = self.parse(buffer[:end])
                buffer = buffer[end + 2 :]
                if event is not None:
                    yield event

    @staticmethod
    def parse(frame: bytes) -> Event | None:
        fields = {b"event": b"message", b"id": b""}
        for line in frame.split(b"\n"):
            name, _, value = line.partition(b": ")
            fields[name] = value
        if b"data" not in fields:
            return None
        data = json.loads(fields[b"data"])
        return Event(fields[b"event"].decode(), fields[b"id"].decode(), data, len(frame) + 2)

    def close(self) -> None:
        self.writer.close()


@dataclass
class WebSocket:
    """A WebSocket connection (RFC 6455); iterate over :meth:`events`, or use :meth:`frame` and :meth:`receive`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        address: tuple[str, int],
        path: str,
        *,
        cookie: str = "",
        cursor: str = "",
        origin: str | None = "",
        receive_buffer: int = 0,
        **headers: str,
    ) -> WebSocket:
        """Connect and return when the handshake is done; ``origin``: "" is the server's own, None sends none.

        :raises Refused: if the server does not switch protocols.
        """
        reader, writer = await connect(address, receive_buffer=receive_buffer)
        try:
            host = f"{address[0]}:{address[1]}"
            sent = {
                "Host": host,
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Protocol": "notifications.v1",
                **headers,
            }
            if origin is not None:
                sent["Origin"] = origin or f"http://{host}"
            if cookie:
                sent["Cookie"] = f"sessionid={cookie}"
            writer.write(head("GET", f"{path}?cursor={quote(cursor)}" if cursor else path, sent))
            status, answer = await read_head(reader)
            if status != 101:
                raise Refused(status, answer, await read_body(reader, answer))
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, answer)

    def frame(self, payload: bytes, opcode: int = TEXT, *, final: bool = True, reserved: int = 0) -> None:
        """Send one frame, masked as a client must."""
        length = len(payload)
        first = (0x80 if final else 0) | reserved | opcode
        if length < 126:
            sizes = struct.pack("!BB", first, 0x80 | length)
        elif length < 65536:
            sizes = struct.pack("!BBH", first, 0xFE, length)
        else:
            sizes = struct.pack("!BBQ", first, 0xFF, length)
        # A mask of zeros is a mask, and spares a client with thousands of connections the work.
        self.writer.write(sizes + b"\0\0\0\0" + payload)

    def send(self, value: Any) -> None:
        """Send a value as JSON text."""
        self.frame(json.dumps(value).encode())

    async def receive(self) -> bytes:
        """Return the next text; pings are answered.

        :raises Closed: when the connection ends.
        """
        while True:
            try:
                first, second = await self.reader.readexactly(2)
                length = second & 0x7F
                if length >= 126:
                    size = 2 if length == 126 else 8
                    length = int.from_bytes(await self.reader.readexactly(size), "big")
                payload = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Closed from error
            opcode = first & 0x0F
            if opcode == TEXT:
                return payload
            if opcode == PING:
                self.frame(payload, PONG)
            elif opcode == CLOSE:
                self.frame(payload, CLOSE)
                raise Closed(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the connection ends.

        :raises Closed: always, in the end.
        """
        while True:
            text = await self.receive()
            frame = json.loads(text)
            yield Event(frame["type"], frame["cursor"], frame["data"], len(text))

    def close(self) -> None:
        self.writer.close()
