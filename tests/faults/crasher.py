"""Publishers that are killed at a failpoint, many times over: each attempt is a child of its own.

Run with ``NOTIFICATIONS_FAILPOINTS=before-drain=kill`` or ``before-hint=kill``. Prints how many of them were killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

import django


def attempt(number: int, users: list[int]) -> None:
    from django.db import transaction

    from notifications import notify

    with transaction.atomic():
        for part, topic in enumerate(("everyone", f"user:{users[number % len(users)]}")):
            notify(topic, f"Crash {number}", data={"n": f"crash-{os.getpid()}-{number}-{part}", "at": time.time()})


def main() -> None:
    times, *users = map(int, sys.argv[1:])
    django.setup()
    killed = 0
    for number in range(times):
        # The child opens a connection of its own: this process has none.
        child = os.fork()
        if not child:
            attempt(number, users)
            os._exit(0)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        time.sleep(random.uniform(0, 0.1))
    print(json.dumps({"killed": killed}), flush=True)


if __name__ == "__main__":
    main()
