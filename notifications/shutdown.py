"""A polite end: on SIGTERM and SIGINT every stream says ``bye`` before the server stops.

uvicorn would wait for open streams for ever, daphne would cut them in the middle of a chunk; neither tells an ASGI
application in time. So the hub's handler is put in front of the server's own, which follows as soon as the streams have
ended, after a second at the latest.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from .hub import Hub

__all__ = ["install"]

#: Seconds that streams have to end before the server's own handler is called.
PATIENCE = 1.0


def install(hub: Hub) -> None:
    """Put the polite end in front of the present signal handlers; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if previous is None or previous is signal.SIG_IGN:
            continue
        if isinstance(previous, Polite):
            previous.hub = hub
            continue
        signal.signal(number, Polite(hub, number, previous))


class Polite:
    """A signal handler that ends the hub's streams, then does what was done before it came."""

    def __init__(self, hub: Hub, number: int, previous: Any) -> None:
        self.hub = hub
        self.number = number
        self.previous = previous
        self.called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.called or self.hub.loop.is_closed() or not self.hub.loop.is_running():
            self._pass_on(number, frame)
            return
        self.called = True
        self.hub.loop.call_soon_threadsafe(self._end_streams)

    def _end_streams(self) -> None:
        self.hub.shutdown()
        self._wait(self.hub.loop.time() + PATIENCE)

    def _wait(self, until: float) -> None:
        if self.hub.subscriptions and self.hub.loop.time() < until:
            self.hub.loop.call_later(0.02, self._wait, until)
        else:
            self._pass_on(self.number, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self.previous):
            self.previous(number, frame)
        else:  # SIG_DFL
            signal.signal(number, self.previous)
            signal.raise_signal(number)
