"""One statement where others take several: right, too, when drains meet; and so is step by step what it stands for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.models.functions import Now

from notifications import doorbell, failpoints, log, notification_published, notify, postgresql
from notifications.doorbell import Hint
from notifications.models import Event, Notification, Topic
from tests.servers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

POSTGRESQL = connection.vendor == "postgresql"
WAITS = """
SELECT EXISTS (
    SELECT 1 FROM pg_locks awaited JOIN pg_locks held USING (pid) JOIN pg_database ON pg_database.oid = held.database
    WHERE NOT awaited.granted AND datname = current_database()
)
"""


@pytest.fixture(autouse=True, params=["in one statement", "step by step"] if POSTGRESQL else ["step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test goes both ways, where there are two."""
    if request.param == "step by step":
        monkeypatch.setattr(postgresql, "understood_by", lambda using: False)
    return str(request.param)


@pytest.fixture
def hints() -> Iterator[list[Hint]]:
    """The hints that were rung, instead of ringing."""
    rung: list[Hint] = []
    with mock.patch.object(doorbell, "ring", rung.extend):
        yield rung


def append(*topics: str) -> None:
    log.append([(topic, "ping", "{}") for topic in topics])


def waiting(*topics: str) -> None:
    """Insert what nobody has numbered yet."""
    Event.objects.bulk_create(Event(topic=topic, type="ping", payload="{}") for topic in topics)


def numbers(topic: str) -> list[int | None]:
    """Return the numbers of a topic's events in the order of their ids."""
    return list(Event.objects.filter(topic=topic).order_by("pk").values_list("seq", flat=True))


def held_up() -> bool:
    """Return whether somebody waits for a lock. SQLite does not tell."""
    with connection.cursor() as cursor:
        cursor.execute(WAITS if POSTGRESQL else "SELECT 1")
        return bool(cursor.fetchone()[0])


@contextmanager
def held_up_by_a_transaction(call: Callable[[], Any]) -> Iterator[Callable[[], None]]:
    """A transaction in which what is yielded has ``call`` begin elsewhere; after the commit, that comes to its end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    def begin() -> None:
        thread.start()
        wait_until(held_up, what="the other to be held up")

    thread = threading.Thread(target=run)
    try:
        with transaction.atomic():
            yield begin
    finally:
        if thread.ident:
            thread.join(30)
    assert not thread.is_alive() and not errors, errors


@pytest.mark.parametrize("topics", ["a", "abc"])
def test_drain_that_waited_leaves_out_what_was_numbered_meanwhile(topics: str, hints: list[Hint]) -> None:
    append(*topics)
    waiting(*topics, *topics)
    hints.clear()
    with held_up_by_a_transaction(lambda: append(*topics)) as begin:
        assert log._number(list(topics), "default")[1] == 2 * len(topics)
        begin()  # Its statement sees these two without numbers, as long as this one has not committed.
    assert [numbers(topic) for topic in topics] == [[1, 2, 3, 4]] * len(topics)
    assert set(Topic.objects.values_list("name", "head")) == {(topic, 4) for topic in topics}
    assert {(hint.name, *(event[0] for event in hint.events)) for hint in hints} == {(topic, 4) for topic in topics}


def test_drain_that_waited_advances_its_topic_at_the_time_of_its_end() -> None:
    append("a")
    released: list[datetime] = []
    with held_up_by_a_transaction(lambda: append("a")) as begin:
        log._locked(["a"], "default")
        begin()
        released += Topic.objects.values_list(Now(), flat=True)
    assert Topic.objects.get().advanced_at >= released[0]


def test_drain_that_waited_goes_on_in_the_epoch_that_has_begun(hints: list[Hint]) -> None:
    append("a")
    hints.clear()
    with held_up_by_a_transaction(lambda: append("a")) as begin:
        log._locked(["a"], "default")
        Topic.objects.update(epoch="another", head=7)
        begin()
    assert [(hint.epoch, hint.seq) for hint in hints] == [("another", 8)]
    assert numbers("a") == [1, 8]


def test_topics_that_are_new_and_others_are_numbered_together(hints: list[Hint]) -> None:
    append("b", "d")
    hints.clear()
    waiting("d", "a", "c", "b", "a")
    assert log.drain("abcde") == 5
    assert {(hint.name, hint.seq) for hint in hints} == {("a", 2), ("b", 2), ("c", 1), ("d", 2)}
    assert (numbers("a"), numbers("b")) == ([1, 2], [1, 2])
    assert set(Topic.objects.values_list("name", "head")) == {("a", 2), ("b", 2), ("c", 1), ("d", 2), ("e", 0)}


@pytest.mark.parametrize("topics", [["a"], ["a", "b", "c"]], ids=len)
def test_events_are_in_the_order_of_their_insertion_in_each_topic(topics: list[str], hints: list[Hint]) -> None:
    for index in range(30):
        topic = topics[index % len(topics)]
        Event.objects.create(topic=topic, type=f"t{index}", payload=f'{{"n":{index}}}')
    with mock.patch.object(log, "EVENTS_AT_ONCE", 7):
        assert log.drain(topics) == 30
    for number, topic in enumerate(topics):
        events = [event for hint in hints if hint.name == topic for event in hint.events]
        mine = range(number, 30, len(topics))
        assert events == [log.LogEvent(seq, f"t{n}", f'{{"n":{n}}}') for seq, n in enumerate(mine, 1)]
        assert numbers(topic) == list(range(1, len(mine) + 1))
        assert [hint.seq for hint in hints if hint.name == topic][-1] == len(mine)


def test_round_numbers_so_many_at_most_whatever_the_number_of_topics() -> None:
    append("a", "b", "c")
    waiting(*"abcabcabc")
    with mock.patch.object(log, "EVENTS_AT_ONCE", 4):
        assert [log._number(["a", "b", "c"], "default")[1] for _ in range(4)] == [4, 4, 1, 0]
    assert [numbers(topic) for topic in "abc"] == [[1, 2, 3, 4]] * 3


def test_strange_topics_are_numbered() -> None:
    strange = ["100%", "%s", "it's", 'quo"ted', "back\\slash", "{a,b}", "{}", "NULL", "é\u2028"]
    append(*strange)
    append(*strange)
    for topic in strange:
        append(topic)
        assert numbers(topic) == [1, 2, 3]


@pytest.mark.parametrize("title", ["null", '"id":null', "100% {} %s", '\\"', "é\u2028 🔔"])
def test_payload_holds_the_id_and_all_else_as_given(title: str) -> None:
    row = notify("everyone", title, "null", data={"null": None, "%": "{0}"}, tag="null")
    (payload,) = (json.loads(text) for text in Event.objects.values_list("payload", flat=True))
    assert (payload["id"], payload["title"], payload["body"]) == (row.pk, title, "null")
    assert (payload["data"], payload["tag"]) == ({"null": None, "%": "{0}"}, "null")
    assert Notification.objects.get() == row
    assert Notification.objects.get().title == title


# --- A connection that is lost


def cut_off() -> None:
    """Cut this thread's connection to PostgreSQL, as a restart does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (own,) = cursor.fetchone()
    another = connection.copy()
    try:
        with another.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [own])
    finally:
        another.close()


@pytest.fixture
def fresh_connection(transactional_db: None) -> Iterator[None]:
    """Whatever a test has done to its connection ends with it."""
    yield
    connection.close()


@pytest.mark.usefixtures("fresh_connection")
def test_lost_connection_is_made_anew_by_the_next_call() -> None:
    if not POSTGRESQL:
        return  # A file has no connection.
    notify("a", "before")
    cut_off()
    with pytest.raises(OperationalError):
        notify("a", "lost")
    notify("a", "after")
    assert numbers("a") == [1, 2]


@pytest.mark.usefixtures("fresh_connection")
def test_connection_that_is_lost_before_the_drain_is_made_anew_by_the_site(caplog: pytest.LogCaptureFixture) -> None:
    if not POSTGRESQL:
        return
    published: list[str] = []

    def note(notification: Notification, **_: Any) -> None:
        published.append(notification.title)

    notification_published.connect(note)
    notify("a", "before")
    try:
        with ExitStack() as away:

            def gone(point: str) -> None:
                if point == "before-drain":
                    cut_off()
                    away.enter_context(mock.patch.object(connection, "connect", side_effect=OperationalError))

            away.enter_context(mock.patch.object(failpoints, "hit", gone))
            row = notify("a", "committed")
        assert "the sweeper will repeat it" in caplog.text
        with transaction.atomic():
            notify("a", "after")
    finally:
        notification_published.disconnect(note)
    assert Notification.objects.get(title="committed") == row
    assert published == ["before", "committed", "after"]
    assert numbers("a") == [1, 2, 3]


def test_statement_that_fails_costs_nobody_a_connection_that_is_sound() -> None:
    if not POSTGRESQL:
        return
    with connection.cursor() as cursor:
        cursor.execute("SET application_name = 'kept'")
    with mock.patch.object(Event._meta, "db_table", "missing"), pytest.raises(DatabaseError):
        postgresql.number(["a"], 1, "default")
    with connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert cursor.fetchone() == ("kept",)
        cursor.execute("RESET application_name")


def test_drain_that_fails_where_only_a_test_commits_breaks_nothing_else() -> None:
    if not POSTGRESQL:
        return
    with transaction.atomic():
        waiting("a")
        with mock.patch.object(Event._meta, "db_table", "missing"), pytest.raises(DatabaseError):
            postgresql.number(["a"], 1, "default")
        assert numbers("a") == [None]
