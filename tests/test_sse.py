"""Server-sent events: one event in, one event out, whatever is in it; held to a parser written from the standard."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings, strategies as st

from notifications.envelope import TYPE, Envelope, dumps
from notifications.sse import CONTENT_TYPE, HEADERS, encode_event
from tests.reference import Dispatched, EventStreamParser

#: Everything that ever broke an encoder, often.
LINE_ENDS = ["\n", "\r", "\r\n", "\n\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"]
FIELDS = [":", " ", "data:", "\nevent: x", "\nid: 1\n\n", "retry: 1", "\0", "\ufeff"]
awkward = st.sampled_from([*LINE_ENDS, *FIELDS, "é", "🔔", "\u202e", "</script>"])
texts = st.lists(awkward | st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=12).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20)
types = st.from_regex(TYPE, fullmatch=True)
cursors = st.from_regex(re.compile(r"[A-Za-z0-9._-]{1,60}", re.ASCII), fullmatch=True)


def parsed(stream: bytes) -> list[Dispatched]:
    return list(EventStreamParser().feed(stream))


def test_encode_gives_id_event_and_data_lines() -> None:
    assert encode_event('{"a":1}', event="notification", id="1.2-ab-3") == (
        b'id: 1.2-ab-3\nevent: notification\ndata: {"a":1}\n\n'
    )


def test_encode_without_id_leaves_the_last_event_id_alone() -> None:
    assert b"id:" not in encode_event("x", event="heartbeat")
    stream = encode_event("1", id="7") + encode_event("2", event="heartbeat")
    assert [event.last_event_id for event in parsed(stream)] == ["7", "7"]


def test_encode_with_retry() -> None:
    parser = EventStreamParser()
    assert list(parser.feed(encode_event("{}", event="bye", retry=1500))) == [Dispatched("bye", "{}", "")]
    assert parser.retry == 1500


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_encode_splits_data_at_each_line_end(end: str) -> None:
    assert encode_event(f"one{end}two") == b"data: one\ndata: two\n\n"


def test_encode_data_can_not_end_the_event_or_begin_a_field() -> None:
    assert parsed(encode_event("a\n\nid: 666\r\nevent: bye\rretry: 1", event="notification")) == [
        Dispatched("notification", "a\n\nid: 666\nevent: bye\nretry: 1", "")
    ]


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n", "x\r\n"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_encode_refuses_line_ends_and_nul_in_a_field(field: str, bad: str) -> None:
    with pytest.raises(ValueError, match=f"SSE {field}"):
        encode_event("{}", **{field: bad})  # type: ignore[arg-type]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(texts, fields, st.none() | fields), min_size=1, max_size=5))
def test_every_event_comes_out_as_it_went_in(events: list[tuple[str, str, str | None]]) -> None:
    expected, last = [], ""
    for data, event, id in events:
        last = last if id is None else id
        expected.append(Dispatched(event or "message", re.sub("\r\n|\r", "\n", data), last))
    stream = b"".join(encode_event(data, event=event, id=id) for data, event, id in events)
    assert parsed(stream) == expected


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(json_values, types, cursors), min_size=1, max_size=5), st.integers(1, 7))
def test_every_envelope_comes_out_byte_equal(events: list[tuple[object, str, str]], piece: int) -> None:
    # The project's own events are JSON on one line, so that not even a line end is changed on the way.
    stream = b"".join(Envelope(type, dumps({"v": value})).as_sse(cursor) for value, type, cursor in events)
    assert stream.count(b"\n\n") == len(events)
    parser = EventStreamParser()
    got = [event for at in range(0, len(stream), piece) for event in parser.feed(stream[at : at + piece])]
    assert got == [Dispatched(type, dumps({"v": value}), cursor) for value, type, cursor in events]


def test_headers_pass_gzip_caches_and_nginx() -> None:
    assert CONTENT_TYPE == "text/event-stream"
    assert HEADERS == {
        "Content-Encoding": "identity",
        "Cache-Control": "private, no-cache, no-store, no-transform",
        "X-Accel-Buffering": "no",
    }
