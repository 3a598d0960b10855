"""Who opens the page of what a notification is about has read it: once it was shown, and not before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import DatabaseError, models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.template import engines
from django.template.response import TemplateResponse
from django.test import RequestFactory
from django.views import View
from django.views.generic import DetailView, TemplateView

from notifications import inbox, mixins, notify
from notifications.mixins import MarksTargetReadMixin, mark_target_read
from notifications.models import Event
from notifications.preferences import change_preferences

pytestmark = pytest.mark.django_db


class GroupPage(MarksTargetReadMixin, DetailView):  # type: ignore[type-arg]
    model = Group

    def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> TemplateResponse:
        return TemplateResponse(self.request, engines["django"].from_string("{{ object.name }}"), context, **kwargs)


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def club() -> Group:
    return Group.objects.create(name="club")


def ask(
    view: Callable[..., HttpResponseBase], user: User | AnonymousUser, method: str = "get", **headers: str
) -> HttpResponseBase:
    """Return the rendered answer of ``view``."""
    request = getattr(RequestFactory(headers=headers), method)("/club/")
    request.user = user
    response = view(request, pk=Group.objects.get().pk)
    if isinstance(response, TemplateResponse):
        response.render()
    return response


def unread(user: User) -> list[str]:
    return sorted(row.notification.title for row in inbox.page(user, "unread").rows)


page = GroupPage.as_view()


def test_page_reads_the_notifications_about_its_object(alice: User, club: Group) -> None:
    notify(alice, "about the club", target=club)
    notify("everyone", "to everybody, about the club", target=club)
    notify(alice, "about somebody with the same key", target=User(pk=club.pk))
    notify(alice, "about another club", target=Group(pk=club.pk + 1))
    notify(alice, "about nothing")
    response = ask(page, alice)
    assert isinstance(response, TemplateResponse)
    assert response.content == b"club"
    assert unread(alice) == ["about another club", "about nothing", "about somebody with the same key"]


def test_page_reads_for_nobody_else(alice: User, club: Group) -> None:
    bob = User.objects.create_user("bob")
    notify("everyone", "about the club", target=club)
    ask(page, alice)
    assert (unread(alice), unread(bob)) == ([], ["about the club"])


def test_other_tabs_hear_of_it_once(alice: User, club: Group) -> None:
    rows = [notify(alice, title, target=club) for title in ("one", "two")]
    ask(page, alice)
    ask(page, alice)
    event = Event.objects.get(type="read")
    data = json.loads(event.payload)
    assert (sorted(data["ids"]), data["read"], data["unread"]) == (sorted(row.pk for row in rows), True, 0)


def test_nothing_is_read_before_the_page_is_rendered(alice: User, club: Group) -> None:
    notify(alice, "about the club", target=club)
    request = RequestFactory().get("/club/")
    request.user = alice
    response = page(request, pk=club.pk)
    assert isinstance(response, TemplateResponse)
    assert unread(alice) == ["about the club"]
    response.render()
    assert unread(alice) == []


def test_page_that_fails_to_render_reads_nothing(alice: User, club: Group) -> None:
    class Broken(GroupPage):
        def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> TemplateResponse:
            template = engines["django"].from_string("{% include missing %}")
            return TemplateResponse(self.request, template, context)

    notify(alice, "about the club", target=club)
    with pytest.raises(Exception, match=r"No template names provided|None"):
        ask(Broken.as_view(), alice)
    assert unread(alice) == ["about the club"]


@pytest.mark.parametrize("method", ["head", "options"])
def test_other_methods_read_nothing(method: str, alice: User, club: Group) -> None:
    notify(alice, "about the club", target=club)
    assert ask(page, alice, method).status_code == 200
    assert unread(alice) == ["about the club"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Purpose", "Prefetch"),
        ("X-Moz", "prefetch"),
    ],
)
def test_page_that_is_fetched_ahead_reads_nothing(header: str, value: str, alice: User, club: Group) -> None:
    notify(alice, "about the club", target=club)
    ask(page, alice, **{header: value})
    assert unread(alice) == ["about the club"]


def test_strangers_see_the_page_all_the_same(club: Group) -> None:
    notify("everyone", "about the club", target=club)
    assert ask(page, AnonymousUser()).status_code == 200


@pytest.mark.parametrize("status", [204, 302, 404])
def test_page_that_is_not_shown_reads_nothing(status: int, alice: User, club: Group) -> None:
    class Elsewhere(View):
        def get(self, request: HttpRequest, pk: int) -> HttpResponse:
            return HttpResponse(status=status)

    class Page(MarksTargetReadMixin, Elsewhere):
        object = club

    notify(alice, "about the club", target=club)
    ask(Page.as_view(), alice)
    assert unread(alice) == ["about the club"]


def test_page_that_is_not_found_reads_nothing(alice: User, club: Group) -> None:
    class Missing(GroupPage):
        def get_object(self, queryset: Any = None) -> Group:
            raise Http404

    notify(alice, "about the club", target=club)
    with pytest.raises(Http404):
        ask(Missing.as_view(), alice)
    assert unread(alice) == ["about the club"]


def test_answer_without_a_template_reads_at_once(alice: User, club: Group) -> None:
    class Plain(View):
        def get(self, request: HttpRequest, pk: int) -> HttpResponse:
            return HttpResponse("club")

    class Page(MarksTargetReadMixin, Plain):
        object = club

    notify(alice, "about the club", target=club)
    ask(Page.as_view(), alice)
    assert unread(alice) == []


def test_view_says_what_its_page_is_about(alice: User, club: Group) -> None:
    class Page(MarksTargetReadMixin, TemplateView):
        def get_notification_target(self) -> models.Model:
            return Group.objects.get(pk=self.kwargs["pk"])

        def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> TemplateResponse:
            return TemplateResponse(self.request, engines["django"].from_string(""), context)

    notify(alice, "about the club", target=club)
    ask(Page.as_view(), alice)
    assert unread(alice) == []


def test_view_about_nothing_reads_nothing(alice: User, club: Group) -> None:
    class Page(MarksTargetReadMixin, TemplateView):
        def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> TemplateResponse:
            return TemplateResponse(self.request, engines["django"].from_string(""), context)

    notify(alice, "about the club", target=club)
    ask(Page.as_view(), alice)
    assert unread(alice) == ["about the club"]


def test_function_reads_what_it_is_told(alice: User, club: Group) -> None:
    for title in ("one", "two"):
        notify(alice, title, target=club)
    request = RequestFactory().get("/club/")
    request.user = alice
    assert mark_target_read(request, club) == 2
    assert mark_target_read(request, club) == 0
    assert unread(alice) == []


def test_page_without_news_writes_nothing(alice: User, club: Group, django_assert_max_num_queries: Any) -> None:
    inbox.read_all(alice)
    with django_assert_max_num_queries(6) as queries:
        assert inbox.target_opened(alice, club) == 0
    assert all(query["sql"].startswith("SELECT") for query in queries)


def test_database_that_fails_does_not_take_the_page_along(
    alice: User, club: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise DatabaseError("locked")

    monkeypatch.setattr(mixins, "target_opened", fail)
    assert ask(page, alice).status_code == 200
    assert "could not be marked read" in caplog.text


def test_page_stands_when_the_site_s_topics_fail(
    alice: User, club: Group, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    notify(alice, "about the club", target=club)
    settings.NOTIFICATIONS = {"TOPICS": "tests.test_access.failing_topics"}
    assert ask(page, alice).status_code == 200
    assert "could not be marked read" in caplog.text
    assert unread(alice) == ["about the club"]


def test_muted_kind_stays_unread(alice: User, club: Group, settings: Any) -> None:
    settings.NOTIFICATIONS = {"KINDS": {"club.news": {}}}
    notify(alice, "about the club", kind="club.news", target=club)
    change_preferences(alice, muted=["club.news"])
    ask(page, alice)
    change_preferences(alice, muted=[])
    assert unread(alice) == ["about the club"]
