"""Past a server's ``send()``: finished bytes to the transport, where the server is known well enough to allow it.

What uvicorn does for each message of each connection before it writes (a coroutine, checks, frame objects, two copies)
costs more than all the rest of a delivery, and comes to the same few bytes each time. So live events are framed here
and written to the transport at once, under the conditions under which ``send()`` would have done just that. In any
other case (the client does not keep up, has gone, or is being closed) the writers below write nothing and return
False, and the caller takes the ordinary way; so it does with any server, version or middleware around ``send()`` that
is not recognised, and with ``"DIRECT_WRITES": False``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .settings import conf

__all__ = ["Writer", "body_writer", "frame_writer", "text_frame"]

#: Writes now and returns True, or writes nothing and returns False.
Writer = Callable[[bytes], bool]


def body_writer(send: Callable[..., Awaitable[None]]) -> Writer | None:
    """Return what writes pieces of the body of the answer that was begun by ``send``; None where that is not known.

    Known is uvicorn with httptools, an answer in chunks (RFC 9112, section 7.1).
    """
    cycle = _bound_to(send, "uvicorn.protocols.http.httptools_impl", "RequestResponseCycle")
    try:
        if cycle is not None and cycle.response_started and cycle.chunked_encoding and cycle.scope["method"] == "GET":
            return _body_writer(cycle, cycle.flow, cycle.transport.write)
    except (AttributeError, LookupError):  # Another version.
        pass
    return None


def frame_writer(send: Callable[..., Awaitable[None]]) -> Writer | None:
    """Return what writes whole frames of the WebSocket that was accepted by ``send``; None as above.

    Known is uvicorn with ``websockets-sansio`` as its WebSocket implementation, without compression.
    """
    protocol = _bound_to(send, "uvicorn.protocols.websockets.websockets_sansio_impl", "WebSocketsSansIOProtocol")
    try:
        if protocol is not None and protocol.handshake_complete and not protocol.conn.extensions:
            return _frame_writer(protocol, protocol.conn, protocol.writable, protocol.transport.write)
    except AttributeError:  # Another version.
        pass
    return None


def text_frame(text: bytes) -> bytes:
    """Return one unmasked text frame (RFC 6455, section 5.2); ``text`` is UTF-8."""
    length = len(text)
    if length < 126:
        return b"\x81%c%b" % (length, text)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (length.to_bytes(8, "big"), text)


def _bound_to(send: Callable[..., Awaitable[None]], module: str, name: str) -> Any:
    """Return the object whose method ``send`` is, if it is of exactly that class."""
    owner = getattr(send, "__self__", None) if conf.direct_writes else None
    kind = type(owner)
    return owner if kind.__module__ == module and kind.__name__ == name else None


def _body_writer(cycle: Any, flow: Any, write: Callable[[bytes], None]) -> Writer:
    # Asked here, not at the first event: a version without one of these raises now, and is not taken.
    flow.write_paused, cycle.disconnected, cycle.response_complete  # noqa: B018

    def write_body(piece: bytes) -> bool:
        if flow.write_paused or cycle.disconnected or cycle.response_complete:
            return False
        write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    return write_body


def _frame_writer(protocol: Any, connection: Any, writable: Any, write: Callable[[bytes], None]) -> Writer:
    open_state = connection.state  # The handshake is complete, nothing closed yet: OPEN.
    writable.is_set(), protocol.disconnected, protocol.close_sent, connection.expect_continuation_frame

    def write_frames(frames: bytes) -> bool:
        if (
            protocol.disconnected
            or protocol.close_sent
            or connection.state is not open_state
            or connection.expect_continuation_frame
            or not writable.is_set()
        ):
            return False
        write(frames)
        return True

    return write_frames
