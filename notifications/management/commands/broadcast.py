"""``manage.py broadcast "Down for maintenance at ten" --level warning --audience staff``"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, Group
from django.core.management.base import CommandError

from notifications.access import EVERYONE, STAFF
from notifications.models import Level
from notifications.publishing import broadcast

from ._base import AppCommand
from ._layer import explained
from ._people import find_group, find_user


class Command(AppCommand):
    help = "Send a message to an audience; it is kept among the broadcasts of the admin."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("title")
        parser.add_argument("--body", default="", help="plain text below the title")
        parser.add_argument(
            "--url", default="", help="where a click leads: a path on this site, or an https:// address"
        )
        parser.add_argument("--level", default=Level.INFO.value, choices=Level.values)
        parser.add_argument("--kind", default="broadcast", help='what it is about, in dotted words ("shop.sale")')
        parser.add_argument("--tag", default="", help="a newer broadcast with the same tag replaces this one")
        parser.add_argument(
            "--audience",
            nargs="+",
            default=[EVERYONE],
            metavar="AUDIENCE",
            help="everyone (the default), staff, group:<name>, or any number of user:<name>",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        fields = {key: options[key] for key in ("body", "url", "level", "kind", "tag")}
        try:
            with explained():
                row = broadcast(options["title"], audience=audience(options["audience"]), **fields)
        except ValueError as error:
            raise CommandError(f"Nothing was sent: {error}.") from error
        people = "1 person" if row.recipients == 1 else f"{row.recipients:,} people"
        to = f"the group {row.group.name}" if row.group else row.get_audience_display()
        self.stdout.write(self.style.SUCCESS(f"Sent to {to} ({people}): “{row.title}”") + f" (broadcast {row.pk})")


def audience(words: list[str]) -> str | Group | list[AbstractBaseUser]:
    """Return the audience that the words of the command line mean.

    :raises CommandError: if they mean nobody, or are of several sorts.
    """
    users: dict[Any, AbstractBaseUser] = {}
    for word in words:
        kind, colon, name = word.partition(":")
        if colon and kind == "user":
            user = find_user(name)
            users[user.pk] = user
        elif len(words) > 1:
            raise CommandError(f"{word!r} can not be combined: one audience, or any number of user:<name>.")
        elif word in (EVERYONE, STAFF):
            return word
        elif colon and kind == "group":
            return find_group(name)
        else:
            raise CommandError(
                f"{word!r} is not an audience: everyone, staff, group:<name>, or any number of user:<name>."
            )
    return list(users.values())
