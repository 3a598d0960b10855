"""One query for all who ask at about the same time."""

from __future__ import annotations

import asyncio

import pytest

from notifications.batch import Batch


class Lookup:
    """Answers with the upper case of each key that it knows, when it is let."""

    def __init__(self, unknown: str = "") -> None:
        self.calls: list[list[str]] = []
        self.unknown = unknown
        self.error: Exception | None = None
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, keys: list[str]) -> dict[str, str]:
        self.calls.append(keys)
        self.called.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {key: key.upper() for key in keys if key not in self.unknown}


async def test_askers_at_the_same_time_share_one_call() -> None:
    lookup = Lookup()
    batch = Batch(lookup, 500)
    assert await asyncio.gather(*(batch.get(key) for key in "abca")) == ["A", "B", "C", "A"]
    assert lookup.calls == [["a", "b", "c"]]


async def test_askers_during_a_call_share_the_next_one() -> None:
    lookup = Lookup()
    lookup.gate.clear()
    batch = Batch(lookup, 500)
    first = asyncio.create_task(batch.get("a"))
    await lookup.called.wait()
    # Also for the same key: what is being looked up may be outdated by what this asker knows.
    later = [asyncio.create_task(batch.get(key)) for key in "ab"]
    await asyncio.sleep(0)
    lookup.gate.set()
    assert await asyncio.gather(first, *later) == ["A", "A", "B"]
    assert lookup.calls == [["a"], ["a", "b"]]


async def test_rush_waits_for_more_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifications.batch.GATHER", 0.2)
    lookup = Lookup()
    lookup.gate.clear()
    batch = Batch(lookup, 500)
    first = asyncio.create_task(batch.get("a"))
    await lookup.called.wait()
    second = asyncio.create_task(batch.get("b"))
    await asyncio.sleep(0)
    lookup.gate.set()
    await first
    assert await batch.get("c") == "C"
    assert await second == "B"
    assert lookup.calls == [["a"], ["b", "c"]]


async def test_no_call_gets_more_keys_than_the_limit() -> None:
    lookup = Lookup()
    answers = await Batch(lookup, 2).get_many("abcde")
    assert answers == {key: key.upper() for key in "abcde"}
    assert lookup.calls == [["a", "b"], ["c", "d"], ["e"]]


async def test_key_without_an_answer_is_none() -> None:
    assert await Batch(Lookup(unknown="b"), 500).get_many("ab") == {"a": "A", "b": None}


async def test_nothing_asked_nothing_called() -> None:
    lookup = Lookup()
    assert await Batch(lookup, 500).get_many([]) == {}
    assert lookup.calls == []


async def test_error_reaches_everybody_of_its_batch_and_nobody_after() -> None:
    lookup = Lookup()
    batch = Batch(lookup, 500)
    lookup.error = OSError("away")
    results = await asyncio.gather(*(batch.get(key) for key in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    lookup.error = None
    assert await batch.get("a") == "A"


async def test_error_of_get_many_is_raised() -> None:
    lookup = Lookup()
    lookup.error = OSError("away")
    with pytest.raises(OSError, match="away"):
        await Batch(lookup, 500).get_many("ab")


async def test_cancelled_asker_takes_nobody_along() -> None:
    lookup = Lookup()
    lookup.gate.clear()
    batch = Batch(lookup, 500)
    one, other = asyncio.create_task(batch.get("a")), asyncio.create_task(batch.get("a"))
    await lookup.called.wait()
    one.cancel()
    await asyncio.wait([one])
    lookup.gate.set()
    assert await other == "A"
    assert one.cancelled()
