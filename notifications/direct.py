"""Past a server's ``send()``: finished bytes to the transport, where the server is known well enough to allow it.

What a server does for each message of each connection before it writes (a coroutine, checks, frame objects, copies; on
daphne also two calls to epoll) costs more than all the rest of a delivery, and comes to the same few bytes each time.
So live events are framed here and written at once, under the conditions under which ``send()`` would end up doing just
that. In any other case (the client does not keep up, has gone, or is being closed) the writers below write nothing and
return False, and the caller takes the ordinary way; so it does with any server, version or middleware around ``send()``
that is not recognised, and with ``"DIRECT_WRITES": False``.

=======  ===========================================  ==================================================
server   event streams                                WebSockets
=======  ===========================================  ==================================================
uvicorn  httptools, an answer in chunks               ``websockets-sansio``, without compression
daphne   an answer in chunks, without TLS             without compression and TLS
=======  ===========================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from .settings import conf

__all__ = ["Writer", "body_writer", "frame_writer", "text_frame"]

#: Writes now and returns True, or writes nothing and returns False.
Writer = Callable[[bytes], bool]


def body_writer(send: Callable[..., Awaitable[None]]) -> Writer | None:
    """Return what writes pieces of the body of the answer that was begun by ``send``; None where that is not known."""
    return _writer(
        send,
        {
            "uvicorn.protocols.http.httptools_impl.RequestResponseCycle": _uvicorn_body,
            "daphne.http_protocol.WebRequest": _daphne_body,
        },
    )


def frame_writer(send: Callable[..., Awaitable[None]]) -> Writer | None:
    """Return what writes whole frames of the WebSocket that was accepted by ``send``; None where that is not known."""
    return _writer(
        send,
        {
            "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol": _uvicorn_frames,
            "daphne.ws_protocol.WebSocketProtocol": _daphne_frames,
        },
    )


def text_frame(text: bytes) -> bytes:
    """Return one unmasked text frame (RFC 6455, section 5.2); ``text`` is UTF-8."""
    length = len(text)
    if length < 126:
        return b"\x81%c%b" % (length, text)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (length.to_bytes(8, "big"), text)


def _chunk(piece: bytes) -> bytes:
    """Return one chunk of a body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _writer(send: Callable[..., Awaitable[None]], known: dict[str, Callable[[Any], Writer | None]]) -> Writer | None:
    if not conf.direct_writes:
        return None
    # uvicorn's is a method of the connection, daphne's has it as its argument.
    owner = getattr(send, "__self__", None)
    if isinstance(send, partial) and getattr(send.func, "__qualname__", "") == "Server.handle_reply":
        (owner,) = send.args
    make = known.get(f"{type(owner).__module__}.{type(owner).__qualname__}")
    try:
        return None if make is None else make(owner)
    except (AttributeError, LookupError):  # Another version.
        return None


def _ask(owner: Any, *names: str) -> None:
    """Miss an attribute now, and not at the first event.

    :raises AttributeError: if one of them is not there.
    """
    for name in names:
        getattr(owner, name)


def _uvicorn_body(cycle: Any) -> Writer | None:
    if not cycle.response_started or not cycle.chunked_encoding or cycle.scope["method"] != "GET":
        return None
    flow, write = cycle.flow, cycle.transport.write
    _ask(flow, "write_paused")
    _ask(cycle, "disconnected", "response_complete")

    def may_write() -> bool:
        return not (flow.write_paused or cycle.disconnected or cycle.response_complete)

    def write_body(piece: bytes) -> bool:
        if not may_write():
            return False
        write(_chunk(piece))
        return True

    return write_body


def _uvicorn_frames(protocol: Any) -> Writer | None:
    connection, writable, write = protocol.conn, protocol.writable, protocol.transport.write
    opened = connection.state
    if not protocol.handshake_complete or connection.extensions or opened.name != "OPEN":
        return None
    _ask(protocol, "disconnected", "close_sent")
    _ask(connection, "expect_continuation_frame")
    _ask(writable, "is_set")

    def may_write() -> bool:
        return not (
            protocol.disconnected
            or protocol.close_sent
            or connection.state is not opened
            or connection.expect_continuation_frame
            or not writable.is_set()
        )

    def write_frames(frames: bytes) -> bool:
        if not may_write():
            return False
        write(frames)
        return True

    return write_frames


def _daphne_body(request: Any) -> Writer | None:
    write = _socket_writer(request.channel.transport)
    if write is None or request.method != b"GET":
        return None
    _ask(request, "chunked", "startedWriting", "finished", "_disconnected", "sentLength")

    def may_write() -> bool:
        return bool(request.chunked and request.startedWriting and not request.finished and not request._disconnected)

    def write_body(piece: bytes) -> bool:
        if not may_write() or not write(_chunk(piece)):
            return False
        request.sentLength += len(piece)
        return True

    return write_body


def _daphne_frames(protocol: Any) -> Writer | None:
    write = _socket_writer(protocol.transport)
    if write is None or protocol._perMessageCompress is not None:
        return None
    opened, ground = protocol.STATE_OPEN, protocol.SEND_STATE_GROUND
    _ask(protocol, "state", "send_state", "send_queue")

    def may_write() -> bool:
        return protocol.state == opened and protocol.send_state == ground and not protocol.send_queue

    return lambda frames: may_write() and write(frames)


def _socket_writer(transport: Any) -> Writer | None:
    """Return what writes to the socket of one of Twisted's TCP transports, while nothing waits before it."""
    if f"{type(transport).__module__}.{type(transport).__qualname__}" != "twisted.internet.tcp.Server":
        return None  # TLS, or a Unix socket.
    _ask(
        transport, "connected", "disconnecting", "_writeDisconnected", "dataBuffer", "_tempDataBuffer", "writeSomeData"
    )

    def may_write() -> bool:
        return bool(
            transport.connected
            and not transport.disconnecting
            and not transport._writeDisconnected
            and not transport.dataBuffer
            and not transport._tempDataBuffer
        )

    def write(data: bytes) -> bool:
        if not may_write():
            return False
        written = transport.writeSomeData(data)
        if not isinstance(written, int) or written <= 0:
            return False  # Full, or lost: what comes of it is the server's business.
        if written < len(data):
            transport.write(data[written:])
        return True

    return write
