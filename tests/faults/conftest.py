"""Fixtures of the fault suite: a prepared database to copy, clusters, and the rows of the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.faults.cluster import Cluster
from tests.faults.report import Row, write
from tests.servers import PostgresServer, RedisServer, Site

SETTINGS, APP = "tests.faults.settings", "tests.faults.asgi:application"

#: Short beats, so that a test need not wait for a minute to see a heartbeat missed.
NOTIFICATIONS: dict[str, Any] = {"HEARTBEAT": 2.0, "RECONNECT_SPREAD": 5.0}

rows: list[Row] = []


class MakeCluster(Protocol):
    def __call__(
        self,
        *,
        redis: RedisServer | str | None = None,
        postgres: PostgresServer | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Cluster: ...


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of this test; its name is the first line of the test's docstring, what was done the rest."""
    name, _, done = (request.function.__doc__ or request.node.name).strip().partition("\n")
    kind = f" ({request.node.callspec.id})" if hasattr(request.node, "callspec") else ""
    row = Row(name.rstrip(".") + kind, " ".join(done.split()))
    rows.append(row)
    yield row
    if path := os.environ.get("FAULTS_TABLE"):
        # After each, so that a run of an hour that is cut short leaves something.
        write(Path(path), rows)


def prepare(postgres: PostgresServer | None, path: Path | None = None, users: int = 25) -> tuple[Site, Cluster]:
    """Return a migrated site with its users, and a cluster (never entered) that knows who reads what."""
    url = postgres.create_database() if postgres else f"sqlite:///{path}"
    site = Site(url, settings=SETTINGS, app=APP)
    site.manage("migrate", "--verbosity=0")
    cluster = Cluster(site, redis=None, postgres=postgres, kinds=())
    cluster.create_users(users)
    return cluster.site, cluster


@pytest.fixture(scope="session")
def fault_postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL of all rows that leave it alone."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def prepared(fault_postgres: PostgresServer) -> tuple[Site, Cluster]:
    return prepare(fault_postgres)


@pytest.fixture(scope="session")
def build(fault_postgres: PostgresServer, prepared: tuple[Site, Cluster]) -> Callable[..., Cluster]:
    """A function that returns a cluster on a copy of the prepared database, not yet entered."""

    def make(
        *,
        redis: RedisServer | str | None = None,
        postgres: PostgresServer | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Cluster:
        if postgres is None:
            postgres = fault_postgres
            site, knows = prepared
            url = postgres.create_database(template=site.database_url.rpartition("/")[2])
        else:
            site, knows = prepare(postgres)
            url = site.database_url
        redis_url = redis if isinstance(redis, str) else redis.url if redis else ""
        cluster = Cluster(
            site.copy(url, redis_url=redis_url),
            redis=redis if isinstance(redis, RedisServer) else None,
            postgres=postgres,
            settings=NOTIFICATIONS | (settings or {}),
            **options,
        )
        cluster.readers, cluster.group = dict(knows.readers), knows.group
        return cluster

    return make


@pytest.fixture
def make_cluster(build: Callable[..., Cluster]) -> Iterator[MakeCluster]:
    """Return a function that makes a running cluster, which ends with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(build(**options))


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that this test may kill."""
    with RedisServer() as server:
        yield server
