"""Garbage collection in a serving process: thousands of connections are thousands of objects that are no garbage.

With Python's own thresholds the collector walks over all of them again and again, most often just when a message goes
out to everybody; on daphne that is what the slowest deliveries wait for.
"""

from __future__ import annotations

import gc

from .settings import conf

__all__ = ["THRESHOLDS", "calm", "collect_young"]

#: Allocations until the youngest are looked at, and how many such rounds until older and oldest are.
THRESHOLDS = (50_000, 20, 100)

_defaults = gc.get_threshold()


def calm() -> None:
    """Collect once, leave alone for good what is there now (modules, URLs …), and collect less often after it.

    Does nothing with ``"TUNE_GC": False``, where a site has set thresholds of its own, or switched the collector off.
    """
    if conf.tune_gc and gc.isenabled() and gc.get_threshold() == _defaults:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)


def collect_young() -> None:
    """Collect what is new, where :func:`calm` has made that rare.

    Each request of Django's is a cycle (its user is looked up by a function that knows it), and so is each handshake
    of a WebSocket's; thousands of them, until the next collection comes by itself, are megabytes.
    """
    if gc.get_threshold() == THRESHOLDS:
        gc.collect(0)
