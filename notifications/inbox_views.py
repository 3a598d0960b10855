"""The inbox over HTTP: a page that needs no script, the same as JSON, and the actions. See ``docs/protocol.md``.

All of it is for one logged-in person and for nobody's cache; all that changes anything is POST and checks CSRF. Who
prefers JSON gets JSON; others get the page, or are led back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, cast

from django import forms
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views import View
from django.views.decorators.csrf import csrf_protect

from . import inbox
from .access import TopicsUnknown, cursor_for, is_for
from .forms import BulkForm, InboxQuery, ReadAllForm
from .origin import own_origin

__all__ = ["BulkView", "ClickedView", "InboxView", "ReadAllView", "RowView", "SeenView", "inbox_urls"]

#: What can be done to rows, by the name of the URL.
ACTIONS: dict[str, Callable[[AbstractBaseUser, Iterable[int]], inbox.Change]] = {
    "read": partial(inbox.mark_read, read=True),
    "unread": partial(inbox.mark_read, read=False),
    "archive": partial(inbox.archive, archived=True),
    "unarchive": partial(inbox.archive, archived=False),
}


def wants_json(request: HttpRequest) -> bool:
    """Return whether the client prefers JSON to a page: by its Accept header, or by ``?format=json``."""
    preferred = request.get_preferred_type(["text/html", "application/json"])
    return request.GET.get("format") == "json" or preferred == "application/json"


def inbox_url(request: HttpRequest) -> str:
    """Return where this site keeps the inbox."""
    match = request.resolver_match
    return reverse("notifications:inbox", current_app=match.namespace if match else None)


# The middleware checks it too; an app that is dropped into other people's sites does not count on it.
@method_decorator(csrf_protect, name="dispatch")
# Django's LoginRequiredMiddleware would lead scripts to a login page instead of telling them 401.
@method_decorator(login_not_required, name="dispatch")
class PersonalView(View):
    """A view of one person's own data: 401 or the login page for strangers, and no cache ever keeps it."""

    @property
    def user(self) -> AbstractBaseUser:
        return cast(AbstractBaseUser, self.request.user)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = self.respond(request, *args, **kwargs)
        patch_cache_control(response, private=True, no_store=True)
        patch_vary_headers(response, ["Accept", "Cookie"])
        return response

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        json = wants_json(request)
        if not request.user.is_authenticated or not is_for(request.user, request.GET.get("for")):
            if json:
                return JsonResponse({"error": _("Log in to read your notifications.")}, status=401)
            return redirect_to_login(request.get_full_path() if hasattr(self, "get") else inbox_url(request))
        try:
            return super().dispatch(request, *args, **kwargs)
        except Http404:
            if not json:
                raise
            return JsonResponse({"error": _("There is no such notification.")}, status=404)
        except BadRequest as error:
            if not json:
                raise
            return JsonResponse({"error": str(error)}, status=400)
        except TopicsUnknown:
            sentence, headers = (
                _("This can not be done at the moment. Try again in a few seconds."),
                {"Retry-After": "5"},
            )
            if not json:
                return HttpResponse(sentence, content_type="text/plain", status=503, headers=headers)
            return JsonResponse({"error": sentence}, status=503, headers=headers)


class InboxView(PersonalView):
    """``GET`` a page of the inbox."""

    template_name: ClassVar[str] = "notifications/inbox.html"

    def get(self, request: HttpRequest) -> HttpResponseBase:
        query = cleaned(InboxQuery(request.GET))
        # Before the rows: what is published in between is then shown twice at worst, which a client notices.
        cursor = cursor_for(self.user)
        box = inbox.Inbox(self.user, origin=own_origin(request))
        page = box.page(**query)
        counts = box.counts()
        older = self.address(request, before=page.next) if page.next else None
        if wants_json(request):
            return JsonResponse(
                {
                    "results": [inbox.as_json(row) for row in page.rows],
                    "next": older,
                    "unread": counts.unread,
                    "unseen": counts.unseen,
                    "cursor": cursor,
                    "kinds": box.kinds(),
                }
            )
        tabs = [
            {"status": status, "label": label, "url": self.address(request, status=status, before=None)}
            for status, label in (("all", _("All")), ("unread", _("Unread")), ("archived", _("Archived")))
        ]
        context = {
            "rows": page.rows,
            # What "all" means to the person who presses "mark all as read": not what comes after this page was made.
            "newest": box.newest,
            "status": query["status"],
            "tabs": tabs,
            "kind": query["kind"],
            "kinds": box.kinds(),
            "limit": request.GET.get("limit", ""),
            "older_url": older,
            "newest_url": self.address(request, before=None) if query["before"] else None,
            "here": request.get_full_path(),
            "unread": counts.unread,
            "unseen": counts.unseen,
            "cap": inbox.CAP,
            "preference": box.preference,
            "cursor": cursor,
        }
        return render(request, self.template_name, context)

    @staticmethod
    def address(request: HttpRequest, **changes: object) -> str:
        """Return the address of this page with some of its query string changed; None takes a key out."""
        query = request.GET.copy()
        for name, value in changes.items():
            query.pop(name, None)
            if value is not None:
                query[name] = str(value)
        return f"{request.path}?{query.urlencode()}" if query else request.path


class ActionView(PersonalView):
    """Something a person does: POST only; answers with the counts after it, or leads back to the page."""

    http_method_names = ["post", "options"]

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        change = self.act(request, *args, **kwargs)
        if wants_json(request):
            return JsonResponse({"unread": change.counts.unread, "unseen": change.counts.unseen})
        return HttpResponseRedirect(self.onward(request, change))

    def act(self, request: HttpRequest) -> inbox.Change:
        raise NotImplementedError

    def onward(self, request: HttpRequest, change: inbox.Change) -> str:
        """Return where a page goes from here: to where the form said it came from, if that is on this site."""
        back = request.POST.get("next", "")
        own = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
        return back if own else inbox_url(request)


class RowView(ActionView):
    """One of :data:`ACTIONS` on one row; 404 if it is not this person's."""

    action = "read"

    def act(self, request: HttpRequest, pk: int = 0) -> inbox.Change:
        return own(ACTIONS[self.action](self.user, [pk]))


class ClickedView(ActionView):
    """The link of a row was followed. From the page it leads on to the link itself, so that no script is needed."""

    def act(self, request: HttpRequest, pk: int = 0) -> inbox.Change:
        return own(inbox.clicked(self.user, pk))

    def onward(self, request: HttpRequest, change: inbox.Change) -> str:
        box = inbox.Inbox(self.user, origin=own_origin(request))
        (row,) = box.find(change.found)
        return row.href or super().onward(request, change)


class BulkView(ActionView):
    """One action on the rows that were ticked; those that are not this person's are passed over."""

    def act(self, request: HttpRequest) -> inbox.Change:
        data = cleaned(BulkForm(request.POST))
        if not data["ids"]:
            return inbox.Change((), (), inbox.counts(self.user))
        return own(ACTIONS[data["action"]](self.user, data["ids"]))


class ReadAllView(ActionView):
    """Everything is read, or everything up to ``before``."""

    def act(self, request: HttpRequest) -> inbox.Change:
        return inbox.read_all(self.user, cleaned(ReadAllForm(request.POST))["before"])


class SeenView(ActionView):
    """The person has looked; the badge begins anew."""

    def act(self, request: HttpRequest) -> inbox.Change:
        return inbox.mark_seen(self.user)


def own(change: inbox.Change) -> inbox.Change:
    """Return the change.

    :raises Http404: if nothing it was asked for is this person's; the same answer as for what does not exist.
    """
    if not change.found:
        raise Http404
    return change


def cleaned(form: forms.Form) -> dict[str, Any]:
    """Return what a form makes of its data.

    :raises BadRequest: with the first thing that is wrong, in a sentence.
    """
    if form.is_valid():
        return form.cleaned_data
    name, errors = next(iter(form.errors.items()))
    raise BadRequest(f"{name}: {errors[0]}")


#: The routes, for ``notifications.urls``.
inbox_urls: list[URLPattern] = [
    path("", InboxView.as_view(), name="inbox"),
    *(path(f"<int:pk>/{name}/", RowView.as_view(action=name), name=name) for name in ACTIONS),
    path("<int:pk>/clicked/", ClickedView.as_view(), name="clicked"),
    path("read-all/", ReadAllView.as_view(), name="read-all"),
    path("seen/", SeenView.as_view(), name="seen"),
    path("bulk/", BulkView.as_view(), name="bulk"),
]
