"""The WebSocket consumer: the same stream as SSE, in text frames (docs/protocol.md).

Live events do not pass through Channels' dispatch (which hops to a thread for each of them); the consumer has no
channel of its own either: one writer task takes from the subscription and sends.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.contrib.auth.models import AnonymousUser

from . import shutdown
from .access import Principal, principal_of
from .cursor import InvalidCursor, is_behind, progress
from .direct import frame_port, spread_pings
from .envelope import Envelope, Frame, control
from .handover import UNOPENED, Message, Receive, Scope, Send
from .hub import AccessUnknown, HubFull, NotAuthorized
from .settings import conf
from .stream import current_hub, open_stream
from .subscription import Subscription

__all__ = ["SUBPROTOCOL", "CloseCode", "NotificationConsumer"]

logger = logging.getLogger("notifications")

SUBPROTOCOL = "notifications.v1"
#: So many parts of ``SLOW_BYTES`` are told apart when a client acknowledges.
CHECKPOINTS = 32


class CloseCode:
    """Why a WebSocket was closed; a client stays away after 4400, 4401 and 4403.

    Only 1000 and the private range: daphne's autobahn refuses to send any other (1001, 1011), and the socket would stay
    open, silent.
    """

    NORMAL = 1000
    MALFORMED = 4400
    NOT_AUTHENTICATED = 4401
    SLOW = 4408
    TOO_MANY = 4429
    FAILED = 4500


#: Close code for each reason that a stream can end with.
CLOSE_CODES = {"revoked": CloseCode.NOT_AUTHENTICATED, "slow": CloseCode.SLOW, "capacity": CloseCode.TOO_MANY}


class NotificationConsumer(AsyncConsumer):  # type: ignore[misc]
    """One connection. ``scope["user"]`` is the logged-in user; ``?cursor=`` is where the client is.

    :param session: the key of the session that tells who it is, instead (empty: nobody); looked up with others.
    """

    #: Names no layer: the consumer needs no channel, which would be one Redis subscription per client.
    channel_layer_alias = "notifications has no layer per connection"

    def __init__(self, session: str | None = None) -> None:
        self._session = session
        self._writer: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._tokens = float(conf.frame_rate[1])
        self._refilled = asyncio.get_running_loop().time()
        self._slow_bytes = conf.slow_bytes
        #: Bytes that went through ``send()``, and after which of them this client is slow, unless it acknowledges.
        self._sent, self._slow_after = 0, self._slow_bytes
        #: Now and then, how far a client has got that has received so many bytes; bytes after which one is due.
        self._checkpoints: list[tuple[int, int]] = []
        self._checkpoint_after = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in Channels, but without a task for each message, and without a channel to receive from."""
        self.scope, self.base_send = scope, send
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        finally:
            if self._writer is not None:
                self._writer.cancel()

    async def dispatch(self, message: Message) -> None:
        """As in Channels, but for the three messages of a WebSocket only, and without the hop to a thread."""
        match message["type"]:
            case "websocket.connect":
                # A task, because whatever is awaited here keeps a disconnect from being noticed.
                self._writer = asyncio.create_task(self._serve())
            case "websocket.receive":
                await self._receive(message)
            case "websocket.disconnect":
                if self._writer is not None:
                    self._writer.cancel()
                    await asyncio.wait([self._writer])
                raise StopConsumer

    async def _serve(self) -> None:
        """Accept, stream, close. An exception must not leave here: the socket would stay open, silent, for ever."""
        code = CloseCode.NORMAL
        try:
            shutdown.install(current_hub())
            offered = self.scope.get("subprotocols") or ()
            await self.send(
                {"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None}
            )
            code = await self._stream()
        except NotAuthorized:
            await self._refuse(CloseCode.NOT_AUTHENTICATED, "log in to receive notifications")
            return
        except HubFull:
            await self._refuse(CloseCode.TOO_MANY, "too many streams on this server; come back soon")
            return
        except (AccessUnknown, TimeoutError) as error:
            if self._subscription is not None:
                return await self._close(CloseCode.SLOW)  # It was the client that took too long, not the database.
            logger.warning("a stream could not be opened: %r", error)
            await self._refuse(CloseCode.FAILED, UNOPENED)
            return
        except OSError as error:
            # The client has gone, as a rule. If it was something else, the close below tells it.
            logger.debug("a stream was cut off: %r", error)
            code = CloseCode.FAILED
        except Exception:
            logger.exception("a stream failed; its client is asked to return")
            code = CloseCode.FAILED
            if self._subscription is None:
                await self._error(code, UNOPENED)
        await self._close(code)

    async def _stream(self) -> int:
        query = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        cursor, user = query.get("cursor", [None])[-1], query.get("for", [None])[-1]
        if cursor is not None and len(cursor) > conf.cursor_length:
            await self._error(CloseCode.MALFORMED, "the cursor is too long")
            return CloseCode.MALFORMED
        with await current_hub().turns.take() as turn:
            stream = open_stream(await self._principal(), transport="websocket", cursor=cursor, user=user)
            async with stream as (subscription, frames), aclosing(frames) as batches:  # type: ignore[type-var]
                turn.end()
                self._subscription = subscription
                subscription.writes_by(self._write, frame_port(self.base_send))
                spread_pings(self.base_send)
                patience = conf.slow_seconds
                async for batch in batches:
                    for frame in batch:
                        async with asyncio.timeout(patience):
                            await self._write((frame,))
                        if subscription.barred and frame is not batch[-1]:
                            break  # A batch that a client draws out must not outlast its rights.
                    del batch, frame  # Nothing that was sent stays in memory until the next.
        assert subscription.ended is not None
        return CLOSE_CODES.get(subscription.ended.reason, CloseCode.NORMAL)

    async def _write(self, frames: Sequence[Frame]) -> None:
        for index, (envelope, position) in enumerate(frames):
            if index and self._subscription is not None and self._subscription.barred:
                return  # A batch that a client draws out must not outlast its rights.
            await self.base_send({"type": "websocket.send", "text": envelope.as_json(position)})
            self._count(envelope, position)

    def _count(self, envelope: Envelope, position: str | None) -> None:
        if position is None:
            return  # A heartbeat, which nobody could acknowledge.
        self._sent += envelope.size + len(position)
        if self._sent > self._checkpoint_after:
            self._checkpoints.append((progress(position), self._sent))
            self._checkpoint_after = self._sent + self._slow_bytes // CHECKPOINTS
        if self._sent > self._slow_after and self._subscription is not None:
            # Where send() never waits (daphne), this bounds what a client that does not read can pile up.
            self._subscription.end("slow", 0)

    async def _principal(self) -> Principal:
        if self._session is not None:
            principal: Principal | None = await current_hub().identify(self._session) if self._session else None
            if principal is None:
                raise NotAuthorized
            return principal
        user = self.scope.get("user")
        if user is None or isinstance(user, AnonymousUser) or not user.is_authenticated:
            raise NotAuthorized
        return principal_of(user, self.scope.get("session"))

    async def _receive(self, message: Message) -> None:
        """A client may acknowledge and ping, little and not too often; anything else closes the connection."""
        if not self._allowed():
            return await self._end(CloseCode.TOO_MANY, "too many frames")
        text, most = message.get("text"), conf.frame_bytes
        if text is None or len(text) > most or len(text.encode(errors="surrogatepass")) > most:
            return await self._end(CloseCode.MALFORMED, f"a frame is JSON text of at most {most} bytes")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        match content:
            case {"type": "ack", "cursor": str(cursor)}:
                self._acknowledge(cursor)
            case {"type": "ping"}:
                pass
            case _:
                await self._end(CloseCode.MALFORMED, 'a frame is {"type": "ack", "cursor": …} or {"type": "ping"}')

    def _allowed(self) -> bool:
        """A token bucket: ``FRAME_RATE`` is (frames per second, burst)."""
        rate, burst = conf.frame_rate
        now = asyncio.get_running_loop().time()
        self._tokens = min(burst, self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        self._tokens -= 1
        return self._tokens >= 0

    def _acknowledge(self, cursor: str) -> None:
        if not self._checkpoints:
            return  # Since the last one, the connection has taken all at once.
        try:
            if self._subscription is None or not is_behind(cursor, self._subscription.cursor()):
                return  # Nobody has what was never sent.
            reached = progress(cursor)
        except InvalidCursor:
            return
        for index in reversed(range(len(self._checkpoints))):
            if self._checkpoints[index][0] <= reached:
                self._slow_after = self._checkpoints[index][1] + self._slow_bytes
                del self._checkpoints[: index + 1]
                return

    async def _end(self, code: int, sentence: str) -> None:
        """Close because of what the client did."""
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.wait([self._writer])
            await self._refuse(code, sentence)

    async def _refuse(self, code: int, sentence: str) -> None:
        """Say why before closing: daphne drops close reasons, and browsers show 1006 for a refused handshake."""
        await self._error(code, sentence)
        await self._close(code)

    async def _error(self, code: int, sentence: str) -> None:
        await self._send_quietly(
            {"type": "websocket.send", "text": control("error", code=code, message=sentence).as_json(None)}
        )

    async def _close(self, code: int) -> None:
        await self._send_quietly({"type": "websocket.close", "code": code})

    async def _send_quietly(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self.send(message)
        except Exception as error:  # uvicorn raises when the client has gone, daphne does not.
            logger.debug("a closing WebSocket could not be written to: %r", error)
