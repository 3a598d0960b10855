"""The inbox over HTTP: who gets in, what they get, and that nothing happens by GET, without a token or to others."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import reverse

from notifications import inbox
from notifications.access import cursor_for, user_key
from notifications.models import Notification, Receipt
from notifications.publishing import notify

pytestmark = pytest.mark.django_db

JSON = {"accept": "application/json"}
ROW_ACTIONS = ["read", "unread", "archive", "unarchive", "clicked"]
ACTIONS = [*ROW_ACTIONS, "read-all", "seen", "bulk"]


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def client(alice: User) -> Client:
    """Alice's browser."""
    client = Client()
    client.force_login(alice)
    return client


def url(name: str, pk: int = 1) -> str:
    return reverse(f"notifications:{name}", args=[pk] if name in ROW_ACTIONS else [])


def results(client: Client, query: str = "") -> list[dict[str, Any]]:
    response = client.get(url("inbox") + query, headers=JSON)
    assert response.status_code == 200
    rows: list[dict[str, Any]] = response.json()["results"]
    return rows


# --- Who gets in


def test_inbox_of_a_stranger_leads_to_the_login() -> None:
    response = Client().get(url("inbox") + "?status=unread")
    assert response.status_code == 302
    assert response["Location"] == "/accounts/login/?next=/notifications/%3Fstatus%3Dunread"
    assert "no-store" in response["Cache-Control"]


def test_page_of_one_user_is_not_served_for_another(client: Client, alice: User, bob: User) -> None:
    notification = notify(alice, "for Alice")
    assert results(client, f"?for={user_key(alice)}")
    assert client.get(url("inbox") + f"?for={user_key(bob)}", headers=JSON).status_code == 401
    assert client.post(url("read", notification.pk) + f"?for={user_key(bob)}", headers=JSON).status_code == 401
    assert client.post(url("read", notification.pk) + f"?for={user_key(alice)}", headers=JSON).status_code == 200


def test_inbox_of_a_stranger_as_json_is_401() -> None:
    response = Client().get(url("inbox"), headers=JSON)
    assert response.status_code == 401
    assert response.json() == {"error": "Log in to read your notifications."}


@override_settings(
    MIDDLEWARE=[*site_settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"],
)
@pytest.mark.parametrize("name", ["inbox", *ACTIONS])
def test_stranger_on_a_site_that_requires_login_gets_401_all_the_same(name: str) -> None:
    method = Client().get if name == "inbox" else Client().post
    assert method(url(name), headers=JSON).status_code == 401
    assert method(url(name))["Location"].startswith("/accounts/login/?next=/notifications/")


@pytest.mark.parametrize("name", ACTIONS)
def test_action_of_a_stranger_changes_nothing(name: str, alice: User) -> None:
    notification = notify(alice, "hi")
    assert Client().post(url(name, notification.pk), headers=JSON).status_code == 401
    response = Client().post(url(name, notification.pk))
    assert response["Location"] == "/accounts/login/?next=/notifications/"
    assert not Receipt.objects.exists()


@pytest.mark.parametrize("name", ACTIONS)
def test_action_by_get_is_405_and_changes_nothing(name: str, client: Client, alice: User) -> None:
    notification = notify(alice, "hi")
    response = client.get(f"{url(name, notification.pk)}?action=read&ids={notification.pk}")
    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
    assert not Receipt.objects.exists()


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_inbox_by_another_method_is_405(method: str, client: Client) -> None:
    assert getattr(client, method)(url("inbox")).status_code == 405


@pytest.mark.parametrize("name", ACTIONS)
def test_action_without_a_csrf_token_is_403(name: str, alice: User) -> None:
    notification = notify(alice, "hi")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    response = client.post(url(name, notification.pk), {"action": "read", "ids": notification.pk})
    assert response.status_code == 403
    assert not Receipt.objects.exists()


@override_settings(
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
)
def test_action_checks_csrf_on_a_site_without_the_middleware(alice: User) -> None:
    notification = notify(alice, "hi")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post(url("read", notification.pk)).status_code == 403
    assert not Receipt.objects.exists()


def test_action_takes_the_csrf_header_of_a_script(alice: User) -> None:
    notification = notify(alice, "hi")
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    client.get(url("inbox"))
    token = client.cookies["csrftoken"].value
    response = client.post(url("read", notification.pk), headers={**JSON, "x-csrftoken": token})
    assert response.status_code == 200


def test_inbox_of_a_deactivated_user_is_closed(client: Client, alice: User) -> None:
    alice.is_active = False
    alice.save()
    assert client.get(url("inbox"), headers=JSON).status_code == 401


# --- The list


@pytest.mark.parametrize(
    "accept", ["application/json", "application/json, text/plain, */*", "*/*;q=0.1, application/json"]
)
def test_inbox_is_json_for_who_prefers_it(accept: str, client: Client) -> None:
    assert client.get(url("inbox"), headers={"accept": accept})["Content-Type"] == "application/json"


@pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml,*/*;q=0.8", "*/*", "text/plain", "nonsense"])
def test_inbox_is_a_page_for_others(accept: str, client: Client) -> None:
    assert client.get(url("inbox"), headers={"accept": accept})["Content-Type"].startswith("text/html")


def test_inbox_is_json_by_format(client: Client) -> None:
    assert client.get(url("inbox") + "?format=json").json()["results"] == []


@pytest.mark.parametrize("headers", [JSON, {}])
def test_inbox_is_kept_by_no_cache(headers: dict[str, str], client: Client) -> None:
    response = client.get(url("inbox"), headers=headers)
    assert {"private", "no-store"} <= set(response["Cache-Control"].split(", "))
    assert {"Accept", "Cookie"} <= set(response["Vary"].split(", "))


def test_inbox_json_is_complete(client: Client, alice: User) -> None:
    notification = notify(alice, "Shipped", "soon", kind="order.shipped", url="/orders/9/", data={"order": 9})
    cursor = cursor_for(alice)
    assert client.get(url("inbox"), headers=JSON).json() == {
        "results": [
            {
                "id": notification.pk,
                "kind": "order.shipped",
                "level": "info",
                "title": "Shipped",
                "body": "soon",
                "url": "/orders/9/",
                "data": {"order": 9},
                "tag": "",
                "created_at": notification.created_at.isoformat(),
                "read": False,
                "seen": False,
                "archived": False,
            }
        ],
        "next": None,
        "unread": 1,
        "unseen": 1,
        "cursor": cursor,
        "kinds": ["order.shipped"],
    }


def test_inbox_shows_nobody_elses(client: Client, bob: User) -> None:
    notify(bob, "private")
    notify("staff", "internal")
    assert results(client) == []
    assert b"private" not in client.get(url("inbox")).content


def test_inbox_pages_by_following_next(client: Client, alice: User) -> None:
    for number in range(45):
        notify(alice, str(number))
    seen: list[str] = []
    address: str | None = url("inbox")
    requests = 0
    while address:
        answer = client.get(address, headers=JSON).json()
        seen += [row["title"] for row in answer["results"]]
        address = answer["next"]
        requests += 1
    assert seen == [str(number) for number in reversed(range(45))]
    assert requests == 3


def test_inbox_next_keeps_filters(client: Client, alice: User) -> None:
    for _ in range(3):
        notify(alice, "x", kind="a.b")
    address = client.get(url("inbox") + "?status=unread&kind=a.b&limit=2&format=json").json()["next"]
    ids = sorted(Notification.objects.values_list("pk", flat=True))
    assert address == f"/notifications/?status=unread&kind=a.b&limit=2&format=json&before={ids[1]}"
    assert [row["id"] for row in client.get(address).json()["results"]] == ids[:1]


def test_inbox_by_status_and_kind(client: Client, alice: User) -> None:
    read, archived, _ = notify(alice, "read"), notify(alice, "archived"), notify(alice, "unread", kind="other")
    inbox.mark_read(alice, [read.pk])
    inbox.archive(alice, [archived.pk])
    assert [row["title"] for row in results(client)] == ["unread", "read"]
    assert [row["title"] for row in results(client, "?status=unread")] == ["unread"]
    assert [row["title"] for row in results(client, "?status=archived")] == ["archived"]
    assert [row["title"] for row in results(client, "?kind=message")] == ["read"]
    assert results(client, "?kind=nothing") == []


@pytest.mark.parametrize(
    "query",
    [
        "before=x",
        "before=0",
        "before=-1",
        "before=1e3",
        "before=9223372036854775808",
        "before=1;DROP",
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=ten",
        "limit=99999999999999999999999999",
        "status=deleted",
        "kind=%00",
        "kind=" + "x" * 101,
    ],
)
def test_inbox_with_a_junk_query_is_400(query: str, client: Client) -> None:
    response = client.get(f"{url('inbox')}?{query}", headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"].startswith(query.partition("=")[0] + ": ")
    assert "no-store" in response["Cache-Control"]
    assert client.get(f"{url('inbox')}?{query}").status_code == 400


def test_inbox_before_an_id_of_somebody_else_pages_the_own(client: Client, alice: User, bob: User) -> None:
    notify(alice, "older")
    foreign = notify(bob, "private")
    notify(alice, "newer")
    assert [row["title"] for row in results(client, f"?before={foreign.pk}")] == ["older"]
    assert [row["title"] for row in results(client, f"?before={inbox.LARGEST_ID}")] == ["newer", "older"]


def test_inbox_takes_a_constant_number_of_queries(
    client: Client, alice: User, django_assert_max_num_queries: Any
) -> None:
    for _ in range(30):
        notify(alice, "x")
    with django_assert_max_num_queries(14):
        client.get(url("inbox"))


# --- Actions


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("read", {"read": True, "seen": True, "archived": False}),
        ("unread", {"read": False, "seen": False, "archived": False}),
        ("archive", {"read": False, "seen": True, "archived": True}),
        ("unarchive", {"read": False, "seen": False, "archived": False}),
        ("clicked", {"read": True, "seen": True, "archived": False}),
    ],
)
def test_row_action(name: str, state: dict[str, bool], client: Client, alice: User) -> None:
    notification = notify(alice, "hi")
    response = client.post(url(name, notification.pk), headers=JSON)
    counts = inbox.counts(alice)
    assert response.json() == {"unread": counts.unread, "unseen": counts.unseen}
    (row,) = results(client, "?status=archived" if state["archived"] else "")
    assert {key: row[key] for key in state} == state


@pytest.mark.parametrize("name", ROW_ACTIONS)
@pytest.mark.parametrize("headers", [JSON, {}])
def test_row_action_on_another_users_id_is_404(name: str, headers: dict[str, str], client: Client, bob: User) -> None:
    foreign = notify(bob, "private")
    response = client.post(url(name, foreign.pk), headers=headers)
    missing = client.post(url(name, foreign.pk + 1000), headers=headers)
    assert response.status_code == missing.status_code == 404
    if headers:
        # Nothing tells what exists from what does not.
        assert response.json() == missing.json() == {"error": "There is no such notification."}
    assert not Receipt.objects.exists()


@pytest.mark.parametrize("pk", ["9" * 19, "9" * 30, "9" * 5000, "0", "-1", "x", "1.5"])
def test_row_action_on_a_junk_id_is_404(pk: str, client: Client) -> None:
    assert client.post(f"/notifications/{pk}/read/", headers=JSON).status_code == 404


def test_row_action_leads_back_to_the_page(client: Client, alice: User) -> None:
    notification = notify(alice, "hi")
    assert client.post(url("read", notification.pk))["Location"] == "/notifications/"
    back = {"next": "/notifications/?status=unread&before=9"}
    assert client.post(url("unread", notification.pk), back)["Location"] == back["next"]


@pytest.mark.parametrize("next", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_row_action_leads_to_no_other_site(next: str, client: Client, alice: User) -> None:
    notification = notify(alice, "hi")
    assert client.post(url("read", notification.pk), {"next": next})["Location"] == "/notifications/"


def test_clicked_leads_on_to_the_link(client: Client, alice: User) -> None:
    notification = notify(alice, "hi", url="https://example.org/x?a=b")
    assert client.post(url("clicked", notification.pk))["Location"] == "https://example.org/x?a=b"
    assert Receipt.objects.get().clicked_at is not None


def test_link_without_https_leads_to_this_site_only(client: Client, alice: User) -> None:
    own, other = (notify(alice, "hi", url=address) for address in ("http://testserver/a/", "http://elsewhere.example/"))
    page = client.get(url("inbox")).content.decode()
    assert 'data-href="http://testserver/a/"' in page
    assert "elsewhere.example" not in page
    assert client.post(url("clicked", own.pk))["Location"] == "http://testserver/a/"
    assert client.post(url("clicked", other.pk))["Location"] == "/notifications/"


@pytest.mark.parametrize("bad", ["javascript:alert(1)", "", "//evil.example/"])
def test_clicked_without_a_good_link_leads_back(bad: str, client: Client, alice: User) -> None:
    notification = Notification.objects.create(topic=f"user:{alice.pk}", title="by hand", url=bad)
    assert client.post(url("clicked", notification.pk))["Location"] == "/notifications/"


def test_read_all(client: Client, alice: User) -> None:
    notify(alice, "a")
    notify("everyone", "b")
    assert client.post(url("read-all"), headers=JSON).json() == {"unread": 0, "unseen": 0}
    assert all(row["read"] for row in results(client))


def test_read_all_before(client: Client, alice: User) -> None:
    first, _ = notify(alice, "a"), notify(alice, "b")
    assert client.post(url("read-all"), {"before": first.pk}, headers=JSON).json() == {"unread": 1, "unseen": 1}


@pytest.mark.parametrize("before", ["x", "0", "-3", "9" * 25, "1.5"])
def test_read_all_with_a_junk_before_is_400(before: str, client: Client, alice: User) -> None:
    notify(alice, "a")
    assert client.post(url("read-all"), {"before": before}, headers=JSON).status_code == 400
    assert inbox.unread_count(alice) == 1


def test_seen(client: Client, alice: User) -> None:
    notify(alice, "a")
    assert client.post(url("seen"), headers=JSON).json() == {"unread": 1, "unseen": 0}


@pytest.mark.parametrize(
    ("action", "read", "archived"), [("read", True, False), ("archive", False, True), ("unread", False, False)]
)
def test_bulk(action: str, read: bool, archived: bool, client: Client, alice: User) -> None:
    ids = [notify(alice, "a").pk, notify(alice, "b").pk]
    assert client.post(url("bulk"), {"action": action, "ids": ids}, headers=JSON).status_code == 200
    rows = results(client, "?status=archived" if archived else "")
    assert [row["read"] for row in rows] == [read, read]


def test_bulk_passes_over_what_is_not_theirs(client: Client, alice: User, bob: User) -> None:
    own, foreign = notify(alice, "a"), notify(bob, "b")
    response = client.post(url("bulk"), {"action": "read", "ids": [own.pk, foreign.pk]}, headers=JSON)
    assert response.json() == {"unread": 0, "unseen": 0}
    assert inbox.unread_count(bob) == 1


def test_bulk_with_nothing_of_theirs_is_404(client: Client, bob: User) -> None:
    foreign = notify(bob, "b")
    assert client.post(url("bulk"), {"action": "read", "ids": [foreign.pk]}, headers=JSON).status_code == 404


def test_bulk_with_nothing_ticked_changes_nothing(client: Client, alice: User) -> None:
    notify(alice, "a")
    assert client.post(url("bulk"), {"action": "read"})["Location"] == "/notifications/"
    assert client.post(url("bulk"), {"action": "read"}, headers=JSON).json() == {"unread": 1, "unseen": 1}


@pytest.mark.parametrize(
    "data",
    [
        {"action": "delete", "ids": ["1"]},
        {"ids": ["1"]},
        {"action": "read", "ids": ["1", "x"]},
        {"action": "read", "ids": ["-1"]},
        {"action": "read", "ids": ["٣"]},
        {"action": "read", "ids": ["1" * 30]},
        {"action": "read", "ids": [str(id) for id in range(1, 502)]},
    ],
)
def test_bulk_with_junk_is_400(data: dict[str, Any], client: Client) -> None:
    response = client.post(url("bulk"), data, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]


# --- The page, without a script


class Page(HTMLParser):
    """What a browser without scripts could press on a page: links, and buttons with the fields of their form."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.buttons: list[tuple[str, str, dict[str, str]]] = []
        self.titles: list[str] = []
        self._form: dict[str, str] = {}
        self._action = self._label = ""
        self._open: tuple[str, dict[str, str]] | None = None
        self._text = ""
        # What stands in a template is for scripts.
        self.feed(re.sub(r"(?s)<template.*?</template>", "", html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self._action, self._form = values.get("action", ""), {}
            case "input" if values.get("type") == "hidden":
                self._form[values["name"]] = values["value"]
            case "a" | "button":
                self._open, self._text = (tag, values), ""
            case "h2":
                self.titles.append("")

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if self._open is None or self._open[0] != tag:
            return
        values, label = self._open[1], " ".join(self._text.split())
        if tag == "a":
            self.links[label] = values["href"]
        else:
            fields = dict(self._form)
            if "name" in values:
                fields[values["name"]] = values["value"]
            self.buttons.append((label, values.get("formaction", self._action), fields))
        self._open = None


def press(client: Client, page: Page, label: str, **more: Any) -> Page:
    """Press the first button with this label and return the page that it leads to."""
    action, fields = next(button[1:] for button in page.buttons if button[0] == label)
    response = client.post(action, {**fields, **more}, follow=True)
    assert response.status_code == 200
    return Page(response.content.decode())


@pytest.fixture
def browser_of_alice(alice: User) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    return client


def open_page(client: Client, query: str = "") -> Page:
    response = client.get(url("inbox") + query)
    assert response.status_code == 200
    return Page(response.content.decode())


def test_page_of_an_empty_inbox(client: Client) -> None:
    response = client.get(url("inbox"))
    assert b"You have no notifications." in response.content
    assert Page(response.content.decode()).buttons == []


def test_page_reads_and_archives_without_a_script(browser_of_alice: Client, alice: User) -> None:
    notify(alice, "hi")
    page = press(browser_of_alice, open_page(browser_of_alice), "Mark as read")
    assert inbox.unread_count(alice) == 0
    press(browser_of_alice, page, "Mark as unread")
    assert inbox.unread_count(alice) == 1
    press(browser_of_alice, page, "Archive")
    page = open_page(browser_of_alice, "?status=archived")
    press(browser_of_alice, page, "Back to the inbox")
    assert [row.notification.title for row in inbox.page(alice).rows] == ["hi"]


def test_page_acts_on_ticked_rows_without_a_script(browser_of_alice: Client, alice: User) -> None:
    ticked, left = notify(alice, "ticked"), notify(alice, "left")
    page = open_page(browser_of_alice)
    button = [fields for label, action, fields in page.buttons if action == url("bulk") and label == "Archive"]
    browser_of_alice.post(url("bulk"), {**button[0], "ids": [ticked.pk]})
    assert [row.notification.pk for row in inbox.page(alice).rows] == [left.pk]


def test_page_reads_all_that_it_showed(browser_of_alice: Client, alice: User) -> None:
    notify(alice, "shown")
    page = open_page(browser_of_alice)
    notify(alice, "came later")
    press(browser_of_alice, page, "Mark all as read")
    (row,) = inbox.page(alice, "unread").rows
    assert row.notification.title == "came later"


def test_page_turns_older_and_back(browser_of_alice: Client, alice: User) -> None:
    for number in range(3):
        notify(alice, str(number))
    page = open_page(browser_of_alice, "?limit=2")
    older = browser_of_alice.get(page.links["Older"])
    assert [row.notification.title for row in older.context["rows"]] == ["0"]
    newest = browser_of_alice.get(Page(older.content.decode()).links["Newest"])
    assert [row.notification.title for row in newest.context["rows"]] == ["2", "1"]


def test_page_tabs(browser_of_alice: Client, alice: User) -> None:
    notify(alice, "hi")
    page = open_page(browser_of_alice)
    assert page.links["Unread"] == "/notifications/?status=unread"
    response = browser_of_alice.get(page.links["Archived"])
    assert b"Nothing is archived." in response.content


def test_page_follows_a_link_and_reads(browser_of_alice: Client, alice: User) -> None:
    notify(alice, "Your order", url="/orders/9/")
    page = open_page(browser_of_alice)
    action, fields = next(button[1:] for button in page.buttons if button[0].startswith("Your order"))
    assert browser_of_alice.post(action, fields)["Location"] == "/orders/9/"
    assert inbox.unread_count(alice) == 0


def test_page_escapes_what_others_wrote(client: Client, alice: User) -> None:
    Notification.objects.create(
        topic=f"user:{alice.pk}",
        title="<script>alert(1)</script>",
        body='"><img src=x onerror=alert(1)>',
        kind='"><b>',
        url="javascript:alert(1)",
    )
    html = client.get(url("inbox")).content.decode()
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "javascript:" not in html
    assert "<b>" not in html


def test_page_says_99_plus(client: Client, alice: User) -> None:
    Notification.objects.bulk_create(Notification(topic=f"user:{alice.pk}", title="x") for _ in range(120))
    assert b"99+" in client.get(url("inbox")).content


# --- When the site's own function fails


def test_inbox_shows_what_is_known(client: Client, alice: User, settings: Any) -> None:
    for to in (alice, "order:9"):
        notify(to, "hi")
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}
    response = client.get(url("inbox"), headers=JSON)
    assert (len(response.json()["results"]), response.json()["cursor"]) == (1, "")
    assert client.get(url("inbox")).status_code == 200


@pytest.mark.parametrize("headers", [JSON, {}], ids=["json", "page"])
def test_action_is_refused_for_the_moment(client: Client, alice: User, settings: Any, headers: dict[str, str]) -> None:
    notify(alice, "hi")
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}
    response = client.post(url("read-all"), headers=headers)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "Try again in a few seconds" in response.text
