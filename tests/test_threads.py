"""The threads on which the hub asks the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from django.db import connection, connections

from notifications import log, threads
from notifications.reader import Reader
from notifications.threads import DatabaseThreads

from .servers import wait_until


@pytest.fixture
def pool(transactional_db: None) -> Iterator[DatabaseThreads]:
    pool = DatabaseThreads(2)
    yield pool
    pool.shutdown()


class Jobs(SimpleQueue[Any]):
    """A queue that remembers how long somebody was ready to wait at most."""

    patience = 0.0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.patience = max(self.patience, timeout or 0.0)
        return super().get(block, timeout)


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


def test_while_busy_one_thread_keeps_its_connection(pool: DatabaseThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "KEEP", 0.02)
    pool._jobs = jobs = Jobs()
    pool.busy_until = time.monotonic() + 60
    together = threading.Barrier(2)
    for future in [pool.submit(lambda: together.wait(5) + ask()) for _ in range(2)]:
        future.result(5)
    first = pool._threads[0]
    wait_until(lambda: pool._threads == [first], what="the other thread to end")
    wait_until(lambda: jobs.patience > 1, what="the first one to wait longer than KEEP")
    assert pool.submit(is_open).result(5)
    assert pool._threads == [first]
    pool.busy_until = 0.0
    pool.submit(ask).result(5)
    wait_until(lambda: pool._threads == [], what="the first one to end, too")
    assert not pool.submit(is_open).result(5)


def test_busy_thread_ends_when_no_question_comes(pool: DatabaseThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "KEEP", 0.02)
    monkeypatch.setattr(threads, "KEEP_BUSY", 0.1)
    pool.busy_until = time.monotonic() + 60
    pool.submit(ask).result(5)
    wait_until(lambda: pool._threads == [], what="the thread to end")
    assert not pool.submit(is_open).result(5)


@pytest.mark.parametrize("found", [False, RuntimeError("not the database's own")])
def test_question_after_a_while_finds_no_broken_connection(
    pool: DatabaseThreads, monkeypatch: pytest.MonkeyPatch, found: bool | RuntimeError
) -> None:
    def is_usable(self: Any) -> bool:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(threads, "KEEP", 0.02)
    pool._jobs = jobs = Jobs()
    pool.busy_until = time.monotonic() + 60
    before = pool.submit(lambda: (ask(), connection.connection)[1]).result(5)
    # What follows at once is not worth a question of its own.
    wait_until(lambda: jobs.patience > 1, what="the thread to wait longer than KEEP")
    monkeypatch.setattr(type(connections["default"]), "is_usable", is_usable)
    after = pool.submit(lambda: (ask(), connection.connection)[1]).result(5)
    assert after is not before


async def test_hub_s_reads_keep_one_connection_while_events_come(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "KEEP", 0.02)
    reader = Reader()

    async def kept() -> bool:
        """Return whether there is still a connection after a while; without one, its thread has ended."""
        await reader.run(ask)
        try:
            await asyncio.to_thread(wait_until, lambda: not reader._pool._threads, timeout=0.5)
        except TimeoutError:
            return await reader.run(is_open)
        return False

    await reader.run(log.append, [("everyone", "moved", "{}")])
    heads, look = await reader.advanced(None)
    assert heads == [] and not await kept()
    await reader.run(log.append, [("everyone", "moved", "{}")])
    heads, look = await reader.advanced(look)
    assert [head.name for head in heads] == ["everyone"]
    assert await kept()
    monkeypatch.setattr(reader._pool, "busy_until", 0.0)
    heads, look = await reader.advanced(look)
    # Still among those that advanced lately, but nothing is new.
    assert [head.name for head in heads] == ["everyone"] and not await kept()
    reader._pool.shutdown()


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
