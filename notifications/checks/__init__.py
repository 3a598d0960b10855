"""System checks: the ways to set this up wrong, each with a stable id and a hint that says what to do.

Every id is explained in ``docs/checks.md``. Nothing here asks the database or the channel layer. What belongs to the
site (its ASGI application, its middleware, its ``TOPICS`` function) is imported where a check must look at it, and a
failure to import it is an answer, not a traceback.
"""

from __future__ import annotations

# Each registers its checks when it is imported.
from . import configuration, database, layer, server, site

__all__ = ["configuration", "database", "layer", "server", "site"]
