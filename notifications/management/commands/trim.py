"""``manage.py trim``: delete the events that are older than the log is kept."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from notifications import log
from notifications.settings import conf

from ._base import AppCommand


class Command(AppCommand):
    help = (
        "Delete old events from the log, in small batches; inboxes keep their notifications. Serving ASGI processes do "
        "this by themselves; run it from cron where there is none."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--older-than", type=days, metavar="DAYS", help="how old; default: RETENTION, which is 7 if not set"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        age: timedelta = conf.retention if options["older_than"] is None else options["older_than"]
        total = 0
        while deleted := log.trim(older_than=age):
            total += deleted
        self.stdout.write(f"{total:,} event{'' if total == 1 else 's'} deleted, older than {in_days(age)}.")


def days(text: str) -> timedelta:
    try:
        age = timedelta(days=float(text))
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(f"{text!r} is not a number of days") from error
    if age < timedelta(0):
        raise ArgumentTypeError("a number of days can not be below 0")
    return age


def in_days(age: timedelta) -> str:
    number = age / timedelta(days=1)
    return f"{number:g} day{'' if number == 1 else 's'}"
