"""Places where the fault suite can kill or delay a process; inert unless ``NOTIFICATIONS_FAILPOINTS`` is set.

The variable holds ``name=action`` pairs, separated by commas: ``before-drain=kill`` ends the process at once (SIGKILL,
nothing is cleaned up), ``before-hint=sleep:0.5`` waits. An action may carry a probability: ``before-hint=kill@0.1``.
"""

from __future__ import annotations

import os
import random
import signal
import time

__all__ = ["hit"]

ACTIONS: dict[str, str] = dict(
    pair.split("=", 1) for pair in os.environ.get("NOTIFICATIONS_FAILPOINTS", "").split(",") if "=" in pair
)


def hit(name: str) -> None:
    """Do what the environment asks for at this place; nothing, as a rule."""
    if not ACTIONS or name not in ACTIONS:
        return
    action, _, chance = ACTIONS[name].partition("@")
    if chance and random.random() >= float(chance):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise RuntimeError(f"failpoint {name}")
    elif action.startswith("sleep:"):
        time.sleep(float(action.removeprefix("sleep:")))
