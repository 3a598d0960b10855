"""Many transactions at once: no deadlock, no hole, nothing lost, whatever the order in which they name topics."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, connections, transaction

from notifications import log, notify
from notifications.models import Event, Notification, Topic

WRITERS = 4
TRANSACTIONS = 50


class Rollback(Exception):
    pass


def write(number: int, users: list[Any], start: threading.Barrier) -> list[tuple[str, int]]:
    """Notify all users in an order of its own, in many transactions of which a fifth is rolled back."""
    dice = random.Random(number)
    committed: list[tuple[str, int]] = []
    start.wait()
    try:
        for _ in range(TRANSACTIONS):
            order = users if number % 2 else users[::-1]
            written = []
            try:
                with transaction.atomic():
                    for user in order:
                        notification = notify(user, f"from {number}")
                        written.append((notification.topic, notification.pk))
                        try:
                            with transaction.atomic():
                                notify(user, "of a savepoint")
                                raise Rollback
                        except Rollback:
                            pass
                    if dice.random() < 0.2:
                        raise Rollback
            except Rollback:
                continue
            committed += written
    finally:
        connections.close_all()
    return committed


@pytest.mark.django_db(transaction=True)
def test_opposite_orders_neither_deadlock_nor_leave_holes() -> None:
    users = [get_user_model().objects.create_user(f"user{number}") for number in range(5)]
    start = threading.Barrier(WRITERS)
    with ThreadPoolExecutor(WRITERS) as pool:
        # A deadlock, or SQLite's "database is locked", would be raised here.
        results = list(pool.map(lambda number: write(number, users, start), range(WRITERS)))
    committed = [pair for result in results for pair in result]
    assert len(committed) > WRITERS * TRANSACTIONS  # Some were rolled back, most were not.
    assert set(committed) == set(Notification.objects.values_list("topic", "pk"))

    assert not Event.objects.filter(seq=None).exists()
    numbers: dict[str, list[int]] = defaultdict(list)
    for topic, seq in Event.objects.order_by("topic", "seq").values_list("topic", "seq"):
        assert seq is not None
        numbers[topic].append(seq)
    for row in Topic.objects.all():
        assert numbers[row.name] == list(range(1, row.head + 1))
    assert sum(map(len, numbers.values())) == len(committed)


@pytest.mark.django_db(transaction=True)
def test_order_of_one_writer_is_kept() -> None:
    user = get_user_model().objects.create_user("alice")
    for number in range(30):
        with transaction.atomic():
            notify(user, f"{number} a")
            notify(user, f"{number} b")
    titles = [event.payload.split('"title":"')[1].split('"')[0] for event in log.read(f"user:{user.pk}", 0, 100)]
    assert titles == [f"{number} {letter}" for number in range(30) for letter in "ab"]


@pytest.mark.django_db(transaction=True)
def test_open_transaction_does_not_hold_up_the_others() -> None:
    if connection.vendor == "sqlite":
        return  # One writer at a time is what SQLite is; there, the others wait.
    alice = get_user_model().objects.create_user("alice")
    inserted, finish = threading.Event(), threading.Event()

    def slow() -> None:
        try:
            with transaction.atomic():
                notify(alice, "slow")
                inserted.set()
                assert finish.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        assert inserted.wait(30)
        for _ in range(20):
            notify(alice, "quick")
        assert [event.seq for event in log.read(f"user:{alice.pk}", 0, 100)] == list(range(1, 21))
    finally:
        finish.set()
        thread.join()
    # The id of the slow one is smaller, its number is not: nobody who had read up to 20 misses it.
    last = log.read(f"user:{alice.pk}", 20, 100)
    assert [(event.seq, '"title":"slow"' in event.payload) for event in last] == [(21, True)]
