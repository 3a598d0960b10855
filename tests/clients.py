"""The three transports behind one small interface, in this process or over the network.

``connect("sse", carrier, session)`` opens a stream; ``await client.next()`` is its next event. A *carrier* takes it
there: :class:`InProcess` calls an ASGI application as a server would, :class:`Network` talks to a real server.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import httpx
import websockets
from websockets.asyncio.client import connect as websocket_connect

from notifications.handover import Application
from tests.reference import EventStreamParser

__all__ = ["TRANSPORTS", "Call", "Client", "Ended", "Event", "InProcess", "Network", "Refused", "connect"]

Transport = Literal["sse", "websocket", "polling"]
TRANSPORTS: tuple[Transport, ...] = ("sse", "websocket", "polling")

#: Seconds after which what should come has not come. Long, because the machine may be busy.
PATIENCE = 30.0


@dataclass(frozen=True)
class Event:
    """One event, whatever carried it; ``cursor`` may be empty where the event leaves it as it was."""

    type: str
    cursor: str
    data: dict[str, Any]


class Refused(Exception):
    """The server did not open a stream: an HTTP status, or the close code of a WebSocket."""

    def __init__(self, code: int, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, body)
        self.code = code
        self.body = body
        self.headers = dict(headers or {})


class Ended(Exception):
    """The stream is over: the close code of a WebSocket, the status of the last poll, None for an event stream."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


# --- Carriers


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]

    async def text(self) -> str:
        return b"".join([chunk async for chunk in self.chunks]).decode()


class Socket(Protocol):
    subprotocol: str | None

    async def receive(self) -> str: ...
    async def send(self, frame: str | bytes) -> None: ...


class Carrier(Protocol):
    def get(self, path: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Response]: ...
    def websocket(
        self, path: str, headers: Mapping[str, str], subprotocols: list[str]
    ) -> AbstractAsyncContextManager[Socket]: ...


class Call:
    """One call of an ASGI application: what it is told, and what it says.

    :ivar messages: everything that it has said so far.
    """

    def __init__(self, application: Application, scope: dict[str, Any]) -> None:
        self.messages: list[dict[str, Any]] = []
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._gone: dict[str, Any] | None = None
        self.task = asyncio.create_task(self._run(application, scope))

    async def _run(self, application: Application, scope: dict[str, Any]) -> None:
        try:
            await application(scope, self._receive, self._send)
        finally:
            self._outbox.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        return await self._inbox.get()

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.messages.append(dict(message))
        self._outbox.put_nowait(dict(message))

    def tell(self, type: str, **message: Any) -> None:
        """Give the application a message."""
        self._inbox.put_nowait({"type": type, **message})

    async def said(self) -> dict[str, Any]:
        """Return the application's next message.

        :raises EOFError: if it has returned.
        :raises Exception: what it raised.
        """
        async with asyncio.timeout(PATIENCE):
            message = await self._outbox.get()
        if message is None:
            self._outbox.put_nowait(None)
            await self.task
            raise EOFError("the application has returned")
        return message

    async def end(self, type: str, **message: Any) -> None:
        """Tell the application that the client has gone, and wait until it has returned."""
        if not self.task.done():
            self.tell(type, **message)
        async with asyncio.timeout(PATIENCE):
            await self.task


class CallSocket:
    def __init__(self, call: Call, subprotocol: str | None) -> None:
        self.call = call
        self.subprotocol = subprotocol

    async def receive(self) -> str:
        message = await self.call.said()
        if message["type"] == "websocket.close":
            raise Ended(message.get("code", 1000))
        text = message["text"]
        assert isinstance(text, str)
        return text

    async def send(self, frame: str | bytes) -> None:
        self.call.tell("websocket.receive", **{"text" if isinstance(frame, str) else "bytes": frame})


class InProcess:
    """Calls an ASGI application as a server would.

    :param host: the ``Host`` that requests name, and whose Origin a WebSocket has.
    """

    def __init__(self, application: Application, host: str = "testserver") -> None:
        self.application = application
        self.host = host
        self.calls: list[Call] = []

    def _call(self, type: str, path: str, headers: Mapping[str, str], **scope: Any) -> Call:
        parts = urlsplit(path)
        pairs = {"host": self.host, **{name.lower(): value for name, value in headers.items()}}
        call = Call(
            self.application,
            {
                "type": type,
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "path": parts.path,
                "raw_path": parts.path.encode(),
                "query_string": parts.query.encode(),
                "root_path": "",
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()],
                "client": ["127.0.0.1", 40000],
                "server": ["127.0.0.1", 80],
                **scope,
            },
        )
        self.calls.append(call)
        return call

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[Response]:
        call = self._call("http", path, headers, method="GET", scheme="http")
        call.tell("http.request", body=b"", more_body=False)

        async def chunks() -> AsyncIterator[bytes]:
            while True:
                message = await call.said()
                if message.get("body"):
                    yield message["body"]
                if not message.get("more_body"):
                    return

        try:
            start = await call.said()
            assert start["type"] == "http.response.start", start
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
            yield Response(start["status"], found, chunks())
        finally:
            await call.end("http.disconnect")

    @asynccontextmanager
    async def websocket(self, path: str, headers: Mapping[str, str], subprotocols: list[str]) -> AsyncIterator[Socket]:
        headers = {"origin": f"http://{self.host}", **{name.lower(): value for name, value in headers.items()}}
        if not headers["origin"]:
            del headers["origin"]
        call = self._call("websocket", path, headers, scheme="ws", subprotocols=subprotocols)
        call.tell("websocket.connect")
        try:
            answer = await call.said()
            if answer["type"] == "websocket.close":
                raise Refused(403)  # What servers make of it.
            assert answer["type"] == "websocket.accept", answer
            yield CallSocket(call, answer.get("subprotocol"))
        finally:
            await call.end("websocket.disconnect", code=1001)


class NetworkSocket:
    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.subprotocol: str | None = socket.subprotocol

    async def receive(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.socket.recv(decode=True)
        except websockets.ConnectionClosed as closed:
            raise Ended(closed.rcvd.code if closed.rcvd else 1006) from closed

    async def send(self, frame: str | bytes) -> None:
        await self.socket.send(frame)


class Network:
    """Talks to the server at ``url`` (``http://…``)."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[Response]:
        timeout = httpx.Timeout(PATIENCE)
        # Not verified, because to load the certificates takes longer than the request, which is plain HTTP.
        async with (
            httpx.AsyncClient(timeout=timeout, verify=False) as client,
            client.stream("GET", self.url + path, headers=dict(headers)) as response,
        ):
            yield Response(response.status_code, dict(response.headers), response.aiter_bytes())

    @asynccontextmanager
    async def websocket(self, path: str, headers: Mapping[str, str], subprotocols: list[str]) -> AsyncIterator[Socket]:
        origin = {name.lower(): value for name, value in headers.items()}.get("origin", self.url)
        rest = {name: value for name, value in headers.items() if name.lower() != "origin"}
        try:
            async with websocket_connect(
                self.url.replace("http", "ws", 1) + path,
                additional_headers=rest,
                origin=websockets.Origin(origin) if origin else None,
                subprotocols=[websockets.Subprotocol(name) for name in subprotocols] or None,
                open_timeout=PATIENCE,
            ) as socket:
                yield NetworkSocket(socket)
        except websockets.InvalidStatus as refused:
            raise Refused(refused.response.status_code) from refused


# --- Clients


class Client(ABC):
    """An open stream of one transport; made by :func:`connect`.

    :ivar cursor: how far it has got.
    :ivar ready: its first event.
    """

    def __init__(self, carrier: Carrier, headers: dict[str, str], cursor: str | None, stack: AsyncExitStack) -> None:
        self.carrier = carrier
        self.headers = headers
        self.cursor = cursor or ""
        self.ready = Event("", "", {})
        self._stack = stack
        self._found: deque[Event] = deque()
        self._ended: Ended | None = None

    async def open(self) -> None:
        """Open the stream, and take its first event.

        :raises Refused: if there is none.
        """
        await self._open()
        self.ready = await self.next()

    async def next(self, *, heartbeats: bool = False) -> Event:
        """Return the next event; heartbeats are passed over unless they are asked for.

        :raises Ended: if the stream is over.
        :raises TimeoutError: if nothing comes for half a minute.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                while not self._found:
                    if self._ended is not None:
                        raise self._ended
                    try:
                        self._found.extend(await self._read())
                    except Ended as ended:
                        self._ended = ended
                event = self._found.popleft()
                self.cursor = event.cursor or self.cursor
                if heartbeats or event.type != "heartbeat":
                    return event

    async def until(self, last: Callable[[Event], bool]) -> list[Event]:
        """Return the events up to and including the first of which ``last`` is true."""
        events = [await self.next()]
        while not last(events[-1]):
            events.append(await self.next())
        return events

    async def rest(self) -> list[Event]:
        """Return all events until the stream ends."""
        events = []
        try:
            while True:
                events.append(await self.next())
        except Ended:
            return events

    async def close(self) -> None:
        """Leave; returns when the application has noticed."""
        await self._stack.aclose()

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def _read(self) -> list[Event]: ...


class SseClient(Client):
    async def _open(self) -> None:
        path = "/notifications/stream/" + (f"?cursor={quote(self.cursor, safe='')}" if self.cursor else "")
        self.response = await self._stack.enter_async_context(self.carrier.get(path, self.headers))
        if self.response.status != 200:
            raise Refused(self.response.status, await self.response.text(), self.response.headers)
        self._parser = EventStreamParser(self.cursor)

    async def _read(self) -> list[Event]:
        try:
            chunk = await anext(self.response.chunks)
        except (StopAsyncIteration, httpx.RemoteProtocolError) as error:
            raise Ended from error
        events = self._parser.feed(chunk)
        return [Event(event.type, event.last_event_id, json.loads(event.data)) for event in events]


class WebSocketClient(Client):
    async def _open(self) -> None:
        path = "/ws/notifications/" + (f"?cursor={quote(self.cursor, safe='')}" if self.cursor else "")
        self.socket = await self._stack.enter_async_context(
            self.carrier.websocket(path, self.headers, ["notifications.v1"])
        )
        first = (await self._read())[0]
        if first.type == "error":
            try:
                await self._read()
            except Ended as ended:
                raise Refused(ended.code or 0, first.data["message"]) from ended
        self._found.append(first)

    async def _read(self) -> list[Event]:
        frame = json.loads(await self.socket.receive())
        assert frame.keys() == {"type", "cursor", "data"}, frame
        return [Event(**frame)]

    async def send(self, frame: str | bytes | dict[str, Any]) -> None:
        """Send a frame to the server."""
        await self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)


class PollingClient(Client):
    async def _open(self) -> None:
        self._opened = False
        self._found.extend(await self._read())

    async def _read(self) -> list[Event]:
        if self._opened:
            await asyncio.sleep(0.05)  # That is what polling is.
        path = "/notifications/events/" + (f"?cursor={quote(self.cursor, safe='')}" if self.cursor else "")
        async with self.carrier.get(path, self.headers) as response:
            text = await response.text()
            if response.status != 200:
                if self._opened:
                    raise Ended(response.status)
                raise Refused(response.status, text, response.headers)
        answer = json.loads(text)
        assert answer.keys() == {"events", "cursor", "retry"}, answer
        events = [Event(**item) for item in answer["events"]]
        assert events[0].type == "ready"
        if self._opened:
            del events[0]
        self._opened = True
        self.cursor = answer["cursor"]
        return events


CLIENTS: dict[str, type[Client]] = {"sse": SseClient, "websocket": WebSocketClient, "polling": PollingClient}


class Opening:
    """What :func:`connect` returns: ``await`` it for a client that the caller closes, or use it in ``async with``."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __aenter__(self) -> Client:
        try:
            await self.client.open()
        except BaseException:
            await self.client.close()
            raise
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    def __await__(self) -> Any:
        return self.__aenter__().__await__()


def connect(
    transport: str, carrier: Carrier, session: str | None, cursor: str | None = None, **headers: str
) -> Opening:
    """Return a stream of ``transport`` for the user whose session key is ``session``.

    :param headers: further request headers, with ``_`` for ``-``; ``origin=""`` sends none.
    """
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if session is not None:
        given["cookie"] = f"sessionid={session}"
    return Opening(CLIENTS[transport](carrier, given, cursor, AsyncExitStack()))
