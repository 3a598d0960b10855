from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from notifications.models import Level


class AnnouncementForm(forms.Form):
    """What staff say to everybody at once."""

    title = forms.CharField(
        label=_("Title"), max_length=200, widget=forms.TextInput(attrs={"placeholder": _("Free tea until Friday")})
    )
    body = forms.CharField(label=_("Text"), required=False, max_length=2000, widget=forms.Textarea(attrs={"rows": 2}))
    level = forms.ChoiceField(label=_("Level"), choices=Level.choices, initial=Level.INFO)
    audience = forms.ChoiceField(label=_("For"), choices=[("everyone", _("everyone")), ("staff", _("staff only"))])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Labels stand above their fields: no colon.
        super().__init__(*args, **{"label_suffix": "", **kwargs})
