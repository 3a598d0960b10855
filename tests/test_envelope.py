"""The envelope: the same event for each transport, and nothing that could be mistaken for another one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from notifications.envelope import CONTROL_TYPES, Envelope, bye, control, dumps, log_envelope, valid_type

texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_sse_and_json_carry_the_same_data() -> None:
    envelope = Envelope("progress", '{"percent":40}')
    assert envelope.as_sse("1.2-ab-3") == b'id: 1.2-ab-3\nevent: progress\ndata: {"percent":40}\n\n'
    assert envelope.as_json("1.2-ab-3") == '{"type":"progress","cursor":"1.2-ab-3","data":{"percent":40}}'


def test_event_without_cursor() -> None:
    heartbeat = control("heartbeat")
    assert heartbeat.as_sse(None) == b"event: heartbeat\ndata: {}\n\n"
    assert json.loads(heartbeat.as_json(None)) == {"type": "heartbeat", "cursor": "", "data": {}}


def test_bytes_are_made_once() -> None:
    envelope = Envelope("progress", "{}")
    assert envelope.sse_tail is envelope.sse_tail
    assert envelope.size == len(b"event: progress\ndata: {}\n\n")


def test_bye_tells_browsers_when_to_return() -> None:
    assert bye("shutdown", 1500).as_sse(None) == (
        b'event: bye\nretry: 1500\ndata: {"reason":"shutdown","retry":1500}\n\n'
    )
    assert json.loads(bye("shutdown", 1500).as_json(None))["data"] == {"reason": "shutdown", "retry": 1500}


def test_bye_for_good_has_no_retry_field() -> None:
    assert bye("revoked", None).as_sse(None) == b'event: bye\ndata: {"reason":"revoked","retry":null}\n\n'


@given(st.dictionaries(texts.filter(lambda key: key not in ("seq", "topic")), texts, max_size=3), texts)
def test_log_envelope_puts_number_and_topic_into_the_payload(data: dict[str, str], topic: str) -> None:
    envelope = log_envelope(topic, 7, "notification", dumps(data))
    assert json.loads(envelope.data) == {"seq": 7, "topic": topic, **data}
    assert "\n" not in envelope.data and "\r" not in envelope.data


def test_log_envelope_of_an_empty_payload() -> None:
    assert log_envelope("everyone", 1, "ping", "{}").data == '{"seq":1,"topic":"everyone"}'


def test_dumps_is_compact_and_keeps_characters() -> None:
    assert dumps({"a": ["é", "\n"]}) == '{"a":["é","\\n"]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_dumps_refuses_what_json_has_no_words_for(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": value})


def test_dumps_refuses_other_types() -> None:
    with pytest.raises(TypeError):
        dumps({"a": object()})


@pytest.mark.parametrize("type", ["progress", "order.moved", "a", "A-b_c.9", "x" * 64])
def test_valid_type(type: str) -> None:
    assert valid_type(type)


@pytest.mark.parametrize("type", sorted(CONTROL_TYPES))
def test_valid_type_is_not_one_of_the_protocol(type: str) -> None:
    assert not valid_type(type)


@pytest.mark.parametrize("type", ["", "9", ".a", "a b", "a\n", "a\0", 'a"', "é", "x" * 65, "a:b", "a\u2028"])
def test_valid_type_has_few_characters(type: str) -> None:
    assert not valid_type(type)
