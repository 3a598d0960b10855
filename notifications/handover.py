"""The handover: an open event stream holds no thread and no database connection (design: idea 4).

The SSE view runs as an ordinary view, with the site's middleware, session and limits, and leaves a :class:`Handover` in
the scope. Django's answer is held back until Django has finished the request, so that its thread and its connection
are gone; then the stream is written from here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from . import shutdown
from .direct import body_port
from .envelope import Frame, dumps
from .hub import AccessUnknown, HubFull, NotAuthorized
from .mailbox import lighter
from .settings import conf
from .sse import CONTENT_TYPE, HEADERS
from .stream import current_hub, open_stream
from .subscription import Subscription
from .turns import NO_TURN, Turn

__all__ = ["Application", "Handover", "Message", "Receive", "Scope", "Send", "StreamHandover", "encode_frames"]

logger = logging.getLogger("notifications")

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What a client is told of a stream that does not begin; the last one for reasons that only the server's log tells.
LOG_IN = "Log in to receive notifications."
FULL = "This server has as many streams as it may; come back soon."
UNOPENED = "The stream could not be opened; come back in a few seconds, your cursor stays right."

#: Where in the scope the view finds the handover; absent without the wrapper.
SCOPE_KEY = "notifications.handover"

#: Headers that another answer does not share with a stream.
OF_A_STREAM = {b"content-length", b"content-type", *(name.lower().encode() for name in HEADERS)}


@dataclass(slots=True)
class Handover:
    """What the view leaves for the wrapper: for whom to stream, and from where.

    :ivar session: the key of the session that tells for whom, if there is no ``principal`` yet.
    :ivar user: for whom the client's page was made (:func:`notifications.access.user_key`), if it says so.
    :ivar full: whether this process has as many streams as it may.
    :ivar start: the head of Django's answer, held back until Django has finished; None when it is not, or not any more.
    :ivar gone: whether Django was told that the client has gone; nobody is told twice.
    :ivar turn: this client's turn, until its stream is open.
    """

    principal: Any = None
    session: str | None = None
    cursor: str | None = None
    user: str | None = None
    full: bool = False
    start: Message | None = None
    gone: bool = False
    turn: Turn = NO_TURN

    @property
    def accepted(self) -> bool:
        """Whether there is something to stream."""
        return self.principal is not None or self.session is not None


def retry_after() -> int:
    """Return seconds for ``Retry-After``, spread: those turned away together do not come back together."""
    return random.randint(2, 10)


def encode_frames(frames: Sequence[Frame]) -> bytes:
    """Return frames as one piece of an event stream."""
    return b"".join([envelope.as_sse(cursor) for envelope, cursor in frames])


class Output:
    """Writes frames to one client, whose answer has begun."""

    __slots__ = ("left", "send", "subscription")

    def __init__(self, send: Send, subscription: Subscription) -> None:
        self.send = send
        self.subscription = subscription
        self.left = conf.stream_bytes
        subscription.writes_by(self.write, body_port(send))

    async def write(self, frames: Sequence[Frame]) -> None:
        body = encode_frames(frames)
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        self.left -= len(body)
        if self.left < 0:
            # Where send() never waits (daphne), this bounds what a client that does not read can pile up.
            self.subscription.end("slow", 0)


class Admitting(Protocol):
    """See :class:`notifications.admission.Admission`."""

    def takes(self, scope: Scope) -> bool: ...
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class StreamHandover:
    """ASGI middleware around Django's application; everything but streams passes through untouched.

    :param admission: asked instead of ``application`` about the requests that it takes.
    :param elsewhere: returns what takes a scope that is not HTTP instead; None: ``application`` does.
    """

    def __init__(
        self,
        application: Application,
        admission: Admitting | None = None,
        elsewhere: Callable[[Scope], Application | None] = lambda scope: None,
    ) -> None:
        self.application = application
        self.admission = admission
        self.elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            application = self.elsewhere(scope)
            if application is not None and scope["type"] == "websocket":
                receive = lighter(receive, send)
            return await (application or self.application)(scope, receive, send)
        handover, application = Handover(), self.application
        if self.admission is not None and self.admission.takes(scope):
            application = self.admission
        try:
            await _ask(application, scope, receive, send, handover)
            if handover.start is not None and not handover.gone:
                # Django has finished: the request's thread and database connection are gone.
                receive = lighter(receive, send)
                await _write_stream(handover, receive, send)
        finally:
            handover.turn.end()


async def _ask(application: Application, scope: Scope, receive: Receive, send: Send, handover: Handover) -> None:
    # A function, because what it names is gone when it returns, long before the stream.
    hold_back = partial(_hold_back, handover, send)
    await application({**scope, SCOPE_KEY: handover}, partial(_listen, handover, receive), hold_back)


async def _listen(handover: Handover, receive: Receive) -> Message:
    message = await receive()
    handover.gone = handover.gone or message["type"] == "http.disconnect"
    return message


async def _hold_back(handover: Handover, send: Send, message: Message) -> None:
    if handover.start is not None:
        return  # The body of the view's answer, which is empty.
    if message["type"] == "http.response.start" and handover.accepted and _is_event_stream(message):
        handover.start = message
    else:
        await send(message)


def _is_event_stream(start: Message) -> bool:
    return start["status"] == 200 and any(
        name.lower() == b"content-type" and value.startswith(CONTENT_TYPE.encode())
        for name, value in start.get("headers", ())
    )


def _without_length(start: Message) -> Message:
    headers = [(name, value) for name, value in start.get("headers", ()) if name.lower() != b"content-length"]
    return {**start, "headers": headers}


async def _write_stream(handover: Handover, receive: Receive, send: Send) -> None:
    """Write the stream until it ends, the client goes, or the client stops reading.

    An exception must not leave here: daphne would keep the socket open, silent, for ever.
    """
    shutdown.install(current_hub())
    task = asyncio.current_task()
    assert task is not None
    gone = asyncio.create_task(_disconnected(receive, task))
    refusal = 503, UNOPENED
    try:
        try:
            if handover.principal is None:
                handover.principal = await current_hub().identify(handover.session or "")
            if handover.principal is None:
                raise NotAuthorized
            opening = open_stream(handover.principal, transport="sse", cursor=handover.cursor, user=handover.user)
            async with opening as (subscription, frames):
                handover.turn.end()
                assert handover.start is not None
                await send(_without_length(handover.start))
                handover.start = None
                output = Output(send, subscription)
                patience = conf.slow_seconds
                async with aclosing(frames) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        async with asyncio.timeout(patience):
                            await output.write(batch)
                        del batch  # Nothing that was sent stays in memory until the next.
        except NotAuthorized:
            refusal = 401, LOG_IN
        except HubFull:
            refusal = 503, FULL
        except (AccessUnknown, TimeoutError) as error:
            if handover.start is not None:
                logger.warning("a stream %s could not be opened: %r", _whose(handover), error)
            else:
                logger.info("a client %s does not read; its stream is ended", _whose(handover))
        except OSError as error:
            # The client has gone, as a rule. If it was something else, the end of the stream below tells it.
            logger.debug("a stream was cut off: %r", error)
        except Exception:
            logger.exception("a stream failed; its client is asked to return")
        if _client_left(gone):
            task.uncancel()
        elif handover.start is not None:
            await _refuse(send, handover.start, *refusal)
        else:
            async with asyncio.timeout(1.0):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
    except asyncio.CancelledError:
        if not _client_left(gone):
            raise
        task.uncancel()
    except OSError:  # It has gone, or (TimeoutError) does not read.
        pass
    finally:
        gone.cancel()


def _whose(handover: Handover) -> str:
    if handover.principal is None:  # Who it is could not be told.
        return "of a session"
    return f"of user {handover.principal.user}"


async def _disconnected(receive: Receive, task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` when the client has gone, also while it waits for a client that does not read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _client_left(gone: asyncio.Task[None]) -> bool:
    return gone.done() and not gone.cancelled()


async def _refuse(send: Send, start: Message, status: int, sentence: str) -> None:
    """Answer instead of streaming, as the view would have: it could not know, or it is not so any more."""
    headers = [(name, value) for name, value in start.get("headers", ()) if name.lower() not in OF_A_STREAM]
    headers += [(b"Content-Type", b"application/json"), (b"Cache-Control", b"private, no-store")]
    if status == 503:
        headers += [(b"Retry-After", b"%d" % retry_after())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": dumps({"error": sentence}).encode(), "more_body": False})
