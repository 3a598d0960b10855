"""``manage.py rotate_epoch``: after a restore from a dump, let every client fetch its inbox again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from notifications import log
from notifications.models import Topic

from ._base import AppCommand
from ._people import SUGGESTIONS, suggestion


class Command(AppCommand):
    help = (
        "Begin a new life of topics, after the database was restored from a dump: every client of theirs is told to "
        "fetch its inbox again. Nothing is deleted, and it may be repeated."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("topics", nargs="*", metavar="TOPIC", help="such as user:42 or everyone; default: all")

    def handle(self, *args: Any, topics: list[str], **options: Any) -> None:
        known = set(Topic.objects.using(log.database()).filter(name__in=topics).values_list("name", flat=True))
        for name in topics:
            if name not in known:
                names = Topic.objects.using(log.database()).order_by("name").values_list("name", flat=True)
                raise CommandError(
                    f"Nothing was ever sent to a topic {name!r}." + suggestion(name, names[:SUGGESTIONS])
                )
        count = log.rotate_epoch(topics or None)
        self.stdout.write(
            f"{count:,} topic{'' if count == 1 else 's'} began anew; every client of theirs fetches its inbox again."
        )
