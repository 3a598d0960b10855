"""``manage.py sweep``: number the events that a crash left waiting, and send the broadcasts that are due."""

from __future__ import annotations

from typing import Any

from notifications import log
from notifications.publishing import send_due

from ._base import AppCommand


class Command(AppCommand):
    help = (
        "Deliver what a crash left waiting, and the broadcasts whose time has come. Serving ASGI processes do this by "
        "themselves every second or two; run it from cron where there is none."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        events = broadcasts = 0
        while sent := send_due():
            broadcasts += sent
        while numbered := log.sweep():
            events += numbered
        self.stdout.write(f"{counted(events, 'event')} delivered that had been left waiting; ", ending="")
        self.stdout.write(f"{counted(broadcasts, 'broadcast')} sent that had been due.")


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
