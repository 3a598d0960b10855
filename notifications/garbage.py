"""Garbage collection in a serving process: thousands of connections are thousands of objects that are no garbage.

With Python's own thresholds the collector walks over all of them again and again, most often just when a message goes
out to everybody; on daphne that is what the slowest deliveries wait for.
"""

from __future__ import annotations

import gc

from .settings import conf

__all__ = ["THRESHOLDS", "calm"]

#: How many objects more than before until the youngest are looked at, and how many such rounds until older and oldest
#: are. A hundred requests that open streams are ten thousand: each is a cycle (its user is looked up by a function that
#: knows it), and all of a thousand would be megabytes between what stays.
THRESHOLDS = (10_000, 10, 100)

_defaults = gc.get_threshold()


def calm() -> None:
    """Collect once, leave alone for good what is there now (modules, URLs …), and collect less often after it.

    Does nothing with ``"TUNE_GC": False``, where a site has set thresholds of its own, or switched the collector off.
    """
    if conf.tune_gc and gc.isenabled() and gc.get_threshold() == _defaults:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
