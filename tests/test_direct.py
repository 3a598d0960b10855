"""Finished bytes to a server's transport: those that its ``send()`` writes, and only when that writes at once."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from django.test import override_settings
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Server as TwistedTransport
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from notifications.direct import Chunk, TextFrame, body_port, frame_header, frame_port, spread_pings
from notifications.envelope import Envelope
from notifications.subscription import Port
from tests.servers import AsgiServer

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: site.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
#: JSON around which a frame changes its form: 35 bytes more, and a cursor, are what is sent.
TEXTS = ['""', '"é"', *(f'"{"x" * size}"' for size in (50, 78, 85, 86, 90, 400, 65_480, 65_500, 70_000))]


class Transport(asyncio.Transport):
    """What a server sees of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.waiting = 0
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def take(self) -> bytes:
        written, self.written = b"".join(self.written), []
        return written


class Answer:
    """An answer of uvicorn's that has begun."""

    def __init__(self, method: str = "GET", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.transport: Any = Transport()
        self.flow = FlowControl(self.transport)
        logger = logging.getLogger("uvicorn")
        scope: Any = {"type": "http", "method": method, "http_version": "1.1"}
        self.cycle = RequestResponseCycle(
            *(scope, self.transport, self.flow, logger, logger, False, []),
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=lambda: None,
        )
        self.headers = headers

    async def begin(self) -> Port | None:
        await self.cycle.send({"type": "http.response.start", "status": 200, "headers": self.headers})
        self.transport.take()
        return body_port(self.cycle.send)


async def begun(answer: Answer) -> Port:
    port = await answer.begin()
    assert port is not None, "this version of uvicorn is not recognised any more"
    return port


@pytest.mark.parametrize("cursor", [None, "1", "1.4-9f2c81aa-118"])
@pytest.mark.parametrize("data", TEXTS, ids=lambda text: str(len(text.encode())))
async def test_piece_of_a_body_is_what_send_writes(data: str, cursor: str | None) -> None:
    answer, envelope = Answer(), Envelope("ping", data)
    port = await begun(answer)

    assert port.write(port.framing.encode(envelope, cursor))

    directly = answer.transport.take()
    await answer.cycle.send({"type": "http.response.body", "body": envelope.as_sse(cursor), "more_body": True})
    assert directly == answer.transport.take()


@pytest.mark.parametrize("data", TEXTS, ids=lambda text: str(len(text.encode())))
@pytest.mark.parametrize("framing", [Chunk, TextFrame])
def test_event_around_a_cursor_in_three_parts_is_the_frame_with_that_cursor(framing: Any, data: str) -> None:
    envelope = Envelope("ping", data)
    framed = framing(envelope, b".4-9f2c81aa-118")
    for before, after in (("1", ""), ("1.2-bb-7", ""), ("1", ".2-bb-7"), ("1", ".11-cc-65536"), ("1", "")):
        cursor = f"{before}.4-9f2c81aa-118{after}"
        assert framed.around(before.encode(), after.encode()) == framing.encode(envelope, cursor)


@pytest.mark.parametrize(
    ("length", "header"),
    [(0, "8100"), (125, "817d"), (126, "817e007e"), (65_535, "817effff"), (65_536, "817f0000000000010000")],
)
def test_header_of_a_frame_says_its_length(length: int, header: str) -> None:
    assert frame_header(length).hex() == header


async def test_client_that_does_not_keep_up_is_left_to_send() -> None:
    answer = Answer()
    port = await begun(answer)
    answer.transport.waiting = 1
    assert not port.write(b"a")
    answer.transport.waiting = 0
    assert port.write(b"b")
    assert answer.transport.take() == b"b"


async def test_port_refuses_after_the_end() -> None:
    answer = Answer()
    port = await begun(answer)
    answer.transport.close()
    assert not port.write(b"a")
    assert answer.transport.take() == b""


@pytest.mark.parametrize("end", ["disconnected", "response_complete"])
async def test_answer_that_has_ended_is_left_to_send(end: str) -> None:
    answer = Answer()
    await begun(answer)
    setattr(answer.cycle, end, True)
    assert body_port(answer.cycle.send) is None


async def test_answers_that_are_not_chunked_are_left_to_send() -> None:
    assert await Answer(headers=((b"content-length", b"7"),)).begin() is None
    assert await Answer(method="HEAD").begin() is None


async def test_answer_that_has_not_begun_is_left_to_send() -> None:
    assert body_port(Answer().cycle.send) is None


async def test_another_server_or_version_is_left_to_send() -> None:
    answer = Answer()
    await begun(answer)

    async def send(message: Any) -> None: ...

    assert body_port(send) is None
    assert frame_port(send) is None
    assert frame_port(answer.cycle.send) is None
    del answer.cycle.disconnected
    assert body_port(answer.cycle.send) is None


async def test_setting_switches_it_off() -> None:
    answer = Answer()
    with override_settings(NOTIFICATIONS={"DIRECT_WRITES": False}):
        assert await answer.begin() is None


@pytest.mark.parametrize("missing", ["chunked", "startedWriting", "finished", "_disconnected", "sentLength"])
def test_another_version_of_daphne_is_left_to_send(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = daphne_request()
    assert body_port(partial(Server.__new__(Server).handle_reply, request)) is not None
    request.__dict__.pop(missing)
    for ancestor in WebRequest.__mro__:
        if missing in vars(ancestor):
            monkeypatch.delattr(ancestor, missing)
    assert body_port(partial(Server.__new__(Server).handle_reply, request)) is None


def daphne_request() -> Any:
    """Return a request of daphne's as it stands once its answer has begun, without a connection."""
    request = WebRequest.__new__(WebRequest)
    request.__dict__ |= {"channel": SimpleNamespace(transport=daphne_transport()), "method": b"GET", "chunked": 1}
    request.__dict__ |= {"startedWriting": 1, "finished": 0, "_disconnected": False, "sentLength": 0}
    return request


def daphne_socket() -> Any:
    """Return a WebSocket of daphne's that is open, without a connection."""
    socket: Any = WebSocketProtocol()
    socket.transport, socket._perMessageCompress = daphne_transport(), None
    socket.state, socket.send_state, socket.send_queue = socket.STATE_OPEN, socket.SEND_STATE_GROUND, []
    return socket


def daphne_transport() -> Any:
    transport = TwistedTransport.__new__(TwistedTransport)
    for name, value in {"connected": 1, "disconnecting": 0, "dataBuffer": b"", "_tempDataBuffer": []}.items():
        setattr(transport, name, value)
    return transport


def body_of_daphne() -> tuple[Port | None, dict[str, Any]]:
    """Return the port to an answer of daphne's, and what it is to look at."""
    request = daphne_request()
    port = body_port(partial(Server.__new__(Server).handle_reply, request))
    return port, {"answer": request, "transport": request.channel.transport}


def frames_of_daphne() -> tuple[Port | None, dict[str, Any]]:
    socket = daphne_socket()
    port = frame_port(partial(Server.__new__(Server).handle_reply, socket))
    return port, {"socket": socket, "transport": socket.transport}


@pytest.mark.parametrize(
    ("begin", "part", "name", "value"),
    [
        *(
            (begin, "transport", name, value)
            for begin in (body_of_daphne, frames_of_daphne)
            for name, value in {
                "connected": 0,
                "disconnecting": 1,
                "_writeDisconnected": 1,
                "dataBuffer": b"x",
                "_tempDataBuffer": [b"x"],
            }.items()
        ),
        (body_of_daphne, "answer", "chunked", 0),
        (body_of_daphne, "answer", "startedWriting", 0),
        (body_of_daphne, "answer", "finished", 1),
        (body_of_daphne, "answer", "_disconnected", True),
        (frames_of_daphne, "socket", "state", WebSocketProtocol.STATE_CLOSING),
        (frames_of_daphne, "socket", "send_state", "anything else"),
        (frames_of_daphne, "socket", "send_queue", ["x"]),
    ],
)
def test_port_of_daphne_writes_only_while_nothing_waits_or_ends(begin: Any, part: str, name: str, value: Any) -> None:
    port, parts = begin()
    assert port is not None
    written: list[bytes] = []

    def taken(data: bytes) -> int:
        written.append(data)
        return len(data)

    parts["transport"].writeSomeData = taken
    assert port.write(b"a")
    setattr(parts[part], name, value)
    assert not port.write(b"b")
    assert written == [b"a"]
    assert "answer" not in parts or parts["answer"].sentLength == 1


@pytest.mark.parametrize(
    ("taken", "left"),
    [(5, b""), (3, b"de"), (0, b"abcde"), (CONNECTION_LOST, b"abcde")],
    ids=["all", "some", "0", "lost"],
)
def test_what_a_socket_of_daphne_s_does_not_take_is_the_server_s_business(taken: Any, left: bytes) -> None:
    request = daphne_request()
    transport = request.channel.transport
    waiting: list[bytes] = []
    transport.writeSomeData, transport.write = lambda data: taken, waiting.append
    port = body_port(partial(Server.__new__(Server).handle_reply, request))
    assert port is not None
    assert port.write(b"abcde")
    assert b"".join(waiting) == left
    assert request.sentLength == 5


class Socket:
    """A WebSocket of uvicorn's; its application does nothing."""

    def __init__(self, *, deflate: bool = False) -> None:
        self.accepted = asyncio.Event()
        config = uvicorn.Config(
            self.application, interface="asgi3", ws="websockets-sansio", ws_per_message_deflate=deflate, lifespan="off"
        )
        config.load()
        self.protocol = WebSocketsSansIOProtocol(config, ServerState(), {})
        self.transport: Any = Transport()
        self.protocol.connection_made(self.transport)

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.before = frame_port(send)
        await send({"type": "websocket.accept"})
        self.send = send
        self.accepted.set()
        await asyncio.Event().wait()

    async def open(self) -> Port | None:
        offer = (
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if self.protocol.config.ws_per_message_deflate else b""
        )
        self.protocol.data_received(HANDSHAKE + offer + b"\r\n")
        async with asyncio.timeout(5):
            await self.accepted.wait()
        self.transport.take()
        return frame_port(self.send)

    def close(self) -> None:
        for task in tuple(self.protocol.tasks):
            task.cancel()
        self.protocol.connection_lost(None)


async def opened(socket: Socket) -> Port:
    port = await socket.open()
    assert port is not None, "this version of uvicorn is not recognised any more"
    return port


@pytest.mark.parametrize("cursor", [None, "1", "1.4-9f2c81aa-118"])
@pytest.mark.parametrize("data", TEXTS, ids=lambda text: str(len(text.encode())))
async def test_frame_is_what_send_writes(data: str, cursor: str | None) -> None:
    socket, envelope = Socket(), Envelope("ping", data)
    port = await opened(socket)

    assert port.write(port.framing.encode(envelope, cursor))

    directly = socket.transport.take()
    await socket.send({"type": "websocket.send", "text": envelope.as_json(cursor)})
    assert directly == socket.transport.take()
    socket.close()


async def test_port_writes_only_while_its_socket_is_open_and_keeps_up() -> None:
    socket = Socket()
    port = await opened(socket)
    assert socket.before is None  # Not accepted yet.

    socket.transport.waiting = 1
    assert not port.write(b"a")
    socket.transport.waiting = 0
    assert port.write(b"b")
    assert socket.transport.take() == b"b"

    await socket.send({"type": "websocket.close", "code": 1000})
    assert frame_port(socket.send) is None
    socket.close()
    assert frame_port(socket.send) is None


@pytest.mark.parametrize(
    "received",
    [b"\x88\x82\0\0\0\0\x03\xe8", b"\xff\xff", b"\x81\x81\0\0\0\0\xff"],
    ids=["close", "no frame", "no text"],
)
async def test_port_refuses_on_a_socket_that_its_client_ends(received: bytes) -> None:
    socket = Socket()
    port = await opened(socket)
    socket.protocol.data_received(received)
    socket.transport.take()
    assert not port.write(b"a")
    assert not socket.transport.take()
    socket.close()


async def test_port_refuses_on_a_socket_that_the_server_ends() -> None:
    socket = Socket()
    port = await opened(socket)
    socket.protocol.shutdown()
    socket.transport.take()
    assert not port.write(b"a")
    assert not socket.transport.take()
    socket.close()


async def test_compressed_socket_is_left_to_send() -> None:
    socket = Socket(deflate=True)
    assert await socket.open() is None
    socket.close()


# --- Pings


async def test_sockets_that_came_together_are_pinged_at_different_times() -> None:
    loop, times = asyncio.get_running_loop(), []
    for _ in range(30):
        socket = Socket()
        await opened(socket)
        together = socket.protocol.ping_timer
        spread_pings(socket.send)
        timer = socket.protocol.ping_timer
        assert together is not None
        assert together.cancelled()
        assert timer is not None
        times.append(timer.when() - loop.time())
        socket.close()  # Before it is pinged.
    assert all(-1 < time <= 20 for time in times)
    assert len({int(time) for time in times}) > 5


async def test_socket_that_is_not_pinged_stays_so() -> None:
    socket = Socket()
    await opened(socket)
    socket.protocol.stop_keepalive()
    spread_pings(socket.send)
    assert socket.protocol.ping_timer is None
    socket.close()


async def test_pings_stay_as_they_are_where_nothing_is_recognised_or_wanted() -> None:
    async def send(message: Any) -> None: ...

    spread_pings(send)
    socket = Socket()
    await opened(socket)
    timer = socket.protocol.ping_timer
    with override_settings(NOTIFICATIONS={"DIRECT_WRITES": False}):
        spread_pings(socket.send)
    assert socket.protocol.ping_timer is timer
    socket.close()


def test_daphne_s_pings_are_spread() -> None:
    sockets: list[Any] = [WebSocketProtocol() for _ in range(30)]
    for socket in sockets:
        socket.last_ping, socket.server = 1000.0, SimpleNamespace(ping_interval=20)
        spread_pings(partial(Server.handle_reply, socket))
    assert all(980 <= socket.last_ping <= 1000 for socket in sockets)
    assert len({int(socket.last_ping) for socket in sockets}) > 5
    other: Any = WebSocketProtocol()  # Another version, that has none of it.
    spread_pings(partial(Server.handle_reply, other))


# --- Real servers


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_what_is_written_directly_comes_in_order_with_what_is_sent(kind: Literal["daphne", "uvicorn"]) -> None:
    with AsgiServer(kind, app="tests.direct_app:application") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            answer = (await client.get("/")).text
        check_parts(answer)
        async with asyncio.timeout(20), connect(f"{server.websocket_url}/", compression=None, max_size=None) as socket:
            check_parts("".join([str(frame) async for frame in socket]))
        assert server.log.count("Traceback") == 0


def check_parts(answer: str) -> None:
    parts, _, directly = answer.rpartition(",[")
    numbers = [part.split(":")[0] for part in parts.split(",")]
    assert numbers[0] == "first"
    assert [number for number in numbers if number not in ("first", "again") and "x" not in number] == list("012345")
    assert numbers[-1] == "x" * 8_000_000
    written = json.loads(f"[{directly}")
    assert written[0] and written[2] and written[4], "this version of the server is not recognised any more"
    assert written[6], "an idle connection was refused"
