"""The log: appended in the caller's transaction, numbered after its commit, read from a position, trimmed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import doorbell, log
from notifications.doorbell import Hint
from notifications.models import Event, Topic

pytestmark = pytest.mark.django_db(transaction=True)

#: Queries.
OF_A_DRAIN = 1 if connection.vendor == "postgresql" else 4


@pytest.fixture
def hints() -> Iterator[list[Hint]]:
    """The hints that were rung, instead of ringing."""
    rung: list[Hint] = []
    with mock.patch.object(doorbell, "ring", rung.extend):
        yield rung


def append(*topics: str, type: str = "ping") -> None:
    log.append([(topic, type, "{}") for topic in topics])


def numbers(topic: str) -> list[int | None]:
    """Return the numbers of a topic's events in the order of their ids."""
    return list(Event.objects.filter(topic=topic).order_by("pk").values_list("seq", flat=True))


def queries(captured: Sequence[dict[str, str]]) -> list[str]:
    """Return what was asked of the database, without what opens and closes transactions."""
    words = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")
    return [query["sql"] for query in captured if not query["sql"].startswith(words)]


@contextmanager
def captured_commit() -> Iterator[CaptureQueriesContext]:
    """A transaction of which only what comes with its commit and after it is captured."""
    captured = CaptureQueriesContext(connection)
    with ExitStack() as after, transaction.atomic():
        yield captured
        after.enter_context(captured)


def crashed(*topics: str) -> None:
    """Leave events behind as a process does that dies between its commit and its drain."""
    Event.objects.bulk_create(Event(topic=topic, type="ping", payload="{}") for topic in topics)


# --- Numbering


def test_append_is_numbered_after_commit() -> None:
    with transaction.atomic():
        append("a", "a", "b")
        assert numbers("a") == [None, None]
        assert not Topic.objects.exists()
    assert numbers("a") == [1, 2]
    assert numbers("b") == [1]
    assert dict(Topic.objects.values_list("name", "head")) == {"a": 2, "b": 1}


def test_append_outside_of_a_transaction() -> None:
    append("a")
    append("a")
    assert numbers("a") == [1, 2]


def test_append_of_nothing() -> None:
    with CaptureQueriesContext(connection) as captured:
        log.append([])
    assert not captured.captured_queries


def test_rollback_leaves_no_event_no_hole_and_rings_nothing(hints: list[Hint]) -> None:
    append("a")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        append("a", "b")
        raise ZeroDivisionError
    append("a")
    assert numbers("a") == [1, 2]
    assert [(hint.name, hint.seq) for hint in hints] == [("a", 1), ("a", 2)]
    assert not Event.objects.filter(topic="b").exists()


def test_rollback_of_a_savepoint_leaves_the_rest(hints: list[Hint]) -> None:
    with transaction.atomic():
        append("a")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            append("a", "b")
            raise ZeroDivisionError
        append("a")
    assert numbers("a") == [1, 2]
    assert [(hint.name, hint.seq) for hint in hints] == [("a", 2)]


def test_event_of_a_savepoint_before_a_rolled_back_one_is_drained() -> None:
    # The callback of the rolled back savepoint is forgotten; that of the others must not be.
    with transaction.atomic():
        with transaction.atomic():
            append("kept")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            append("lost")
            raise ZeroDivisionError
    assert numbers("kept") == [1]


def test_event_appended_only_in_an_outer_transaction_after_a_rollback_is_drained() -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            append("a")
            raise ZeroDivisionError
        append("a")
    assert numbers("a") == [1]


def test_failing_drain_does_not_reach_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(log, "_number", side_effect=RuntimeError("no database")):
        append("a")
    assert numbers("a") == [None]
    assert "the sweeper will repeat it" in caplog.text
    assert log.sweep() == 1
    assert numbers("a") == [1]


def test_drain_is_idempotent(hints: list[Hint]) -> None:
    crashed("a", "a")
    assert log.drain(["a"]) == 2
    assert log.drain(["a"]) == 0
    assert log.drain(["a", "nobody"]) == 0
    assert numbers("a") == [1, 2]
    assert [(hint.name, hint.seq, [event[0] for event in hint.events]) for hint in hints] == [("a", 2, [1, 2])]


def test_drain_numbers_what_others_left_behind_in_order_of_insertion() -> None:
    crashed("a", "a")
    append("a")
    assert numbers("a") == [1, 2, 3]


def test_hint_carries_topic_epoch_number_and_events(hints: list[Hint]) -> None:
    append("a", type="progress")
    topic = Topic.objects.get()
    assert hints == [Hint("a", topic.epoch, 1, ((1, "progress", "{}"),))]
    assert hints[0].message() == {
        "type": "notifications.hint",
        "topic": "a",
        "epoch": topic.epoch,
        "seq": 1,
        "events": [[1, "progress", "{}"]],
    }


def test_many_rounds_of_one_drain_leave_no_hole(hints: list[Hint]) -> None:
    with mock.patch.multiple(log, EVENTS_AT_ONCE=7, TOPICS_AT_ONCE=3):
        append(*(f"t{number % 8}" for number in range(100)))
    for number in range(8):
        assert numbers(f"t{number}") == list(range(1, len(numbers(f"t{number}")) + 1))
    assert Event.objects.filter(seq=None).count() == 0
    rung = sorted((hint.name, event[0]) for hint in hints for event in hint.events)
    assert rung == sorted((event.topic, event.seq or 0) for event in Event.objects.all())


def test_drains_at_the_same_time_number_each_event_once() -> None:
    topics = ["a", "b", "c"]
    errors: list[BaseException] = []

    def publish(order: list[str]) -> None:
        try:
            for _ in range(10):
                with transaction.atomic():
                    append(*order)
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=publish, args=(topics[turn:] + topics[:turn],)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    log.sweep()
    for topic in topics:
        assert sorted(number or 0 for number in numbers(topic)) == list(range(1, 31))


# --- What it costs


def test_append_is_one_query_before_commit() -> None:
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        append(*(f"t{number % 20}" for number in range(150)))
    assert len(queries(captured.captured_queries)) == 1


@pytest.mark.parametrize("events", [1, 40, 200])
def test_drain_is_as_many_queries_for_any_number_of_topics_and_events(events: int) -> None:
    topics = [f"t{number}" for number in range(40)]
    append(*topics)
    with captured_commit() as captured:
        append(*(topics[number % 40] for number in range(events)))
    assert len(queries(captured.captured_queries)) == OF_A_DRAIN, queries(captured.captured_queries)


def test_many_appends_in_one_transaction_are_one_drain(hints: list[Hint]) -> None:
    append("a")
    hints.clear()
    with captured_commit() as captured:
        for _ in range(20):
            append("a")
    assert len(queries(captured.captured_queries)) == OF_A_DRAIN
    assert [(hint.name, hint.seq) for hint in hints] == [("a", 21)]


# --- Sweep


def test_sweep_finds_what_a_crash_left_behind(hints: list[Hint]) -> None:
    append("a")
    hints.clear()
    crashed("a", "b", "a")
    assert log.sweep() == 3
    assert numbers("a") == [1, 2, 3]
    assert numbers("b") == [1]
    assert {(hint.name, hint.seq) for hint in hints} == {("a", 3), ("b", 1)}


def test_sweep_of_nothing_is_one_query() -> None:
    append("a")
    with CaptureQueriesContext(connection) as captured:
        assert log.sweep() == 0
    assert len(captured.captured_queries) == 1


def test_sweep_of_what_was_there_at_the_last_look(hints: list[Hint]) -> None:
    append("a")
    with CaptureQueriesContext(connection) as captured:
        assert log.newest_undrained() is None
    assert len(captured.captured_queries) == 1
    crashed("a", "b")
    seen = log.newest_undrained()
    assert seen == Event.objects.latest("pk").pk
    log.drain(["a"])
    hints.clear()
    crashed("a", "c")
    assert log.sweep(seen) == 1
    assert [(hint.name, hint.seq) for hint in hints] == [("b", 1)]
    assert (numbers("a"), numbers("b"), numbers("c")) == ([1, 2, None], [1], [None])
    assert log.sweep(seen) == 0
    assert log.sweep() == 2


# --- Reading


def test_heads_of_known_topics() -> None:
    append("a", "a", "b")
    a = Topic.objects.get(name="a")
    with CaptureQueriesContext(connection) as captured:
        heads = log.heads(["a", "nobody"])
    assert heads == {"a": log.Head("a", a.pk, a.epoch, 2)}
    assert len(captured.captured_queries) == 1


def test_read_after_a_number_up_to_a_limit() -> None:
    append("a", "b", "a", "a", "a")
    assert [event.seq for event in log.read("a", 0, 10)] == [1, 2, 3, 4]
    assert [event.seq for event in log.read("a", 1, 2)] == [2, 3]
    assert log.read("a", 4, 10) == []
    assert log.read("nobody", 0, 10) == []


def test_read_shows_nothing_that_has_no_number() -> None:
    append("a")
    crashed("a")
    assert [event.seq for event in log.read("a", 0, 10)] == [1]


def test_read_gives_type_and_payload_as_they_were_appended() -> None:
    payload = json.dumps({"text": "é\u2028\n"}, ensure_ascii=False)
    log.append([("a", "order.moved", payload)])
    assert log.read("a", 0, 10) == [log.LogEvent(1, "order.moved", payload)]


# --- What advanced lately


def first_look() -> log.Look:
    _, look = log.advanced(None)
    assert look is not None
    return look


def advance(topic: str, at: datetime) -> None:
    Topic.objects.filter(name=topic).update(advanced_at=at)


def advanced_since(look: log.Look) -> set[tuple[str, int]]:
    return {(head.name, head.seq) for head in log.advanced(look)[0]}


def test_advanced_begins_now() -> None:
    assert log.advanced(None) == ([], None)
    append("a")
    assert log.advanced(None)[0] == []
    look = first_look()
    assert look.latest == Topic.objects.get().advanced_at
    assert abs(look.at - timezone.now()) < timedelta(seconds=5)


def test_advanced_tells_what_came_since() -> None:
    append("a")
    before = first_look()
    append("b", "b")
    heads, later = log.advanced(before)
    assert {(head.name, head.seq) for head in heads} >= {("b", 2)}
    assert later is not None and later.latest >= before.latest and later.at >= before.at
    again = log.advanced(later)[1]
    assert again is not None and again.latest == later.latest


def test_advanced_looks_back_further_than_the_last_look() -> None:
    append("late")
    append("early")
    before = first_look()
    # As if its commit had taken longer than that of the one numbered after it.
    Topic.objects.filter(name="late").update(head=2, advanced_at=before.latest - timedelta(seconds=5))
    assert ("late", 2) in advanced_since(before)


def test_advanced_finds_a_commit_that_took_ever_so_long_while_nothing_else_came() -> None:
    append("late", "last")
    hour = timedelta(hours=1)
    for topic in ("late", "last"):
        advance(topic, timezone.now() - hour)
    before = first_look()
    # A publisher that stood still, a standby that was away: numbered half a minute before the last look, seen now.
    Topic.objects.filter(name="late").update(head=2, advanced_at=before.at - timedelta(seconds=30))
    assert ("late", 2) in advanced_since(before)


def test_advanced_finds_what_was_held_up_together_and_seen_one_after_the_other() -> None:
    append("late", "last")
    then = timezone.now() - timedelta(minutes=5)
    for topic in ("late", "last"):
        advance(topic, then)
    look = first_look()
    Topic.objects.filter(name="late").update(head=2, advanced_at=then - timedelta(seconds=3))
    for _ in range(2):
        heads, later = log.advanced(look)
        assert ("late", 2) in {(head.name, head.seq) for head in heads}
        assert later is not None
        look = later


def test_advanced_looks_back_from_the_last_look_when_the_newest_is_of_the_future() -> None:
    append("late", "last")
    now = timezone.now()
    advance("last", now + timedelta(hours=1))
    look = first_look()._replace(at=now - timedelta(seconds=30))
    Topic.objects.filter(name="late").update(head=2, advanced_at=now - timedelta(seconds=20))
    assert ("late", 2) in advanced_since(look)


def test_advanced_forgets_what_is_long_ago() -> None:
    append("old", "new")
    advance("old", timezone.now() - timedelta(minutes=5))
    assert advanced_since(first_look()) == {("new", 1)}


def test_advanced_asks_once_when_all_is_quiet() -> None:
    append("older", "last")
    advance("older", timezone.now() - timedelta(seconds=62))
    advance("last", timezone.now() - timedelta(seconds=61))
    look = first_look()
    assert ("last", 1) in advanced_since(look)  # What was held up as long as that one may still come.
    look = look._replace(changed=look.at - timedelta(seconds=61))
    for _ in range(2):
        with CaptureQueriesContext(connection) as captured:
            heads, later = log.advanced(look)
        assert len(captured.captured_queries) == 1
        assert heads == [] and later is not None and later.latest == look.latest and later.changed == look.changed
        look = later
    append("older")
    assert ("older", 2) in advanced_since(look)


def test_advanced_reads_no_dates_of_topics() -> None:
    append("a", "b")
    look = first_look()
    with CaptureQueriesContext(connection) as captured:
        assert advanced_since(look) == {("a", 1), ("b", 1)}
    assert len(captured.captured_queries) == 2
    assert "advanced_at" not in captured.captured_queries[1]["sql"].partition("FROM")[0]


def test_advanced_goes_on_when_the_clock_is_set_back() -> None:
    append("a", "b")
    hour = timedelta(hours=1)
    advance("a", timezone.now() + hour)
    before = first_look()._replace(at=timezone.now() + hour + timedelta(minutes=2))
    assert advanced_since(before) == {("a", 1), ("b", 1)}
    _, later = log.advanced(before)
    append("b")
    assert later is not None and ("b", 2) in advanced_since(later)
    append("a")  # What was the newest is not any more, and all is to be compared.
    assert log.advanced(later) == ([], None)


def test_advanced_tells_that_the_log_is_not_what_it_was() -> None:
    append("a")
    before = first_look()
    advance("a", before.latest - timedelta(seconds=1))
    assert log.advanced(before) == ([], None)
    Topic.objects.all().delete()
    assert log.advanced(before) == ([], None)


# --- Retention


def age(topic: str, upto: int, by: timedelta = timedelta(days=8)) -> None:
    Event.objects.filter(topic=topic, seq__lte=upto).update(created_at=timezone.now() - by)


def floor(topic: str) -> int:
    return Topic.objects.get(name=topic).floor


def test_trim_deletes_old_events_and_moves_the_floor() -> None:
    append("a", "a", "a", "b")
    age("a", 2)
    assert log.trim() == 2
    assert numbers("a") == [3]
    assert (floor("a"), floor("b")) == (2, 0)
    assert log.trim() == 0


def test_trim_of_a_whole_log_keeps_its_head() -> None:
    append("a", "a")
    age("a", 2)
    assert log.trim() == 2
    topic = Topic.objects.get()
    assert (topic.head, topic.floor) == (2, 2)
    append("a")
    assert numbers("a") == [3]


def test_trim_in_small_batches_until_nothing_is_left() -> None:
    append(*["a"] * 10, *["b"] * 3)
    age("a", 9)
    age("b", 3)
    deleted = []
    while count := log.trim(batch=4):
        deleted.append(count)
        for topic in ("a", "b"):
            assert [number for number in numbers(topic) if (number or 0) <= floor(topic)] == []
    assert sum(deleted) == 12 and max(deleted) <= 8
    assert numbers("a") == [10] and numbers("b") == []
    assert (floor("a"), floor("b")) == (9, 3)


def test_trim_never_leaves_a_hole_behind_a_younger_event() -> None:
    # By the age of a row that was numbered late: an older event above a younger one stays.
    append("a", "a", "a")
    Event.objects.filter(seq__in=(1, 3)).update(created_at=timezone.now() - timedelta(days=8))
    assert log.trim() == 1
    assert numbers("a") == [2, 3]
    assert floor("a") == 1
    assert log.trim() == 0


def test_trim_goes_on_behind_old_events_that_stay() -> None:
    append(*["a"] * 6, "b")
    age("b", 1)
    Event.objects.filter(topic="a", seq__gt=1).update(created_at=timezone.now() - timedelta(days=9))
    # The oldest five are kept by a younger one below them.
    assert log.trim(batch=2) == 1
    assert (len(numbers("a")), numbers("b")) == (6, [])
    assert log.trim(batch=2) == 0


def test_trim_passes_over_what_was_deleted_by_hand() -> None:
    append(*["a"] * 10)
    age("a", 9)
    Event.objects.filter(topic="a", seq__lte=6).delete()
    assert [log.trim(batch=2), log.trim(batch=2), log.trim(batch=2)] == [2, 1, 0]
    assert (numbers("a"), floor("a")) == ([10], 9)


def test_trim_of_events_whose_topic_was_deleted_by_hand() -> None:
    append("a", "b")
    age("a", 1)
    age("b", 1)
    Topic.objects.filter(name="a").delete()
    assert log.trim(batch=1) == 1
    assert numbers("b") == []


def test_trim_leaves_what_has_no_number_yet() -> None:
    append("a")
    crashed("a")
    Event.objects.update(created_at=timezone.now() - timedelta(days=8))
    assert log.trim() == 1
    assert numbers("a") == [None]
    assert log.sweep() == 1
    assert numbers("a") == [2]


def test_trim_by_a_given_age() -> None:
    append("a", "a")
    age("a", 1, timedelta(hours=2))
    assert log.trim(older_than=timedelta(hours=3)) == 0
    assert log.trim(older_than=timedelta(hours=1)) == 1
    assert floor("a") == 1


def test_trim_by_the_age_of_the_settings(settings: Any) -> None:
    append("a")
    age("a", 1, timedelta(hours=2))
    assert log.trim() == 0
    settings.NOTIFICATIONS = {"RETENTION": timedelta(hours=1)}
    assert log.trim() == 1


# --- Epochs


def test_rotate_begins_a_new_life_and_keeps_the_numbers(hints: list[Hint]) -> None:
    append("a", "a", "b")
    before = {topic.name: topic for topic in Topic.objects.all()}
    hints.clear()
    assert log.rotate_epoch() == 2
    after = {topic.name: topic for topic in Topic.objects.all()}
    assert all(after[name].epoch != before[name].epoch for name in "ab")
    assert [(after[name].head, after[name].advanced_at > before[name].advanced_at) for name in "ab"] == [
        (2, True),
        (1, True),
    ]
    assert {(hint.name, hint.epoch, hint.seq, hint.events) for hint in hints} == {
        ("a", after["a"].epoch, 2, ()),
        ("b", after["b"].epoch, 1, ()),
    }


def test_rotate_of_some_topics() -> None:
    append("a", "b")
    epochs = dict(Topic.objects.values_list("name", "epoch"))
    assert log.rotate_epoch(["a", "nobody"]) == 1
    after = dict(Topic.objects.values_list("name", "epoch"))
    assert after["a"] != epochs["a"] and after["b"] == epochs["b"]


# --- The database's own rules


def test_number_is_unique_in_its_topic() -> None:
    append("a")
    with pytest.raises(Exception, match=r"(?i)unique"):
        Event.objects.create(topic="a", seq=1, type="ping", payload="{}")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Topic(name="a"), "a"),
        (lambda: Event(topic="a", seq=3, type="ping"), "a 3 ping"),
        (lambda: Event(topic="a", type="ping"), "a – ping"),
    ],
)
def test_rows_have_a_name(make: Callable[[], Any], text: str) -> None:
    assert str(make()) == text


def test_events_are_dated_by_the_database() -> None:
    with mock.patch.object(timezone, "now", return_value=datetime(2001, 1, 1, tzinfo=timezone.get_default_timezone())):
        append("a")
    assert abs(Event.objects.get().created_at - timezone.now()) < timedelta(minutes=1)
