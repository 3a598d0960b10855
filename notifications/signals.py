"""Signals of the app. All are sent with ``send_robust``: a receiver's failure is logged and stops nothing."""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["hub_changed", "notification_published", "stream_closed", "stream_opened"]

#: After the commit that published it. ``sender``: Notification; ``notification``: the row.
notification_published = Signal()

#: A stream began. ``sender``: the hub; ``user``: primary key; ``transport``; ``connection``: id of the connection.
stream_opened = Signal()

#: A stream ended. As ``stream_opened``, and ``reason``: why (as in ``bye``; "disconnect" if the client went).
stream_closed = Signal()

#: The link of this process to the channel layer was lost or came back. ``sender``: the hub; ``up``: bool.
hub_changed = Signal()
