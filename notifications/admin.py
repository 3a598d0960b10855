"""The admin: broadcasts to compose, send and recall; the log and the inboxes to look at, never to change.

A broadcast goes its way by buttons: *Send now…* and *Schedule…* save it and show, before anything happens, whom it will
reach. What was sent can be recalled, not edited: people have read it. Sending, scheduling and recalling need the
permission ``notifications.send_broadcast``; composing a draft does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import ManyToManyRawIdWidget
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import Count, QuerySet
from django.forms import Field, ModelForm, Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _, gettext_lazy, ngettext

from .broadcasts import Reach, reach, recipients
from .forms import BroadcastForm
from .log import database
from .models import Broadcast, Event, Notification, Receipt, Topic
from .publishing import recall, send

if TYPE_CHECKING:
    # Generic for the type checker only.
    _BroadcastAdmin = admin.ModelAdmin[Broadcast]
    _AnyAdmin = admin.ModelAdmin[Any]
else:
    _BroadcastAdmin = _AnyAdmin = admin.ModelAdmin

__all__ = ["BroadcastAdmin", "EventAdmin", "NotificationAdmin", "ReceiptAdmin", "TopicAdmin"]

State = Broadcast.State

#: Chosen users whose names a sent broadcast shows.
NAMES_SHOWN = 20
#: Characters of a title in a list.
TITLE_LENGTH = 60


class Step(NamedTuple):
    """Something done to a whole broadcast, after a page that says what it means."""

    states: tuple[str, ...]
    title: str | Promise
    template: str
    do: Callable[[BroadcastAdmin, HttpRequest, Broadcast], None]


def grouped(number: int) -> str:
    """Return a number as people write it: 10,000."""
    return number_format(number, force_grouping=True)


def people_words(number: int) -> str:
    return ngettext("%(number)s person", "%(number)s people", number) % {"number": grouped(number)}


@admin.register(Broadcast)
class BroadcastAdmin(_BroadcastAdmin):
    """Compose, send, schedule and recall; afterwards, see what became of it."""

    form = BroadcastForm
    list_display = ("title_shown", "state_shown", "audience_shown", "recipients_shown", "moment", "sender")
    list_display_links = ("title_shown",)
    list_filter = ("state", "audience", "level", ("sender", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("group", "sender")
    search_fields = ("title", "body")
    search_help_text = gettext_lazy("Search in title and text")
    ordering = ("-pk",)
    radio_fields = {"audience": admin.VERTICAL, "level": admin.HORIZONTAL}
    save_on_top = False

    class Media:
        css = {"all": ("notifications/admin/broadcast.css",)}
        # A module: it runs when the form is there.
        js = (Script("notifications/admin/broadcast.js", type="module"),)

    # --- Who may do what

    def may_send(self, request: HttpRequest) -> bool:
        """Return whether this person may send, schedule and recall."""
        return request.user.has_perm("notifications.send_broadcast")

    def has_change_permission(self, request: HttpRequest, obj: Broadcast | None = None) -> bool:
        if not super().has_change_permission(request, obj):
            return False
        if obj is None or obj.state == State.DRAFT:
            return True
        # What was approved to go out is not changed by who could not have approved it.
        return obj.state == State.SCHEDULED and self.may_send(request)

    def has_delete_permission(self, request: HttpRequest, obj: Broadcast | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (
            obj is None or obj.state == State.DRAFT or (obj.state == State.SCHEDULED and self.may_send(request))
        )

    # --- The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Broadcast]:
        rows: QuerySet[Broadcast] = super().get_queryset(request).annotate(chosen=Count("users"))
        return rows

    @admin.display(description=gettext_lazy("title"), ordering="title")
    def title_shown(self, broadcast: Broadcast) -> SafeString:
        return shortened(broadcast.title)

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_shown(self, broadcast: Broadcast) -> SafeString:
        return format_html(
            '<span class="broadcast-state broadcast-state-{}">{}</span>', broadcast.state, broadcast.get_state_display()
        )

    @admin.display(description=gettext_lazy("audience"), ordering="audience")
    def audience_shown(self, broadcast: Broadcast) -> str:
        match broadcast.audience:
            case Broadcast.Audience.GROUP if broadcast.group:
                return _("group %(name)s") % {"name": broadcast.group.name}
            case Broadcast.Audience.USERS:
                number: int = getattr(broadcast, "chosen", 0)
                return ngettext("%(number)s chosen user", "%(number)s chosen users", number) % {
                    "number": grouped(number)
                }
        return broadcast.get_audience_display()

    @admin.display(description=gettext_lazy("recipients"), ordering="recipients")
    def recipients_shown(self, broadcast: Broadcast) -> str | None:
        return None if broadcast.recipients is None else grouped(broadcast.recipients)

    @admin.display(description=gettext_lazy("when"), ordering=models.functions.Coalesce("sent_at", "scheduled_at"))
    def moment(self, broadcast: Broadcast) -> str:
        if broadcast.sent_at is not None:
            return shown_time(broadcast.sent_at)
        if broadcast.scheduled_at is not None and broadcast.state == State.SCHEDULED:
            return _("planned for %(time)s") % {"time": shown_time(broadcast.scheduled_at)}
        return "–"

    # --- The page of one broadcast

    def get_fieldsets(self, request: HttpRequest, obj: Broadcast | None = None) -> Any:
        audience = (gettext_lazy("For"), {"fields": ("audience", "group", "users")})
        # Without USE_TZ (W015) `expires_at` is refused.
        moments = ("scheduled_at", "expires_at") if settings.USE_TZ else ("scheduled_at",)
        times = (gettext_lazy("When"), {"fields": moments})
        more = (gettext_lazy("More"), {"fields": ("kind", "tag"), "classes": ("collapse",)})
        message = (None, {"fields": ("title", "body", "level", "url")})
        if obj is None or self.has_change_permission(request, obj):
            return (message, audience, times, more)
        results = ["state_shown", "audience_shown"]
        if obj.audience == Broadcast.Audience.USERS:
            results.append("names")
        over = obj.state in (State.SENT, State.RECALLED)
        if over:
            results += ["sender", "sent_at", "recipients_shown", "read_shown", "clicked_shown"]
        else:
            results += ["sender", "scheduled_at"]
        texts = [name for name in ("title", "body", "level", "url", "expires_at", "kind", "tag") if getattr(obj, name)]
        return (
            (gettext_lazy("What became of it") if over else gettext_lazy("Where it stands"), {"fields": results}),
            (gettext_lazy("Message"), {"fields": texts}),
        )

    def get_form(self, request: HttpRequest, obj: Broadcast | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            # How to fill in a field is no news to who only looks at it.
            kwargs["help_texts"] = {}
        return super().get_form(request, obj, change, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Broadcast | None = None) -> tuple[str, ...]:
        return (
            "state_shown", "audience_shown", "names", "sender", "sent_at", "recipients_shown", "read_shown",
            "clicked_shown",
        )  # fmt: skip

    @admin.display(description=gettext_lazy("chosen users"))
    def names(self, broadcast: Broadcast) -> str:
        shown = [str(user) for user in broadcast.users.order_by("pk")[:NAMES_SHOWN]]
        more: int = getattr(broadcast, "chosen", len(shown)) - len(shown)
        if more > 0:
            shown.append(ngettext("%(number)s more", "%(number)s more", more) % {"number": grouped(more)})
        return ", ".join(shown) or "–"

    @admin.display(description=gettext_lazy("read by"))
    def read_shown(self, broadcast: Broadcast) -> str:
        return share(self._reach(broadcast).read, broadcast.recipients)

    @admin.display(description=gettext_lazy("link followed by"))
    def clicked_shown(self, broadcast: Broadcast) -> str:
        return share(self._reach(broadcast).clicked, broadcast.recipients)

    @staticmethod
    def _reach(broadcast: Broadcast) -> Reach:
        """Return what :func:`reach` says, which is asked for once for both fields of a page."""
        known: Reach | None = getattr(broadcast, "known_reach", None)
        if known is None:
            known = broadcast.known_reach = reach(broadcast)  # type: ignore[attr-defined]
        return known

    def get_autocomplete_fields(self, request: HttpRequest) -> tuple[str, ...]:
        # Not as a plain attribute: a site whose admin does not show its users would fail the system check.
        return ("users",) if self._searchable_users() else ()

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "users" and not self._searchable_users():
            # Without a search, a list of everybody would be the only other choice: ids it is.
            kwargs["widget"] = ManyToManyRawIdWidget(db_field.remote_field, self.admin_site)
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Field | None:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        for offer in ("can_add_related", "can_change_related", "can_delete_related", "can_view_related"):
            # Composing is no occasion to create users.
            if field is not None and hasattr(field.widget, offer):
                setattr(field.widget, offer, False)
        return field

    def _searchable_users(self) -> bool:
        users = self.admin_site._registry.get(get_user_model())
        return bool(users and users.search_fields)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        context = {"may_send": self.may_send(request), **(extra_context or {})}
        if request.method != "POST" or object_id is None:
            return super().changeform_view(request, object_id, form_url, context)
        with transaction.atomic(using=database()):
            obj = self.get_object(request, unquote(object_id))
            if obj is not None:
                # Until the form is saved the schedule must not send what it is about to change.
                rows = Broadcast.objects.using(database()).select_for_update()
                over = rows.values_list("state", flat=True).get(pk=obj.pk) in (State.SENT, State.RECALLED)
                if over and self.has_view_or_change_permission(request, obj):
                    self.message_user(
                        request,
                        _("“%(title)s” has been sent meanwhile, without your last changes.") % {"title": obj},
                        messages.WARNING,
                    )
                    return HttpResponseRedirect(self._url(obj, "change"))
            return super().changeform_view(request, object_id, form_url, context)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        obj = kwargs.get("obj")
        context["title"], context["subtitle"] = _("Compose a broadcast") if obj is None else str(obj), None
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Broadcast, form: ModelForm[Broadcast], change: bool) -> None:
        if "_unschedule" in request.POST and self.may_send(request):
            obj.state = State.DRAFT
        if obj.sender_id is None:
            obj.sender = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Broadcast, post_url_continue: str | None = None) -> HttpResponse:
        return self._onward(request, obj) or super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Broadcast) -> HttpResponse:
        return self._onward(request, obj) or super().response_change(request, obj)

    def _onward(self, request: HttpRequest, obj: Broadcast) -> HttpResponse | None:
        for step in ("send", "schedule"):
            if f"_{step}" in request.POST and self.may_send(request):
                return HttpResponseRedirect(self._url(obj, step))
        return None

    # --- Steps: send, schedule, recall

    def get_urls(self) -> list[URLPattern]:
        return [
            *(
                path(
                    f"<path:object_id>/{name}/",
                    self.admin_site.admin_view(partial(self.step_view, name=name)),
                    name=f"notifications_broadcast_{name}",
                )
                for name in STEPS
            ),
            *super().get_urls(),
        ]

    def step_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Show what a step means, and take it when the person confirms."""
        step = STEPS[name]
        obj = super().get_object(request, unquote(object_id))
        if obj is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined, no-any-return]
        if not (self.has_view_permission(request, obj) and self.may_send(request)):
            raise PermissionDenied
        if obj.state not in step.states:
            self.message_user(
                request,
                _("“%(title)s” is already %(state)s.") % {"title": obj, "state": obj.get_state_display()},
                messages.WARNING,
            )
            return HttpResponseRedirect(self._url(obj, "change"))
        if request.method == "POST":
            step.do(self, request, obj)
            return HttpResponseRedirect(self._url(obj, "change"))
        size = recipients(obj).count()
        context = {
            "step": name,
            **self.admin_site.each_context(request),
            "title": step.title,
            "opts": self.opts,
            "broadcast": obj,
            "change_url": self._url(obj, "change"),
            "audience": self.audience_shown(obj),
            "size": size,
            "people": people_words(size),
            "sent_to": people_words(obj.recipients or 0),
            "read_by": read_words(obj) if name == "recall" else "",
            "late": obj.scheduled_at is not None and obj.scheduled_at <= timezone.now(),
            "expired": obj.expires_at is not None and obj.expires_at <= timezone.now(),
            "media": self.media,
        }
        return TemplateResponse(request, f"admin/notifications/broadcast/{step.template}", context)

    def send_now(self, request: HttpRequest, obj: Broadcast) -> None:
        if not recipients(obj).exists():
            self.message_user(request, _("It was not sent: it reaches nobody."), messages.ERROR)
            return
        try:
            sent = send(obj, sender=request.user)
        except ValueError as error:
            self.message_user(request, _("It was not sent: %(error)s.") % {"error": error}, messages.ERROR)
            return
        if not sent:
            self.message_user(request, _("“%(title)s” had been sent already.") % {"title": obj}, messages.WARNING)
            return
        self.log_change(request, obj, _("Sent."))
        self.message_user(
            request,
            _("“%(title)s” was sent to %(people)s.") % {"title": obj, "people": people_words(obj.recipients or 0)},
            messages.SUCCESS,
        )

    def schedule(self, request: HttpRequest, obj: Broadcast) -> None:
        if obj.scheduled_at is None:
            self.message_user(request, _("Choose when it is to be sent."), messages.ERROR)
            return
        drafts = Broadcast.objects.using(database()).filter(pk=obj.pk, state=State.DRAFT)
        if drafts.update(state=State.SCHEDULED, sender=request.user):
            time = shown_time(obj.scheduled_at)
            self.log_change(request, obj, _("Scheduled for %(time)s") % {"time": time})
            self.message_user(
                request, _("“%(title)s” is planned for %(time)s") % {"title": obj, "time": time}, messages.SUCCESS
            )

    def take_back(self, request: HttpRequest, obj: Broadcast) -> None:
        recall(obj)
        self.log_change(request, obj, _("Recalled."))
        self.message_user(
            request,
            _("“%(title)s” was recalled. It disappears from every inbox and every open page.") % {"title": obj},
            messages.SUCCESS,
        )

    def _url(self, obj: Broadcast, name: str) -> str:
        return reverse(f"admin:notifications_broadcast_{name}", args=[obj.pk], current_app=self.admin_site.name)


STEPS = {
    "send": Step((State.DRAFT, State.SCHEDULED), gettext_lazy("Send now?"), "send.html", BroadcastAdmin.send_now),
    "schedule": Step((State.DRAFT,), gettext_lazy("Schedule?"), "send.html", BroadcastAdmin.schedule),
    "recall": Step((State.SENT,), gettext_lazy("Recall?"), "recall.html", BroadcastAdmin.take_back),
}


def read_words(broadcast: Broadcast) -> str:
    number = reach(broadcast).read
    if not number:
        return _("Nobody has read it yet.")
    return ngettext("%(number)s person has read it.", "%(number)s people have read it.", number) % {
        "number": grouped(number)
    }


def shown_time(moment: Any) -> str:
    # Without USE_TZ (W015) it is a local time already.
    return date_format(timezone.localtime(moment) if settings.USE_TZ else moment, "DATETIME_FORMAT")


def shortened(title: str) -> SafeString:
    """Return as much of a title as leaves room for other columns; the whole of it when it is pointed at."""
    return format_html('<span title="{}">{}</span>', title, Truncator(title).chars(TITLE_LENGTH))


def share(part: int, whole: int | None) -> str:
    """Return a number and what share of another it is: "120 (12 %)"."""
    return f"{grouped(part)} ({part * 100 // whole} %)" if whole else grouped(part)


class ReadOnlyAdmin(_AnyAdmin):
    """To look at. The rows belong to the log and to people's inboxes; changing them by hand would break promises."""

    show_full_result_count = False

    class Media:
        css = {"all": ("notifications/admin/broadcast.css",)}

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


@admin.register(Topic)
class TopicAdmin(ReadOnlyAdmin):
    list_display = ("name", "head", "floor", "advanced_at")
    search_fields = ("name",)
    ordering = ("-advanced_at",)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("topic", "seq", "type", "created_at")
    search_fields = ("topic__exact", "type__exact")  # "=" would not use the index.
    search_help_text = gettext_lazy("A whole topic (user:42) or type (notification)")
    ordering = ("-pk",)


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    list_display = ("title_shown", "topic", "kind", "level", "created_at", "expires_at", "recalled_at")
    list_filter = ("level", "created_at", ("recalled_at", admin.EmptyFieldListFilter))
    search_fields = ("topic__exact", "kind__exact", "title__icontains")
    search_help_text = gettext_lazy("Words of the title, or a whole topic (user:42) or kind (order.shipped)")
    ordering = ("-pk",)
    fields = (
        "title", "body", "level", "url", "topic", "kind", "tag", "data", "actor", "target", "broadcast", "created_at",
        "expires_at", "recalled_at",
    )  # fmt: skip

    @admin.display(description=gettext_lazy("title"), ordering="title")
    def title_shown(self, notification: Notification) -> SafeString:
        return shortened(notification.title)


@admin.register(Receipt)
class ReceiptAdmin(ReadOnlyAdmin):
    """Receipts go with their people: Django asks here whether those may be deleted. By itself none is."""

    list_display = ("user", "notification_shown", "seen_at", "read_at", "archived_at", "clicked_at")
    list_select_related = ("user", "notification")
    ordering = ("-pk",)

    @admin.display(description=gettext_lazy("notification"), ordering="notification")
    def notification_shown(self, receipt: Receipt) -> SafeString:
        return shortened(str(receipt.notification))

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return obj is not None

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        raise PermissionDenied

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().render_change_form(request, context | {"show_delete": False}, *args, **kwargs)

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return (f"user__{get_user_model().USERNAME_FIELD}", "notification__title")
