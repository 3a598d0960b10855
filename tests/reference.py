"""A server-sent events parser, written from the standard (WHATWG HTML, 9.2.6) and from nothing else."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Dispatched", "EventStreamParser"]

LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n)")


@dataclass(frozen=True)
class Dispatched:
    """What a browser would dispatch: the event's type, its data and the last event id at that moment."""

    type: str
    data: str
    last_event_id: str


@dataclass
class EventStreamParser:
    """Feed it bytes in any pieces; it yields events as their blank lines come in."""

    last_event_id: str = ""
    retry: int | None = None
    _id: str = ""
    _type: str = ""
    _data: list[str] = field(default_factory=list)
    _text: str = ""
    _begun: bool = False
    _after_cr: bool = False

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, chunk: bytes) -> Iterator[Dispatched]:
        """Take the next bytes; yield the events that they complete."""
        text = self._decoder.decode(chunk)
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr:
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        read = 0
        for match in LINE.finditer(text):
            line, self._text, read = self._text + match[1], "", match.end()
            yield from self._line(line)
        self._text += text[read:]

    def _line(self, line: str) -> Iterator[Dispatched]:
        if not line:
            yield from self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)

    def _dispatch(self) -> Iterator[Dispatched]:
        self.last_event_id = self._id
        type, self._type = self._type, ""
        data, self._data = self._data, []
        if data:
            yield Dispatched(type or "message", "\n".join(data), self.last_event_id)
