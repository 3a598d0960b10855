"""The handover: Django's request ends, the stream goes on; and however it ends, the client sees an end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest

from notifications import stream
from notifications.access import Access, Principal
from notifications.handover import SCOPE_KEY, Receive, Scope, Send, StreamHandover
from notifications.hub import AccessUnknown
from notifications.signals import stream_closed
from tests.clients import Call
from tests.fakes import TOPIC, Stage, eventually
from tests.reference import Dispatched, EventStreamParser

HEADERS = [(b"Content-Type", b"text/event-stream"), (b"Content-Length", b"0"), (b"X-Site", b"kept")]


class View:
    """Stands for Django: accepts the stream, answers, and then takes a moment to end its request."""

    def __init__(self, principal: Any, cursor: str | None = None) -> None:
        self.principal = principal
        self.cursor = cursor
        self.status = 200
        self.headers = HEADERS
        self.finished = False
        self.finish = asyncio.Event()
        self.finish.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        scope[SCOPE_KEY].principal, scope[SCOPE_KEY].cursor = self.principal, self.cursor
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await self.finish.wait()
        self.finished = True


class Stream:
    """A stream as a client sees it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.parser = EventStreamParser()
        self.found: list[Dispatched] = []

    async def start(self) -> dict[str, Any]:
        message = await self.call.said()
        assert message["type"] == "http.response.start"
        return message

    async def next(self) -> tuple[str, dict[str, Any]]:
        while not self.found:
            message = await self.call.said()
            assert message["type"] == "http.response.body"
            if not message["more_body"]:
                raise EOFError
            self.found = list(self.parser.feed(message["body"]))
        event = self.found.pop(0)
        return event.type, json.loads(event.data)

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        events = []
        try:
            while True:
                events.append(await self.next())
        except EOFError:
            return events


def called(application: Any, **scope: Any) -> Stream:
    call = Call(StreamHandover(application), {"type": "http", "path": "/", "headers": [], **scope})
    call.tell("http.request", body=b"", more_body=False)
    return Stream(call)


def alice(stage: Stage) -> Principal:
    stage.start()
    return stage.log.allow("alice", TOPIC)


# --- What passes through


@pytest.mark.parametrize("type", ["lifespan", "websocket"])
async def test_other_scopes_pass_through_untouched(type: str) -> None:
    seen: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    scope = {"type": type}
    receive, send = mock.AsyncMock(), mock.AsyncMock()
    await StreamHandover(application)(scope, receive, send)
    assert seen == [(scope, receive, send)]


async def test_ordinary_answers_pass_through_untouched() -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two"},
    ]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    answer = called(application)
    await answer.call.task
    assert answer.call.messages == messages


async def test_event_stream_that_is_not_ours_passes_through() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": False})

    answer = called(application)
    await answer.call.task
    assert [message.get("body") for message in answer.call.messages] == [None, b"data: 1\n\n"]


@pytest.mark.parametrize("change", [{"status": 403}, {"headers": [(b"content-type", b"application/json")]}])
async def test_answer_that_a_middleware_put_in_place_of_the_stream(stage: Stage, change: dict[str, Any]) -> None:
    view = View(alice(stage))
    vars(view).update(change)
    answer = called(view)
    await answer.call.task
    assert (await answer.start())["status"] == view.status
    assert await answer.rest() == []


async def test_exception_of_the_application_passes_through() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await called(application).call.task


# --- The stream


async def test_stream_begins_when_the_request_has_ended(stage: Stage) -> None:
    view = View(alice(stage))
    view.finish.clear()
    answer = called(view)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not view.finished and answer.call.messages == []
    view.finish.set()
    start = await answer.start()
    assert view.finished
    assert start["status"] == 200
    assert start["headers"] == [(b"Content-Type", b"text/event-stream"), (b"X-Site", b"kept")]
    type, data = await answer.next()
    assert (type, data["transport"], data["unread"]) == ("ready", "sse", 3)
    await answer.call.end("http.disconnect")


async def test_stream_carries_live_events_with_their_cursors(stage: Stage) -> None:
    stage.log.append(TOPIC)
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    await eventually(lambda: stage.hub.topics[TOPIC].subscriptions)
    await stage.ring(*stage.log.append(TOPIC, 2))
    assert [data["seq"] for _, data in (await answer.next(), await answer.next())] == [2, 3]
    assert answer.parser.last_event_id == "1.1-aa-3"
    await answer.call.end("http.disconnect")


async def test_stream_resumes_from_the_cursor(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    answer = called(View(alice(stage), cursor="1.1-aa-1"))
    await answer.start()
    type, data = await answer.next()
    assert (type, data["cursor"], data["unread"]) == ("ready", "1.1-aa-1", None)
    assert [data["seq"] for _, data in (await answer.next(), await answer.next())] == [2, 3]
    await answer.call.end("http.disconnect")


async def test_stream_ends_with_bye_and_the_end_of_the_body(stage: Stage) -> None:
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    next(iter(stage.hub.subscriptions)).end("lifetime", 70)
    assert await answer.rest() == [("bye", {"reason": "lifetime", "retry": 70})]
    assert answer.parser.retry == 70
    await answer.call.task
    assert not stage.hub.subscriptions


# --- The client goes


@pytest.fixture
def closed() -> Any:
    """The reasons that ``stream_closed`` told."""
    reasons: list[str] = []

    def note(reason: str, **_: Any) -> None:
        reasons.append(reason)

    stream_closed.connect(note)
    yield reasons
    stream_closed.disconnect(note)


async def test_client_that_goes_ends_the_stream(stage: Stage, closed: list[str]) -> None:
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    await answer.call.end("http.disconnect")
    assert not stage.hub.subscriptions
    assert closed == ["disconnect"]
    # Nothing is sent to a client that has gone.
    assert all(message.get("more_body", True) for message in answer.call.messages)


async def test_client_that_goes_while_the_stream_begins(stage: Stage) -> None:
    stage.log.gates["heads"] = asyncio.Event()
    answer = called(View(alice(stage)))
    await eventually(lambda: stage.log.calls["heads"])
    await answer.call.end("http.disconnect")
    assert answer.call.messages == []
    assert not stage.hub.subscriptions


async def test_client_that_goes_in_the_moment_in_which_django_answers(stage: Stage) -> None:
    # Django waits for a disconnect beside its view, and may have taken the message when the view has answered.
    view = View(alice(stage))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await view(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    answer = called(application)
    answer.call.tell("http.disconnect")
    async with asyncio.timeout(10):
        await answer.call.task
    assert not stage.hub.subscriptions


async def test_client_that_goes_while_it_does_not_read(stage: Stage) -> None:
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    answer.call._send = Blocked()  # type: ignore[method-assign]
    await eventually(lambda: stage.hub.topics[TOPIC].subscriptions)
    await answer.call.end("http.disconnect")
    assert not stage.hub.subscriptions


async def test_client_that_goes_while_it_is_refused(stage: Stage) -> None:
    stage.start()
    answer = called(View(Principal("nobody")))
    answer.call._send = blocked = Blocked()  # type: ignore[method-assign]
    await eventually(lambda: blocked.messages)
    await answer.call.end("http.disconnect")
    assert [message["status"] for message in blocked.messages] == [401]


async def test_connection_that_is_cut_off_while_it_is_refused(stage: Stage) -> None:
    stage.start()
    answer = called(View(Principal("nobody")))
    answer.call._send = mock.AsyncMock(side_effect=OSError("connection lost"))  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        await answer.call.task


class Blocked:
    """A ``send`` whose client does not read."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []

    async def __call__(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)
        await asyncio.Event().wait()


class Choked(Call):
    """A client that reads what it is told to and nothing more."""

    left = 2

    async def _send(self, message: Mapping[str, Any]) -> None:
        await super()._send(message)
        self.left -= 1
        if self.left <= 0:
            await asyncio.Event().wait()


async def test_client_that_does_not_read_is_left_after_a_while(
    stage: Stage, conf: dict[str, Any], closed: list[str]
) -> None:
    conf["SLOW_SECONDS"] = 0.1
    call = Choked(StreamHandover(View(alice(stage))), {"type": "http", "path": "/", "headers": []})
    call.tell("http.request", body=b"", more_body=False)
    async with asyncio.timeout(20):
        await call.task
    assert not stage.hub.subscriptions


async def test_client_that_does_not_read_live_events_is_left_after_a_while(stage: Stage, conf: dict[str, Any]) -> None:
    conf["SLOW_SECONDS"] = 0.1
    stage.log.append(TOPIC)
    call = Choked(StreamHandover(View(alice(stage))), {"type": "http", "path": "/", "headers": []})
    call.left = 3
    call.tell("http.request", body=b"", more_body=False)
    await eventually(lambda: len(call.messages) == 2)
    await eventually(lambda: next(iter(stage.hub.subscriptions)).waiter is not None)
    await stage.ring(*stage.log.append(TOPIC))
    async with asyncio.timeout(20):
        await call.task
    assert not stage.hub.subscriptions


async def test_connection_that_is_cut_off_ends_quietly(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    class Cut(Call):
        async def _send(self, message: Mapping[str, Any]) -> None:
            await super()._send(message)
            if message["type"] == "http.response.body":
                raise OSError("connection lost")

    call = Cut(StreamHandover(View(alice(stage))), {"type": "http", "path": "/", "headers": []})
    call.tell("http.request", body=b"", more_body=False)
    async with asyncio.timeout(20):
        await call.task
    assert not stage.hub.subscriptions
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_stream_has_a_bound_where_sending_never_waits(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAM_BYTES"] = 2000
    conf["HINT_BYTES"] = 10_000
    stage.log.append(TOPIC)
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    await eventually(lambda: next(iter(stage.hub.subscriptions)).live)
    hints = stage.log.append(TOPIC, 50, size=500)
    for hint in hints:
        await stage.ring(hint)
    events = await answer.rest()
    assert events[-1] == ("bye", {"reason": "slow", "retry": 0})
    assert len(events) < 10
    assert [data["seq"] for type, data in events[:-1]] == list(range(2, len(events) + 1))


# --- What goes wrong


async def test_exception_in_the_stream_ends_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    # An exception that left the application would leave the socket open, silent, for ever (daphne).
    answer = called(View(alice(stage)))
    await answer.start()
    await answer.next()
    await eventually(lambda: next(iter(stage.hub.subscriptions)).waiter is not None)
    with mock.patch.object(type(next(iter(stage.hub.subscriptions))), "take", side_effect=TypeError("a mistake")):
        next(iter(stage.hub.subscriptions)).tick()
        assert await answer.rest() == []
    await answer.call.task
    assert "a stream failed" in caplog.text
    assert not stage.hub.subscriptions


async def test_server_that_cancels_is_obeyed(stage: Stage) -> None:
    answer = called(View(alice(stage)))
    await answer.start()
    answer.call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer.call.task
    assert not stage.hub.subscriptions


async def refused(answer: Stream) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    start = await answer.start()
    body = await answer.call.said()
    await answer.call.task
    return start["status"], dict(start["headers"]), json.loads(body["body"])


async def test_who_may_not_read_any_more_is_refused(stage: Stage) -> None:
    stage.start()
    status, headers, body = await refused(called(View(Principal("nobody"))))
    assert (status, headers[b"Content-Type"]) == (401, b"application/json")
    assert headers[b"X-Site"] == b"kept" and b"Content-Length" not in headers
    assert "Log in" in body["error"]


async def test_full_process_refuses(stage: Stage, conf: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    conf["STREAMS_PER_PROCESS"] = 1
    async with stage.open():
        status, headers, body = await refused(called(View(alice(stage))))
    assert status == 503
    assert int(headers[b"Retry-After"]) > 0
    assert "as many streams" in body["error"]
    assert "could not be opened" not in caplog.text  # Whoever storms a full server fills no log with it.


async def test_database_that_does_not_answer_refuses(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifications.hub.READY_TIMEOUT", 0.05)
    stage.log.gates["heads"] = asyncio.Event()
    await expect_not_full(called(View(alice(stage))))
    assert "could not be opened: TimeoutError" in caplog.text


async def test_rights_that_can_not_be_told_refuse(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    principal = alice(stage)
    stage.log.access[principal] = Access(())
    await expect_not_full(called(View(principal)))
    assert "a stream failed" not in caplog.text  # What the site's function raised is in the log already.


@pytest.mark.parametrize("error", [TimeoutError("too slow"), AccessUnknown("the site's own function")])
async def test_session_that_can_not_be_looked_up_refuses(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    stage.start()
    stage.log.fails["identify"] = error

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY].session = "a session's key"
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    await expect_not_full(called(application))
    assert f"a stream of a session could not be opened: {error!r}" in caplog.text


async def expect_not_full(answer: Stream) -> None:
    """What fails is not that the server is full, and the client comes back."""
    status, headers, body = await refused(answer)
    assert (status, int(headers[b"Retry-After"]) > 0) == (503, True)
    assert "too many" not in body["error"] and "come back in a few seconds" in body["error"]


async def test_database_that_fails_refuses(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    principal = alice(stage)
    stage.log.fails["authorize"] = RuntimeError("away")
    await expect_not_full(called(View(principal)))
    assert "a stream failed" in caplog.text


async def test_hub_is_the_loop_s_own(stage: Stage) -> None:
    stage.start()
    assert stream.current_hub() is stage.hub is stream.current_hub()
