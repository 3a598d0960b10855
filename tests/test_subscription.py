"""A subscription: a bounded queue, and a cursor that moves as events are taken from it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from unittest import mock

import pytest

from notifications.envelope import Envelope, log_envelope
from notifications.subscription import BEGINNING, End, Framing, LiveEvent, Mark, Subscription, TopicState, deliver
from tests.fakes import eventually


def topic(name: str = "everyone", id: int = 1, epoch: str = "aa", seen: int = 0) -> TopicState:
    state = TopicState(name)
    state.id, state.epoch, state.seen = id, epoch, seen
    return state


def event(state: TopicState, seq: int, size: int = 0) -> LiveEvent:
    return LiveEvent(state, seq, log_envelope(state.name, seq, "ping", '{"x":"' + "x" * size + '"}'))


def subscription(*states: TopicState, events: int = 3, size: int = 1000, live: bool = True) -> Subscription:
    made = Subscription(
        principal="alice",
        connection="c",
        transport="sse",
        topics=tuple(state.name for state in states),
        queue_events=events,
        queue_bytes=size,
        live=live,
    )
    for state in states:
        made.marks[state] = state.here()
        state.subscriptions[made] = None
    return made


def taken(made: Subscription) -> list[str | None]:
    return [cursor for _, cursor in made.take()]


async def test_mark_writes_its_part_of_a_cursor() -> None:
    assert Mark(4, "aa", 7).part == ".4-aa-7"
    assert BEGINNING.part == ""


async def test_here_is_where_a_topic_was_seen() -> None:
    assert topic(seen=7).here().part == ".1-aa-7"
    assert TopicState("new").here() is BEGINNING


async def test_cursor_leaves_out_topics_without_a_beginning() -> None:
    assert subscription(topic(seen=7), TopicState("new")).cursor() == "1.1-aa-7"
    assert subscription(TopicState("new")).cursor() == "1"


async def test_push_and_take_in_order_with_the_cursor_after_each() -> None:
    one, two = topic(seen=1), topic("staff", 2, "bb", 5)
    made = subscription(one, two)
    for pushed in (event(one, 2), event(two, 6), event(one, 3)):
        made.push(pushed)
    assert made.cursor() == "1.1-aa-1.2-bb-5"
    assert taken(made) == ["1.1-aa-2.2-bb-5", "1.1-aa-2.2-bb-6", "1.1-aa-3.2-bb-6"]
    assert made.cursor() == "1.1-aa-3.2-bb-6"
    assert taken(made) == []


async def test_push_before_it_is_live_queues_nothing() -> None:
    state = topic()
    made = subscription(state, live=False)
    made.push(event(state, 1))
    assert not made.queue


async def test_push_of_one_too_many_falls_back_and_keeps_what_was_queued() -> None:
    state = topic()
    made = subscription(state, events=2)
    for seq in range(1, 6):
        made.push(event(state, seq))
    assert not made.live
    assert taken(made) == ["1.1-aa-1", "1.1-aa-2"]


async def test_push_of_too_many_bytes_falls_back() -> None:
    state = topic()
    made = subscription(state, events=100, size=1000)
    for seq in range(1, 6):
        made.push(event(state, seq, size=400))
        assert made.queued_bytes <= 1000
    assert not made.live
    assert taken(made) == ["1.1-aa-1", "1.1-aa-2"]
    assert made.queued_bytes == 0


async def test_push_of_an_event_larger_than_the_queue_is_taken_if_it_is_alone() -> None:
    state = topic()
    made = subscription(state, size=1000)
    made.push(event(state, 1, size=5000))
    assert made.live
    assert taken(made) == ["1.1-aa-1"]


async def test_cursor_with_another_place_in_one_topic() -> None:
    one, two = topic(seen=1), topic("staff", 2, "bb", 5)
    made = subscription(one, two)
    assert made.cursor_with(two, Mark(2, "bb", 3)) == "1.1-aa-1.2-bb-3"
    assert made.cursor() == "1.1-aa-1.2-bb-5"


async def test_first_reason_to_end_stands() -> None:
    made = subscription(topic())
    made.end("lifetime", 5)
    made.end("capacity", 60)
    assert made.ended == End("lifetime", 5)


@pytest.mark.parametrize("reason", ["access", "revoked"])
async def test_who_lost_a_right_gets_nothing_that_came_after(reason: str) -> None:
    made = subscription(state := topic())
    made.live = True
    made.push(event(state, 1))
    made.end("capacity", 5)
    made.push(event(state, 2))
    assert [frame.seq for frame in made.queue] == [1]  # It had come before, and may be read.
    made = subscription(state)
    made.live = True
    made.push(event(state, 1))
    made.end(reason, None)
    made.push(event(state, 2))
    assert not made.queue
    assert made.barred


async def test_revoked_stands_above_every_other_reason() -> None:
    made = subscription(state := topic())
    made.live = True
    made.push(event(state, 1))
    made.end("capacity", 5)
    made.end("revoked", None)
    made.end("lifetime", 5)
    assert made.ended == End("revoked", None)
    assert not made.queue


async def test_revoked_empties_the_queue_and_takes_nothing_more() -> None:
    state = topic()
    made = subscription(state)
    made.push(event(state, 1))
    made.end("revoked", None)
    made.push(event(state, 2))
    assert taken(made) == []


async def test_other_ends_leave_what_is_queued() -> None:
    state = topic()
    made = subscription(state)
    made.push(event(state, 1))
    made.end("shutdown", 5)
    assert taken(made) == ["1.1-aa-1"]


async def test_kind_is_not_looked_for_where_nothing_is_muted() -> None:
    state = topic()
    made = subscription(state)
    sent = LiveEvent(state, 1, log_envelope(state.name, 1, "notification", '{"kind":"message"}'))
    assert made.wants(sent)
    assert "kind" not in vars(sent.envelope)


async def waits(made: Subscription) -> asyncio.Task[None]:
    task = asyncio.create_task(made.wait())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_wait_returns_for_whatever_there_is_to_do() -> None:
    state = topic()
    made = subscription(state)
    for wake in (made.tick, made.fall_back, lambda: made.end("lifetime", 0)):
        made.due, made.live, made.ended = False, True, None
        task = await waits(made)
        wake()
        async with asyncio.timeout(5):
            await task
        assert made.waiter is None
        # And at once, as long as it is still to be done.
        async with asyncio.timeout(5):
            await made.wait()


async def test_wait_returns_when_an_event_is_delivered() -> None:
    state = topic()
    made = subscription(state)
    task = await waits(made)
    made.push(event(state, 1))
    made.flush()
    async with asyncio.timeout(5):
        await task


async def test_wait_that_is_cancelled_leaves_nothing() -> None:
    made = subscription(topic())
    task = await waits(made)
    task.cancel()
    await asyncio.wait([task])
    assert made.waiter is None
    made.wake()


class FakeFraming(Framing):
    """An event: its type, the length of the cursor, the cursor, a semicolon."""

    def __init__(self, envelope: Envelope, part: bytes) -> None:
        super().__init__(envelope, part)
        self.type = envelope.type

    @staticmethod
    def end(envelope: Envelope) -> bytes:
        return b";"

    def start(self, length: int) -> bytes:
        return f"{self.type} {length}:".encode()

    @staticmethod
    def encode(envelope: Envelope, cursor: str | None) -> bytes:
        text = cursor or ""
        return f"{envelope.type} {len(text)}:{text};".encode()


class OtherFraming(FakeFraming):
    """The same with a full stop."""

    @staticmethod
    def end(envelope: Envelope) -> bytes:
        return b"."


class BrokenFraming(FakeFraming):
    """One that has a mistake."""

    def start(self, length: int) -> bytes:
        raise OSError("connection lost")

    @staticmethod
    def encode(envelope: Envelope, cursor: str | None) -> bytes:
        raise OSError("connection lost")


class FakePort:
    """Where finished bytes go; it can be full."""

    def __init__(self) -> None:
        self.framing: type[Framing] = FakeFraming
        self.written: list[str] = []
        self.full = False

    def write(self, data: bytes) -> bool:
        if not self.full:
            self.written.append(data.decode())
        return not self.full


class Owner:
    """A stream's task that waits, and lets live events be written in its place."""

    def __init__(self, made: Subscription, port: FakePort | None = None) -> None:
        self.made = made
        self.port = port
        self.written: list[list[str]] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        self.made.writes_by(self.write, self.port)
        while self.made.ended is None and self.made.live:
            await self.made.wait()
            await self.made.finish()
            if frames := self.made.take():
                await self.write(frames)

    async def write(self, frames: Sequence[tuple[Envelope, str | None]]) -> None:
        if self.error is not None:
            raise self.error
        self.written.append([cursor or "" for _, cursor in frames])
        if self.gate is not None:
            await self.gate.wait()

    async def waiting(self) -> None:
        await eventually(lambda: self.made.waiter is not None, pause=0)

    def cursors(self) -> list[str]:
        """Return those of the frames that were written, by its port if it has one."""
        if self.port is None:
            return [cursor for frames in self.written for cursor in frames]
        return re.findall(":([^;]*);", "".join(self.port.written))


async def flush(made: Subscription) -> None:
    """Deliver as the hub does: outside of any task."""
    asyncio.get_running_loop().call_soon(made.flush)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_flush_writes_without_waking_the_task() -> None:
    state = topic()
    made = subscription(state)
    owner = Owner(made)
    await owner.waiting()
    waiter = made.waiter
    made.push(event(state, 1))
    made.push(event(state, 2))
    await flush(made)
    assert owner.written == [["1.1-aa-1", "1.1-aa-2"]]
    assert made.waiter is waiter
    await flush(made)
    assert len(owner.written) == 1
    made.end("lifetime", 0)
    await owner.task


async def test_flush_to_a_slow_client_is_finished_by_its_task() -> None:
    state = topic()
    made = subscription(state)
    owner = Owner(made)
    owner.gate = asyncio.Event()
    await owner.waiting()
    made.push(event(state, 1))
    await flush(made)
    made.push(event(state, 2))
    await flush(made)
    for _ in range(5):
        await asyncio.sleep(0)
    # The second waits for the first.
    assert owner.written == [["1.1-aa-1"]]
    owner.gate.set()
    await eventually(lambda: len(owner.written) == 2)
    assert owner.written == [["1.1-aa-1"], ["1.1-aa-2"]]
    made.end("lifetime", 0)
    await owner.task


async def test_flush_that_fails_ends_its_own_stream() -> None:
    state = topic()
    made = subscription(state)
    owner = Owner(made)
    owner.error = OSError("connection lost")
    await owner.waiting()
    made.push(event(state, 1))
    await flush(made)
    await asyncio.wait([owner.task])
    assert isinstance(owner.task.exception(), OSError)


# --- Many at once, past their tasks


async def delivered(*events: LiveEvent) -> None:
    """Deliver to all who read their topic, as the hub does."""
    readers = tuple(events[0].state.subscriptions)
    asyncio.get_running_loop().call_soon(deliver, readers, events)
    for _ in range(3):
        await asyncio.sleep(0)


async def served(*states: TopicState) -> tuple[Owner, FakePort]:
    port = FakePort()
    return await owned(*states, port=port), port


async def owned(*states: TopicState, port: FakePort | None) -> Owner:
    owner = Owner(subscription(*states), port)
    await owner.waiting()
    return owner


MakePort = Callable[[], FakePort | None]
#: With a way past ``send()``, and without.
BOTH_WAYS = pytest.mark.parametrize("port", [FakePort, lambda: None], ids=["port", "send"])


async def test_deliver_writes_to_the_port_of_each() -> None:
    own, common = topic("user:1", id=1), topic(id=2)
    readers = [await served(own, common), await served(common), *[await served(common) for _ in range(40)]]
    waiters = [owner.made.waiter for owner, _ in readers]
    for seq in (1, 2):
        await delivered(event(common, seq))
    await delivered(event(common, 3), event(common, 4))
    assert readers[0][1].written == [
        "ping 15:1.1-aa-0.2-aa-1;",
        "ping 15:1.1-aa-0.2-aa-2;",
        "ping 15:1.1-aa-0.2-aa-3;ping 15:1.1-aa-0.2-aa-4;",
    ]
    for owner, port in readers[1:]:
        assert port.written == ["ping 8:1.2-aa-1;", "ping 8:1.2-aa-2;", "ping 8:1.2-aa-3;ping 8:1.2-aa-4;"]
        assert owner.made.marks[common].seq == 4
    assert [owner.made.waiter for owner, _ in readers] == waiters  # Nobody was woken.


async def test_deliver_writes_to_each_in_its_own_form() -> None:
    state = topic()
    (_, port), (_, other), (_, third) = [await served(state) for _ in range(3)]
    other.framing = OtherFraming
    for seq in (1, 2):
        await delivered(event(state, seq))
    assert port.written == third.written == ["ping 8:1.1-aa-1;", "ping 8:1.1-aa-2;"]
    assert other.written == ["ping 8:1.1-aa-1;", "ping 8:1.1-aa-2."]  # The first went by encode().


async def test_deliver_without_a_port_writes_in_the_place_of_the_task() -> None:
    state = topic()
    owner = Owner(subscription(state))
    await owner.waiting()
    waiter = owner.made.waiter
    await delivered(event(state, 1))
    with mock.patch.object(Subscription, "push", side_effect=AssertionError("the long way")):
        await delivered(event(state, 2))
        await delivered(event(state, 3), event(state, 4))
    assert owner.written == [["1.1-aa-1"], ["1.1-aa-2"], ["1.1-aa-3", "1.1-aa-4"]]
    assert owner.made.marks[state].seq == 4
    assert owner.made.waiter is waiter  # Nobody was woken.


async def test_deliver_to_one_that_only_its_task_may_write_for_wakes_it() -> None:
    state = topic()
    made = subscription(state)
    for seq in (1, 2):
        task = await waits(made)
        await delivered(event(state, seq))
        await asyncio.wait_for(task, 5)
        assert [cursor for _, cursor in made.take()] == [f"1.1-aa-{seq}"]


async def test_deliver_without_a_port_to_a_slow_client_is_finished_by_its_task() -> None:
    state = topic()
    owner = Owner(subscription(state))
    await owner.waiting()
    await delivered(event(state, 1))
    owner.gate = asyncio.Event()
    for seq in (2, 3, 4):
        await delivered(event(state, seq))
    assert owner.written == [["1.1-aa-1"], ["1.1-aa-2"]]  # The others wait for it.
    owner.gate.set()
    await eventually(lambda: owner.written[2:] == [["1.1-aa-3", "1.1-aa-4"]])


async def test_deliver_without_a_port_to_one_that_goes_writes_nothing() -> None:
    state = topic()
    owner = Owner(subscription(state))
    await owner.waiting()
    await delivered(event(state, 1))
    asyncio.get_running_loop().call_soon(deliver, tuple(state.subscriptions), [event(state, 2)])
    owner.task.cancel()  # Which it hears of after that.
    await asyncio.wait([owner.task])
    assert owner.written == [["1.1-aa-1"]]
    assert owner.made.marks[state].seq == 1


@BOTH_WAYS
async def test_deliver_keeps_the_places_of_topics_that_have_the_same_numbers(
    port: Callable[[], FakePort | None],
) -> None:
    first, second = topic("a", id=1), topic("b", id=2)
    owner = await owned(first, second, port=port())
    for one in (event(second, 1), event(first, 1), event(second, 2), event(first, 2)):
        await delivered(one)
    assert owner.cursors() == ["1.1-aa-0.2-aa-1", "1.1-aa-1.2-aa-1", "1.1-aa-1.2-aa-2", "1.1-aa-2.2-aa-2"]


async def test_deliver_keeps_the_places_of_all_topics() -> None:
    first, second, third = topic("a", id=1), topic("b", id=2), topic("c", id=3)
    owner, port = await served(first, second, third)
    for one in (event(second, 1), event(second, 2), event(third, 1), event(first, 1), event(second, 3)):
        await delivered(one)
    assert port.written == [
        "ping 22:1.1-aa-0.2-aa-1.3-aa-0;",
        "ping 22:1.1-aa-0.2-aa-2.3-aa-0;",
        "ping 22:1.1-aa-0.2-aa-2.3-aa-1;",
        "ping 22:1.1-aa-1.2-aa-2.3-aa-1;",
        "ping 22:1.1-aa-1.2-aa-3.3-aa-1;",
    ]
    assert owner.made.cursor() == "1.1-aa-1.2-aa-3.3-aa-1"
    assert [mark.seq for mark in owner.made.marks.values()] == [1, 3, 1]
    assert owner.made.cursor() == "1.1-aa-1.2-aa-3.3-aa-1"
    assert owner.made.cursor_with(first, Mark(1, "aa", 9)) == "1.1-aa-9.2-aa-3.3-aa-1"


@pytest.mark.parametrize("before", [0, 1])
async def test_deliver_to_a_full_port_is_finished_by_the_task(before: int) -> None:
    state = topic()
    owner, port = await served(state)
    for seq in range(1, before + 1):
        await delivered(event(state, seq))
    port.full = True
    owner.gate = asyncio.Event()
    await delivered(event(state, before + 1), event(state, before + 2))
    await delivered(event(state, before + 3))
    assert owner.written == [[f"1.1-aa-{before + 1}", f"1.1-aa-{before + 2}"]]
    owner.gate.set()
    await eventually(lambda: len(owner.written) == 2)
    assert owner.written[1] == [f"1.1-aa-{before + 3}"]
    await owner.waiting()
    port.full = False
    await delivered(event(state, before + 4))
    assert port.written[-1] == f"ping 8:1.1-aa-{before + 4};"


@pytest.mark.parametrize("failing", ["framing", "write"])
@pytest.mark.parametrize("before", [0, 1])
async def test_deliver_that_fails_ends_one_stream_only(before: int, failing: str) -> None:
    state = topic()
    (owner, port), (_, other) = await served(state), await served(state)
    for seq in range(1, before + 1):
        await delivered(event(state, seq))
    broken = BrokenFraming if failing == "framing" else mock.Mock(side_effect=OSError("connection lost"))
    with mock.patch.object(port, failing, broken):
        await delivered(event(state, before + 1))
        await asyncio.wait([owner.task])
    assert isinstance(owner.task.exception(), OSError)
    if before:  # Before its first event, a stream's own task writes.
        assert owner.made.moved is not None and owner.made.moved.seq == before
    assert other.written[-1] == f"ping 8:1.1-aa-{before + 1};"
    await delivered(event(state, before + 2))  # Nobody is harmed by what comes before it has gone.
    assert other.written[-1] == f"ping 8:1.1-aa-{before + 2};"


async def test_deliver_that_fails_while_the_stream_is_awake_leaves_it_to_the_replay() -> None:
    state = topic()
    made = subscription(state)
    with mock.patch.object(Subscription, "push", side_effect=TypeError("a mistake")):
        await delivered(event(state, 1))
    assert not made.live
    assert made.marks[state].seq == 0


async def test_deliver_passes_over_what_a_replay_has_brought() -> None:
    state = topic(seen=2)
    _, port = await served(state)
    await delivered(event(state, 1), event(state, 2))
    assert port.written == []
    await delivered(event(state, 2), event(state, 3))
    assert port.written == ["ping 8:1.1-aa-3;"]


@BOTH_WAYS
@pytest.mark.parametrize("before", [0, 1])
async def test_deliver_that_shows_a_gap_leaves_it_to_the_log(before: int, port: MakePort) -> None:
    state = topic()
    owner = await owned(state, port=port())
    for seq in range(1, before + 1):
        await delivered(event(state, seq))
    await delivered(event(state, before + 2))
    assert len(owner.cursors()) == before
    assert not owner.made.live
    assert owner.made.marks[state].seq == before


async def test_deliver_of_much_is_divided_and_bounded() -> None:
    state = topic()
    owner, port = await served(state)
    await delivered(event(state, 1))
    await delivered(*[event(state, seq, size=20_000) for seq in range(2, 12)])
    assert [written.count(";") for written in port.written] == [1, 3, 3, 3, 1]
    port.full = True
    owner.gate = asyncio.Event()
    await delivered(*[event(state, seq) for seq in range(12, 112)])
    assert len(owner.written) == 1 and not owner.made.live  # The queue of three was full.
    owner.gate.set()
    await owner.task


@BOTH_WAYS
async def test_deliver_passes_over_what_is_muted(port: MakePort) -> None:
    state = topic()
    owner = await owned(state, port=port())
    await delivered(event(state, 1))
    owner.made.muted = frozenset({"news"})
    for seq, kind in ((2, "news"), (3, "message")):
        payload = f'{{"kind":"{kind}"}}'
        await delivered(LiveEvent(state, seq, log_envelope(state.name, seq, "notification", payload)))
    assert owner.cursors() == ["1.1-aa-1", "1.1-aa-3"]


@BOTH_WAYS
@pytest.mark.parametrize("reason", ["revoked", "lifetime"])
async def test_deliver_to_one_that_ends_writes_nothing(reason: str, port: MakePort) -> None:
    state = topic()
    owner = await owned(state, port=port())
    await delivered(event(state, 1))
    owner.made.end(reason)
    await delivered(event(state, 2))
    await owner.task
    assert owner.cursors() == ["1.1-aa-1"]
    assert owner.made.cursor() == "1.1-aa-1"


@BOTH_WAYS
async def test_deliver_to_one_that_is_not_live_leaves_it_to_the_replay(port: MakePort) -> None:
    state = topic()
    owner = await owned(state, port=port())
    await delivered(event(state, 1))
    owner.made.fall_back()
    await delivered(event(state, 2))
    assert owner.cursors() == ["1.1-aa-1"]
    assert owner.made.marks[state].seq == 1


async def test_heartbeat_goes_to_the_port() -> None:
    owner, port = await served(topic())
    assert owner.made.beat()
    owner.made.passed_over = True
    assert owner.made.beat()
    assert port.written == ["heartbeat 0:;", "heartbeat 8:1.1-aa-0;"]
