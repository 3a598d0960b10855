"""Signals of the app. All are sent with ``send_robust``: a receiver's failure is logged and stops nothing."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

__all__ = ["hub_changed", "notification_published", "stream_closed", "stream_opened", "tell"]

logger = logging.getLogger("notifications")

#: After the commit that published it. ``sender``: Notification; ``notification``: the row.
notification_published = Signal()

#: A stream began. ``sender``: the hub; ``user``: primary key; ``transport``; ``connection``: id of the connection.
stream_opened = Signal()

#: A stream ended. As ``stream_opened``, and ``reason``: why (as in ``bye``; "disconnect" if the client went).
stream_closed = Signal()

#: The link of this process to the channel layer was lost or came back. ``sender``: the hub; ``up``: bool.
hub_changed = Signal()


def tell(signal: Signal, *, sender: Any, **named: Any) -> None:
    """Send a signal, whatever its receivers do."""
    try:
        signal.send_robust(sender=sender, **named)
    except Exception:
        # Django stumbles over the failure of a receiver without a name (an object, a partial) when it logs it.
        logger.exception("a receiver of a signal failed")
