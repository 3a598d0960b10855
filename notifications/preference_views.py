"""What a person wants, over HTTP: a page that needs no script, and the same as JSON. See ``docs/protocol.md``."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import URLPattern, path
from django.utils.translation import gettext as _

from . import kinds
from .forms import PreferencesForm
from .inbox_views import PersonalView, inbox_url, wants_json
from .models import Preference
from .preferences import as_json, change_preferences, preferences, transports

__all__ = ["PreferencesView", "preference_urls"]


class PreferencesView(PersonalView):
    """``GET`` what the person wants and what there is to choose; ``POST`` to change it.

    A form is the whole of it: a box that is not ticked is off. A JSON object changes the preferences that it names.
    """

    template_name: ClassVar[str] = "notifications/preferences.html"

    def get(self, request: HttpRequest) -> HttpResponseBase:
        preference = preferences(self.user)
        if wants_json(request):
            return JsonResponse(described(preference))
        context = {
            "preference": preference,
            "kinds": kinds.declared(),
            "muted": preference.muted_kinds,
            "transport": as_json(preference)["transport"],
            "transports": [(name, Preference.Transport(name).label) for name in transports()],
            "saved": "saved" in request.GET,
            "inbox_url": inbox_url(request),
        }
        return render(request, self.template_name, context)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        values = self.named() if request.content_type == "application/json" else self.ticked()
        try:
            preference = change_preferences(self.user, **values)
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error)) from error
        if wants_json(request):
            return JsonResponse(described(preference))
        return HttpResponseRedirect(f"{request.path}?saved")

    def named(self) -> dict[str, Any]:
        """Return what a JSON object says."""
        try:
            values = json.loads(self.request.body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise BadRequest(_("Send a JSON object."))
        return values

    def ticked(self) -> dict[str, Any]:
        """Return what a form says. Kinds that its page did not show stay as they are."""
        form = PreferencesForm(self.request.POST)
        if not form.is_valid():
            name, errors = next(iter(form.errors.items()))
            raise BadRequest(f"{name}: {errors[0]}")
        values = dict(form.cleaned_data)
        shown, wanted = set(values.pop("shown")) & kinds.mutable(), set(values.pop("kinds"))
        return {**values, "muted": (preferences(self.user).muted_kinds - shown) | (shown - wanted)}


def described(preference: Preference) -> dict[str, Any]:
    """Return preferences with all that there is to choose from, as JSON clients get them."""
    muted = preference.muted_kinds
    return {
        **as_json(preference),
        "kinds": [
            {
                "kind": kind.name,
                "label": kind.label,
                "description": kind.description,
                "mandatory": kind.mandatory,
                "muted": kind.name in muted,
            }
            for kind in kinds.declared()
        ],
        "transports": transports(),
    }


#: The route, for ``notifications.urls``.
preference_urls: list[URLPattern] = [path("preferences/", PreferencesView.as_view(), name="preferences")]
