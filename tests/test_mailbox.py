"""A lighter queue for what comes in on daphne: no message is lost or changes its place."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Literal

import httpx
import pytest
from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from django.test import override_settings
from websockets.asyncio.client import connect

from notifications.handover import StreamHandover
from notifications.mailbox import Mailbox, lighter
from tests.servers import AsgiServer


async def getting(mailbox: Mailbox) -> asyncio.Task[Any]:
    task = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    return task


async def test_messages_come_in_their_order() -> None:
    mailbox = Mailbox()
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    assert await mailbox.get() == 1
    mailbox.put_nowait(3)
    assert [await mailbox.get(), await mailbox.get()] == [2, 3]


async def test_who_waits_is_woken() -> None:
    mailbox = Mailbox()
    for message in "ab":
        waiting = await getting(mailbox)
        assert not waiting.done()
        mailbox.put_nowait(message)
        assert await asyncio.wait_for(waiting, 1) == message


async def test_each_message_goes_to_one_of_those_who_wait() -> None:
    mailbox = Mailbox()
    first, second = await getting(mailbox), await getting(mailbox)
    mailbox.put_nowait("a")
    assert await asyncio.wait_for(first, 1) == "a"
    assert not second.done()
    mailbox.put_nowait("b")
    assert await asyncio.wait_for(second, 1) == "b"


async def test_who_gives_up_loses_no_message() -> None:
    mailbox = Mailbox()
    first, second = await getting(mailbox), await getting(mailbox)
    first.cancel()
    mailbox.put_nowait("a")  # Before the first has heard that it is cancelled.
    assert await asyncio.wait_for(second, 1) == "a"
    third, fourth = await getting(mailbox), await getting(mailbox)
    mailbox.put_nowait("b")  # The third is woken, and gives up all the same.
    third.cancel()
    assert await asyncio.wait_for(fourth, 1) == "b"
    assert third.cancelled()


# --- In the place of daphne's


def connection(kind: Any) -> tuple[Any, asyncio.Queue[Any], Any]:
    """Return daphne's object for a connection without one, the queue that it fills, and ``send``."""
    owner: Any = kind.__new__(kind)
    queue: asyncio.Queue[Any] = asyncio.Queue()
    owner.application_queue = queue
    return owner, queue, partial(Server.handle_reply, owner)


@pytest.mark.parametrize("kind", [WebRequest, WebSocketProtocol])
async def test_daphne_s_queue_is_replaced_with_what_waits_in_it(kind: type) -> None:
    owner, queue, send = connection(kind)
    queue.put_nowait("before")
    receive = lighter(queue.get, send)
    owner.application_queue.put_nowait("after")
    assert type(owner.application_queue) is Mailbox
    assert [await receive(), await receive()] == ["before", "after"]


async def test_anything_else_stays_as_it_is() -> None:
    owner, queue, send = connection(WebRequest)

    async def receive() -> Any:
        return await queue.get()

    assert lighter(receive, send) is receive  # Somebody in between looks at what comes.
    other = asyncio.Queue[Any]()
    assert lighter(other.get, send) == other.get
    assert lighter(queue.get, receive) == queue.get  # Another server.
    with override_settings(NOTIFICATIONS={"DIRECT_WRITES": False}):
        assert lighter(queue.get, send) == queue.get
    owner.application_queue = None
    assert lighter(queue.get, send) == queue.get
    assert owner.application_queue is None


@pytest.mark.parametrize(("answered", "kind"), [(True, Mailbox), (False, asyncio.Queue)])
async def test_wrapper_replaces_it_for_the_websockets_that_it_answers(answered: bool, kind: type) -> None:
    owner, queue, send = connection(WebSocketProtocol)
    queue.put_nowait("connect")
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())

    wrapper = StreamHandover(application, elsewhere=lambda scope: application if answered else None)
    await wrapper({"type": "websocket"}, queue.get, send)
    assert heard == ["connect"]
    assert type(owner.application_queue) is kind


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "replaced"), [("daphne", "1"), ("uvicorn", "0")])
async def test_client_s_end_comes_by_the_mailbox(kind: Literal["daphne", "uvicorn"], replaced: str) -> None:
    with AsgiServer(kind, app="tests.direct_app:application") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            async with client.stream("GET", "/mailbox") as response:
                assert await anext(response.aiter_text()) == replaced, "daphne is not recognised any more"
            await told(client, "http.disconnect")
            async with connect(f"{server.websocket_url}/mailbox") as websocket:
                assert await websocket.recv() == replaced, "daphne is not recognised any more"
            await told(client, "websocket.disconnect")


async def told(client: httpx.AsyncClient, message: str) -> None:
    """Wait until the last thing that the application heard is this."""
    for _ in range(200):
        if (await client.get("/last")).text == message:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{message} was not told")
