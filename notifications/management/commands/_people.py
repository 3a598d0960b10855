"""Users and groups by the words of a command line. Not a command: its name begins with an underscore."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, Group
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

#: Names that are looked at for a suggestion.
SUGGESTIONS = 2000


def named(username: str) -> Any | None:
    """Return the user of this name, or None."""
    users = get_user_model()._default_manager
    try:
        return users.get_by_natural_key(username)
    except get_user_model().DoesNotExist:
        return None


def find_user(username: str) -> AbstractBaseUser:
    """Return the user of this name.

    :raises CommandError: if there is none; it says who may have been meant.
    """
    user = named(username)
    if user is None:
        field = get_user_model().USERNAME_FIELD
        names = get_user_model()._default_manager.filter(**{f"{field}__istartswith": username[:1]})
        raise CommandError(
            f"There is no user called {username!r}."
            + suggestion(username, names.order_by(field).values_list(field, flat=True)[:SUGGESTIONS])
        )
    return user  # type: ignore[no-any-return]


def find_user_by_pk(pk: str) -> AbstractBaseUser:
    """Return the user with this primary key.

    :raises CommandError: if there is none.
    """
    users = get_user_model()._default_manager
    try:
        return users.get(pk=pk)
    except (users.model.DoesNotExist, ValueError, OverflowError, ValidationError) as error:
        raise CommandError(f"There is no user with the id {pk!r}.") from error


def find_group(word: str) -> Group:
    """Return the group of this name, or with this id.

    :raises CommandError: if there is none; it says which may have been meant.
    """
    group = Group.objects.filter(name=word).first()
    if group is None and word.isascii() and word.isdigit() and len(word) < 19:
        group = Group.objects.filter(pk=int(word)).first()
    if group is None:
        names = Group.objects.order_by("name").values_list("name", flat=True)[:SUGGESTIONS]
        raise CommandError(f"There is no group called {word!r}." + suggestion(word, names))
    return group


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return " Did you mean …?" if one of the names is like the word."""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), list(by_lower), n=3)
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(by_lower[name]) for name in close)}?"
