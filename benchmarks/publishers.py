"""Who publishes: a process of its own for each kind of server, told what to send by lines on stdin.

===============================  ==================================================================
``broadcast FIRST COUNT``        messages FIRST, FIRST + 1, … to everyone, in one go
``direct NUMBER USERS``          message NUMBER to each of so many users
``pace FIRST COUNT RATE``        as ``broadcast``, RATE a second, whatever becomes of them
``prepare USERS``                make users and sessions; the answer is their session keys
``cursors USERS``                the answer is the cursors of users who know all there is now
``cost COUNT RATE``              what one ``notify()`` costs its caller
===============================  ==================================================================

Each is answered by one line of JSON when it is done.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any

EVERYBODY = 999_999
#: So often what a call costs is measured; what counts is the median.
COST_ROUNDS = 5
#: Fills the message up to what a notification has.
BODY = "Your order has left our warehouse in Lyon and is on its way to you. It will be with you on Thursday."


def mark(number: int, who: int = EVERYBODY) -> str:
    """Return the text by which the load recognises a delivery (see ``load.c``)."""
    return f"[[{number:09d}.{time.monotonic_ns() // 1000:016d}.{who:06d}]]"


def message(number: int, who: int = EVERYBODY) -> dict[str, Any]:
    """Return what peers send: the same fields as a notification of ours."""
    return {
        "seq": number,
        "topic": "everyone" if who == EVERYBODY else f"user:{who}",
        "id": number,
        "kind": "message",
        "level": "info",
        "title": mark(number, who),
        "body": BODY,
        "url": "/orders/9/",
        "data": {},
        "tag": "",
        "created_at": "2026-01-01T00:00:00.000000+00:00",
    }


class Publisher:
    """What all have in common; ``send`` is the kind's own way of publishing."""

    def send(self, number: int, who: int) -> None:
        """Publish message ``number`` to one user, or to everybody."""
        raise NotImplementedError

    def broadcast(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.send(number, EVERYBODY)

    def direct(self, number: int, users: int) -> None:
        for who in range(users):
            self.send(number, who)

    def pace(self, first: int, count: int, rate: float) -> None:
        start = time.monotonic()
        for index in range(count):
            time.sleep(max(0.0, start + index / rate - time.monotonic()))
            self.broadcast(first + index, 1)

    def prepare(self, users: int) -> Any:
        return None

    def cursors(self, users: int) -> Any:
        return None

    def cost(self, count: int, rate: float) -> Any:
        return None


class Notifications(Publisher):
    """This project: ``notify()``, with everything that follows from it."""

    def __init__(self) -> None:
        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.site.settings"
        django.setup()
        from django.contrib.auth import get_user_model
        from django.db import transaction

        from notifications import notify

        self.notify, self.atomic, self.user_model = notify, transaction.atomic, get_user_model()
        self.users: list[Any] = []

    def send(self, number: int, who: int) -> None:
        to = "everyone" if who == EVERYBODY else self.users[who]
        self.notify(to, mark(number, who), BODY, url="/orders/9/")

    def broadcast(self, first: int, count: int) -> None:
        if count == 1:
            return self.send(first, EVERYBODY)
        with self.atomic():
            super().broadcast(first, count)

    def direct(self, number: int, users: int) -> None:
        if not self.users:
            self.users = list(self.user_model.objects.filter(is_staff=False).order_by("pk"))
        # One transaction, as a view or a job that tells many people something of their own would have it.
        with self.atomic():
            super().direct(number, users)

    def prepare(self, users: int) -> Any:
        """Log in so many users, each of whom has been sent something before, so that cursors have their full length."""
        from importlib import import_module

        from django.conf import settings
        from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
        from django.contrib.sessions.models import Session
        from django.utils import timezone

        from notifications import notify_many

        self.user_model.objects.bulk_create(
            [self.user_model(username=f"client{index}", password="!") for index in range(users)], batch_size=1000
        )
        everybody = list(self.user_model.objects.order_by("pk"))
        store = import_module(settings.SESSION_ENGINE).SessionStore()
        sessions = []
        for user in everybody:
            content = {
                SESSION_KEY: str(user.pk),
                BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
                HASH_SESSION_KEY: user.get_session_auth_hash(),
            }
            key, expires = store._get_new_session_key(), timezone.now() + timedelta(days=1)
            sessions.append(Session(session_key=key, session_data=store.encode(content), expire_date=expires))
        Session.objects.bulk_create(sessions, batch_size=1000)
        notify_many(everybody, "Welcome")
        self.notify("everyone", "Welcome")
        return [session.session_key for session in sessions]

    def cursors(self, users: int) -> Any:
        """Return what ``cursor_for`` returns for each of so many users; a page of theirs would have it."""
        from notifications.access import EVERYONE, user_topic
        from notifications.cursor import Position, format_cursor
        from notifications.models import Topic

        positions = {name: Position(*rest) for name, *rest in Topic.objects.values_list("name", "id", "epoch", "head")}
        everybody = self.user_model.objects.order_by("pk")[:users]
        return [format_cursor([positions[user_topic(user)], positions[EVERYONE]]) for user in everybody]

    def cost(self, count: int, rate: float) -> Any:
        """Return what one ``notify()`` costs: queries, milliseconds and CPU; and the CPU of its rows written otherwise.

        CPU is that of the whole process, so that the thread which rings the doorbell counts, too.
        """
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        def notified() -> None:
            self.notify("cost", "Shipped", BODY, url="/orders/9/")

        notified()
        with CaptureQueriesContext(connection) as captured:
            with self.atomic():
                notified()
                before = sum(map(_is_query, captured.captured_queries))
            after = sum(map(_is_query, captured.captured_queries)) - before
        calls = [lambda: None, notified, self._rows_written_plainly(), self._statements_by_cursor()]
        figures: dict[str, list[float]] = defaultdict(list)
        for _ in range(COST_ROUNDS):
            # In turn: what disturbs one of them disturbs the others, too.
            paced = [_paced(call, count // COST_ROUNDS, rate) for call in calls]
            (idle, _), (cpu, inside), (plain, _), (bare, _) = paced
            figures["ms"].append(inside)
            figures["CPU ms"].append(cpu - idle)
            figures["CPU ms of the rows by the ORM"].append(plain - idle)
            figures["CPU ms of the statements by a cursor"].append(bare - idle)
            figures["CPU ms beyond the ORM"].append(cpu - plain)
            figures["CPU ms beyond a cursor"].append(cpu - bare)
        result: dict[str, float] = {"queries before commit": before, "queries after commit": after}
        return result | {name: median(values) * 1000 for name, values in figures.items()}

    def _rows_written_plainly(self) -> Callable[[], None]:
        """Return what writes the rows of one ``notify()`` by the ORM alone, in two transactions."""
        from django.db.models.functions import Now

        from notifications.models import Event, Notification, Topic

        Topic.objects.get_or_create(name="plain")
        payload = json.dumps(message(1))

        def plain() -> None:
            with self.atomic():
                Notification.objects.create(topic="plain", title="Shipped", body=BODY, url="/orders/9/")
                Event.objects.bulk_create([Event(topic="plain", type="notification", payload=payload)])
            with self.atomic():
                topic = Topic.objects.select_for_update().filter(name__in=["plain"]).order_by("name")[0]
                (event,) = Event.objects.filter(topic__in=["plain"], seq=None).order_by("pk")[:500]
                Event.objects.filter(pk=event.pk).update(seq=topic.head + 1)
                Topic.objects.filter(pk=topic.pk).update(head=topic.head + 1, advanced_at=Now())

        plain()
        return plain

    def _statements_by_cursor(self) -> Callable[[], None]:
        """Return what has a cursor run the statements of one ``notify()``, known beforehand."""
        from django.db import connection

        seen: list[tuple[str, Any]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            seen.append((sql, params))
            return execute(sql, params, many, context)

        self.notify("bare", "Shipped", BODY, url="/orders/9/")
        with connection.execute_wrapper(note), self.atomic():
            self.notify("bare", "Shipped", BODY, url="/orders/9/")
        pair, number = seen

        def run(sql: str, params: Any) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(sql, params)
                return cursor.fetchall()

        def bare() -> None:
            run(*pair)
            run(*number)

        bare()
        return bare


def _is_query(query: dict[str, Any]) -> bool:
    return not str(query["sql"]).startswith(("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"))


def _paced(call: Callable[[], None], count: int, rate: float) -> tuple[float, float]:
    """Return the CPU seconds and the seconds of one call, of ``count`` calls, so many a second."""
    start, cpu, inside = time.monotonic(), time.process_time(), 0.0
    for index in range(count):
        time.sleep(max(0.0, start + index / rate - time.monotonic()))
        began = time.monotonic()
        call()
        inside += time.monotonic() - began
    return (time.process_time() - cpu) / count, inside / count


class EventStream(Publisher):
    """django-eventstream's ``send_event``, through its Redis."""

    def __init__(self) -> None:
        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.peers.django_site"
        django.setup()
        from django_eventstream import send_event

        self.send_event = send_event

    def send(self, number: int, who: int) -> None:
        channel = "everyone" if who == EVERYBODY else f"user-{who}"
        self.send_event(channel, "notification", message(number, who))


class Tutorial(Publisher):
    """``group_send`` of the tutorial, on one loop with one kept connection: the cheapest way there is."""

    def __init__(self) -> None:
        import asyncio

        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.peers.django_site"
        django.setup()
        from channels.layers import get_channel_layer

        self.layer, self.loop = get_channel_layer(), asyncio.new_event_loop()

    def send(self, number: int, who: int) -> None:
        group = "chat_everyone" if who == EVERYBODY else f"chat_user_{who}"
        event = {"type": "chat_message", "message": message(number, who)}
        self.loop.run_until_complete(self.layer.group_send(group, event))


class RedisChannel(Publisher):
    """``PUBLISH``: for sse-starlette and Socket.IO."""

    def __init__(self) -> None:
        import redis

        self.client = redis.from_url(os.environ["REDIS_URL"])

    def send(self, number: int, who: int) -> None:
        channel = "everyone" if who == EVERYBODY else str(who)
        self.client.publish(f"events:{channel}", json.dumps(message(number, who)))


class Floor(Publisher):
    """The floors take finished bytes from a connection of their own."""

    def __init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(os.environ["BENCH_PORT"])))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"PUB\n")

    def send(self, number: int, who: int) -> None:
        data = b"event: notification\ndata: %b\n\n" % json.dumps(message(number, who)).encode()
        self.socket.sendall(struct.pack("<Ii", len(data), -1 if who == EVERYBODY else who) + data)


KINDS = {"ours": Notifications, "eventstream": EventStream, "tutorial": Tutorial, "redis": RedisChannel, "floor": Floor}


def main(kind: str) -> None:
    """Do what stdin says until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    publisher = KINDS[kind]()
    for line in sys.stdin:
        command, *arguments = line.split()
        cpu = time.process_time()
        result = getattr(publisher, command)(*(float(word) if "." in word else int(word) for word in arguments))
        answer = {"cpu": time.process_time() - cpu, "result": result}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
