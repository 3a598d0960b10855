"""The envelope of an event, the same for every transport (docs/protocol.md).

An :class:`Envelope` is made once for each event in each process; its bytes are shared by all the connections that get
it. What differs between connections is the cursor alone, so that a frame is ``head + cursor + tail``.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

from .sse import encode_event

__all__ = ["CONTROL_TYPES", "INBOX_TYPES", "Envelope", "Frame", "bye", "control", "dumps", "log_envelope", "valid_type"]

#: Types the protocol itself uses; a site's own events may not pretend to be one.
CONTROL_TYPES = frozenset({"ready", "reset", "heartbeat", "bye", "error"})
#: Types by which clients keep their copy of the inbox.
INBOX_TYPES = frozenset({"notification", "read", "seen", "archived", "recalled", "preferences"})
TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


def dumps(value: Any) -> str:
    """Return ``value`` as compact JSON on one line; raw line ends can not occur in it, JSON escapes them.

    :raises TypeError: if it is not made of JSON's types.
    :raises ValueError: if it holds NaN or an infinity, which JSON has no words for.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def valid_type(type: Any) -> bool:
    """Return whether ``type`` may name a site's event: a letter, then letters, digits, ``_``, ``.``, ``-``; ≤ 64."""
    return isinstance(type, str) and TYPE.fullmatch(type) is not None and type not in CONTROL_TYPES | INBOX_TYPES


class Envelope:
    """One event, ready for any transport: its type and its data as JSON text."""

    def __init__(self, type: str, data: str, retry: int | None = None) -> None:
        self.type = type
        self.data = data
        #: Milliseconds for the ``retry:`` field of an event stream; only ``bye`` has it.
        self.retry = retry

    @cached_property
    def size(self) -> int:
        """Bytes of the event on the wire, cursor aside."""
        return len(self.sse_tail)

    @cached_property
    def kind(self) -> str:
        """The kind of a notification, which its reader may have muted; empty for any other event."""
        return str(json.loads(self.data)["kind"]) if self.type == "notification" else ""

    @cached_property
    def sse_tail(self) -> bytes:
        """The event as SSE, without its ``id:`` line."""
        return encode_event(self.data, event=self.type, retry=self.retry)

    @cached_property
    def json_head(self) -> str:
        return f'{{"type":"{self.type}","cursor":"'

    @cached_property
    def json_tail(self) -> str:
        return f'","data":{self.data}}}'

    @cached_property
    def frame_head(self) -> bytes:
        return self.json_head.encode()

    @cached_property
    def frame_tail(self) -> bytes:
        return self.json_tail.encode()

    def as_sse(self, cursor: str | None) -> bytes:
        """Return the SSE frame; without a cursor there is no ``id:`` line."""
        return self.sse_tail if cursor is None else b"id: %b\n%b" % (cursor.encode("ascii"), self.sse_tail)

    def as_json(self, cursor: str | None) -> str:
        """Return the WebSocket text frame; it is also an item of a polling answer."""
        return f"{self.json_head}{cursor or ''}{self.json_tail}"


#: An event and the cursor of somebody who has received it; None: the cursor stays as it is.
Frame = tuple[Envelope, str | None]


def control(type: str, **data: Any) -> Envelope:
    """Return an envelope of the protocol itself, such as ``ready`` or ``bye``."""
    return Envelope(type, dumps(data))


def bye(reason: str, retry: int | None) -> Envelope:
    """Return the last event of a stream: why it ends, and after how many milliseconds to return (None: do not)."""
    return Envelope("bye", dumps({"reason": reason, "retry": retry}), retry)


def log_envelope(topic: str, seq: int, type: str, payload: str) -> Envelope:
    """Return the envelope of a logged event: the stored JSON object with ``topic`` and ``seq`` put in front.

    The payload was rendered before its number was known, so the number is spliced into the text; nothing is parsed.
    """
    separator = "," if len(payload) > 2 else ""
    return Envelope(type, f'{{"seq":{seq},"topic":{dumps(topic)}{separator}{payload[1:]}')
