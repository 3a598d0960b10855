"""``manage.py demo``: fill the demo site, and say how to get in."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from project.shop.demo import PEOPLE, populate


class Command(BaseCommand):
    help = "Create the demo's people, products and orders (once), and print the logins."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--address", default="", help="Where the site is served; printed with the logins.")

    def handle(self, *args: Any, address: str = "", **options: Any) -> None:
        """Create what is missing, leave alone what is there, print how to get in.

        :raises CommandError: without ``DEBUG``, where logins with known passwords have no place.
        """
        if not settings.DEBUG:
            raise CommandError("The demo's passwords are public, so its people are created only with DEBUG=1.")
        populate()
        width = max(len(person.username) for person in PEOPLE)
        if address:
            self.stdout.write(f"\n  {self.style.SUCCESS('The demo is at ' + address)}")
        self.stdout.write("\n  Log in as (name / password):\n")
        for person in PEOPLE:
            self.stdout.write(f"    {person.username:<{width}} / {person.password:<{width + 5}}  {person.part}")
        self.stdout.write("\n  Open one window as alice and a private one as carol, move an order on, and watch.\n\n")
