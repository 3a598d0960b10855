"""The admin: a broadcast from draft to recall, who may do what, and rows that nobody changes by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from notifications import inbox
from notifications.admin import BroadcastAdmin
from notifications.models import Broadcast, Event, Membership, Notification, Receipt, Topic
from notifications.publishing import broadcast, notify, send

pytestmark = pytest.mark.django_db

State = Broadcast.State
LIST = "/admin/notifications/broadcast/"
ADD = f"{LIST}add/"


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root")


@pytest.fixture
def client(root: User) -> Client:
    """The browser of somebody who may do everything."""
    return browser_of(root)


@pytest.fixture
def editor() -> User:
    """Somebody who may compose, but not send."""
    user = User.objects.create_user("editor", is_staff=True)
    composing = [f"{action}_broadcast" for action in ("add", "change", "delete", "view")]
    user.user_permissions.add(*Permission.objects.filter(codename__in=composing))
    return user


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def form(**fields: Any) -> dict[str, Any]:
    """What a browser sends for the compose form."""
    return {
        "title": "Sale",
        "body": "today",
        "level": "info",
        "url": "/sale/",
        "audience": "everyone",
        "kind": "broadcast",
        "tag": "",
        **fields,
    }


def at(name: str, moment: Any) -> dict[str, str]:
    """The two fields of a date and time."""
    local = timezone.localtime(moment)
    return {f"{name}_0": local.strftime("%Y-%m-%d"), f"{name}_1": local.strftime("%H:%M:%S")}


def url(row: Broadcast, step: str = "change") -> str:
    return f"{LIST}{row.pk}/{step}/"


def draft(**fields: Any) -> Broadcast:
    return Broadcast.objects.create(title="Sale", **fields)


def errors(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    found: dict[str, list[str]] = dict(response.context["adminform"].form.errors)
    return found


def text(response: Any) -> str:
    return " ".join(response.content.decode().split())


# --- Compose


def test_compose_saves_a_draft(client: Client, root: User) -> None:
    response = client.post(ADD, form(_save="1"))
    assert response["Location"] == LIST
    row = Broadcast.objects.get()
    assert (row.title, row.state, row.sender) == ("Sale", State.DRAFT, root)
    assert not Notification.objects.exists()


def test_compose_leads_to_the_confirmation_and_sends_nothing_yet(client: Client) -> None:
    response = client.post(ADD, form(_send="1"))
    row = Broadcast.objects.get()
    assert response["Location"] == url(row, "send")
    assert row.state == State.DRAFT
    assert not Notification.objects.exists()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"title": ""}, "title"),
        ({"title": "   "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": "http://partner.example/"}, "url"),
        ({"url": "//evil.example/"}, "url"),
        ({"kind": "two words"}, "kind"),
        ({"level": "loud"}, "level"),
        ({"audience": "all"}, "audience"),
        ({"audience": "group"}, "group"),
        ({"audience": "users"}, "users"),
        ({"body": "a\x00b"}, "body"),
        (at("expires_at", timezone.now() - timedelta(hours=1)), "expires_at"),
        ({"_schedule": "1"}, "scheduled_at"),
        ({"_schedule": "1", **at("scheduled_at", timezone.now() - timedelta(hours=1))}, "scheduled_at"),
        (
            {
                "_schedule": "1",
                **at("scheduled_at", timezone.now() + timedelta(hours=2)),
                **at("expires_at", timezone.now() + timedelta(hours=1)),
            },
            "expires_at",
        ),
    ],
)
def test_compose_says_what_is_wrong_beside_the_field(client: Client, fields: dict[str, str], wrong: str) -> None:
    assert list(errors(client.post(ADD, {"_save": "1", **form(**fields)}))) == [wrong]
    assert not Broadcast.objects.exists()


def test_compose_forgets_the_group_and_users_of_another_audience(client: Client, root: User) -> None:
    group = Group.objects.create(name="editors")
    client.post(ADD, form(audience="staff", group=group.pk, users=[root.pk], _save="1"))
    row = Broadcast.objects.get()
    assert row.group is None
    assert not row.users.exists()


def test_compose_offers_no_users_to_create(client: Client) -> None:
    html = text(client.get(ADD))
    assert "/admin/auth/user/add/?" not in html
    assert "admin-autocomplete" in html


def test_compose_where_the_admin_shows_no_users(root: User, rf: Any) -> None:
    site = admin.AdminSite(name="bare")
    site.register(Broadcast, BroadcastAdmin)
    site.register(Group)
    model_admin = site._registry[Broadcast]
    assert model_admin.check() == []
    request = rf.get("/")
    request.user = root
    widget = model_admin.get_form(request).base_fields["users"].widget
    assert "ManyToManyRawIdWidget" in {type(widget).__name__, type(getattr(widget, "widget", None)).__name__}


# --- Send


def test_confirmation_says_how_many_it_reaches(client: Client) -> None:
    User.objects.bulk_create(User(username=f"user{number}") for number in range(1499))
    html = text(client.get(url(draft(), "send")))
    assert "This reaches <strong>1,500 people</strong>." in html
    assert 'value="Send to 1,500 people"' in html


def test_confirmation_of_an_audience_of_nobody_offers_no_button(client: Client) -> None:
    row = draft(audience="group", group=Group.objects.create(name="empty"))
    html = text(client.get(url(row, "send")))
    assert "This reaches nobody" in html
    assert "Send to" not in html
    client.post(url(row, "send"))
    row.refresh_from_db()
    assert row.state == State.DRAFT


def test_confirmation_by_get_sends_nothing(client: Client) -> None:
    client.get(url(draft(), "send"))
    assert not Notification.objects.exists()


def test_send(client: Client, root: User) -> None:
    alice = User.objects.create_user("alice")
    row = draft()
    response = client.post(url(row, "send"), follow=True)
    row.refresh_from_db()
    assert (row.state, row.sender, row.recipients) == (State.SENT, root, 2)
    assert "“Sale” was sent to 2 people." in text(response)
    assert [item.notification.title for item in inbox.page(alice).rows] == ["Sale"]
    assert LogEntry.objects.get().change_message == "Sent."


def test_send_to_chosen_users(client: Client) -> None:
    alice, bob = User.objects.create_user("alice"), User.objects.create_user("bob")
    client.post(ADD, form(audience="users", users=[alice.pk], _send="1"))
    client.post(url(Broadcast.objects.get(), "send"))
    assert inbox.unread_count(alice) == 1
    assert inbox.unread_count(bob) == 0


def test_send_twice_sends_once(client: Client) -> None:
    row = draft()
    client.post(url(row, "send"))
    response = client.post(url(row, "send"), follow=True)
    assert "“Sale” is already sent." in text(response)
    assert Notification.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_send_by_two_clicks_at_once_sends_once(root: User) -> None:
    row = draft()
    barrier = threading.Barrier(2)
    statuses: list[int] = []

    def click() -> None:
        client = browser_of(root)
        barrier.wait(10)
        try:
            statuses.append(client.post(url(row, "send")).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=click) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [302, 302]
    assert Notification.objects.count() == 1
    assert Event.objects.filter(type="notification").count() == 1


def test_send_checks_csrf(root: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(root)
    assert client.post(url(draft(), "send")).status_code == 403
    assert not Notification.objects.exists()


def test_send_of_what_can_not_be_shown_says_so(client: Client) -> None:
    row = draft(url="javascript:alert(1)")
    response = client.post(url(row, "send"), follow=True)
    assert "It was not sent: url must be" in text(response)
    row.refresh_from_db()
    assert row.state == State.DRAFT


@pytest.mark.parametrize("pk", ["0", "999", "x", "1_2F"])
@pytest.mark.parametrize("step", ["send", "schedule", "recall"])
def test_step_of_no_broadcast_leads_away(client: Client, pk: str, step: str) -> None:
    assert client.post(f"{LIST}{pk}/{step}/")["Location"] == "/admin/"


# --- Schedule


def test_schedule(client: Client, root: User) -> None:
    moment = timezone.now().replace(microsecond=0) + timedelta(hours=3)
    response = client.post(ADD, form(_schedule="1", **at("scheduled_at", moment)))
    row = Broadcast.objects.get()
    assert response["Location"] == url(row, "schedule")
    assert row.state == State.DRAFT
    assert "to whoever belongs to the audience then" in text(client.get(url(row, "schedule")))
    client.post(url(row, "schedule"))
    row.refresh_from_db()
    assert (row.state, row.scheduled_at, row.sender) == (State.SCHEDULED, moment, root)
    assert not Notification.objects.exists()


def test_schedule_without_a_time_is_refused(client: Client) -> None:
    row = draft()
    assert "Choose when it is to be sent." in text(client.post(url(row, "schedule"), follow=True))
    row.refresh_from_db()
    assert row.state == State.DRAFT


def scheduled(**fields: Any) -> Broadcast:
    return draft(state=State.SCHEDULED, scheduled_at=timezone.now() + timedelta(hours=3), **fields)


def test_scheduled_keeps_its_time_when_edited(client: Client) -> None:
    row = scheduled()
    assert row.scheduled_at is not None
    client.post(url(row), form(title="Bigger sale", _save="1", **at("scheduled_at", row.scheduled_at)))
    row.refresh_from_db()
    assert (row.title, row.state) == ("Bigger sale", State.SCHEDULED)


def test_scheduled_needs_a_time_to_stay_so(client: Client) -> None:
    row = scheduled()
    assert list(errors(client.post(url(row), form(_save="1")))) == ["scheduled_at"]


def test_scheduled_goes_back_to_draft(client: Client) -> None:
    row = scheduled()
    client.post(url(row), form(_unschedule="1"))
    row.refresh_from_db()
    assert row.state == State.DRAFT


def test_scheduled_may_be_sent_now(client: Client) -> None:
    row = scheduled()
    assert "you would send it now instead" in text(client.get(url(row, "send")))
    client.post(url(row, "send"))
    row.refresh_from_db()
    assert row.state == State.SENT


def test_scheduled_that_was_sent_meanwhile_is_not_changed(client: Client) -> None:
    row = scheduled()
    send(row)
    response = client.post(url(row), form(title="Too late", _save="1"), follow=True)
    assert "has been sent meanwhile, without your last changes" in text(response)
    row.refresh_from_db()
    assert (row.title, row.state) == ("Sale", State.SENT)


# --- Afterwards


def test_sent_is_shown_and_not_editable(client: Client) -> None:
    alice = User.objects.create_user("alice")
    row = broadcast("Sale", url="/sale/")
    inbox.clicked(alice, Notification.objects.get().pk)
    html = text(client.get(url(row)))
    assert 'name="title"' not in html
    assert "1 (50 %)" in html
    assert "Recall…" in html


def test_sent_to_many_names_a_few(client: Client) -> None:
    users = [User.objects.create_user(f"user{number:02}") for number in range(25)]
    html = text(client.get(url(broadcast("Sale", audience=users))))
    assert "user19, 5 more" in html
    assert "user20" not in html


def test_sent_is_not_deleted(client: Client) -> None:
    row = broadcast("Sale")
    assert client.post(url(row, "delete"), {"post": "yes"}).status_code == 403
    client.post(LIST, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert Broadcast.objects.exists()


def test_draft_is_deleted(client: Client) -> None:
    client.post(url(draft(), "delete"), {"post": "yes"})
    assert not Broadcast.objects.exists()


def test_recall(client: Client) -> None:
    alice = User.objects.create_user("alice")
    row = broadcast("Sale")
    assert "Nobody has read it yet." in text(client.get(url(row, "recall")))
    assert inbox.unread_count(alice) == 1
    client.post(url(row, "recall"))
    row.refresh_from_db()
    assert row.state == State.RECALLED
    assert inbox.unread_count(alice) == 0
    assert "“Sale” is already recalled." in text(client.post(url(row, "recall"), follow=True))


@pytest.mark.parametrize("step", ["send", "schedule"])
def test_recalled_is_not_sent_again(client: Client, step: str) -> None:
    row = draft(state=State.RECALLED, scheduled_at=timezone.now() + timedelta(hours=1))
    client.post(url(row, step))
    row.refresh_from_db()
    assert row.state == State.RECALLED
    assert not Notification.objects.exists()


def test_draft_can_not_be_recalled(client: Client) -> None:
    row = draft()
    client.post(url(row, "recall"))
    row.refresh_from_db()
    assert row.state == State.DRAFT


# --- The list


def test_list_shows_state_audience_and_time(client: Client) -> None:
    alice = User.objects.create_user("alice")
    group = Group.objects.create(name="editors")
    draft(audience="group", group=group)
    scheduled()
    broadcast("To two", audience=[alice, User.objects.create_user("bob")])
    html = text(client.get(LIST))
    for words in (
        "group editors",
        "planned for",
        "2 chosen users",
        "broadcast-state-sent",
        "broadcast-state-scheduled",
    ):
        assert words in html


def test_list_takes_a_constant_number_of_queries(client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        draft(audience="group", group=Group.objects.create(name=str(number)))
    with django_assert_max_num_queries(12):
        client.get(LIST)


@pytest.mark.parametrize("query", ["?state__exact=sent", "?audience__exact=staff", "?q=Sale", "?o=4", "?o=-5"])
def test_list_filters_and_sorts(client: Client, query: str) -> None:
    broadcast("Sale", audience="staff")
    draft()
    response = client.get(LIST + query)
    assert response.status_code == 200
    assert response.context["cl"].result_count == (2 if "q=" in query or "o=" in query else 1)


# --- Who may do what


def test_editor_composes_a_draft(editor: User) -> None:
    client = browser_of(editor)
    html = text(client.get(ADD))
    assert "Save draft" in html
    assert "Send now…" not in html
    client.post(ADD, form(_save="1"))
    assert Broadcast.objects.get().state == State.DRAFT


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("step", ["send", "schedule", "recall"])
def test_editor_takes_no_step(editor: User, step: str, method: str) -> None:
    row = draft(scheduled_at=timezone.now() + timedelta(hours=1), state=State.SENT if step == "recall" else State.DRAFT)
    assert getattr(browser_of(editor), method)(url(row, step)).status_code == 403
    assert not Notification.objects.exists()


def test_editor_by_a_forged_button_only_saves(editor: User) -> None:
    response = browser_of(editor).post(ADD, form(_send="1"))
    assert response["Location"] == LIST
    assert not Notification.objects.exists()


def test_editor_changes_no_scheduled_broadcast(editor: User) -> None:
    row = scheduled()
    client = browser_of(editor)
    assert 'name="title"' not in text(client.get(url(row)))
    assert client.post(url(row), form(title="Mine", _save="1")).status_code == 403
    assert client.post(url(row, "delete"), {"post": "yes"}).status_code == 403
    row.refresh_from_db()
    assert (row.title, row.state) == ("Sale", State.SCHEDULED)


def test_title_is_not_told_to_who_may_not_see_broadcasts(client: Client) -> None:
    row = broadcast("Secret")
    other = User.objects.create_user("other", is_staff=True)
    other.user_permissions.add(Permission.objects.get(codename="view_group"))
    browser = browser_of(other)
    assert browser.post(url(row), form()).status_code == 403
    assert "Secret" not in text(browser.get("/admin/"))


def test_sender_needs_no_more_than_to_see_and_send() -> None:
    user = User.objects.create_user("sender", is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__in=["view_broadcast", "send_broadcast"]))
    row = draft()
    client = browser_of(user)
    assert client.get(url(row)).status_code == 200
    client.post(url(row, "send"))
    row.refresh_from_db()
    assert row.state == State.SENT


@pytest.mark.parametrize("step", ["change", "send", "schedule", "recall"])
def test_strangers_are_led_to_the_login(step: str) -> None:
    row = draft()
    for client in (Client(), browser_of(User.objects.create_user("alice"))):
        assert client.post(url(row, step))["Location"].startswith("/admin/login/")
    row.refresh_from_db()
    assert row.state == State.DRAFT


# --- Rows to look at


MODELS: list[tuple[str, Callable[[User], Any]]] = [
    ("topic", lambda user: Topic.objects.create(name="everyone")),
    ("event", lambda user: Event.objects.create(topic="everyone", seq=1, type="progress", payload="{}")),
    ("notification", lambda user: notify(user, "hi", actor=user)),
    ("receipt", lambda user: Receipt.objects.create(user=user, notification=notify(user, "hi"))),
]


@pytest.mark.parametrize(("model", "make"), MODELS, ids=[name for name, _ in MODELS])
def test_rows_are_shown_and_never_changed(client: Client, root: User, model: str, make: Callable[[User], Any]) -> None:
    row = make(root)
    changelist = f"/admin/notifications/{model}/"
    assert client.get(changelist).status_code == 200
    assert client.get(f"{changelist}?q=hi").status_code == 200
    page = client.get(f"{changelist}{row.pk}/change/")
    assert page.status_code == 200
    assert "_save" not in text(page)
    assert client.get(f"{changelist}add/").status_code == 403
    assert client.post(f"{changelist}{row.pk}/change/", {"title": "x"}).status_code == 403
    assert client.post(f"{changelist}{row.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("together", [False, True], ids=["page", "action"])
def test_people_who_have_read_something_can_be_deleted(client: Client, together: bool) -> None:
    alice = User.objects.create_user("alice")
    inbox.mark_read(alice, [notify(alice, "hi").pk])
    users = "/admin/auth/user/"
    if together:
        chosen = {"action": "delete_selected", "_selected_action": [alice.pk]}
        assert "Are you sure" in text(client.post(users, chosen))
        client.post(users, chosen | {"post": "yes"})
    else:
        assert "Are you sure" in text(client.get(f"{users}{alice.pk}/delete/"))
        client.post(f"{users}{alice.pk}/delete/", {"post": "yes"})
    assert not User.objects.filter(username="alice").exists()
    assert not Receipt.objects.exists()


def test_receipts_are_not_offered_to_be_deleted(client: Client, editor: User) -> None:
    receipt = Receipt.objects.create(user=editor, notification=notify(editor, "hi"))
    changelist = "/admin/notifications/receipt/"
    assert "delete_selected" not in text(client.get(changelist))
    assert "deletelink" not in text(client.get(f"{changelist}{receipt.pk}/change/"))
    chosen = {"action": "delete_selected", "_selected_action": [receipt.pk], "post": "yes"}
    client.post(changelist, chosen)
    assert Receipt.objects.exists()
    # Who may not see them is not led to them either.
    assert changelist not in text(browser_of(editor).get("/admin/"))


def test_times_without_time_zones_are_shown(client: Client, settings: Any) -> None:
    settings.USE_TZ = False
    sent = broadcast("Sale")
    planned = draft(scheduled_at=timezone.now() + timedelta(hours=1))
    client.post(url(planned, "schedule"))
    page = text(client.get(LIST))
    assert "Sale" in page and "planned for" in page
    assert client.get(url(sent)).status_code == 200
    # Nobody fills in what would be refused.
    assert "expires_at" not in text(client.get(ADD)) and "scheduled_at" in text(client.get(ADD))


def test_searching_for_a_topic_uses_the_index(client: Client) -> None:
    notify(User.objects.create_user("alice"), "hi")
    for model in ("event", "notification"):
        with CaptureQueriesContext(connection) as captured:
            client.get(f"/admin/notifications/{model}/?q=everyone")
        asked = [query["sql"] for query in captured.captured_queries if "everyone" in query["sql"]]
        assert asked
        assert all("\"topic\" = 'everyone'" in sql for sql in asked), asked


def test_memberships_are_not_for_the_admin() -> None:
    assert not admin.site.is_registered(Membership)


def test_admin_names_resolve() -> None:
    assert reverse("admin:notifications_broadcast_send", args=[1]) == f"{LIST}1/send/"
