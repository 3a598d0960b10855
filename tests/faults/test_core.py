"""The lines that the guarantees hang on, each by itself, with a log in memory: what mutations.py breaks fails here."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.contrib.sessions.backends.db import SessionStore
from django.test import override_settings

from notifications import access, doorbell, handover, polling, stream
from notifications.access import Access, Principal
from notifications.cursor import Position, parse_cursor
from notifications.hub import Hub
from notifications.log import Head, LogEvent
from notifications.replay import replay
from tests.faults.cluster import Cluster
from tests.servers import Site

LONG = 3600.0


class MemoryLog:
    """A log that a test writes by hand (:class:`notifications.follower.Log`)."""

    def __init__(self) -> None:
        self.events: dict[str, list[LogEvent]] = defaultdict(list)
        self.epoch = "e1"
        self.since: dict[str, int] = {}
        self.gone: set[Any] = set()
        self.reads = 0
        self.back = False

    def add(self, topic: str, number: int = 1) -> None:
        for _ in range(number):
            events = self.events[topic]
            events.append(LogEvent((events[-1].seq if events else 0) + 1, "progress", "{}"))

    def head(self, topic: str) -> Head:
        return Head(topic, 1, self.epoch, self.events[topic][-1].seq)

    def hint(self, topic: str, seq: int, *, with_event: bool = True) -> doorbell.Hint:
        events = tuple(tuple(event) for event in self.events[topic] if event.seq == seq) if with_event else ()
        return doorbell.Hint(topic, self.epoch, seq, events)  # type: ignore[arg-type]

    async def identify(self, sessions: Sequence[str]) -> dict[str, Any]:
        return {}

    async def authorize(self, principals: Sequence[Any]) -> dict[Any, Any]:
        return {principal: Access(("t",), self.since) for principal in principals}

    async def ended(self, principals: Collection[Any]) -> set[Any]:
        return self.gone & set(principals)

    async def heads(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self.head(name) for name in names if self.events[name]}

    async def read(self, topic: str, after: int, limit: int) -> list[LogEvent]:
        self.reads += 1
        return [event for event in self.events[topic] if event.seq > after][:limit]

    async def advanced(self, look: datetime | None) -> tuple[Sequence[Any], datetime | None]:
        now = datetime.now(UTC)
        if look is None or self.back:
            return [], None if self.back else now
        return [self.head(name) for name in self.events], now

    async def unread(self, user: Any) -> int:
        return 0

    async def tidy(self) -> None:
        pass


@pytest.fixture
def memory() -> MemoryLog:
    memory = MemoryLog()
    memory.add("t")
    return memory


@asynccontextmanager
async def serving(memory: MemoryLog) -> AsyncIterator[Hub]:
    hub = Hub(memory)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
        await asyncio.gather(*hub._tasks, return_exceptions=True)


@asynccontextmanager
async def reading(hub: Hub, cursor: str | None = None) -> AsyncIterator[list[Any]]:
    """A connection; the list grows by the number of each event, and by the reason of each reset."""
    got: list[Any] = []

    async def read() -> None:
        subscription = await hub.enter(Principal(1, "s"), transport="sse", cursor=cursor)
        try:
            while subscription.ended is None:
                if not subscription.live:
                    async for found in replay(hub.follower, subscription):
                        got.extend(item[1] if isinstance(item, tuple) else item.seq for item in found)
                got.extend(event.seq for event in subscription.queue)
                subscription.take()
                ready.set()
                await subscription.wait()
            got.append(subscription.ended.reason)
        finally:
            hub.leave(subscription)

    ready = asyncio.Event()
    task = asyncio.create_task(read())
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield got
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def grows_to(got: list[Any], expected: list[Any], seconds: float = 5) -> None:
    with suppress(TimeoutError):
        await until(lambda: got[: len(expected)] == expected, seconds)
    assert got == expected


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (what it waits for is a plain list)
            await asyncio.sleep(0.01)


@pytest.fixture
def quiet() -> Iterator[None]:
    """No safety poll and no recheck within the test."""
    with override_settings(NOTIFICATIONS={"SAFETY_INTERVAL": LONG, "RECHECK_INTERVAL": LONG}):
        yield


@pytest.mark.usefixtures("quiet")
class TestHints:
    async def test_hint_with_a_hole_before_it_reads_the_log(self, memory: MemoryLog) -> None:
        async with serving(memory) as hub, reading(hub) as got:
            memory.add("t", 3)
            hint = memory.hint("t", 4)
            hub.follower.hint(hub.topics["t"], hint.epoch, hint.seq, hint.events)
            await grows_to(got, [2, 3, 4])
            # By the follower, once for everybody; each subscription would notice the hole, too.
            assert [event.seq for event in hub.topics["t"].recent] == [2, 3, 4]

    async def test_hints_doubled_and_reordered_are_handed_out_once_in_order(self, memory: MemoryLog) -> None:
        async with serving(memory) as hub, reading(hub) as got:
            memory.add("t", 3)
            for seq in (2, 2, 4, 3, 3, 2, 4):
                hint = memory.hint("t", seq)
                hub.follower.hint(hub.topics["t"], hint.epoch, hint.seq, hint.events)
            await grows_to(got, [2, 3, 4])
            await asyncio.sleep(0.1)
            assert got == [2, 3, 4]

    async def test_event_published_while_a_group_is_joined_is_not_late(
        self, memory: MemoryLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = LateLayer()
        monkeypatch.setattr(doorbell, "channel_layer", lambda: layer)
        async with serving(memory) as hub, reading(hub) as got:
            # Whoever is told that their stream has begun must get what follows from the layer.
            memory.add("t")
            await doorbell.send("t", memory.hint("t", 2).message())
            await grows_to(got, [2], seconds=2)


class LateLayer(InMemoryChannelLayer):  # type: ignore[misc]
    """As on Redis' pub/sub: to join returns at once, and is done later, before whatever is sent afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.later: set[asyncio.Task[None]] = set()

    def after(self, seconds: float, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await function(*args)

        task = asyncio.create_task(wait())
        self.later.add(task)
        task.add_done_callback(self.later.discard)

    async def group_add(self, group: str, channel: str) -> None:
        self.after(0.3, super().group_add, group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if "nonce" in message:
            self.after(0.31, super().group_send, group, message)
        else:
            await super().group_send(group, message)


@override_settings(NOTIFICATIONS={"SAFETY_INTERVAL": 0.1, "RECHECK_INTERVAL": LONG})
async def test_event_without_a_hint_comes_by_the_safety_poll(memory: MemoryLog) -> None:
    async with serving(memory) as hub, reading(hub) as got:
        memory.add("t", 2)
        await grows_to(got, [2, 3])


@override_settings(NOTIFICATIONS={"SAFETY_INTERVAL": 0.1, "RECHECK_INTERVAL": LONG})
async def test_log_that_went_back_is_one_reset(memory: MemoryLog) -> None:
    memory.add("t", 5)
    async with serving(memory) as hub, reading(hub) as got:
        await until(lambda: hub.follower._look is not None)
        del memory.events["t"][3:]
        memory.back = True
        await grows_to(got, ["ahead"])
        memory.back = False
        memory.add("t")
        await grows_to(got, ["ahead", 4])


@override_settings(NOTIFICATIONS={"SAFETY_INTERVAL": LONG})
async def test_forged_cursor_begins_where_its_user_joined(memory: MemoryLog) -> None:
    memory.add("t", 9)
    memory.since = {"t": 7}
    async with serving(memory) as hub, reading(hub, cursor="1.1-e1-0") as got:
        await grows_to(got, [8, 9, 10])


@override_settings(NOTIFICATIONS={"SAFETY_INTERVAL": LONG, "REPLAY_EVENTS": 5})
async def test_replay_of_too_much_is_a_reset(memory: MemoryLog) -> None:
    memory.add("t", 9)
    async with serving(memory) as hub:
        async with reading(hub, cursor="1.1-e1-4") as got:
            await grows_to(got, ["floor"])
        async with reading(hub, cursor="1.1-e1-5") as got:
            await grows_to(got, [6, 7, 8, 9, 10])


async def test_session_that_is_gone_ends_its_streams(memory: MemoryLog) -> None:
    async with serving(memory) as hub, reading(hub) as got:
        memory.gone = {Principal(1, "s")}
        await grows_to(got, ["revoked"], seconds=4)


async def test_exception_in_a_stream_still_ends_the_response(
    memory: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(memory) as hub:
        monkeypatch.setattr(handover, "current_hub", lambda: hub)
        monkeypatch.setattr(stream, "current_hub", lambda: hub)
        monkeypatch.setattr(handover, "encode_frames", broken)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def django(scope: Any, receive: Any, send: Any) -> None:
            scope[handover.SCOPE_KEY].principal = Principal(1, "s")
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        async with asyncio.timeout(5):
            await handover.StreamHandover(django)({"type": "http"}, receive, send)
        assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def broken(frames: Any) -> bytes:
    raise RuntimeError("on purpose")


# ---- with a database


@pytest.mark.django_db
def test_ended_names_the_sessions_that_are_gone() -> None:
    sessions = [SessionStore() for _ in range(2)]
    for session in sessions:
        session.create()
    principals = {Principal(1, session.session_key) for session in sessions} | {Principal(2), Principal(3, "never")}
    sessions[0].delete()
    assert access.ended(principals) == {Principal(1, sessions[0].session_key), Principal(3, "never")}


@pytest.mark.django_db
@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
def test_ended_asks_nothing_of_sessions_in_cookies() -> None:
    assert access.ended({Principal(1, "whatever")}) == set()


@pytest.mark.django_db
@override_settings(NOTIFICATIONS={"REPLAY_EVENTS": 3})
def test_polling_of_too_much_is_a_reset() -> None:
    head = Head("t", 1, "e1", 10)
    cursors = {seq: polling._begin(head, parse_cursor(f"1.1-e1-{seq}"), Access(("t",))) for seq in (6, 7)}
    assert cursors[6][1] == "floor"
    assert cursors[7] == (Position(1, "e1", 7), None)


@pytest.mark.processes
def test_drains_of_one_topic_take_turns(prepared: tuple[Site, Cluster], build: Any) -> None:
    """Without the lock two drains give the same numbers, and the second fails."""
    site = build().site
    workers = [site.worker() for _ in range(4)]
    failed: list[int] = []
    try:
        threads = [
            Thread(target=lambda worker=worker: failed.append(worker.run(PUBLISH, timeout=120))) for worker in workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [0, 0, 0, 0]
        seqs = workers[0].run(
            "from notifications.models import Event\n"
            "result = list(Event.objects.filter(topic='busy').order_by('seq').values_list('seq', flat=True))"
        )
        assert seqs == list(range(1, 401))
    finally:
        for worker in workers:
            worker.__exit__()


PUBLISH = """
import logging
from notifications import publish
failures = []
class Failures(logging.Handler):
    def emit(self, record):
        failures.append(record)
logging.getLogger("notifications").addHandler(Failures(logging.ERROR))
for number in range(100):
    publish("busy", "progress", {})
result = len(failures)
"""


async def test_probe_is_sent_while_the_breaker_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever probes finds out that the layer is back, and closes the breaker for everybody."""
    monkeypatch.setattr(doorbell, "breakers", {0: doorbell.Breaker(limit=1)})
    layer = InMemoryChannelLayer()
    monkeypatch.setattr(doorbell, "channel_layer", lambda: layer)
    doorbell.breakers[0].failed()
    with pytest.raises(doorbell.LayerUnavailable):
        await doorbell.send("t", {})
    await doorbell.send("t", {}, probing=True)
    await doorbell.send("t", {})
