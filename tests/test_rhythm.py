"""One timer for the heartbeats and the ends of all connections."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from notifications.rhythm import Rhythm
from notifications.settings import conf


async def test_connections_that_came_together_do_not_hear_or_end_together() -> None:
    rhythm, now = Rhythm(()), asyncio.get_running_loop().time()
    connections: list[Any] = [SimpleNamespace() for _ in range(100)]
    for connection in connections:
        rhythm.begin(connection)
    beats = [(connection.beat_at - now) / conf.heartbeat for connection in connections]
    assert all(0.5 <= beat < 1.1 for beat in beats)
    assert len({round(beat, 1) for beat in beats}) > 4
    ends = [(connection.ends_at - now) / conf.lifetime for connection in connections]
    assert all(0.8 <= end < 1.3 for end in ends)
    assert len({round(end, 1) for end in ends}) > 3
