"""Past a server's ``send()``: finished bytes to the transport, where the server is known well enough to allow it.

What a server does for each message of each connection before it writes (a coroutine, checks, frame objects, copies; on
daphne also two calls to epoll) costs more than all the rest of a delivery, and comes to the same few bytes each time.
So live events are framed here and written at once, under the conditions under which ``send()`` would end up doing just
that. In any other case (the client does not keep up, has gone, or is being closed) the ports below refuse, and the
caller takes the ordinary way; so it does with any server, version or middleware around ``send()`` that is not
recognised, and with ``"DIRECT_WRITES": False``.

=======  ===========================================  ==================================================
server   event streams                                WebSockets
=======  ===========================================  ==================================================
uvicorn  httptools, an answer in chunks               ``websockets-sansio``, without compression
daphne   an answer in chunks, without TLS             without compression and TLS
=======  ===========================================  ==================================================
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from .envelope import Envelope
from .settings import conf
from .subscription import Framing, Port

__all__ = ["body_port", "frame_header", "frame_port", "owner_of", "spread_pings"]


def body_port(send: Callable[..., Awaitable[None]]) -> Port | None:
    """Return what writes pieces of the body of the answer that was begun by ``send``; None where that is not known."""
    return _port(
        send,
        {
            "uvicorn.protocols.http.httptools_impl.RequestResponseCycle": UvicornBody,
            "daphne.http_protocol.WebRequest": DaphneBody,
        },
    )


def frame_port(send: Callable[..., Awaitable[None]]) -> Port | None:
    """Return what writes whole frames of the WebSocket that was accepted by ``send``; None where that is not known."""
    return _port(
        send,
        {
            "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol": UvicornFrames,
            "daphne.ws_protocol.WebSocketProtocol": DaphneFrames,
        },
    )


def spread_pings(send: Callable[..., Awaitable[None]]) -> None:
    """Let a server ping WebSockets that came together at different times; to be called once, when one is accepted.

    A thousand pings and their answers are a tenth of a second in which nobody gets anything, after a deploy for as long
    as the connections last. What is not recognised stays as it is.
    """
    owner = owner_of(send)
    if not conf.direct_writes:
        return
    try:
        match f"{type(owner).__module__}.{type(owner).__qualname__}":
            case "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol":
                timer, ping = owner.ping_timer, owner.send_keepalive_ping
                if timer is not None:
                    timer.cancel()
                    owner.ping_timer = owner.loop.call_later(owner.ping_interval * random.random(), ping)
            case "daphne.ws_protocol.WebSocketProtocol":
                owner.last_ping -= owner.server.ping_interval * random.random()
    except AttributeError:  # Another version.
        pass


def owner_of(send: Callable[..., Awaitable[None]]) -> Any:
    """Return the server's object for a connection; anything else, or None, if ``send`` is not known."""
    # uvicorn's is a method of it, daphne's has it as its argument.
    if isinstance(send, partial) and getattr(send.func, "__qualname__", "") == "Server.handle_reply":
        return send.args[0]
    return getattr(send, "__self__", None)


def _port(send: Callable[..., Awaitable[None]], known: dict[str, Callable[[Any], Port]]) -> Port | None:
    if not conf.direct_writes:
        return None
    owner = owner_of(send)
    make = known.get(f"{type(owner).__module__}.{type(owner).__qualname__}")
    try:
        return None if make is None else make(owner)
    except (AttributeError, LookupError, Unsuitable):  # Another version, or other options.
        return None


class Unsuitable(Exception):
    """This connection is to be written to by ``send()``."""


def _check(suitable: Any) -> None:
    if not suitable:
        raise Unsuitable


def _ask(owner: Any, *names: str) -> None:
    """Miss an attribute now, and not at the first event.

    :raises AttributeError: if one of them is not there.
    """
    for name in names:
        getattr(owner, name)


# --- What is written


def frame_header(length: int) -> bytes:
    """Return what precedes ``length`` bytes of text in one unmasked frame (RFC 6455, section 5.2)."""
    if length < 126:
        return b"\x81%c" % length
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


class Chunk(Framing):
    """A server-sent event in a chunk of a body (RFC 9112, section 7.1)."""

    __slots__ = ()

    @staticmethod
    def end(envelope: Envelope) -> bytes:
        return b"\n%b\r\n" % envelope.sse_tail

    def start(self, length: int) -> bytes:
        return b"%x\r\nid: " % (len(b"id: ") + length + len(self.tail) - len(b"\r\n"))

    @staticmethod
    def encode(envelope: Envelope, cursor: str | None) -> bytes:
        event = envelope.as_sse(cursor)
        return b"%x\r\n%b\r\n" % (len(event), event)


class TextFrame(Framing):
    """A text frame of a WebSocket (RFC 6455, section 5.2)."""

    __slots__ = ("_head",)

    def __init__(self, envelope: Envelope, part: bytes) -> None:
        super().__init__(envelope, part)
        self._head = envelope.frame_head

    @staticmethod
    def end(envelope: Envelope) -> bytes:
        return envelope.frame_tail

    def start(self, length: int) -> bytes:
        return frame_header(len(self._head) + length + len(self.tail)) + self._head

    @staticmethod
    def encode(envelope: Envelope, cursor: str | None) -> bytes:
        text = b"%b%b%b" % (envelope.frame_head, (cursor or "").encode(), envelope.frame_tail)
        return frame_header(len(text)) + text


# --- uvicorn


class UvicornPort:
    """A transport of asyncio's (or uvloop's).

    While nothing waits in it, uvicorn's ``send()`` would not wait either; and it is closing from the moment at which
    the client has gone or said that it goes, or uvicorn ends the connection. Of all else that ``send()`` looks at, the
    application itself is the cause, and a stream that has ended is not written to any more.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        _ask(transport, "is_closing", "get_write_buffer_size", "write")
        self._transport = transport

    def write(self, data: bytes) -> bool:
        transport = self._transport
        if transport.get_write_buffer_size() or transport.is_closing():
            return False
        transport.write(data)
        return True


class UvicornBody(UvicornPort):
    __slots__ = ()
    framing = Chunk

    def __init__(self, cycle: Any) -> None:
        _check(cycle.response_started and cycle.chunked_encoding and cycle.scope["method"] == "GET")
        _check(not cycle.disconnected and not cycle.response_complete)
        super().__init__(cycle.transport)


class UvicornFrames(UvicornPort):
    __slots__ = ()
    framing = TextFrame

    def __init__(self, protocol: Any) -> None:
        connection = protocol.conn
        _check(protocol.handshake_complete and not connection.extensions and connection.state.name == "OPEN")
        _check(not protocol.disconnected and not protocol.close_sent and not connection.expect_continuation_frame)
        super().__init__(protocol.transport)


# --- daphne


class TwistedPort:
    """The socket of one of Twisted's TCP transports, while nothing waits before it."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        # Not TLS, nor a Unix socket.
        _check(f"{type(transport).__module__}.{type(transport).__qualname__}" == "twisted.internet.tcp.Server")
        _ask(transport, "connected", "disconnecting", "_writeDisconnected", "dataBuffer", "_tempDataBuffer")
        _ask(transport, "write", "writeSomeData")
        self._transport = transport

    def write(self, data: bytes) -> bool:
        transport = self._transport
        if (
            not transport.connected
            or transport.disconnecting
            or transport._writeDisconnected
            or transport.dataBuffer
            or transport._tempDataBuffer
        ):
            return False
        written = transport.writeSomeData(data)
        if written != len(data):
            # Full, or lost: what comes of the rest is the server's business.
            transport.write(data[written:] if isinstance(written, int) else data)
        return True


class DaphneBody(TwistedPort):
    __slots__ = ("_request",)
    framing = Chunk

    def __init__(self, request: Any) -> None:
        super().__init__(request.channel.transport)
        _check(request.method == b"GET")
        _ask(request, "chunked", "startedWriting", "finished", "_disconnected", "sentLength")
        self._request = request

    def write(self, data: bytes) -> bool:
        request = self._request
        if not request.chunked or not request.startedWriting or request.finished or request._disconnected:
            return False
        if not super().write(data):
            return False
        request.sentLength += len(data)
        return True


class DaphneFrames(TwistedPort):
    __slots__ = ("_protocol",)
    framing = TextFrame

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol.transport)
        _check(protocol._perMessageCompress is None)
        _ask(protocol, "STATE_OPEN", "SEND_STATE_GROUND", "state", "send_state", "send_queue")
        self._protocol = protocol

    def write(self, data: bytes) -> bool:
        protocol = self._protocol
        if (
            protocol.state != protocol.STATE_OPEN
            or protocol.send_state != protocol.SEND_STATE_GROUND
            or protocol.send_queue
        ):
            return False
        return super().write(data)
