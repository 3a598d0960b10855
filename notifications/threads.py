"""Threads for the database, each of which keeps its connection while there is work, and closes it soon after."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from django.db import connections

__all__ = ["DatabaseThreads"]

logger = logging.getLogger("notifications")

#: Seconds that a connection is kept for what may come next: in a storm of clients, opening one costs more than asking.
KEEP = 0.5
#: Seconds that one of them is kept while question follows question (``DatabaseThreads.busy_until``).
KEEP_BUSY = 2.5


class DatabaseThreads(Executor):
    """Runs functions that use the database, on up to ``limit`` daemon threads, started when they are needed.

    A thread ends, and closes its connections, after :data:`KEEP` idle seconds; the first one after :data:`KEEP_BUSY`,
    as long as ``busy_until`` is ahead. Any of them closes its connections at once if a function raised: the next one
    finds out for itself whether the database is there.

    :ivar busy_until: until when (``time.monotonic()``) to expect a question every second or two, for all of which one
        connection is enough.
    """

    def __init__(self, limit: int) -> None:
        self.busy_until = 0.0
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the database threads have been shut down")
            self._unfinished += 1
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            if self._unfinished > len(self._threads) < self._limit:
                name = f"notifications-db-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        while True:
            try:
                job = self._next()
            except Empty:
                _close_connections()
                with self._lock:
                    if self._jobs.empty():
                        if not self._closed:
                            self._threads.remove(threading.current_thread())
                        return
                continue
            if job is None:
                _close_connections()
                return
            self._run(*job)
            del job  # What it was asked, and the answer, are not this thread's to keep until the next.

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._jobs.get(timeout=KEEP)
        except Empty:
            if time.monotonic() >= self.busy_until or self._threads[:1] != [threading.current_thread()]:
                raise
        job = self._jobs.get(timeout=KEEP_BUSY - KEEP)
        if job is not None:
            _close_broken()
        return job

    def _run(self, future: Future[Any], function: Callable[[], Any]) -> None:
        result, failure = None, None
        if wanted := future.set_running_or_notify_cancel():
            try:
                result = function()
            except BaseException as error:
                failure = error
                _close_connections()
        with self._lock:
            # Before the answer is known: who asks again at once needs no second thread.
            self._unfinished -= 1
        if failure is not None:
            future.set_exception(failure)
        elif wanted:
            future.set_result(result)


def _close_connections() -> None:
    try:
        connections.close_all()
    except Exception:  # It must not end the thread, and with it whoever waits for an answer: Django forgets it anyway.
        logger.exception("a database connection could not be closed")


def _close_broken() -> None:
    """Close connections that were cut meanwhile (by a restart of the database, say), before a question is asked."""
    try:
        whole = all(one.connection is None or one.is_usable() for one in connections.all(initialized_only=True))
    except Exception:  # Not only the database's own errors: nothing may end the thread, which has a question to answer.
        whole = False
    if not whole:
        _close_connections()
