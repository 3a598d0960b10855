"""What the commands have in common. Not a command: its name begins with an underscore."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from notifications import tables

__all__ = ["AppCommand"]


class AppCommand(BaseCommand):
    """A command that says so when it fails because ``migrate`` has not run."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except (CommandError, DatabaseError) as error:
            cause = error.__cause__ if isinstance(error, CommandError) else error
            if isinstance(cause, DatabaseError) and tables.missing():
                raise CommandError(tables.MISSING) from error
            raise
