"""The WebSocket consumer: what a client may send, and with which code each end is told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from notifications import turns
from notifications.access import Access, Principal, user_key
from notifications.consumers import SUBPROTOCOL, NotificationConsumer
from notifications.subscription import Subscription
from tests.clients import Call
from tests.fakes import TOPIC, Stage, eventually

APPLICATION = NotificationConsumer.as_asgi()


class Client:
    """A WebSocket as a client sees it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.call.tell("websocket.connect")

    async def accepted(self) -> str | None:
        message = await self.call.said()
        assert message["type"] == "websocket.accept", message
        subprotocol: str | None = message["subprotocol"]
        return subprotocol

    async def next(self) -> dict[str, Any]:
        message = await self.call.said()
        assert message["type"] == "websocket.send", message
        frame: dict[str, Any] = json.loads(message["text"])
        return frame

    async def rest(self) -> tuple[list[dict[str, Any]], int]:
        """Return the frames up to the end, and the close code."""
        frames = []
        while (message := await self.call.said())["type"] == "websocket.send":
            frames.append(json.loads(message["text"]))
        assert message["type"] == "websocket.close"
        return frames, message["code"]

    def send(self, frame: Any) -> None:
        self.call.tell("websocket.receive", text=frame if isinstance(frame, str) else json.dumps(frame))

    async def leave(self) -> None:
        await self.call.end("websocket.disconnect", code=1001)


def connected(user: Any = None, query: str = "", call: type[Call] = Call, **scope: Any) -> Client:
    given = {"type": "websocket", "path": "/", "query_string": query.encode(), "user": user, "subprotocols": []}
    return Client(call(APPLICATION, {**given, **scope}))


def alice(stage: Stage) -> Any:
    stage.start()
    stage.log.allow("alice", TOPIC)
    return SimpleNamespace(is_authenticated=True, pk="alice")


async def opened(stage: Stage, **options: Any) -> Client:
    client = connected(alice(stage), **options)
    await client.accepted()
    assert (await client.next())["type"] == "ready"
    return client


def subscription(stage: Stage) -> Subscription:
    (found,) = stage.hub.subscriptions
    return found


# --- Opening


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [([], None), ([SUBPROTOCOL], SUBPROTOCOL), (["other", SUBPROTOCOL], SUBPROTOCOL), (["other"], None)],
)
async def test_subprotocol_is_chosen_if_it_is_offered(stage: Stage, offered: list[str], chosen: str | None) -> None:
    client = connected(alice(stage), subprotocols=offered)
    assert await client.accepted() == chosen
    await client.leave()


async def test_ready_is_first(stage: Stage) -> None:
    client = connected(alice(stage))
    await client.accepted()
    frame = await client.next()
    assert (frame["type"], frame["data"]["transport"]) == ("ready", "websocket")
    await client.leave()


async def test_turn_ends_when_the_stream_is_open_or_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AT_ONCE", 1)
    monkeypatch.setattr(turns, "LEASE", 60.0)
    monkeypatch.setattr(turns, "PATIENCE", 60.0)
    clients = []
    for _ in range(2):
        async with asyncio.timeout(10):
            clients.append(await opened(stage))
            refused = connected(user=None)
            await refused.accepted()
            assert (await refused.rest())[1] == 4401
    for client in clients:
        await client.leave()


async def test_live_events_come_with_their_cursors(stage: Stage) -> None:
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    await stage.ring(*stage.log.append(TOPIC, 2))
    frames = [await client.next(), await client.next()]
    assert [(frame["type"], frame["cursor"], frame["data"]["seq"]) for frame in frames] == [
        ("ping", "1.1-aa-2", 2),
        ("ping", "1.1-aa-3", 3),
    ]
    await client.leave()


async def test_cursor_of_the_address_resumes(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    client = await opened(stage, query="cursor=1.1-aa-1&other=x")
    assert [(await client.next())["data"]["seq"] for _ in range(2)] == [2, 3]
    await client.leave()


async def test_last_of_several_cursors_counts(stage: Stage) -> None:
    stage.log.append(TOPIC, 3)
    client = await opened(stage, query="cursor=1.1-aa-0&cursor=1.1-aa-2")
    assert (await client.next())["data"]["seq"] == 3
    await client.leave()


@pytest.mark.parametrize("user", [None, SimpleNamespace(is_authenticated=False, pk=None)])
async def test_anonymous_is_told_and_closed(stage: Stage, user: Any) -> None:
    stage.start()
    client = connected(user)
    await client.accepted()
    frames, code = await client.rest()
    assert code == 4401
    assert [(frame["type"], frame["data"]["code"]) for frame in frames] == [("error", 4401)]
    await client.leave()


async def test_session_that_stands_for_nobody(stage: Stage) -> None:
    stage.start()
    for key in (None, "unknown"):
        client = connected(**{"notifications.session": cast(Any, key)})
        await client.accepted()
        assert (await client.rest())[1] == 4401
        await client.leave()


async def test_too_long_a_cursor_is_malformed(stage: Stage, conf: dict[str, Any]) -> None:
    conf["CURSOR_LENGTH"] = 64
    client = connected(alice(stage), query="cursor=" + "1" * 65)
    await client.accepted()
    frames, code = await client.rest()
    assert (code, frames[0]["data"]["code"]) == (4400, 4400)
    await client.leave()


async def test_page_of_one_user_is_not_served_for_another(stage: Stage) -> None:
    stage.start()
    for key, code in ((user_key("alice"), None), (user_key("bob"), 4401)):
        client = connected(alice(stage), query=f"for={key}")
        await client.accepted()
        if code is None:
            assert (await client.next())["type"] == "ready"
        else:
            frames, closed = await client.rest()
            assert (closed, [frame["type"] for frame in frames]) == (code, ["error"])
        await client.leave()


async def test_full_process_says_so(stage: Stage, conf: dict[str, Any]) -> None:
    conf["STREAMS_PER_PROCESS"] = 1
    async with stage.open():
        client = connected(alice(stage))
        await client.accepted()
        frames, code = await client.rest()
        assert (code, frames[0]["data"]["code"]) == (4429, 4429)
        await client.leave()


# --- What a client may send


async def test_ping_and_ack_are_taken(stage: Stage) -> None:
    client = await opened(stage)
    for frame in ({"type": "ping"}, {"type": "ack", "cursor": "1"}, {"type": "ack", "cursor": "nonsense"}):
        client.send(frame)
    await stage.ring(*stage.log.append(TOPIC))
    assert (await client.next())["data"]["seq"] == 1
    await client.leave()


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "x",
        "{",
        "[]",
        "null",
        '"ping"',
        "{}",
        '{"type": "disconnect"}',
        '{"type": "websocket.disconnect"}',
        '{"type": "notifications.hint"}',
        '{"type": "ack"}',
        '{"type": "ack", "cursor": 7}',
        '{"type": ["ping"]}',
        '{"type": "subscribe", "topic": "staff"}',
        "[" * 4000,
        '{"a":' * 1500,
        "NaN",
        "\ud800",
    ],
    ids=lambda frame: frame[:40],
)
async def test_anything_else_is_malformed(stage: Stage, frame: str, caplog: pytest.LogCaptureFixture) -> None:
    client = await opened(stage)
    client.send(frame)
    frames, code = await client.rest()
    assert code == 4400
    assert [(frame["type"], frame["data"]["code"]) for frame in frames] == [("error", 4400)]
    await client.leave()
    assert not stage.hub.subscriptions
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_bytes_are_malformed(stage: Stage) -> None:
    client = await opened(stage)
    client.call.tell("websocket.receive", bytes=b'{"type": "ping"}')
    assert (await client.rest())[1] == 4400
    await client.leave()


async def test_frame_that_is_too_long(stage: Stage, conf: dict[str, Any]) -> None:
    conf["FRAME_BYTES"] = 100
    client = await opened(stage)
    client.send(json.dumps({"type": "ack", "cursor": "1" * 70}))
    client.send(json.dumps({"type": "ack", "cursor": "1" * 100}))
    assert (await client.rest())[1] == 4400
    await client.leave()


async def test_frame_that_is_too_long_in_bytes(stage: Stage, conf: dict[str, Any]) -> None:
    conf["FRAME_BYTES"] = 100
    client = await opened(stage)
    client.send(json.dumps({"type": "ping", "": "é" * 60}, ensure_ascii=False))
    assert (await client.rest())[1] == 4400
    await client.leave()


async def test_flood_is_closed(stage: Stage, conf: dict[str, Any]) -> None:
    conf["FRAME_RATE"] = (1, 5)
    client = await opened(stage)
    for _ in range(200):
        client.send({"type": "ping"})
    frames, code = await client.rest()
    assert (code, frames[-1]["data"]["code"]) == (4429, 4429)
    await client.leave()


async def test_patient_client_is_no_flood(stage: Stage, conf: dict[str, Any]) -> None:
    conf["FRAME_RATE"] = (1000, 2)
    client = await opened(stage)
    for _ in range(30):
        client.send({"type": "ping"})
        await asyncio.sleep(0.01)
    await stage.ring(*stage.log.append(TOPIC))
    assert (await client.next())["type"] == "ping"
    await client.leave()


# --- Ends


@pytest.mark.parametrize(
    ("reason", "retry", "code"),
    [
        ("shutdown", 700, 1000),
        ("lifetime", 0, 1000),
        ("access", 0, 1000),
        ("error", 2000, 1000),
        ("revoked", None, 4401),
        ("capacity", 60_000, 4429),
        ("slow", 0, 4408),
    ],
)
async def test_end_is_told_by_bye_and_code(stage: Stage, reason: str, retry: int | None, code: int) -> None:
    client = await opened(stage)
    subscription(stage).end(reason, retry)
    frames, closed = await client.rest()
    assert [(frame["type"], frame["data"]) for frame in frames] == [("bye", {"reason": reason, "retry": retry})]
    assert closed == code
    await client.leave()


async def test_client_that_goes_ends_the_stream(stage: Stage) -> None:
    client = await opened(stage)
    await client.leave()
    assert not stage.hub.subscriptions
    assert client.call.messages[-1]["type"] == "websocket.send"


async def test_client_that_goes_before_it_is_accepted(stage: Stage) -> None:
    stage.log.gates["heads"] = asyncio.Event()
    client = connected(alice(stage))
    await client.accepted()
    await eventually(lambda: stage.log.calls["heads"])
    await client.leave()
    assert not stage.hub.subscriptions


async def test_server_that_cancels_ends_the_stream(stage: Stage) -> None:
    client = await opened(stage)
    client.call.task.cancel()
    await asyncio.wait([client.call.task])
    await eventually(lambda: not stage.hub.subscriptions)


async def test_client_that_never_acknowledges_is_slow(stage: Stage, conf: dict[str, Any]) -> None:
    # Where sending never waits (daphne), what is not acknowledged may all be in memory.
    conf |= {"SLOW_BYTES": 3000, "HINT_BYTES": 10_000}
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    for hint in stage.log.append(TOPIC, 20, size=500):
        await stage.ring(hint)
    frames, code = await client.rest()
    assert code == 4408
    assert frames[-1]["data"] == {"reason": "slow", "retry": 0}
    assert [frame["data"]["seq"] for frame in frames[:-1]] == list(range(2, len(frames) + 1))
    assert len(frames) < 10
    await client.leave()


async def test_client_that_acknowledges_is_not_slow(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"SLOW_BYTES": 3000, "HINT_BYTES": 10_000, "FRAME_RATE": (1000, 1000)}
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    for hint in stage.log.append(TOPIC, 40, size=500):
        await stage.ring(hint)
        frame = await client.next()
        assert frame["data"]["seq"] == hint.seq
        client.send({"type": "ack", "cursor": frame["cursor"]})
        await stage.settled()
    assert subscription(stage).ended is None
    await client.leave()


async def test_acknowledgement_of_an_old_cursor_counts_only_what_was_before_it(
    stage: Stage, conf: dict[str, Any]
) -> None:
    conf |= {"SLOW_BYTES": 3000, "HINT_BYTES": 10_000}
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    first, *hints = stage.log.append(TOPIC, 20, size=500)
    await stage.ring(first)
    cursor = (await client.next())["cursor"]
    for hint in hints:
        client.send({"type": "ack", "cursor": cursor})
        await stage.ring(hint)
    assert (await client.rest())[1] == 4408
    await client.leave()


@pytest.mark.parametrize(
    "forge",
    [
        lambda cursor: cursor.rpartition("-")[0] + "-999999",
        lambda cursor: re.sub(r"-[0-9a-z]+-(\d+)", r"-zz-\1", cursor),
        lambda cursor: "1.999-zz-999999",
        lambda cursor: cursor + ".999-zz-1",
    ],
    ids=["beyond", "another epoch", "another topic", "one topic more"],
)
async def test_acknowledgement_of_what_was_never_sent_counts_nothing(
    stage: Stage, conf: dict[str, Any], forge: Callable[[str], str]
) -> None:
    conf |= {"SLOW_BYTES": 3000, "HINT_BYTES": 10_000, "FRAME_RATE": (1000, 1000)}
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    for hint in stage.log.append(TOPIC, 20, size=500):
        if not stage.hub.subscriptions:
            break
        await stage.ring(hint)
        client.send({"type": "ack", "cursor": forge(f"1.1-aa-{hint.seq}")})
    assert (await client.rest())[1] == 4408
    await client.leave()


async def test_heartbeats_need_no_acknowledgement(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"SLOW_BYTES": 1024, "HEARTBEAT": 0.05, "LIFETIME": 60.0}
    client = await opened(stage)
    for _ in range(40):
        assert (await client.next())["type"] == "heartbeat"
    assert subscription(stage).ended is None
    await client.leave()


async def test_cursors_count_as_bytes_that_were_sent(stage: Stage, conf: dict[str, Any]) -> None:
    conf |= {"SLOW_BYTES": 3000}
    stage.log.append(TOPIC)
    client = await opened(stage)
    await eventually(lambda: subscription(stage).live)
    sent = 0
    for hint in stage.log.append(TOPIC, 200):
        if not stage.hub.subscriptions:
            break
        await stage.ring(hint)
        sent += len(json.dumps(await client.next()))
    assert sent < 2 * 3000
    await client.leave()


async def test_batch_ends_with_the_right_to_read_it(stage: Stage, conf: dict[str, Any]) -> None:
    class Sipping(Call):
        """Takes its time for each frame."""

        async def _send(self, message: Mapping[str, Any]) -> None:
            await super()._send(message)
            if message["type"] == "websocket.send" and '"ping"' in message["text"]:
                subscription(stage).end("revoked", None)
                await asyncio.sleep(0.01)

    stage.log.append(TOPIC, 30)
    client = connected(alice(stage), query="cursor=1.1-aa-0", call=Sipping)
    await client.accepted()
    async with asyncio.timeout(10):
        frames, code = await client.rest()
    await client.leave()
    assert code == 4401
    assert [frame["type"] for frame in frames] == ["ready", "ping", "bye"]


async def test_client_that_does_not_read_is_slow(stage: Stage, conf: dict[str, Any]) -> None:
    class Choked(Call):
        async def _send(self, message: Mapping[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()
            await super()._send(message)

    conf["SLOW_SECONDS"] = 0.1
    client = connected(alice(stage), call=Choked)
    await client.accepted()
    assert await client.rest() == ([], 4408)
    await client.leave()
    assert not stage.hub.subscriptions


async def test_exception_in_the_stream_closes_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    client = await opened(stage)
    await eventually(lambda: subscription(stage).waiter is not None)
    with mock.patch.object(Subscription, "take", side_effect=TypeError("a mistake")):
        subscription(stage).tick()
        assert await client.rest() == ([], 4500)
    assert "a stream failed" in caplog.text
    await client.leave()
    assert not stage.hub.subscriptions


async def test_database_that_fails_closes_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.log.fails["authorize"] = RuntimeError("away")
    await expect_failed(connected(alice(stage)))
    assert "a stream failed" in caplog.text


async def test_database_that_does_not_answer_closes_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifications.hub.READY_TIMEOUT", 0.05)
    stage.log.gates["heads"] = asyncio.Event()
    await expect_failed(connected(alice(stage)))


async def test_rights_that_can_not_be_told_close_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    user = alice(stage)
    stage.log.access[Principal("alice")] = Access(())
    await expect_failed(connected(user))
    assert "a stream failed" not in caplog.text  # What the site's function raised is in the log already.


async def expect_failed(client: Client) -> None:
    """Before there was a stream: its client is told to return, and not that the server is full."""
    await client.accepted()
    frames, code = await client.rest()
    assert code == 4500
    assert [(frame["type"], frame["data"]["code"]) for frame in frames] == [("error", 4500)]
    assert "come back" in frames[0]["data"]["message"]
    await client.leave()


async def test_connection_that_is_cut_off_ends_quietly(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    class Cut(Call):
        async def _send(self, message: Mapping[str, Any]) -> None:
            if message["type"] == "websocket.send":
                raise OSError("connection lost")
            await super()._send(message)

    client = connected(alice(stage), call=Cut)
    await client.accepted()
    await eventually(lambda: not stage.hub.subscriptions and stage.log.calls["heads"])
    await client.leave()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_consumer_has_no_channel_of_its_own(stage: Stage) -> None:
    client = await opened(stage)
    assert len(stage.layer.queues) == 1  # The hub's.
    await client.leave()


async def test_principal_carries_the_session(stage: Stage) -> None:
    session = mock.Mock(session_key="key")
    session.get.return_value = "hash"
    stage.start()
    stage.log.access[Principal("alice", "key", "hash")] = stage.log.access[stage.log.allow("alice", TOPIC)]
    client = connected(SimpleNamespace(is_authenticated=True, pk="alice"), session=session)
    await client.accepted()
    assert (await client.next())["type"] == "ready"
    assert subscription(stage).principal == Principal("alice", "key", "hash")
    await client.leave()
