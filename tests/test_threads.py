"""The threads on which the hub asks the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections

from notifications import threads
from notifications.threads import DatabaseThreads


@pytest.fixture
def pool(transactional_db: None) -> Iterator[DatabaseThreads]:
    pool = DatabaseThreads(2)
    yield pool
    pool.shutdown()


def is_open() -> bool:
    return connection.connection is not None


def ask() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        row: Any = cursor.fetchone()
    return int(row[0])


def test_answer_and_error_come_back(pool: DatabaseThreads) -> None:
    assert pool.submit(ask).result(5) == 1
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)


def test_no_more_threads_than_the_limit(pool: DatabaseThreads) -> None:
    gate = threading.Event()
    waiting = [pool.submit(gate.wait, 5) for _ in range(5)]
    assert len(pool._threads) == 2
    gate.set()
    assert all(future.result(5) for future in waiting)


def test_one_after_the_other_needs_one_thread(pool: DatabaseThreads) -> None:
    for _ in range(5):
        pool.submit(ask).result(5)
    assert len(pool._threads) == 1


def test_connection_is_kept_for_what_follows_and_closed_when_nothing_does(
    pool: DatabaseThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "KEEP", 60)
    pool.submit(ask).result(5)
    assert pool.submit(is_open).result(5)
    closed = threading.Event()
    close_all = connections.close_all

    def closing() -> None:
        close_all()
        if threading.current_thread() in pool._threads:  # Those of another test may just be ending.
            closed.set()

    monkeypatch.setattr(connections, "close_all", closing)
    monkeypatch.setattr(threads, "KEEP", 0.05)
    pool.submit(ask).result(5)
    assert closed.wait(5)
    assert not pool.submit(is_open).result(5)


def test_connection_is_closed_after_an_error(pool: DatabaseThreads) -> None:
    def fail() -> None:
        ask()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        pool.submit(fail).result(5)
    assert not pool.submit(is_open).result(5)


@pytest.mark.parametrize("when", ["after an error", "when idle"])
def test_connection_that_can_not_be_closed_ends_no_thread(
    when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, failed = DatabaseThreads(1), threading.Event()

    def failing() -> None:
        failed.set()
        raise RuntimeError("already closed")

    def work() -> None:
        if when == "after an error":
            raise ValueError("the work's own")

    monkeypatch.setattr(threads, "KEEP", 0.05)
    monkeypatch.setattr(connections, "close_all", failing)
    done = pool.submit(work)
    assert failed.wait(5)
    error = done.exception(5)
    assert str(error) == ("the work's own" if when == "after an error" else "None")
    assert pool.submit(int).result(5) == 0
    assert pool._unfinished == 0
    pool.shutdown()
    assert "could not be closed" in caplog.text


def test_shutdown_ends_the_threads_and_refuses_more(pool: DatabaseThreads) -> None:
    pool.submit(ask).result(5)
    (thread,) = pool._threads
    pool.shutdown()
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        pool.submit(ask)
