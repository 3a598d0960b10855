"""A polite end: every stream says bye before the server's own handler is called, and never is it kept waiting long."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest import mock

import pytest

from notifications import shutdown
from notifications.shutdown import Polite, install
from tests.fakes import Stage, eventually


class Server:
    """What a server does on a signal."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.calls.append(number)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    before = {number: signal.signal(number, server) for number in (signal.SIGTERM, signal.SIGINT)}
    yield server
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_streams_end_before_the_server_s_handler_is_called(stage: Stage, server: Server) -> None:
    async with stage.open() as reading:
        install(stage.hub)
        signal.raise_signal(signal.SIGTERM)
        ((type, data),) = await reading.rest()
        assert (type, data["reason"]) == ("bye", "shutdown")
        assert server.calls == []
    await eventually(lambda: server.calls == [signal.SIGTERM])


async def test_server_is_not_kept_waiting_by_a_stream_that_does_not_end(stage: Stage, server: Server) -> None:
    with mock.patch.object(shutdown, "PATIENCE", 0.1):
        async with stage.open():
            install(stage.hub)
            signal.raise_signal(signal.SIGINT)
            await eventually(lambda: server.calls == [signal.SIGINT])


async def test_server_without_streams_stops_at_once(stage: Stage, server: Server) -> None:
    stage.start()
    install(stage.hub)
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: server.calls == [signal.SIGTERM])
    assert stage.hub.closing


async def test_second_signal_is_the_server_s_at_once(stage: Stage, server: Server) -> None:
    async with stage.open():
        install(stage.hub)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert server.calls == [signal.SIGINT]


async def test_install_twice_is_once(stage: Stage, server: Server) -> None:
    stage.start()
    install(stage.hub)
    first = signal.getsignal(signal.SIGTERM)
    install(stage.hub)
    assert signal.getsignal(signal.SIGTERM) is first
    assert isinstance(first, Polite) and first.previous is server


async def test_install_follows_a_hub_of_another_loop(stage: Stage, server: Server) -> None:
    stage.start()
    old: Any = mock.Mock()
    install(old)
    install(stage.hub)
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: server.calls == [signal.SIGTERM])
    assert not old.shutdown.called and stage.hub.closing


async def test_install_leaves_signals_that_are_ignored(stage: Stage, server: Server) -> None:
    stage.start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    install(stage.hub)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def test_install_from_another_thread_does_nothing(stage: Stage, server: Server) -> None:
    stage.start()
    thread = threading.Thread(target=install, args=(stage.hub,))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert signal.getsignal(signal.SIGTERM) is server


def test_signal_after_the_loop_is_the_server_s_at_once(server: Server) -> None:
    hub: Any = mock.Mock()
    hub.loop.is_closed.return_value = True
    install(hub)
    signal.raise_signal(signal.SIGTERM)
    assert server.calls == [signal.SIGTERM]
    assert not hub.shutdown.called


def test_default_action_is_passed_on() -> None:
    hub: Any = mock.Mock()
    hub.loop.is_closed.return_value = True
    polite = Polite(hub, signal.SIGTERM, signal.SIG_DFL)
    with mock.patch.object(signal, "signal") as set_handler, mock.patch.object(signal, "raise_signal") as raised:
        polite(signal.SIGTERM, None)
    set_handler.assert_called_once_with(signal.SIGTERM, signal.SIG_DFL)
    raised.assert_called_once_with(signal.SIGTERM)
