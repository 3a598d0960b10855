"""What comes in, on daphne: for each open stream a queue that costs nothing while it is empty.

Daphne gives every application an ``asyncio.Queue``: four double-ended queues, three of which are hardly ever used, with
room for sixty-four entries each. That is 3 KiB of each open stream, for the one message that says that it is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from .direct import owner_of
from .settings import conf

__all__ = ["Mailbox", "lighter"]

OWNERS = ("daphne.http_protocol.WebRequest", "daphne.ws_protocol.WebSocketProtocol")


class Mailbox:
    """As much of an unbounded ``asyncio.Queue`` as a server and its application use."""

    __slots__ = ("_messages", "_waiters")

    def __init__(self) -> None:
        self._messages: deque[Any] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def put_nowait(self, message: Any) -> None:
        """Add a message; the first of those who wait is woken."""
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        self._wake()

    async def get(self) -> Any:
        """Return the next message, waiting until there is one."""
        while not self._messages:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():  # Woken and cancelled: it is for somebody else.
                    self._wake()
                raise
            finally:
                self._waiters.remove(waiter)
        message = self._messages.popleft()
        if not self._messages:
            self._messages = None
        return message

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                return


def lighter(
    receive: Callable[[], Awaitable[Any]], send: Callable[..., Awaitable[None]]
) -> Callable[[], Awaitable[Any]]:
    """Return what to call instead of ``receive`` from now on: a mailbox's, if the server is a daphne that is known.

    Nobody may be waiting in ``receive`` when this is called, but who has been cancelled, nor call it afterwards.
    """
    owner: Any = owner_of(send)
    queue: Any = getattr(receive, "__self__", None)
    if not conf.direct_writes or f"{type(owner).__module__}.{type(owner).__qualname__}" not in OWNERS:
        return receive
    if type(queue) is not asyncio.Queue or queue.maxsize or getattr(owner, "application_queue", owner) is not queue:
        return receive  # Something between the server and here wants to see what comes.
    mailbox = Mailbox()
    while not queue.empty():
        mailbox.put_nowait(queue.get_nowait())
    owner.application_queue = mailbox
    return mailbox.get
