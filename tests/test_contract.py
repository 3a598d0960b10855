"""What every transport promises (docs/protocol.md), one suite for all three: SSE, WebSocket, polling.

The application is called in this process, as a server would; ``test_processes.py`` has the servers themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.test import Client as Browser
from django.utils import timezone

from notifications import anotify, inbox, log, notify, publish, recall, refresh_access
from notifications.access import Principal, authorize, cursor_for
from notifications.cursor import Position, format_cursor, parse_cursor
from notifications.models import Event as Row, Topic
from tests.asgi import application
from tests.clients import TRANSPORTS, Client, Ended, Event, InProcess, Opening, Refused, connect

T = TypeVar("T")

#: Two seconds are promised; a busy machine gets some more.
SOON = 5.0


class World:
    """Three people with their browsers, and the application."""

    def __init__(self) -> None:
        self.carrier = InProcess(application)
        self.users: dict[str, User] = {}
        self.browsers: dict[str, Browser] = {}

    def prepare(self) -> None:
        for name in ("alice", "bob", "sam"):
            self.users[name] = User.objects.create_user(name, password="password", is_staff=name == "sam")
            self.browsers[name] = Browser()
            self.browsers[name].force_login(self.users[name])

    def session(self, name: str) -> str:
        return self.browsers[name].cookies["sessionid"].value

    def connect(self, transport: str, name: str = "alice", cursor: str | None = None, **headers: str) -> Opening:
        return connect(transport, self.carrier, self.session(name), cursor, **headers)

    def topic(self, name: str) -> str:
        return f"user:{self.users[name].pk}"

    async def notify(self, to: str, *titles: str) -> None:
        """Notify a user of the world, or a topic."""
        for title in titles:
            await anotify(self.users.get(to, to), title)


async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a synchronous function where Django wants it."""
    return await sync_to_async(function)(*args, **kwargs)


@pytest.fixture
def layer(request: pytest.FixtureRequest, settings: Any) -> None:
    """The channel layer: in memory, or a real Redis where a test asks for it."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    if getattr(request, "param", "memory") == "redis":
        url = request.getfixturevalue("redis_server").url
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [url]}}
        }


@pytest.fixture
async def world(layer: None, serving: None) -> AsyncIterator[World]:
    world = World()
    await run(world.prepare)
    yield world


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


both_layers = pytest.mark.parametrize("layer", ["memory", "redis"], indirect=True)


def titles(events: list[Event]) -> list[str]:
    return [event.data["title"] for event in events]


async def next_titles(client: Client, count: int) -> list[str]:
    return titles([await client.next() for _ in range(count)])


def resets(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.data["topic"], event.data["reason"]) for event in events if event.type == "reset"]


# --- The beginning


async def test_ready_is_first(world: World, transport: str) -> None:
    await world.notify("alice", "one", "two")
    async with world.connect(transport) as client:
        assert client.ready.type == "ready"
        data = client.ready.data
        assert data.keys() >= {"cursor", "unread", "heartbeat", "connection", "transport"}
        assert data["cursor"] == client.ready.cursor == await run(cursor_for, world.users["alice"])
        assert (data["unread"], data["heartbeat"], data["transport"]) == (2, 15000, transport)
        assert data["connection"]


async def test_ready_of_each_connection_has_another_id(world: World, transport: str) -> None:
    async with world.connect(transport) as one, world.connect(transport) as other:
        assert one.ready.data["connection"] != other.ready.data["connection"]


async def test_without_a_cursor_nothing_is_replayed(world: World, transport: str) -> None:
    await world.notify("alice", "before")
    async with world.connect(transport) as client:
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]


async def test_cursor_rendered_into_a_page_leaves_no_gap(world: World, transport: str) -> None:
    cursor = await run(cursor_for, world.users["alice"])
    await world.notify("alice", "between")
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["between"]


async def test_cursor_from_before_the_first_event_of_all(world: World, transport: str) -> None:
    cursor = await run(cursor_for, world.users["alice"])
    assert cursor == "1"
    await world.notify("everyone", "first")
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["first"]
        await world.notify("everyone", "second")
        assert await next_titles(client, 1) == ["second"]


# --- Events


@both_layers
async def test_event_comes_with_cursor_and_payload(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        row = await anotify(world.users["alice"], "Your order shipped", "by post", kind="order.shipped", url="/o/9/")
        event = await client.next()
        assert event.type == "notification"
        assert event.data == {
            "seq": 1,
            "topic": world.topic("alice"),
            "id": row.pk,
            "kind": "order.shipped",
            "level": "info",
            "title": "Your order shipped",
            "body": "by post",
            "url": "/o/9/",
            "data": {},
            "tag": "",
            "created_at": row.created_at.isoformat(),
        }
        (position,) = parse_cursor(event.cursor).values()
        topic = await Topic.objects.aget()
        assert position == Position(topic.pk, topic.epoch, 1)


@both_layers
async def test_event_of_each_topic_of_a_person(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await run(world.users["sam"].groups.add, group)
    topics = [world.topic("sam"), "everyone", "staff", f"group:{group.pk}"]
    async with world.connect(transport, "sam") as client:
        for topic in topics:
            await anotify(topic, f"to {topic}")
        events = [await client.next() for _ in topics]
        assert {event.data["topic"] for event in events} == set(topics)
        assert {event.data["seq"] for event in events} == {1}


async def test_event_of_a_site_s_own_type(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        await run(publish, world.users["alice"], "order.progress", {"percent": 40})
        event = await client.next()
        assert (event.type, event.data) == (
            "order.progress",
            {"seq": 1, "topic": world.topic("alice"), "percent": 40},
        )


async def test_event_of_a_site_s_own_topic(world: World, transport: str, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_contract.own_topics"}
    async with world.connect(transport) as client:
        await world.notify("order:bob", "for bob")
        await world.notify("order:alice", "for alice")
        assert await next_titles(client, 1) == ["for alice"]


def own_topics(user: User) -> list[str]:
    return [f"order:{user.username}"]


async def test_read_seen_and_recalled(world: World, transport: str) -> None:
    alice = world.users["alice"]
    async with world.connect(transport) as client:
        row = await anotify(alice, "one")
        assert (await client.next()).type == "notification"
        await run(inbox.mark_read, alice, [row.pk])
        read = await client.next()
        assert (read.type, read.data["ids"], read.data["read"], read.data["unread"]) == ("read", [row.pk], True, 0)
        await run(inbox.archive, alice, [row.pk])
        archived = await client.next()
        assert (archived.type, archived.data["ids"], archived.data["archived"]) == ("archived", [row.pk], True)
        await run(recall, row)
        recalled = await client.next()
        assert (recalled.type, recalled.data["ids"]) == ("recalled", [row.pk])
        assert [event.data["seq"] for event in (read, archived, recalled)] == [2, 3, 4]


async def test_order_of_a_topic_is_kept(world: World, transport: str) -> None:
    async with world.connect(transport) as client:

        def publish_many() -> None:
            for number in range(100):
                with transaction.atomic():
                    publish("everyone", "count", {"number": number})

        await run(publish_many)
        events = [await client.next() for _ in range(100)]
        assert [event.data["seq"] for event in events] == list(range(1, 101))
        assert [event.data["number"] for event in events] == list(range(100))


def notify_together(user: User, titles: list[str]) -> None:
    with transaction.atomic():
        for title in titles:
            notify(user, title)


async def test_burst_beyond_the_queue_arrives_at_once(world: World, transport: str, settings: Any) -> None:
    # No heartbeat comes to the rescue of a stream that nobody woke.
    settings.NOTIFICATIONS = {"QUEUE_EVENTS": 10, "HEARTBEAT": 3600.0}
    expected = [f"number {number}" for number in range(60)]
    async with world.connect(transport) as client:
        await run(notify_together, world.users["alice"], expected)
        assert await next_titles(client, len(expected)) == expected
        await world.notify("alice", "afterwards")
        assert await next_titles(client, 1) == ["afterwards"]


async def test_failure_of_the_site_s_function_for_one_user_is_that_user_s_only(world: World, settings: Any) -> None:
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_contract.topics_that_fail_for_bob"}
    both = [Principal(world.users[name].pk) for name in ("alice", "bob")]
    answer = await run(authorize, both)
    assert [access is not None and bool(access.topics) for access in answer.values()] == [True, False]
    with pytest.raises(Refused) as refused:
        await world.connect("sse", "bob")
    assert refused.value.code == 503
    async with world.connect("sse", "alice") as client:
        assert client.ready.type == "ready"


def topics_that_fail_for_bob(user: User) -> list[str]:
    if user.username == "bob":
        raise RuntimeError("nobody knows")
    return []


@both_layers
async def test_rollback_delivers_nothing(world: World, transport: str) -> None:
    def rolled_back() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            notify(world.users["alice"], "never")
            raise ZeroDivisionError
        with transaction.atomic():
            notify(world.users["alice"], "one")
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                notify(world.users["alice"], "neither")
                raise ZeroDivisionError
            notify(world.users["alice"], "two")

    async with world.connect(transport) as client:
        await run(rolled_back)
        events = [await client.next(), await client.next()]
        assert titles(events) == ["one", "two"]
        assert [event.data["seq"] for event in events] == [1, 2]


AWKWARD = [
    "a\nb\r\nc\rd",
    "\n\nid: 666\nevent: bye\ndata: {}\n\n",
    "\u2028\u2029\x85\x0b\x0c\x1c",
    "\ufeff\u202eevil\u202c",
    "🔔 ünïcödé \U0001f469\u200d\U0001f680",
    '"}]}\\',
    "</script><script>alert(1)</script>",
    "%0a%0d%00",
]


async def test_awkward_text_arrives_as_it_was_sent(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        for text in AWKWARD:
            await anotify("everyone", f"t {text}", text, data={text: [text]})
        events = [await client.next() for _ in AWKWARD]
    async with world.connect(transport, cursor=client.ready.cursor) as again:
        replayed = [await again.next() for _ in AWKWARD]
    for found in (events, replayed):
        assert [event.data["title"] for event in found] == [f"t {text}" for text in AWKWARD]
        assert [event.data["body"] for event in found] == AWKWARD
        assert [event.data["data"] for event in found] == [{text: [text]} for text in AWKWARD]


async def test_nul_in_a_site_s_own_event(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        await run(publish, "everyone", "raw", {"a\0": "b\0"})
        assert (await client.next()).data["a\0"] == "b\0"


# --- Resuming


@both_layers
async def test_resume_is_exactly_what_came_in_between(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        await world.notify("alice", "one")
        await world.notify("everyone", "two")
        await next_titles(client, 2)
    await world.notify("alice", "three", "four")
    await world.notify("everyone", "five")
    await world.notify("bob", "not for alice")
    async with world.connect(transport, cursor=client.cursor) as again:
        assert set(await next_titles(again, 3)) == {"three", "four", "five"}
        await world.notify("alice", "six")
        assert await next_titles(again, 1) == ["six"]
    async with world.connect(transport, cursor=again.cursor) as last:
        await world.notify("alice", "seven")
        assert await next_titles(last, 1) == ["seven"]


@pytest.mark.parametrize("other", TRANSPORTS)
async def test_cursor_of_one_transport_resumes_another(world: World, transport: str, other: str) -> None:
    async with world.connect(transport) as client:
        await world.notify("alice", "one")
        await next_titles(client, 1)
    await world.notify("alice", "two", "three")
    async with world.connect(other, cursor=client.cursor) as again:
        assert await next_titles(again, 2) == ["two", "three"]


async def test_cursor_of_each_event_resumes_right_after_it(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        for number in range(4):
            await world.notify(("alice", "everyone")[number % 2], f"{number}")
        events = [await client.next() for _ in range(4)]
    for at, event in enumerate(events):
        left = events[at + 1 :]
        async with world.connect(transport, cursor=event.cursor) as again:
            assert set(await next_titles(again, len(left))) == set(titles(left))
            assert parse_cursor(again.cursor) == parse_cursor(events[-1].cursor)


async def test_ready_of_a_resumed_stream(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    cursor = await run(cursor_for, world.users["alice"])
    async with world.connect(transport, cursor=cursor) as client:
        assert client.ready.cursor == cursor
        # A stream leaves the count to its client, which has kept it; a poll always tells it.
        assert client.ready.data["unread"] == (1 if transport == "polling" else None)


async def test_long_absence_is_read_in_pieces(world: World, transport: str) -> None:
    await world.notify("everyone", "first")
    cursor = await run(cursor_for, world.users["alice"])

    def publish_many() -> None:
        with transaction.atomic():
            for number in range(450):
                publish("everyone", "count", {"number": number})

    await run(publish_many)
    async with world.connect(transport, cursor=cursor) as client:
        events = [await client.next() for _ in range(450)]
        assert [event.data["number"] for event in events] == list(range(450))
        await world.notify("everyone", "last")
        assert await next_titles(client, 1) == ["last"]


async def test_last_event_id_wins_over_the_address(world: World) -> None:
    await world.notify("alice", "one", "two")
    topic = await Topic.objects.aget()
    old, new = (format_cursor([Position(topic.pk, topic.epoch, seq)]) for seq in (0, 1))
    async with world.connect("sse", cursor=old, last_event_id=new) as client:
        assert await next_titles(client, 1) == ["two"]


# --- Cursors that are wrong


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "0",
        "1.",
        "2.1-aa-1",
        "1.1-aa-1-",
        "1.1-AA-1",
        "1.1--1",
        "1.9999999999999999999-a-1",
        "1.1-aa-1\n",
        "é",
        "\0",
    ],
)
async def test_malformed_cursor_is_one_reset(world: World, transport: str, cursor: str) -> None:
    await world.notify("alice", "before")
    async with world.connect(transport, cursor=cursor) as client:
        assert resets([await client.next()]) == [("*", "malformed")]
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]
    async with world.connect(transport, cursor=client.cursor) as again:
        await world.notify("alice", "later")
        assert await next_titles(again, 1) == ["later"]


async def test_cursor_that_is_too_long_is_refused(world: World, transport: str) -> None:
    cursor = format_cursor([Position(number, "a", 1) for number in range(10**9, 10**9 + 300)])
    assert len(cursor) > 4096
    with pytest.raises(Refused) as refused:
        await world.connect(transport, cursor=cursor)
    assert refused.value.code == (4400 if transport == "websocket" else 400)


async def test_cursor_with_every_topic_there_is_shows_one_s_own_only(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    for to in ("bob", "staff", f"group:{group.pk}", "order:9", "alice", "everyone"):
        await world.notify(to, f"to {to}")
    forged = format_cursor([Position(topic.pk, topic.epoch, 0) async for topic in Topic.objects.all()])
    async with world.connect(transport, cursor=forged) as client:
        assert set(await next_titles(client, 2)) == {"to alice", "to everyone"}
        # The answer does not even tell that the others exist.
        assert set(parse_cursor(client.cursor)) == {
            topic.pk async for topic in Topic.objects.filter(name__in=[world.topic("alice"), "everyone"])
        }
        await world.notify("alice", "last")
        assert await next_titles(client, 1) == ["last"]


async def test_cursor_of_somebody_else(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    await world.notify("bob", "two")
    await world.notify("everyone", "three")
    cursor = await run(cursor_for, world.users["bob"])
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["one"]
        await world.notify("bob", "four")
        await world.notify("alice", "five")
        assert await next_titles(client, 1) == ["five"]


async def test_topics_of_others_never_arrive(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        group = await Group.objects.acreate(name="editors")
        for to in ("bob", "staff", f"group:{group.pk}", "order:9", "user:0", f"user:{world.users['alice'].pk}0"):
            await world.notify(to, f"to {to}")
        await world.notify("alice", "to alice")
        assert await next_titles(client, 1) == ["to alice"]


async def test_topics_named_in_the_address_are_ignored(world: World) -> None:
    for path in ("/notifications/stream/", "/notifications/events/"):
        address = f"{path}?topic=staff&topics=staff&user={world.users['bob'].pk}"
        async with world.carrier.get(address, {"cookie": f"sessionid={world.session('alice')}"}) as response:
            chunk = (await anext(response.chunks)).decode()
            assert response.status == 200 and "staff" not in chunk and world.topic("bob") not in chunk


# --- Those who join and leave


async def test_who_joins_later_does_not_see_what_was_said_before(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await world.notify(f"group:{group.pk}", "old one", "old two")
    topic = await Topic.objects.aget()
    before = await run(cursor_for, world.users["alice"])
    await run(world.users["alice"].groups.add, group)
    await world.notify(f"group:{group.pk}", "new")
    forged = format_cursor([Position(topic.pk, topic.epoch, 0)])
    for cursor in (before, forged):
        async with world.connect(transport, cursor=cursor) as client:
            event = await client.next()
            assert (event.data["title"], event.data["seq"]) == ("new", 3)


async def test_who_leaves_does_not_see_what_is_said_after(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await run(world.users["alice"].groups.add, group)
    await world.notify(f"group:{group.pk}", "member")
    cursor = await run(cursor_for, world.users["alice"])
    await run(world.users["alice"].groups.remove, group)
    await world.notify(f"group:{group.pk}", "secret")
    async with world.connect(transport, cursor=cursor) as client:
        await world.notify(f"group:{group.pk}", "secret, too")
        await world.notify("alice", "marker")
        assert await next_titles(client, 1) == ["marker"]


async def test_who_comes_back_does_not_see_what_was_said_meanwhile(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await run(world.users["alice"].groups.add, group)
    await world.notify(f"group:{group.pk}", "member")
    cursor = await run(cursor_for, world.users["alice"])
    await run(world.users["alice"].groups.remove, group)
    await world.notify(f"group:{group.pk}", "secret")
    await run(group.user_set.add, world.users["alice"])
    await world.notify(f"group:{group.pk}", "member again")
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["member again"]


async def test_who_becomes_staff_begins_there(world: World, transport: str) -> None:
    await world.notify("staff", "before")
    cursor = await run(cursor_for, world.users["alice"])
    alice = await User.objects.aget(username="alice")
    alice.is_staff = True
    await alice.asave()
    await world.notify("staff", "after")
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["after"]


# --- Reset


async def test_reset_for_another_epoch(world: World, transport: str) -> None:
    await world.notify("alice", "one", "two")
    await world.notify("everyone", "three")
    cursor = await run(cursor_for, world.users["alice"])
    await run(log.rotate_epoch)
    async with world.connect(transport, cursor=cursor) as client:
        found = resets([await client.next(), await client.next()])
        assert sorted(found) == sorted([(world.topic("alice"), "epoch"), ("everyone", "epoch")])
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]
    async with world.connect(transport, cursor=client.cursor) as again:
        await world.notify("alice", "later")
        assert await next_titles(again, 1) == ["later"]


@both_layers
async def test_reset_of_an_open_stream_when_the_epoch_changes(world: World, transport: str) -> None:
    await world.notify("alice", "one", "two")
    async with world.connect(transport) as client:
        await run(log.rotate_epoch, [world.topic("alice")])
        assert resets([await client.next()]) == [(world.topic("alice"), "epoch")]
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]


async def test_reset_below_the_floor(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    cursor = await run(cursor_for, world.users["alice"])
    await world.notify("alice", "two", "three", "four")
    await Row.objects.filter(seq__lte=3).aupdate(created_at=timezone.now() - timedelta(days=30))
    assert await run(log.trim) == 3
    async with world.connect(transport, cursor=cursor) as client:
        assert resets([await client.next()]) == [(world.topic("alice"), "floor")]
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]


async def test_no_reset_right_at_the_floor(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    cursor = await run(cursor_for, world.users["alice"])
    await world.notify("alice", "two")
    await Row.objects.filter(seq=1).aupdate(created_at=timezone.now() - timedelta(days=30))
    assert await run(log.trim) == 1
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 1) == ["two"]


async def test_reset_when_the_whole_log_was_trimmed(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    cursor = await run(cursor_for, world.users["alice"])
    await world.notify("alice", "two")
    await Row.objects.aupdate(created_at=timezone.now() - timedelta(days=30))
    assert await run(log.trim) == 2
    async with world.connect(transport, cursor=cursor) as client:
        assert resets([await client.next()]) == [(world.topic("alice"), "floor")]
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]


async def test_reset_when_the_client_is_ahead(world: World, transport: str) -> None:
    await world.notify("alice", "one")
    topic = await Topic.objects.aget()
    cursor = format_cursor([Position(topic.pk, topic.epoch, 999)])
    async with world.connect(transport, cursor=cursor) as client:
        assert resets([await client.next()]) == [(world.topic("alice"), "ahead")]
        await world.notify("alice", "after")
        assert await next_titles(client, 1) == ["after"]


async def test_reset_for_a_forged_epoch_shows_nothing_from_before_joining(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await world.notify(f"group:{group.pk}", "old")
    topic = await Topic.objects.aget()
    await run(world.users["alice"].groups.add, group)
    async with world.connect(transport, cursor=f"1.{topic.pk}-zzz-0") as client:
        assert resets([await client.next()]) == [(f"group:{group.pk}", "epoch")]
        await world.notify(f"group:{group.pk}", "new")
        assert await next_titles(client, 1) == ["new"]


# --- Who may not


async def test_anonymous_is_refused(world: World, transport: str) -> None:
    for session in (None, "", "0" * 32, "x" * 5000, world.session("alice")[:-1] + "!"):
        with pytest.raises(Refused) as refused:
            await connect(transport, world.carrier, session)
        assert refused.value.code == (4401 if transport == "websocket" else 401)


async def test_session_that_has_expired_is_refused(world: World, transport: str) -> None:
    await Session.objects.filter(pk=world.session("alice")).aupdate(expire_date=timezone.now() - timedelta(seconds=1))
    with pytest.raises(Refused) as refused:
        await world.connect(transport)
    assert refused.value.code in (401, 4401)


async def test_inactive_user_is_refused(world: World, transport: str) -> None:
    await User.objects.filter(username="alice").aupdate(is_active=False)
    with pytest.raises(Refused) as refused:
        await world.connect(transport)
    assert refused.value.code in (401, 4401)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://testserver", "http://testserver:81", "http://testserver.evil", "null"]
)
@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_foreign_origin_is_refused(world: World, transport: str, origin: str) -> None:
    with pytest.raises(Refused) as refused:
        await world.connect(transport, origin=origin)
    assert refused.value.code == 403


async def test_missing_origin_is_refused_where_browsers_send_one(world: World) -> None:
    with pytest.raises(Refused) as refused:
        await world.connect("websocket", origin="")
    assert refused.value.code == 403
    async with world.connect("sse") as client:
        assert client.ready.type == "ready"


async def test_own_origin_is_welcome(world: World, transport: str) -> None:
    async with world.connect(transport, origin="http://testserver") as client:
        assert client.ready.type == "ready"


# --- Who may not any more


async def log_out(world: World) -> None:
    await run(world.browsers["alice"].logout)


async def delete_session(world: World) -> None:
    await Session.objects.filter(pk=world.session("alice")).adelete()
    await run(refresh_access, [world.users["alice"]])


async def deactivate(world: World) -> None:
    alice = await User.objects.aget(username="alice")
    alice.is_active = False
    await alice.asave()


async def change_password(world: World) -> None:
    alice = await User.objects.aget(username="alice")
    alice.set_password("another")
    await alice.asave()


async def delete_user(world: World) -> None:
    await (await User.objects.aget(username="alice")).adelete()


@both_layers
@pytest.mark.parametrize("how", [log_out, delete_session, deactivate, change_password, delete_user])
async def test_revoked_stream_ends_soon_and_nothing_comes_after(
    world: World, transport: str, how: Callable[[World], Any]
) -> None:
    session, topic = world.session("alice"), world.topic("alice")
    async with world.connect(transport) as client:
        await world.notify("alice", "one")
        await next_titles(client, 1)
        await how(world)
        revoked = asyncio.get_running_loop().time()
        rest = await client.rest()
        took = asyncio.get_running_loop().time() - revoked
        if transport == "polling":
            assert rest == []
        else:
            assert [(event.type, event.data) for event in rest] == [("bye", {"reason": "revoked", "retry": None})]
            assert took < SOON
        with pytest.raises(Ended) as ended:
            await client.next()
        assert ended.value.code == {"sse": None, "websocket": 4401, "polling": 401}[transport]
    await world.notify(topic, "secret")
    with pytest.raises(Refused) as refused:
        await connect(transport, world.carrier, session, client.cursor)
    assert refused.value.code in (401, 4401)


@both_layers
async def test_open_stream_of_somebody_who_leaves_a_group(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await run(world.users["alice"].groups.add, group)
    async with world.connect(transport) as client:
        await world.notify(f"group:{group.pk}", "member")
        await next_titles(client, 1)
        await run(world.users["alice"].groups.remove, group)
        if transport != "polling":
            async with asyncio.timeout(SOON):
                rest = await client.rest()
            # Come back at once: it is the other topics that are still to be read.
            assert [(event.type, event.data) for event in rest] == [("bye", {"reason": "access", "retry": 0})]
    await world.notify(f"group:{group.pk}", "secret")
    await world.notify("alice", "marker")
    async with world.connect(transport, cursor=client.cursor) as again:
        assert await next_titles(again, 1) == ["marker"]


async def test_open_stream_of_somebody_who_joins_a_group(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    async with world.connect(transport) as client:
        await run(group.user_set.add, world.users["alice"])
        if transport != "polling":
            async with asyncio.timeout(SOON):
                assert [event.type for event in await client.rest()] == ["bye"]
    await world.notify(f"group:{group.pk}", "welcome")
    async with world.connect(transport, cursor=client.cursor) as again:
        assert await next_titles(again, 1) == ["welcome"]


async def test_deleted_group_ends_what_it_was_read_by(world: World, transport: str) -> None:
    group = await Group.objects.acreate(name="editors")
    await run(world.users["alice"].groups.add, group)
    cursor = await run(cursor_for, world.users["alice"])
    topic = f"group:{group.pk}"
    await world.notify(topic, "member")
    async with world.connect(transport) as client:
        await group.adelete()
        if transport != "polling":
            async with asyncio.timeout(SOON):
                assert [event.type for event in await client.rest()] == ["bye"]
    await world.notify(topic, "secret")
    await world.notify("alice", "marker")
    async with world.connect(transport, cursor=cursor) as again:
        assert await next_titles(again, 1) == ["marker"]


async def test_logout_ends_that_session_s_streams_only(world: World, transport: str) -> None:
    other = Browser()
    await run(other.force_login, world.users["alice"])
    async with connect(transport, world.carrier, other.cookies["sessionid"].value) as client:
        async with world.connect(transport) as leaving:
            await log_out(world)
            if transport != "polling":
                await leaving.rest()
        await world.notify("alice", "still here")
        assert await next_titles(client, 1) == ["still here"]
