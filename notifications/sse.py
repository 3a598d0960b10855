"""Server-sent events as bytes, by the WHATWG HTML standard, section 9.2 (text/event-stream).

The only encoder of the project. A field can not break out of its line: an ``id`` or ``event`` with a line end or NUL
is refused, and ``data`` is split at each of the three line ends that a parser splits at.
"""

from __future__ import annotations

import re

__all__ = ["CONTENT_TYPE", "HEADERS", "encode_event"]

CONTENT_TYPE = "text/event-stream"

#: Headers that bring a stream unharmed through GZipMiddleware (which skips encoded answers), caches and nginx. There is
#: one word for each cache that looks at no other: what it would keep is the empty answer of the view.
HEADERS = {
    "Content-Encoding": "identity",
    "Cache-Control": "private, no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}

LINE_END = re.compile(r"\r\n|\r|\n")
FORBIDDEN_IN_FIELD = re.compile(r"[\r\n\0]")


def encode_event(data: str, *, event: str = "", id: str | None = None, retry: int | None = None) -> bytes:
    """Return one event, ended by a blank line. Without ``id`` the client's last event id stays as it is.

    :param retry: milliseconds that the browser is to wait, from now on, before it comes back by itself.
    :raises ValueError: if ``event`` or ``id`` contains CR, LF or NUL.
    """
    lines: list[str] = []
    for name, value in (("id", id), ("event", event or None)):
        if value is not None:
            if FORBIDDEN_IN_FIELD.search(value):
                raise ValueError(f"an SSE {name} must not contain CR, LF or NUL: {value!r}")
            lines.append(f"{name}: {value}\n")
    if retry is not None:
        lines.append(f"retry: {retry:d}\n")
    if "\n" in data or "\r" in data:
        lines.extend(f"data: {line}\n" for line in LINE_END.split(data))
    else:  # All there ever is in JSON.
        lines.append(f"data: {data}\n")
    lines.append("\n")
    return "".join(lines).encode()
