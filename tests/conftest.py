"""Fixtures of the whole suite: real servers, real sites, a real browser; and nothing skipped where CI is set."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers
from django.db import connections
from playwright.async_api import Browser, async_playwright

from tests.servers import PostgresServer, RedisServer, Site, program

if TYPE_CHECKING:
    from tests.fakes import Stage

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Whoever uses one of these runs in processes of its own, whatever database the suite itself is on.
PROCESS_FIXTURES = {"make_site", "site", "browser", "wheel"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    # A test that does not run where it must is a failure, not a letter in the output.
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but nothing may be skipped here: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.fixture
async def serving(transactional_db: None) -> AsyncIterator[None]:
    """For tests that call the application, or a part of it, on their own loop: all that it started ends with them."""
    from notifications import doorbell, stream

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    channel_layers.backends = {}
    doorbell.breakers.clear()
    yield
    if hub := stream._hubs.pop(asyncio.get_running_loop(), None):
        hub.stop()
        await asyncio.gather(*hub._tasks, return_exceptions=True)
        cast(Any, hub.log)._pool.shutdown()
    for layer in channel_layers.backends.values():
        if hasattr(layer, "_get_layer"):
            await layer.flush()  # Closes the connections of this loop.
    channel_layers.backends = {}
    await sync_to_async(connections.close_all)()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def conf(settings: Any) -> dict[str, Any]:
    """The app's settings; no safety poll within the time of a test, unless the test sets another interval."""
    settings.NOTIFICATIONS = {"SAFETY_INTERVAL": 3600.0}
    conf: dict[str, Any] = settings.NOTIFICATIONS
    return conf


@pytest.fixture
async def stage(conf: dict[str, Any]) -> AsyncIterator[Stage]:
    """A hub of the test's own loop, on a log and a layer that do as they are told; no database."""
    from notifications import doorbell, stream
    from tests.fakes import Stage

    stage = Stage()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with mock.patch.object(doorbell, "channel_layer", lambda: stage.layer):
        doorbell.breakers.clear()
        yield stage
        stage.start()
        stage.hub.stop()
        await asyncio.gather(*stage.hub._tasks, return_exceptions=True)
        del stream._hubs[asyncio.get_running_loop()]
        doorbell.breakers.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of the whole run, for tests that leave it alone; to kill one, start another ``RedisServer()``."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of the whole run, for tests that leave it alone."""
    with PostgresServer() as server:
        yield server


class MakeSite(Protocol):
    def __call__(
        self,
        database: Literal["sqlite", "postgresql"] = "sqlite",
        *,
        redis: bool | str = False,
        settings: str = "project.settings",
        app: str = "project.asgi:application",
        **environment: str,
    ) -> Site: ...


@pytest.fixture(scope="session")
def site_template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Site]:
    """A function that returns the migrated site which the sites of tests are copies of; each is prepared once.

    Its application is the demo's: what the servers of a copy serve has nothing to do with the database.
    """
    templates: dict[tuple[str, str], Site] = {}

    def template(database: str, settings: str) -> Site:
        if (database, settings) not in templates:
            if database == "sqlite":
                url = f"sqlite:///{tmp_path_factory.mktemp('template') / 'site.sqlite3'}"
            else:
                url = request.getfixturevalue("postgres_server").create_database()
            site = Site(url, settings=settings)
            site.prepare()
            templates[database, settings] = site
        return templates[database, settings]

    return template


def copy_sqlite(source: str, target: str) -> None:
    # Not the file: what was written last may still be in the log beside it.
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.fixture
def make_site(request: pytest.FixtureRequest, tmp_path: Path, site_template: Callable[[str, str], Site]) -> MakeSite:
    """Return a function that makes a site with a fresh database, the five users and their sessions.

    ``redis`` is False for the in-memory layer, True for :func:`redis_server`, or the URL of another.
    """

    def make(
        database: Literal["sqlite", "postgresql"] = "sqlite",
        *,
        redis: bool | str = False,
        settings: str = "project.settings",
        app: str = "project.asgi:application",
        **environment: str,
    ) -> Site:
        template = site_template(database, settings)
        if database == "sqlite":
            url = f"sqlite:///{tmp_path / f'site-{len(list(tmp_path.iterdir()))}.sqlite3'}"
            copy_sqlite(template.database_url.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
        else:
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            url = postgres.create_database(template=template.database_url.rpartition("/")[2])
        redis_url = request.getfixturevalue("redis_server").url if redis is True else redis or ""
        return template.copy(url, redis_url=redis_url, app=app, extra=environment)

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    """The demo site with the in-memory layer, once on SQLite and once on PostgreSQL."""
    return make_site(request.param)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a real Chromium."""
    return program("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """A running headless Chromium; give each person a ``browser.new_context()`` and :meth:`Site.log_in` there."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
