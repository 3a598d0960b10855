"""What a person wants: kinds that are muted, how they are told, as a page, as JSON, and on every transport at once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.template import Context, Template
from django.test import Client as Browser, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from notifications import anotify, inbox, notify
from notifications.access import authorize, cursor_for, principal_of, user_topic
from notifications.cursor import Position, parse_cursor
from notifications.envelope import log_envelope
from notifications.kinds import Kind, declared, mutable
from notifications.models import Event, Preference
from notifications.preferences import as_json, change_preferences, preferences, transports
from notifications.subscription import LiveEvent, Subscription, TopicState
from tests.asgi import application
from tests.clients import TRANSPORTS, Client, InProcess, Opening, connect

KINDS: dict[str, Any] = {
    "order.shipped": {"label": _("Saturday"), "description": "When a parcel leaves us."},
    "broadcast": {"label": "Announcements"},
    "account.security": {"label": "Security", "mandatory": True},
}
DEFAULTS = {"muted": [], "transport": "auto", "toasts": True, "sound": False, "system": False}
JSON = {"accept": "application/json"}


@pytest.fixture(autouse=True)
def kinds(settings: Any) -> None:
    settings.NOTIFICATIONS = {"KINDS": KINDS}


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def browser_of_alice(alice: User) -> Browser:
    browser = Browser()
    browser.force_login(alice)
    return browser


def address() -> str:
    return reverse("notifications:preferences")


def titles(user: User, status: inbox.Status = "all") -> list[str]:
    return [row.notification.title for row in inbox.page(user, status).rows]


# --- Kinds


def test_declared_kinds_are_in_the_order_and_language_of_the_site() -> None:
    with translation.override("de"):
        assert declared() == [
            Kind("order.shipped", "Samstag", "When a parcel leaves us."),
            Kind("broadcast", "Announcements"),
            Kind("account.security", "Security", mandatory=True),
        ]


def test_kind_without_a_label_goes_by_its_name(settings: Any) -> None:
    settings.NOTIFICATIONS = {"KINDS": {"order.shipped": {}}}
    assert declared() == [Kind("order.shipped", "order.shipped")]


def test_mandatory_kinds_are_not_mutable() -> None:
    assert mutable() == {"order.shipped", "broadcast"}


# --- Choosing


def test_who_never_chose_has_the_defaults_and_no_row(alice: User) -> None:
    assert as_json(preferences(alice)) == DEFAULTS
    assert not Preference.objects.exists()


def test_choice_is_kept_and_leaves_the_rest(alice: User, bob: User) -> None:
    change_preferences(alice, muted=["order.shipped"], transport="websocket")
    change_preferences(alice, toasts=False, sound=True, system=True)
    chosen = {"muted": ["order.shipped"], "transport": "websocket", "toasts": False, "sound": True, "system": True}
    assert as_json(preferences(alice)) == chosen
    assert as_json(preferences(bob)) == DEFAULTS
    change_preferences(alice, **DEFAULTS)
    assert as_json(preferences(alice)) == DEFAULTS


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"muted": ["account.security"]}, "“account.security” can not be muted"),
        ({"muted": ["order.shipped", "unheard.of"]}, "“unheard.of” can not be muted"),
        ({"muted": "order.shipped"}, "is a list"),
        ({"muted": [1]}, "is a list"),
        ({"muted": None}, "is a list"),
        ({"transport": "pigeon"}, "Choose one of: auto, sse, websocket, polling"),
        ({"transport": None}, "Choose one of"),
        ({"transport": ["sse"]}, "Choose one of"),
        ({"toasts": "yes"}, "“toasts” is true or false"),
        ({"sound": 1}, "“sound” is true or false"),
        ({"system": None}, "“system” is true or false"),
    ],
)
def test_what_can_not_be_chosen_is_refused_and_changes_nothing(values: dict[str, Any], error: str, alice: User) -> None:
    with pytest.raises(ValueError, match=error):
        change_preferences(alice, **values)
    assert not Preference.objects.exists()
    assert not Event.objects.exists()


def test_what_is_no_preference_is_refused(alice: User) -> None:
    with pytest.raises(TypeError, match="no preference “user_id”"):
        change_preferences(alice, user_id=7)


def test_transport_that_the_site_does_not_offer(alice: User, settings: Any) -> None:
    change_preferences(alice, transport="sse")
    settings.NOTIFICATIONS = {"TRANSPORTS": ["polling"]}
    assert transports() == ["auto", "polling"]
    assert as_json(preferences(alice))["transport"] == "auto"
    with pytest.raises(ValueError, match="Choose one of: auto, polling"):
        change_preferences(alice, transport="sse")


def test_kind_that_became_mandatory_is_muted_no_more(alice: User, settings: Any) -> None:
    change_preferences(alice, muted=["order.shipped", "broadcast"])
    notify(alice, "now", kind="order.shipped")
    settings.NOTIFICATIONS = {"KINDS": {"order.shipped": {"mandatory": True}}}
    assert preferences(alice).muted_kinds == frozenset()
    assert titles(alice) == ["now"]


def test_change_is_published_with_the_counts_after_it(alice: User) -> None:
    notify(alice, "one", kind="order.shipped")
    notify(alice, "two")
    change_preferences(alice, muted=["order.shipped"], sound=True)
    event = Event.objects.get(type="preferences")
    assert event.topic == user_topic(alice)
    chosen = {**DEFAULTS, "muted": ["order.shipped"], "sound": True}
    assert json.loads(event.payload) == {**chosen, "unread": 1, "unseen": 1}


def test_nothing_changed_nothing_published(alice: User) -> None:
    change_preferences(alice, **DEFAULTS)
    assert not Event.objects.exists()
    change_preferences(alice, sound=True)
    change_preferences(alice, sound=True)
    assert Event.objects.count() == 1


# --- The inbox


def test_muted_kind_is_in_no_list_and_in_no_count(alice: User, bob: User) -> None:
    for user in (alice, bob):
        notify(user, "kept", kind="message")
        notify(user, "muted", kind="order.shipped")
    notify("everyone", "shared", kind="broadcast")
    archived = notify(alice, "archived", kind="order.shipped")
    inbox.archive(alice, [archived.pk])
    change_preferences(alice, muted=["order.shipped", "broadcast"])
    assert titles(alice) == titles(alice, "unread") == ["kept"]
    assert titles(alice, "archived") == []
    assert inbox.counts(alice) == inbox.Counts(1, 1)
    assert inbox.Inbox(alice).kinds() == ["account.security", "message"]
    assert titles(bob) == ["shared", "muted", "kept"]
    assert inbox.counts(bob) == inbox.Counts(3, 3)


def test_what_was_muted_is_back_as_it_was(alice: User) -> None:
    read, unread = (notify(alice, title, kind="order.shipped") for title in ("read", "unread"))
    inbox.mark_read(alice, [read.pk])
    change_preferences(alice, muted=["order.shipped"])
    notify(alice, "meanwhile", kind="order.shipped")
    change_preferences(alice, muted=[])
    assert titles(alice) == ["meanwhile", "unread", "read"]
    assert titles(alice, "unread") == ["meanwhile", unread.title]


def test_muting_asks_nothing_of_a_site_where_nothing_can_be_muted(alice: User, settings: Any) -> None:
    change_preferences(alice, muted=["order.shipped"])
    settings.NOTIFICATIONS = {"KINDS": {"order.shipped": {"mandatory": True}}}
    principal = principal_of(alice, None)
    with CaptureQueriesContext(connection) as queries:
        inbox.counts(alice)
        authorize([principal])
    assert not [query for query in queries if "notifications_preference" in query["sql"]]


@pytest.mark.django_db
def test_muted_kinds_of_many_are_one_query(django_assert_num_queries: Any) -> None:
    users = [User.objects.create_user(f"user {number}") for number in range(5)]
    change_preferences(users[2], muted=["broadcast"])
    principals = [principal_of(user, None) for user in users]
    with django_assert_num_queries(4):  # Users, groups, memberships, preferences; they have no sessions.
        answer = authorize(principals)
    muted = [access.muted for principal in principals if (access := answer[principal]) is not None]
    assert muted == [frozenset(), frozenset(), {"broadcast"}, frozenset(), frozenset()]


# --- As JSON


def test_preferences_as_json(browser_of_alice: Browser, alice: User) -> None:
    change_preferences(alice, muted=["broadcast"])
    response = browser_of_alice.get(address(), headers=JSON)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    with translation.override("en"):
        assert response.json() == {
            **DEFAULTS,
            "muted": ["broadcast"],
            "transports": ["auto", "sse", "websocket", "polling"],
            "kinds": [
                {
                    "kind": kind.name,
                    "label": kind.label,
                    "description": kind.description,
                    "mandatory": kind.mandatory,
                    "muted": kind.name == "broadcast",
                }
                for kind in declared()
            ],
        }


def post_json(browser: Browser, body: Any, **extra: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return browser.post(address(), text, content_type="application/json", headers=JSON, **extra)


def test_json_object_changes_what_it_names(browser_of_alice: Browser, alice: User) -> None:
    change_preferences(alice, sound=True)
    response = post_json(browser_of_alice, {"muted": ["order.shipped"], "toasts": False})
    assert response.status_code == 200
    assert response.json()["muted"] == ["order.shipped"]
    chosen = {**DEFAULTS, "muted": ["order.shipped"], "toasts": False, "sound": True}
    assert as_json(preferences(alice)) == chosen


@pytest.mark.parametrize(
    "body",
    [
        {"muted": ["account.security"]},
        {"muted": {"order.shipped": True}, "transport": "pigeon"},
        {"user": 7},
        [],
        "",
        "{",
        "[" * 100_000,
        '{"sound": NaN}',
    ],
)
def test_json_that_can_not_be_is_400_with_a_sentence(body: Any, browser_of_alice: Browser) -> None:
    response = post_json(browser_of_alice, body)
    assert response.status_code == 400
    assert response.json()["error"]
    assert not Preference.objects.exists()


def test_stranger_gets_401_or_the_login(db: None) -> None:
    assert Browser().get(address(), headers=JSON).status_code == 401
    assert post_json(Browser(), {"sound": True}).status_code == 401
    assert Browser().get(address())["Location"] == f"/accounts/login/?next={address()}"


def test_change_without_a_csrf_token_is_403(alice: User) -> None:
    browser = Browser(enforce_csrf_checks=True)
    browser.force_login(alice)
    assert browser.post(address(), {"transport": "auto", "sound": "on"}).status_code == 403
    assert post_json(browser, {"sound": True}).status_code == 403
    assert not Preference.objects.exists()


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_405(method: str, browser_of_alice: Browser) -> None:
    assert getattr(browser_of_alice, method)(address()).status_code == 405


# --- As a page


def form_of(browser: Browser) -> dict[str, Any]:
    """Return what a browser would send if nothing on the page were touched."""
    html = browser.get(address()).content.decode()
    form = html.split("<form method", 1)[1].split("</form>", 1)[0]
    fields: dict[str, Any] = {}
    for attributes in re.findall(r"<input ([^>]*)>", form):
        name, value = re.search(r'name="([^"]*)"', attributes), re.search(r'value="([^"]*)"', attributes)
        box = re.search(r'type="(checkbox|radio)"', attributes)
        if name is not None and (not box or "checked" in attributes):
            fields.setdefault(name[1], []).append(value[1] if value else "on")
    return fields


def test_page_sent_back_untouched_changes_nothing(browser_of_alice: Browser, alice: User) -> None:
    change_preferences(alice, muted=["broadcast"], transport="sse", sound=True)
    before = as_json(preferences(alice))
    fields = form_of(browser_of_alice)
    assert fields["kinds"] == ["order.shipped"]
    response = browser_of_alice.post(address(), fields)
    assert response["Location"] == f"{address()}?saved"
    assert as_json(preferences(alice)) == before


def test_page_says_that_it_saved(browser_of_alice: Browser) -> None:
    response = browser_of_alice.post(address(), form_of(browser_of_alice), follow=True)
    assert "Saved." in response.content.decode()
    assert "Saved." not in browser_of_alice.get(address()).content.decode()


def test_box_that_is_not_ticked_mutes_its_kind(browser_of_alice: Browser, alice: User) -> None:
    fields = form_of(browser_of_alice)
    fields["kinds"].remove("broadcast")
    del fields["toasts"]
    fields |= {"system": "on", "transport": "polling"}
    browser_of_alice.post(address(), fields)
    chosen = {**DEFAULTS, "muted": ["broadcast"], "toasts": False, "system": True, "transport": "polling"}
    assert as_json(preferences(alice)) == chosen


def test_mandatory_kind_is_shown_and_can_not_be_muted(browser_of_alice: Browser, alice: User) -> None:
    html = browser_of_alice.get(address()).content.decode()
    assert re.search(r"<input type=\"checkbox\" checked disabled>\s*<span[^>]*><span[^>]*>Security</span>", html)
    fields = form_of(browser_of_alice)
    fields["shown"].append("account.security")
    browser_of_alice.post(address(), fields)
    assert as_json(preferences(alice)) == DEFAULTS


def test_kind_that_is_newer_than_the_page_is_not_muted_by_it(
    browser_of_alice: Browser, alice: User, settings: Any
) -> None:
    fields = form_of(browser_of_alice)
    settings.NOTIFICATIONS = {"KINDS": {"order.new": {"label": "New orders"}}}
    browser_of_alice.post(address(), fields)
    assert as_json(preferences(alice)) == DEFAULTS


def test_kind_that_the_page_did_not_show_stays_muted(browser_of_alice: Browser, alice: User) -> None:
    change_preferences(alice, muted=["broadcast"])
    fields = {**form_of(browser_of_alice), "shown": ["order.shipped"], "kinds": []}
    browser_of_alice.post(address(), fields)
    assert preferences(alice).muted_kinds == {"broadcast", "order.shipped"}


def test_page_without_kinds_offers_none(browser_of_alice: Browser, settings: Any) -> None:
    settings.NOTIFICATIONS = {}
    html = browser_of_alice.get(address()).content.decode()
    assert "What I want to hear of" not in html
    assert 'name="toasts"' in html


def test_markup_in_labels_stays_text(browser_of_alice: Browser, settings: Any) -> None:
    about = {"label": "<script>alert(1)</script>", "description": "<b>"}
    settings.NOTIFICATIONS = {"KINDS": {"order.shipped": about}}
    html = browser_of_alice.get(address()).content.decode()
    assert "<script>alert" not in html
    assert "&lt;b&gt;" in html


def test_form_without_a_transport_is_400(browser_of_alice: Browser) -> None:
    assert browser_of_alice.post(address(), {"sound": "on"}).status_code == 400
    assert not Preference.objects.exists()


# --- What a subscription passes over


def live(state: TopicState, seq: int, kind: str) -> LiveEvent:
    payload = json.dumps({"id": seq, "kind": kind, "data": {"kind": "broadcast"}})
    return LiveEvent(state, seq, log_envelope(state.name, seq, "notification", payload))


@pytest.fixture
async def subscription() -> Subscription:
    state = TopicState("user:1")
    state.id, state.epoch = 1, "e"
    muted = frozenset({"order.shipped"})
    subscription = Subscription(None, "c", "sse", ("user:1",), queue_events=10, queue_bytes=10_000, muted=muted)
    subscription.marks[state] = state.here()
    subscription.live = True
    return subscription


def taken(subscription: Subscription) -> list[tuple[int, str | None]]:
    return [(json.loads(envelope.data)["seq"], cursor) for envelope, cursor in subscription.take()]


async def test_cursor_moves_over_what_is_muted_without_waking_the_stream(subscription: Subscription) -> None:
    (state,) = subscription.marks
    subscription.push(live(state, 1, "order.shipped"))
    assert not subscription.queue
    assert parse_cursor(subscription.cursor()) == {1: Position(1, "e", 1)}


async def test_muted_event_behind_another_waits_its_turn(subscription: Subscription) -> None:
    (state,) = subscription.marks
    for seq, kind in enumerate(["message", "order.shipped", "message", "order.shipped"], 1):
        subscription.push(live(state, seq, kind))
    assert subscription.marks[state].seq == 0
    assert [seq for seq, _ in taken(subscription)] == [1, 3]
    assert subscription.marks[state].seq == 4


async def test_kind_muted_while_events_wait_is_not_delivered(subscription: Subscription) -> None:
    (state,) = subscription.marks
    subscription.muted = frozenset()
    subscription.push(live(state, 1, "order.shipped"))
    subscription.muted = frozenset({"order.shipped"})
    assert taken(subscription) == []
    assert subscription.marks[state].seq == 1


# --- On every transport


class World:
    """Alice, who can mute, and Bob, who hears it all."""

    def __init__(self) -> None:
        self.carrier = InProcess(application)
        self.sessions: dict[str, str] = {}

    def prepare(self) -> None:
        for name in ("alice", "bob"):
            user, browser = User.objects.create_user(name), Browser()
            browser.force_login(user)
            setattr(self, name, user)
            self.sessions[name] = browser.cookies["sessionid"].value

    alice: User
    bob: User

    def connect(self, transport: str, name: str = "alice", cursor: str | None = None) -> Opening:
        return connect(transport, self.carrier, self.sessions[name], cursor)


@pytest.fixture
async def world(serving: None) -> AsyncIterator[World]:
    world = World()
    await sync_to_async(world.prepare)()
    yield world


every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
achange = sync_to_async(change_preferences)


@transaction.atomic
def notify_often(user: User, count: int) -> None:
    for _number in range(count):
        notify(user, "muted", kind="order.shipped")


async def next_titles(client: Client, count: int) -> list[str]:
    return [(await client.next()).data["title"] for _ in range(count)]


@every_transport
async def test_muted_kind_does_not_reach_an_open_stream(world: World, transport: str) -> None:
    await achange(world.alice, muted=["order.shipped"])
    async with world.connect(transport) as client, world.connect(transport, "bob") as other:
        for kind in ("order.shipped", "message", "order.shipped", "broadcast"):
            await anotify("everyone", kind, kind=kind)
        events = [await client.next() for _ in range(2)]
        assert [event.data["kind"] for event in events] == ["message", "broadcast"]
        assert [event.data["seq"] for event in events] == [2, 4]
        assert await next_titles(other, 4) == ["order.shipped", "message", "order.shipped", "broadcast"]


@every_transport
async def test_muted_kind_is_passed_over_in_a_replay_and_the_cursor_covers_it(world: World, transport: str) -> None:
    await achange(world.alice, muted=["order.shipped"])
    cursor = await sync_to_async(cursor_for)(world.alice)
    for kind in ("order.shipped", "message", "order.shipped", "message", "order.shipped"):
        await anotify(world.alice, kind, kind=kind)
    async with world.connect(transport, cursor=cursor) as client:
        assert await next_titles(client, 2) == ["message", "message"]
        await anotify(world.alice, "last")
        event = await client.next()
        assert event.data["title"] == "last"
        assert event.cursor == await sync_to_async(cursor_for)(world.alice)


@every_transport
async def test_replay_of_nothing_but_muted_kinds_brings_nothing(world: World, transport: str) -> None:
    await achange(world.alice, muted=["order.shipped"])
    cursor = await sync_to_async(cursor_for)(world.alice)
    await sync_to_async(notify_often)(world.alice, 250)  # More than one read of the log.
    async with world.connect(transport, cursor=cursor) as client:
        await anotify(world.alice, "heard")
        assert await next_titles(client, 1) == ["heard"]


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_heartbeat_carries_the_cursor_past_what_was_muted(world: World, transport: str, settings: Any) -> None:
    settings.NOTIFICATIONS = {"KINDS": KINDS, "HEARTBEAT": 0.2}
    await achange(world.alice, muted=["order.shipped"])
    cursor = await sync_to_async(cursor_for)(world.alice)
    await anotify(world.alice, "replayed", kind="order.shipped")
    async with world.connect(transport, cursor=cursor) as client:
        for _occasion in ("replayed", "live"):
            now = await sync_to_async(cursor_for)(world.alice)
            event = await client.next(heartbeats=True)
            while event.cursor != now:
                assert event.type == "heartbeat"
                event = await client.next(heartbeats=True)
            await anotify(world.alice, "live", kind="order.shipped")
    async with world.connect(transport, cursor=client.cursor) as client:
        assert client.ready.cursor == client.ready.data["cursor"]
        await anotify(world.alice, "heard")
        assert await next_titles(client, 1) == ["heard"]


@every_transport
async def test_change_takes_effect_in_an_open_stream(world: World, transport: str) -> None:
    async with world.connect(transport) as client:
        await anotify(world.alice, "before", kind="order.shipped")
        assert await next_titles(client, 1) == ["before"]
        await achange(world.alice, muted=["order.shipped"], sound=True)
        event = await client.next()
        assert (event.type, event.data["muted"], event.data["sound"]) == ("preferences", ["order.shipped"], True)
        assert event.data["unread"] == 0
        await quiet_after(world, "order.shipped", client)
        await achange(world.alice, muted=[])
        assert (await client.until(lambda event: event.type == "preferences"))[-1].data["unread"] > 0
        await heard_after(world, "order.shipped", client)


async def quiet_after(world: World, kind: str, client: Client, within: float = 2.0) -> None:
    """See that ``kind`` is not delivered any more after two seconds at most, and that the stream goes on."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        late = asyncio.get_running_loop().time() > deadline
        await anotify(world.alice, "probe", kind=kind)
        await anotify(world.alice, "end")
        found = [event.data["title"] for event in await client.until(lambda event: event.data["title"] == "end")]
        if found == ["end"]:
            return
        assert not late, f"{kind} is still delivered after {within:g} s"
        await asyncio.sleep(0.05)


async def heard_after(world: World, kind: str, client: Client, within: float = 2.0) -> None:
    """See that ``kind`` is delivered again after two seconds at most."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        late = asyncio.get_running_loop().time() > deadline
        await anotify(world.alice, "probe", kind=kind)
        await anotify(world.alice, "end")
        found = [event.data["title"] for event in await client.until(lambda event: event.data["title"] == "end")]
        if found == ["probe", "end"]:
            return
        assert not late, f"{kind} is not delivered after {within:g} s"
        await asyncio.sleep(0.05)


@every_transport
async def test_ready_does_not_count_what_is_muted(world: World, transport: str) -> None:
    await achange(world.alice, muted=["order.shipped"])
    await anotify(world.alice, "muted", kind="order.shipped")
    await anotify(world.alice, "heard")
    async with world.connect(transport) as client:
        assert client.ready.data["unread"] == 1


# --- In the page


def bell(browser: Browser, path: str) -> dict[str, str]:
    html = browser.get(path).content.decode()
    match = re.search(r"<notification-inbox([^>]*)>", html)
    assert match is not None
    return dict(re.findall(r'([\w-]+)="([^"]*)"', match[1]))


def test_elements_carry_what_the_person_chose(browser_of_alice: Browser, alice: User) -> None:
    standard = bell(browser_of_alice, reverse("notifications:inbox"))
    assert standard["preferences-url"] == address()
    names = ("transport", "toasts", "sound", "system")
    assert [standard[name] for name in names] == ["auto", "on", "off", "off"]
    change_preferences(alice, transport="polling", toasts=False, sound=True, system=True)
    chosen = bell(browser_of_alice, reverse("notifications:inbox"))
    assert [chosen[name] for name in names] == ["polling", "off", "on", "on"]


def test_page_that_fixes_a_transport_has_it_whatever_the_person_chose(alice: User) -> None:
    change_preferences(alice, transport="polling")
    request = RequestFactory().get("/")
    request.user = alice
    request.resolver_match = None
    source = '{% load notifications %}{% notification_bell transport="sse" %}{% notification_status %}'
    html = Template(source).render(Context({"request": request}))
    assert re.search(r'<notification-bell[^>]* transport="sse"[^>]* fixed-transport[ >]', html)
    assert re.search(r'<notification-status[^>]* transport="polling"', html)
    assert html.count("fixed-transport") == 1
