"""``manage.py notify alice "Your order shipped" --url /orders/9/``"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import CommandError

from notifications.access import EVERYONE, STAFF, InvalidTopic, topic_name
from notifications.models import Level
from notifications.publishing import notify

from ._base import AppCommand
from ._layer import explained
from ._people import find_group, find_user, find_user_by_pk, named


class Command(AppCommand):
    help = "Notify a user, or the readers of a topic."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "to",
            help='a username, "user:<id>", "everyone", "staff", "group:<name or id>", or one of the site\'s own topics',
        )
        parser.add_argument("title")
        parser.add_argument("--body", default="", help="plain text below the title")
        parser.add_argument(
            "--url", default="", help="where a click leads: a path on this site, or an https:// address"
        )
        parser.add_argument("--level", default=Level.INFO.value, choices=Level.values)
        parser.add_argument("--kind", default="message", help='what it is about, in dotted words ("order.shipped")')
        parser.add_argument("--tag", default="", help="a newer notification with the same tag replaces this one")

    def handle(self, *args: Any, **options: Any) -> None:
        to, name = recipient(options["to"])
        fields = {key: options[key] for key in ("body", "url", "level", "kind", "tag")}
        try:
            with explained():
                notification = notify(to, options["title"], **fields)
        except ValueError as error:
            raise CommandError(f"Nothing was sent: {error}.") from error
        self.stdout.write(
            self.style.SUCCESS(f"Notified {name}: “{notification.title}”")
            + f" (notification {notification.pk} on {notification.topic})"
        )


def recipient(word: str) -> tuple[AbstractBaseUser | str, str]:
    """Return whom a word of the command line means, and how to call them.

    :raises CommandError: if it means nobody, or two things at once.
    """
    user = named(word)
    if word in (EVERYONE, STAFF):
        if user is not None:
            raise CommandError(f"{word!r} is a topic, and a user is called so too. For the user say user:{user.pk}.")
        return word, {EVERYONE: "everyone", STAFF: "the staff"}[word]
    if user is not None:
        return user, str(user)
    kind, colon, rest = word.partition(":")
    if not colon:
        return find_user(word), word
    if kind == "user":
        found = find_user_by_pk(rest)
        return found, str(found)
    if kind == "group":
        group = find_group(rest)
        return topic_name(group), f"the group {group.name}"
    try:
        # The site's own topics are known to its TOPICS function only, which answers by user.
        return topic_name(word), f"the readers of {word}"
    except InvalidTopic as error:
        raise CommandError(f"{error}.") from error
