"""The cursor: what it looks like, what comes back from it, and what is refused."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from notifications.cursor import InvalidCursor, Position, format_cursor, join_cursor, parse_cursor

positions = st.builds(
    Position,
    topic=st.integers(0, 10**18 - 1),
    epoch=st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=16),
    seq=st.integers(0, 10**18 - 1),
)


def test_format_is_as_documented() -> None:
    assert format_cursor([Position(4, "9f2c81aa", 118), Position(7, "0", 0)]) == "1.4-9f2c81aa-118.7-0-0"


def test_cursor_without_topics_is_not_empty() -> None:
    assert format_cursor([]) == "1"
    assert parse_cursor("1") == {}


def test_join_takes_parts_that_are_text_already() -> None:
    assert join_cursor([".4-aa-1", ".5-bb-2"]) == format_cursor([Position(4, "aa", 1), Position(5, "bb", 2)])


@given(st.lists(positions, unique_by=lambda position: position.topic))
def test_round_trip_keeps_every_position(given: list[Position]) -> None:
    assert parse_cursor(format_cursor(given)) == {position.topic: position for position in given}


@given(st.lists(positions))
def test_text_is_safe_in_a_url_in_an_sse_id_and_in_json(given: list[Position]) -> None:
    text = format_cursor(given)
    assert quote(text, safe="") == text
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)


def test_topic_given_twice_counts_as_its_last_position() -> None:
    assert parse_cursor("1.4-aa-1.4-bb-9") == {4: Position(4, "bb", 9)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "2.4-aa-1",
        "1.",
        "1..4-aa-1",
        "1.4-aa-1.",
        "1.4-aa",
        "1.4-aa-1-1",
        "1.-4-aa-1",
        "1.4--1",
        "1.4-aa--1",
        "1.4-AA-1",
        "1.4-aa-1\n",
        "1.4-aa-1 ",
        " 1.4-aa-1",
        "1.4-aa-1e3",
        "1.4-aa-" + "9" * 19,
        "1." + "9" * 19 + "-aa-1",
        "1.4-" + "a" * 17 + "-1",
        "1.٤-aa-1",
        "1.4-aa-²",
        "1.4-aa-1\0",
        "null",
        '{"4": 1}',
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        parse_cursor(text)


@given(st.text())
def test_any_text_is_parsed_or_refused_and_nothing_else(text: str) -> None:
    try:
        parsed = parse_cursor(text)
    except InvalidCursor:
        return
    assert all(0 <= position.seq < 10**18 and position.topic == topic for topic, position in parsed.items())
