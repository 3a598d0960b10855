"""``manage.py tail --user alice``: what happens to a user's notifications, as it happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

from django.core.management.base import CommandError
from django.db import Error as DatabaseError
from django.utils import timezone
from django.utils.text import Truncator

from notifications.access import Principal
from notifications.envelope import Envelope
from notifications.hub import AccessUnknown, HubFull, NotAuthorized
from notifications.stream import current_hub, open_stream

from ._base import AppCommand
from ._people import find_user

#: Seconds before another try when the database is away.
PAUSE = 2.0
#: Characters of a body that are shown behind its title.
BODY_LENGTH = 60
#: What could move the cursor of a terminal, change its colours or turn its text around.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


class Command(AppCommand):
    help = "Show a user's events as they happen, through the same stream as a browser's. Ctrl-C ends it."

    cursor: str | None = None
    #: Whether a stream has begun, so that it is worth while to try again.
    worked = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", required=True, metavar="NAME", help="whose events; the user's name")
        parser.add_argument("--cursor", help="first show what happened since; from an event, or from an earlier run")
        parser.add_argument(
            "--json", action="store_true", help="print each event as a WebSocket would carry it, one line of JSON each"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        user = find_user(options["user"])
        self.cursor = options["cursor"]
        self.as_json: bool = options["json"]
        try:
            asyncio.run(self.follow(Principal(user.pk), str(user)))
        except KeyboardInterrupt:
            self.remark(f"\nGo on from here with --cursor {self.cursor}" if self.cursor else "")
        except BrokenPipeError:
            # Whoever read our output has gone; what is still buffered must not raise once more when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    async def follow(self, principal: Principal, name: str) -> None:
        """Show one stream after the other, each from where the one before it ended.

        :raises CommandError: when the user may read nothing (any more).
        """
        hub = current_hub()
        try:
            while True:
                try:
                    pause = await self.show_stream(principal, name)
                except NotAuthorized as error:
                    raise CommandError(f"{name} is not active, and so gets no events.") from error
                except (AccessUnknown, DatabaseError, TimeoutError, HubFull) as error:
                    if not self.worked:
                        raise CommandError(f"The events can not be read: {str(error) or 'no answer'}") from error
                    self.remark(f"The events can not be read ({str(error) or 'no answer'}); tried again.")
                    pause = PAUSE
                await asyncio.sleep(pause)
        finally:
            hub.stop()
            # The layer takes leave of Redis in a task of the hub, and complains when that is cut short.
            if others := asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}:
                await asyncio.wait(others, timeout=1)

    async def show_stream(self, principal: Principal, name: str) -> float:
        """Show one stream to its end; return the seconds after which to come back.

        :raises CommandError: if it ended for good.
        """
        first = True
        goodbye: dict[str, Any] = {}
        async with (
            open_stream(principal, transport="terminal", cursor=self.cursor) as (_, frames),
            aclosing(frames) as batches,  # type: ignore[type-var]
        ):
            async for batch in batches:
                self.worked = True
                for envelope, position in batch:
                    self.cursor = position or self.cursor
                    if envelope.type == "bye":
                        goodbye = json.loads(envelope.data)
                    if self.as_json:
                        if envelope.type != "heartbeat":
                            self.say(envelope.as_json(position))
                    elif envelope.type == "ready" and first:
                        self.remark(f"Listening for {name}{unread(json.loads(envelope.data))}. Ctrl-C ends.")
                    elif envelope.type not in ("ready", "heartbeat", "bye"):
                        self.say(self.line(envelope))
                    first = False
        if goodbye.get("retry") is None:
            raise CommandError(f"{name} may not read any more ({goodbye.get('reason', 'no reason given')}).")
        return float(goodbye["retry"]) / 1000

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def remark(self, sentence: str) -> None:
        """Say something that is no event, where it does not get among them."""
        if sentence:
            self.stderr.write(sentence, style_func=str)
            self.stderr.flush()

    def line(self, envelope: Envelope) -> str:
        """Return an event in one line: time, type, level, what it says, where it is from."""
        data: dict[str, Any] = json.loads(envelope.data)
        level = str(data.get("level", "")) if envelope.type == "notification" else ""
        text = TEXTS.get(envelope.type, own_event)(data)
        topic = data.get("topic", "")
        paint = {"success": self.style.SUCCESS, "warning": self.style.WARNING, "error": self.style.ERROR}
        return "  ".join(
            [
                moment(data.get("created_at")),
                f"{envelope.type:<12}",
                paint.get(level, str)(f"{level:<7}"),
                safe(text),
                self.style.HTTP_NOT_MODIFIED(f"[{safe(topic)}]"),
            ]
        )


def moment(created_at: object) -> str:
    """Return the time of day at which an event was published, or now; with its date if that is not today's."""
    now = timezone.localtime() if timezone.is_aware(timezone.now()) else datetime.now()
    try:
        at = datetime.fromisoformat(str(created_at))
    except ValueError:
        at = now
    if timezone.is_aware(at):
        at = timezone.localtime(at)
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S}"


def unread(ready: dict[str, Any]) -> str:
    count = ready.get("unread")
    return "" if count is None else f", {'99+' if count >= 100 else count} unread"


def ids(data: dict[str, Any]) -> str:
    if data.get("all"):
        return f"all up to {data.get('before')}"
    return ", ".join(map(str, data.get("ids", ())))


def notification(data: dict[str, Any]) -> str:
    body = Truncator(data.get("body", "")).chars(BODY_LENGTH)
    return f"{data['title']}{f' – {body}' if body else ''}{f' → {url}' if (url := data.get('url')) else ''}"


def own_event(data: dict[str, Any]) -> str:
    """Return what an event of the site's own carries."""
    return json.dumps({key: value for key, value in data.items() if key not in ("seq", "topic")}, ensure_ascii=False)


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "notification": notification,
    "read": lambda data: f"{ids(data)} {'read' if data.get('read', True) else 'unread again'}{unread(data)}",
    "seen": lambda data: f"{ids(data)} seen",
    "archived": lambda data: f"{ids(data)} {'archived' if data.get('archived') else 'back'}{unread(data)}",
    "recalled": lambda data: f"{ids(data)} recalled",
    "reset": lambda data: f"more was missed than the log can tell ({data.get('reason')})",
}


def safe(text: str) -> str:
    """Return text that a terminal shows on one line and does not obey."""
    return UNSAFE.sub(" ", text)
