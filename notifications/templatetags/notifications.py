"""Template tags: the bell and its companions on any page, rows of the inbox in any list. See ``docs/embed.md``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from django import template
from django.middleware.csrf import get_token
from django.template.loader import select_template
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _, ngettext

from notifications.access import cursor_for, user_key
from notifications.inbox import Counts, Inbox, Row
from notifications.models import Preference
from notifications.origin import own_origin
from notifications.preferences import as_json
from notifications.settings import conf
from notifications.tables import unless_missing

register = template.Library()

#: Where the state of a page's person waits for the page's next tag.
ATTRIBUTE = "_notifications_element"

#: Kinds that can name a template file.
KIND = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)

#: Numbers that between them fall under all plural rules of the languages there are.
SAMPLES = (0, 1, 2, 3, 5, 6, 11, 21, 100, 1_000_000)

SENTENCES: dict[str, Callable[[int], str]] = {
    "bell": lambda n: (
        ngettext("Notifications, {n} unread", "Notifications, {n} unread", n) if n else _("Notifications, all read")
    ),
    "pill": lambda n: ngettext("{n} new", "{n} new", n),
    "arrived": lambda n: ngettext("{n} new notification", "{n} new notifications", n),
    "unread": lambda n: ngettext("{n} unread", "{n} unread", n),
}


@register.inclusion_tag("notifications/bell.html", takes_context=True)
def notification_bell(
    context: template.Context, *, toasts: bool = True, favicon: str = "", transport: str = "auto"
) -> dict[str, Any]:
    """Render the bell of the person who is logged in, and with it the toasts; nothing for anybody else.

    :param toasts: whether new notifications show for a moment in a corner of the window.
    :param favicon: address of the icon that the page wears while something is new; default: it keeps its own.
    :param transport: the one transport that this page is to use; ``auto``: the one that the person chose, if any.
    """
    return {**element(context, transport), "toasts": toasts, "favicon": favicon}


@register.inclusion_tag("notifications/toasts.html", takes_context=True)
def notification_toasts(context: template.Context, *, transport: str = "auto") -> dict[str, Any]:
    """Render the toasts alone, for a page without the bell."""
    return element(context, transport)


@register.inclusion_tag("notifications/banner.html", takes_context=True)
def notification_banner(
    context: template.Context, *kinds: str, limit: int = 3, transport: str = "auto"
) -> dict[str, Any]:
    """Render the unread announcements across the page: there from the first paint, live from then on.

    :param kinds: notifications of these kinds are announcements; default: ``broadcast``.
    :param limit: how many are rendered at most.
    """
    kinds = kinds or ("broadcast",)
    state = element(context, transport)
    rows: list[Row] = []
    if state["element"]:
        request = context["request"]
        box = Inbox(request.user, origin=own_origin(request))
        for kind in kinds:
            rows += box.page("unread", kind, limit=limit).rows
        rows.sort(key=lambda row: -row.notification.pk)
    return {**state, "kinds": " ".join(kinds), "rows": rows[:limit]}


@register.inclusion_tag("notifications/status.html", takes_context=True)
def notification_status(context: template.Context, *, transport: str = "auto") -> dict[str, Any]:
    """Render how this page is connected, for a person or for those who help one."""
    return element(context, transport)


@register.simple_tag(takes_context=True)
def notification_element(context: template.Context, *, transport: str = "auto") -> dict[str, Any]:
    """Return what ``notifications/attributes.html`` writes into an element of the site's own making."""
    return element(context, transport)


@register.simple_tag
def notification_row(row: Row | None, form: bool = False) -> SafeString:
    """Render a row of the inbox with its kind's template, ``notifications/row/<kind>.html``, or the one for all.

    :param row: a row, or None for the blank one that the browser fills in.
    :param form: whether it stands in a form, so that its buttons work without JavaScript.
    """
    return render_row(row, row.notification.kind if row else "", form)


@register.simple_tag
def notification_row_templates() -> list[tuple[str, SafeString]]:
    """Return the blank rows from which the browser makes new ones: for the kinds of ``KINDS`` and for all others."""
    return [(kind, render_row(None, kind)) for kind in ("", *conf.kinds)]


@register.simple_tag
def notification_kind_labels() -> str:
    """Return what the site calls its kinds, as JSON."""
    return json.dumps({kind: str(about["label"]) for kind, about in conf.kinds.items() if about.get("label")})


@register.simple_tag
def notification_kind_label(kind: str) -> str:
    """Return what the site calls a kind, or the kind itself."""
    return str(conf.kinds.get(kind, {}).get("label") or kind)


@register.simple_tag
def notification_sentence(name: str) -> str:
    """Return a sentence with a number in it, for the sample numbers, as JSON; the browser knows which one applies."""
    return json.dumps({n: SENTENCES[name](n) for n in SAMPLES}, ensure_ascii=False)


def render_row(row: Row | None, kind: str, form: bool = False) -> SafeString:
    names = ["notifications/row.html"]
    if KIND.fullmatch(kind):
        names.insert(0, f"notifications/row/{kind}.html")
    context = {"row": row, "notification": row.notification if row else None, "form": form}
    html: SafeString = select_template(names).render(context)
    return html


def state_of(user: Any) -> tuple[str, Counts, Preference]:
    # The cursor before the counts: what is published in between is then counted twice at worst, and not forgotten.
    cursor = cursor_for(user)
    box = Inbox(user)
    return cursor, box.counts(), box.preference


def element(context: template.Context, transport: str = "auto") -> dict[str, Any]:
    """Return what an element of this page has to know; asked for once for each request, nothing for strangers."""
    request = context.get("request")
    user = getattr(request, "user", None) or context.get("user")
    if request is None or user is None or not user.is_authenticated:
        return {"element": None}
    known: dict[str, Any] | None = getattr(request, ATTRIBUTE, None)
    if known == {}:  # Without its tables the app has nothing to show; the page stands.
        return {"element": None}
    first = known is None
    if known is None:
        match = request.resolver_match
        if match and match.url_name == "inbox" and match.app_names[-1:] == ["notifications"]:
            # The inbox page took its cursor before it read its rows; a later one would skip what came in between.
            cursor, unread, unseen = context["cursor"], context["unread"], context["unseen"]
            preference = context["preference"]
        else:
            state = unless_missing(partial(state_of, user))
            if state is None:
                setattr(request, ATTRIBUTE, {})
                return {"element": None}
            cursor, counts, preference = state
            unread, unseen = counts.unread, counts.unseen
        known = {
            "stream_url": reverse("notifications:stream"),
            "socket_url": conf.socket_path,
            "events_url": reverse("notifications:events"),
            "inbox_url": reverse("notifications:inbox"),
            "cursor": cursor,
            "unread": unread,
            "unseen": unseen,
            "transports": " ".join(conf.transports),
            "csrf_token": get_token(request),
            "user": user_key(user),
            "preferences_url": reverse("notifications:preferences"),
            **as_json(preference),
        }
        setattr(request, ATTRIBUTE, known)
    own = {} if transport == "auto" else {"transport": transport, "fixed": True}
    return {"element": {**known, **own}, "first": first}
