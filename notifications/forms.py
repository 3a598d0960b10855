"""Forms: what the inbox takes from its readers, and what the admin takes from who composes a broadcast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .inbox import LARGEST_ID, STATUSES
from .models import Broadcast, Preference
from .publishing import KIND, check_url

if TYPE_CHECKING:
    # Generic for the type checker only.
    _BroadcastForm = forms.ModelForm[Broadcast]
else:
    _BroadcastForm = forms.ModelForm

__all__ = ["BroadcastForm", "BulkForm", "InboxQuery", "PreferencesForm", "ReadAllForm"]

#: Rows of a page of the inbox.
PAGE_SIZE = 20
MOST_ROWS = 100
#: Ids that one bulk action takes.
MOST_IDS = 500


class InboxQuery(forms.Form):
    """The query string of the inbox."""

    status = forms.ChoiceField(choices=[(status, status) for status in STATUSES], required=False)
    kind = forms.CharField(max_length=100, required=False)
    before = forms.IntegerField(min_value=1, max_value=LARGEST_ID, required=False)
    limit = forms.IntegerField(min_value=1, max_value=MOST_ROWS, required=False)

    def clean_status(self) -> str:
        return self.cleaned_data["status"] or "all"

    def clean_limit(self) -> int:
        return self.cleaned_data["limit"] or PAGE_SIZE


class ReadAllForm(forms.Form):
    """The body of read-all: everything, or only up to what was on the screen."""

    before = forms.IntegerField(min_value=1, max_value=LARGEST_ID, required=False)


class IdsField(forms.TypedMultipleChoiceField):
    """Ids of notifications, repeated: ``ids=3&ids=4``. Whose they are is not its business."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(coerce=int, **kwargs)

    def valid_value(self, value: Any) -> bool:
        return len(value) <= 19 and value.isascii() and value.isdigit()

    def validate(self, value: Any) -> None:
        super().validate(value)
        if len(value) > MOST_IDS:
            raise ValidationError(_("At most %(most)d at once."), params={"most": MOST_IDS})


class BulkForm(forms.Form):
    """One action on several notifications."""

    action = forms.ChoiceField(choices=[(name, name) for name in ("read", "unread", "archive", "unarchive")])
    ids = IdsField(required=False)


class KindsField(forms.MultipleChoiceField):
    """Names of kinds, repeated. The page may be older than what the site declares now: unknown ones are no error."""

    def valid_value(self, value: Any) -> bool:
        return True


class PreferencesForm(forms.Form):
    """What a person wants, as their page sends it."""

    #: Those that the page showed, and of them those that are wanted.
    shown = KindsField(required=False)
    kinds = KindsField(required=False)
    transport = forms.ChoiceField(choices=Preference.Transport.choices)
    toasts = forms.BooleanField(required=False)
    sound = forms.BooleanField(required=False)
    system = forms.BooleanField(required=False)


class BroadcastForm(_BroadcastForm):
    """A broadcast as it is composed. What ``broadcast()`` would refuse is said here, beside the field."""

    class Meta:
        model = Broadcast
        fields = (
            "title",
            "body",
            "level",
            "url",
            "audience",
            "group",
            "users",
            "scheduled_at",
            "expires_at",
            "kind",
            "tag",
        )
        widgets = {
            "title": forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
            "body": forms.Textarea(attrs={"class": "vLargeTextField", "rows": 4}),
            "url": forms.TextInput(attrs={"class": "vTextField", "placeholder": "/sale/", "inputmode": "url"}),
        }
        help_texts = {
            "title": _("One line: what people see first."),
            "body": _("Plain text. May stay empty."),
            "url": _("Where a click leads: a path on this site (/sale/) or an https:// address. May stay empty."),
            "users": _("Type a name to find somebody."),
            "scheduled_at": _("Leave it empty to send it yourself."),
            "expires_at": _("Nobody is shown it any more after this. Leave it empty if it stays true."),
            "kind": _("Dotted words, such as shop.sale; people and pages can tell kinds apart."),
            "tag": _("A newer broadcast with the same tag replaces this one."),
        }

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        self._clean_audience(data)
        self._clean_times(data)
        return data

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        sentence = _("Give a path on this site, such as /sale/, or an address that begins with https://.")
        try:
            check_url(url)
        except ValueError as error:
            raise ValidationError(sentence) from error
        if url.lower().startswith("http:"):  # Of another site it would be no link, and of this one a path is enough.
            raise ValidationError(sentence)
        return url

    def clean_kind(self) -> str:
        kind: str = self.cleaned_data["kind"]
        if not KIND.fullmatch(kind):
            raise ValidationError(_("A kind is made of letters, digits, - and _; dots part its words."))
        return kind

    def _clean_audience(self, data: dict[str, Any]) -> None:
        audience = data.get("audience")
        if audience == Broadcast.Audience.GROUP:
            if not data.get("group") and "group" not in self.errors:
                self.add_error("group", _("Choose the group that this is for."))
        else:
            data["group"] = None
        if audience == Broadcast.Audience.USERS:
            if not data.get("users") and "users" not in self.errors:
                self.add_error("users", _("Choose at least one person."))
        else:
            data["users"] = []

    def _clean_times(self, data: dict[str, Any]) -> None:
        now = timezone.now()
        scheduled_at, expires_at = data.get("scheduled_at"), data.get("expires_at")
        # A scheduled broadcast that is saved stays scheduled.
        scheduling = "_schedule" in self.data or self.instance.state == Broadcast.State.SCHEDULED
        if scheduling and not {"_send", "_unschedule"} & set(self.data) and "scheduled_at" not in self.errors:
            if scheduled_at is None:
                self.add_error("scheduled_at", _("Choose when it is to be sent."))
            elif scheduled_at <= now:
                self.add_error("scheduled_at", _("This time has passed."))
        if expires_at is not None:
            if expires_at <= now:
                self.add_error("expires_at", _("This time has passed."))
            elif scheduled_at is not None and expires_at <= scheduled_at and "_send" not in self.data:
                self.add_error("expires_at", _("It would expire before it is sent."))
