"""Publishes as a busy site does, until its stdin closes: transactions short and long, some rolled back, savepoints.

Keeps no record of what it sent: what was committed is in the database, which is the oracle. Its last line of output
is JSON with counts, and with how long publishing took whoever published.

Each event carries its own number (``n``), and the time (``at``) unless the commit is known to come much later.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import django

#: Shares of the transactions: rolled back as a whole; with a savepoint that is rolled back.
ROLLBACK, SAVEPOINT = 0.2, 0.1


class RolledBack(Exception):
    """On purpose."""


class Publisher:
    """One process, two threads: one for short transactions, one that keeps a long one open now and then."""

    def __init__(self, name: str, users: list[int], topics: list[str], rate: float, long: float, size: int) -> None:
        self.name = name
        self.users = users
        self.topics = topics
        self.rate = rate
        self.long = long
        self.body = "x" * size
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        #: Seconds that committing took, drain and doorbell included: the longest, with its time.
        self.slowest: list[tuple[float, float]] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.number = 0

    def run(self) -> dict[str, Any]:
        threads = [threading.Thread(target=self.short), threading.Thread(target=self.lengthy)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.stopping.set()
        for thread in threads:
            thread.join()
        from notifications import doorbell

        slowest = sorted(self.slowest, reverse=True)[:20]
        bell = doorbell._doorbell
        self.counts.update({"hints sent": bell.sent, "hints lost": bell.lost})
        return {"counts": self.counts, "errors": self.errors, "slowest": slowest}

    def short(self) -> None:
        due = time.monotonic()
        while not self.stopping.is_set():
            # 20 % are rolled back and a transaction has two events on the average: so many give the rate.
            due = max(due + 2 / self.rate * random.uniform(0.5, 1.5), time.monotonic() - 1)
            self.stopping.wait(max(0, due - time.monotonic()))
            self.transaction()

    def lengthy(self) -> None:
        while self.long and not self.stopping.wait(random.uniform(0, 2)):
            self.transaction(pause=random.uniform(0.5, self.long))

    def transaction(self, pause: float = 0) -> None:
        from django.db import close_old_connections, transaction

        began = 0.0
        try:
            with transaction.atomic():
                for _ in range(random.randint(1, 3)):
                    self.publish(timed=not pause)
                    if pause:
                        self.stopping.wait(pause / 3)
                if random.random() < SAVEPOINT:
                    try:
                        with transaction.atomic():
                            self.publish(timed=False, doomed=True)
                            raise RolledBack
                    except RolledBack:
                        self.counts["savepoints rolled back"] += 1
                if random.random() < ROLLBACK:
                    raise RolledBack
                began = time.monotonic()
            took = time.monotonic() - began
            self.counts["committed"] += 1
            if took > 0.1:
                self.slowest.append((took, time.time()))
        except RolledBack:
            self.counts["rolled back"] += 1
        except Exception as error:  # The database is away or refuses: a site would show an error page and go on.
            self.errors[f"{type(error).__name__}: {error}"[:120].splitlines()[0]] += 1
            self.stopping.wait(0.2)
        close_old_connections()

    def publish(self, *, timed: bool, doomed: bool = False) -> None:
        from notifications import notify, publish

        with self.lock:
            self.number += 1
            number = self.number
        data: dict[str, Any] = {"n": f"{self.name}-{number}"}
        if timed:
            data["at"] = time.time()
        if doomed:
            data["doomed"] = True
        # The order of topics within a transaction is random: two of them lock in opposite orders.
        topic = random.choice(self.topics) if random.random() < 0.3 else f"user:{random.choice(self.users)}"
        if random.random() < 0.7:
            notify(topic, f"Number {number}", self.body, data=data)
        else:
            publish(topic, "progress", data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--users", required=True, help="primary keys, separated by commas")
    parser.add_argument("--topics", default="everyone")
    parser.add_argument("--rate", type=float, default=25.0, help="events a second")
    parser.add_argument("--long", type=float, default=5.0, help="seconds of the longest transaction; 0: none")
    parser.add_argument("--size", type=int, default=40, help="characters of the body")
    options = parser.parse_args()
    random.seed(options.name)
    django.setup()
    users = [int(pk) for pk in options.users.split(",")]
    publisher = Publisher(options.name, users, options.topics.split(","), options.rate, options.long, options.size)
    print(json.dumps(publisher.run()), flush=True)


if __name__ == "__main__":
    main()
