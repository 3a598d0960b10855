"""The template tags: what they render, for whom, and what that costs."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest
from django.template import Context, Template
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from notifications import notify
from notifications.access import cursor_for
from notifications.cursor import parse_cursor
from notifications.inbox import Inbox, mark_read
from notifications.models import Notification
from notifications.templatetags.notifications import SAMPLES

pytestmark = pytest.mark.django_db(transaction=True)

#: What one bell may cost a page.
MOST_QUERIES = 8


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice", password="password")


def request_of(user: User | AnonymousUser) -> HttpRequest:
    request = RequestFactory().get("/somewhere/")
    request.user = user
    request.resolver_match = None
    return request


def render(source: str, user: User | AnonymousUser, **context: Any) -> str:
    template = Template("{% load notifications %}" + source)
    return template.render(Context({"request": request_of(user), **context}))


def attributes(html: str, element: str = "notification-bell") -> dict[str, str]:
    match = re.search(rf"<{element}([^>]*)>", html)
    assert match is not None, html
    return {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', match[1])}


@pytest.mark.parametrize(
    "tag", ["notification_bell", "notification_toasts", "notification_banner", "notification_status"]
)
def test_tag_renders_nothing_for_strangers_and_asks_nothing(tag: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert render(f"{{% {tag} %}}", AnonymousUser()).strip() == ""
    assert len(queries) == 0


def test_tag_renders_nothing_without_a_request() -> None:
    assert Template("{% load notifications %}{% notification_bell %}").render(Context()).strip() == ""


def test_bell_carries_what_the_client_has_to_know(alice: User) -> None:
    notify(alice, "hi")
    values = attributes(render("{% notification_bell %}", alice))
    assert values["stream-url"] == reverse("notifications:stream")
    assert values["events-url"] == reverse("notifications:events")
    assert values["inbox-url"] == reverse("notifications:inbox")
    assert values["socket-url"] == "/ws/notifications/"
    assert values["cursor"] == cursor_for(alice)
    assert (values["unread"], values["unseen"]) == ("1", "1")
    assert values["transports"] == "sse websocket polling"
    assert values["transport"] == "auto"
    assert len(values["csrf-token"]) == 64
    assert str(alice.pk) != values["user"] != alice.username


def test_bell_costs_few_queries_and_a_second_element_none(alice: User) -> None:
    notify(alice, "hi")
    cache.clear()
    with CaptureQueriesContext(connection) as queries:
        render("{% notification_bell %}", alice)
    first = len(queries)
    assert first <= MOST_QUERIES
    with CaptureQueriesContext(connection) as queries:
        html = render("{% notification_bell %}{% notification_status %}", alice)
    assert len(queries) == first
    assert html.count("<script") == 1


def test_bell_takes_its_cursor_before_it_counts(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Inbox.counts

    def late(self: Inbox) -> Any:
        # What is published between the two is counted, and delivered after the cursor as well.
        notify(alice, "in between")
        return counts(self)

    monkeypatch.setattr(Inbox, "counts", late)
    before = cursor_for(alice)
    values = attributes(render("{% notification_bell %}", alice))
    assert parse_cursor(values["cursor"]) == parse_cursor(before)
    assert values["unread"] == "1"


def test_inbox_page_lends_its_older_cursor_to_all_elements(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.get(reverse("notifications:inbox"))
    values = attributes(response.content.decode(), "notification-inbox")
    assert values["cursor"] == response.context["cursor"]


def test_people_have_different_keys(alice: User) -> None:
    bob = User.objects.create_user("bob")
    one, two = (attributes(render("{% notification_bell %}", user))["user"] for user in (alice, bob))
    assert one != two


def test_transport_and_favicon_of_the_page(alice: User) -> None:
    values = attributes(render('{% notification_bell transport="polling" favicon="/new.svg" %}', alice))
    assert (values["transport"], values["favicon"]) == ("polling", "/new.svg")


def test_bell_brings_the_toasts_unless_told_otherwise(alice: User) -> None:
    assert "<notification-toasts>" in render("{% notification_bell %}", alice)
    assert "<notification-toasts" not in render("{% notification_bell toasts=False %}", alice)


@override_settings(NOTIFICATIONS={"KINDS": {"order.shipped": {"label": "Shipped"}, "../../evil": {}}})
def test_rows_of_declared_kinds_come_as_blank_templates(alice: User) -> None:
    html = render("{% notification_bell toasts=False %}", alice)
    assert re.findall(r'<template data-row="([^"]*)">', html) == ["", "order.shipped", "../../evil"]
    assert json.loads(attributes(html, "select")["data-labels"]) == {"order.shipped": "Shipped"}


@override_settings(
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {
                            "notifications/row/order.shipped.html": '{% extends "notifications/row.html" %}'
                            "{% block title %}Parcel {{ notification.title }}{% endblock %}"
                        },
                    ),
                    "django.template.loaders.app_directories.Loader",
                ]
            },
        }
    ]
)
def test_row_of_a_kind_is_the_sites_own(alice: User) -> None:
    notify(alice, "one", kind="order.shipped")
    notify(alice, "two", kind="order.placed")
    rows = Inbox(alice).page().rows
    html = render("{% for row in rows %}{% notification_row row %}{% endfor %}", alice, rows=rows)
    assert "Parcel one" in html
    assert "Parcel two" not in html
    assert "two" in html


def test_row_escapes_and_links_only_where_it_may(alice: User) -> None:
    Notification.objects.create(
        topic=f"user:{alice.pk}", title="<b>x</b>", body="<i>", kind="../x", url="javascript:alert(1)"
    )
    notify(alice, "fine", url="/orders/1/")
    rows = Inbox(alice).page().rows
    html = render("{% for row in rows %}{% notification_row row %}{% endfor %}", alice, rows=rows)
    assert "<b>" not in html
    assert "<i>" not in html
    assert "javascript:" not in html
    assert 'href="/orders/1/" rel="noopener"' in html


def test_banner_shows_unread_announcements(alice: User) -> None:
    read = notify(alice, "read already", kind="broadcast")
    mark_read(alice, [read.pk])
    notify(alice, "sale", kind="broadcast")
    notify(alice, "something else")
    html = render("{% notification_banner %}", alice)
    assert "sale" in html
    assert "read already" not in html
    assert "something else" not in html
    assert attributes(html, "notification-banner")["kinds"] == "broadcast"
    assert "something else" in render('{% notification_banner "message" "broadcast" %}', alice)


def test_banner_s_link_without_https_leads_to_this_site_only(alice: User) -> None:
    for address in ("http://testserver/a/", "http://elsewhere.example/"):
        notify(alice, "sale", kind="broadcast", url=address)
    html = render("{% notification_banner %}", alice)
    assert 'href="http://testserver/a/"' in html
    assert "elsewhere.example" not in html


@pytest.mark.parametrize(
    ("language", "two", "eleven"),
    [
        ("en", "{n} new notifications", "{n} new notifications"),
        ("de", "{n} neue Benachrichtigungen", "{n} neue Benachrichtigungen"),
        ("ar", "إشعاران جديدان", "{n} إشعارًا جديدًا"),
    ],
)
def test_sentences_come_for_the_numbers_that_tell_plural_rules_apart(language: str, two: str, eleven: str) -> None:
    with translation.override(language):
        html = Template("{% load notifications %}{% notification_sentence 'arrived' %}").render(Context())
    sentences = json.loads(unescape(html))
    assert list(map(int, sentences)) == list(SAMPLES)
    assert (sentences["2"], sentences["11"]) == (two, eleven)


def test_elements_speak_the_readers_language(alice: User) -> None:
    with translation.override("de"):
        assert "Alle als gelesen markieren" in render("{% notification_bell %}", alice)
    with translation.override("ar"):
        assert "تعليم الكل كمقروء" in render("{% notification_bell %}", alice)


def test_bell_of_a_site_whose_topics_fail(alice: User, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    notify(alice, "hi")
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}
    bell = attributes(render("{% notification_bell %}", alice))
    # It follows from when its stream opens.
    assert (bell["cursor"], bell["unread"]) == ("", "1")
    assert "TOPICS failed" in caplog.text


def test_numbers_are_not_grouped_where_a_script_reads_them(alice: User, client: Client, settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    Notification.objects.create(pk=1_234_567, topic=f"user:{alice.pk}", title="hi", kind="broadcast")
    client.force_login(alice)
    page = client.get(reverse("notifications:inbox")).text
    for written in ('data-id="1234567"', 'name="ids" value="1234567"', 'name="before" value="1234567"'):
        assert written in page
    banner = render("{% notification_banner %}", alice)
    assert 'data-banner="1234567"' in banner
    assert "1,234,567" not in page + banner
