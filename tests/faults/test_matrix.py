"""The whole table of faults, by `make faults`: about an hour. What each row must show is in docs/guarantees.md."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.cluster import Cluster, Visitor, percentile
from tests.faults.conftest import MakeCluster, prepare
from tests.faults.proxy import Proxy
from tests.faults.report import Row
from tests.faults.scenarios import (
    away_row,
    broken_stream,
    busiest_second,
    check_resets,
    crash,
    leaving,
    never_reader,
    resumption,
    returns,
    settle,
)
from tests.servers import AsgiServer, PostgresServer, RedisServer, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.processes]

#: As a site has them by default, where a row is about them.
DEFAULTS: dict[str, Any] = {"HEARTBEAT": 15.0, "RECONNECT_SPREAD": 10.0}


def test_kill_9_of_servers(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Servers are killed (kill -9)

    Eight times, one of the four after the other, each started again; 50 events/s.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    resumed: list[float] = []
    reads = 0
    with cluster.publishing():
        for number in range(8):
            victim = cluster.servers[number % 4]
            before, at = cluster.queries(), time.time()
            before.subtract(cluster.state(victim)["queries"])
            victim.kill()
            time.sleep(1)
            cluster.wait_open(100)
            reads += cluster.queries()["hub event"] - before["hub event"]
            resumed += resumption(cluster, at)
            victim.start()
            cluster.farm.call("spread")
            time.sleep(3)
            cluster.wait_open(100)
    row.at_least("clients thrown out", len(resumed), 100)
    row.at_most("99 % resumed after", percentile(resumed, 0.99), 8, " s")
    row.at_most("reads of the log per reconnect", reads / len(resumed), 3)
    row.judge(cluster.judge())
    row.finish()


def test_rolling_restart(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Servers are restarted, one after the other (SIGTERM)

    With all 100 clients on each of them in turn.
    """
    cluster = make_cluster(redis=own_redis, settings=DEFAULTS)
    cluster.connect()
    exits, shares, untold = [], [], 0
    with cluster.publishing():
        for victim in cluster.servers:
            at = time.time()
            cluster.farm.call("gather", server=cluster.servers.index(victim))
            wait_until(partial(holds, cluster, victim, 100), 30)
            cluster.wait_open(100)
            at = time.time()
            exits.append(victim.terminate(30))
            cluster.wait_open(100)
            time.sleep(1)
            cluster.wait_open(100)
            reasons = Counter(reason for _, reason in cluster.ends(at))
            untold += 100 - reasons["shutdown"]
            shares.append(busiest_second(returns(cluster, at)) / 100)
            victim.start()
    row.at_most("exit after", max(exits), 6, " s")
    row.at_most("clients that were not told", untold, 0)
    row.at_most("largest share of reconnects in one second", max(shares), 0.3)
    row.judge(cluster.judge())
    row.finish()


def holds(cluster: Cluster, server: AsgiServer, clients: int) -> bool:
    return bool(cluster.state(server)["subscriptions"] >= clients)


@pytest.mark.parametrize(
    ("failpoint", "limit"), [("before-drain", 5.0), ("before-hint", 6.0)], ids=["before drain", "before hint"]
)
def test_publisher_killed(
    make_cluster: MakeCluster, own_redis: RedisServer, row: Row, failpoint: str, limit: float
) -> None:
    """Publishers are killed between commit and delivery

    200 of them, each in a process of its own, at a failpoint, beside the usual 50 events/s.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    at = time.time()
    with cluster.publishing():
        killed = crash(cluster, failpoint, 200)
    findings = cluster.judge()
    row.at_least("killed", killed, 200)
    row.at_most("latest event", max(cluster.latencies(at)), limit, " s")
    row.judge(findings)
    row.finish()


@pytest.mark.parametrize("seconds", [10, 60])
def test_redis_killed(make_cluster: MakeCluster, own_redis: RedisServer, row: Row, seconds: int) -> None:
    """Redis is killed, and comes back empty

    After so many seconds, under 50 events/s and page views that publish.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    at = time.time()
    with Visitor(cluster, "/order/") as visitor, cluster.publishing():
        own_redis.kill()
        killed = time.time()
        time.sleep(seconds)
        own_redis.start()
        back = time.time()
        cluster.wait_up()
        seen = time.time()
        time.sleep(10)
    away_row(row, cluster, visitor, at, killed, back, seen)


def test_redis_restarts(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Redis is restarted five times, and flushed five times

    Two seconds away each time, three seconds between.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    at = time.time()
    with Visitor(cluster, "/order/") as visitor, cluster.publishing():
        killed = time.time()
        for _ in range(5):
            own_redis.kill()
            time.sleep(2)
            own_redis.start()
            time.sleep(3)
            with own_redis.client() as client:
                client.flushall()
        back = time.time()
        cluster.wait_up()
        seen = time.time()
        time.sleep(10)
    away_row(row, cluster, visitor, at, killed, back, seen)


@pytest.mark.parametrize("how", ["paused", "black hole"])
def test_redis_mute(make_cluster: MakeCluster, own_redis: RedisServer, row: Row, how: str) -> None:
    """Redis does not answer for 20 s

    Stopped (SIGSTOP), or behind a link that swallows everything; no error tells.
    """
    with Proxy(own_redis.port) as proxy:
        cluster = make_cluster(redis=f"redis://127.0.0.1:{proxy.port}")
        cluster.connect()
        at = time.time()
        with Visitor(cluster, "/order/") as visitor, cluster.publishing():
            killed = time.time()
            own_redis.pause() if how == "paused" else proxy.mute()
            try:
                cluster.wait_up(False)
                noticed = time.time() - killed
                time.sleep(max(0, 20 - noticed))
            finally:
                own_redis.resume() if how == "paused" else proxy.mute(False)
            back = time.time()
            cluster.wait_up()
            seen = time.time()
            time.sleep(10)
        row.at_most("noticed after", noticed, 10, " s")
        away_row(row, cluster, visitor, at, killed, back, seen)


def test_subscriber_dropped(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Redis drops its subscribers

    ``CLIENT KILL TYPE pubsub`` every two seconds, ten times: what it does to a subscriber over its output limit.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    at = time.time()
    dropped = 0
    with Visitor(cluster, "/order/") as visitor, cluster.publishing():
        killed = time.time()
        for _ in range(10):
            with own_redis.client() as client:
                dropped += int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
            time.sleep(2)
        back = time.time()
        cluster.wait_up()
        seen = time.time()
        time.sleep(10)
    row.at_least("subscribers dropped", dropped, 30)
    away_row(row, cluster, visitor, at, killed, back, seen)


@pytest.mark.parametrize("layer", ["pubsub", "core"])
def test_failover(make_cluster: MakeCluster, own_redis: RedisServer, row: Row, layer: str) -> None:
    """Redis fails over to an empty replica

    The address answers as before, from another server that knows of no group; with both layers of channels-redis.
    """
    with RedisServer() as replica, Proxy(own_redis.port) as proxy:
        cluster = make_cluster(redis=f"redis://127.0.0.1:{proxy.port}", FAULTS_LAYER=layer)
        cluster.connect()
        at = time.time()
        with Visitor(cluster, "/order/") as visitor, cluster.publishing():
            time.sleep(3)
            killed = time.time()
            own_redis.kill()
            proxy.turn_to(replica.port)
            back = time.time()
            # Long enough for each hub to have noticed; the pub/sub layer may be back before that.
            time.sleep(5)
            wait_until(lambda: all_joined(cluster), 30, what="all groups to be joined again")
            seen = time.time()
            time.sleep(10)
        row.at_most("all groups joined again after", seen - back, 10, " s")
        row.at_most("disconnects", len(cluster.ends(at)), 0)
        row.at_most("page views that failed", visitor.errors, 0)
        row.at_most("latest event meanwhile", max(cluster.latencies(killed, seen), default=0), 6, " s")
        row.at_most("p99 afterwards", percentile(cluster.latencies(seen + 3), 0.99), 1, " s")
        row.judge(cluster.judge())
        row.finish()


def all_joined(cluster: Cluster) -> bool:
    return all(state["up"] and state["confirmed"] for state in map(cluster.state, cluster.servers))


@pytest.mark.parametrize("layer", ["pubsub", "core"])
def test_idle(make_cluster: MakeCluster, own_redis: RedisServer, row: Row, layer: str) -> None:
    """Nothing happens for 60 s

    With the newest redis-py, whose reads time out after five seconds by default.
    """
    cluster = make_cluster(redis=own_redis, FAULTS_LAYER=layer)
    cluster.connect()
    at = time.time()
    time.sleep(60)
    row.at_most("disconnects", len(cluster.ends(at)), 0)
    row.at_most("tracebacks", sum(server.log.count("Traceback") for server in cluster.servers), 0)
    with cluster.publishing():
        time.sleep(3)
    row.judge(cluster.judge())
    row.finish()


def test_late_link_and_churn(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """The way to Redis and back takes 200 ms, and clients come and go

    20 connects a second, each of another user and so to a topic that must be joined first, while all topics are
    published to. An event in the moment of joining must not be lost.
    """
    with Proxy(own_redis.port) as proxy:
        proxy.delay = 0.1
        cluster = make_cluster(
            redis=f"redis://127.0.0.1:{proxy.port}",
            # Each person reads 25 topics of their own beside the others.
            settings={"TOPICS": "tests.faults.urls.own_topics"},
            # Groups are left at once, so that there is something to join.
            FAULTS_LINGER="0.2",
        )
        cluster.extend_readers()
        cluster.connect(50, 50)
        with cluster.publishing(long=0):
            joined = cluster.farm.call("churn", seconds=120, rate=20)
        findings = cluster.judge()
        row.at_least("connects", joined, 2000)
        row.at_least("topics joined", sum(cluster.state(server)["joins"] for server in cluster.servers), 10_000)
        row.note(f"p99 {percentile(cluster.latencies(), 0.99):.2f} s")
        row.judge(findings)
        row.finish()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("pace", [0, 1024], ids=["never", "1 KB a second"])
def test_slow_reader(make_cluster: MakeCluster, own_redis: RedisServer, row: Row, kind: str, pace: int) -> None:
    """Clients hardly read, while 20 KB events come

    Five over SSE, five WebSockets, of one user; 400 events in 10 s. Then they read as usual again.
    """
    cluster = make_cluster(redis=own_redis, settings={"SLOW_BYTES": 1_048_576, "STREAM_BYTES": 4_194_304})
    cluster.connect()
    never_reader(cluster, row, kind, clients=5, times=400, pace=pace)


def test_half_open(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Connections of clients go dead without a word

    As when a cable is pulled: neither end is told. Lifetime 120 s instead of 600 s here.
    """
    with ExitStack() as stack:
        cluster = make_cluster(redis=own_redis, settings=DEFAULTS | {"LIFETIME": 120.0}, kinds=("daphne", "uvicorn"))
        proxies = [stack.enter_context(Proxy(server.port)) for server in cluster.servers]
        clients = [
            cluster.client(
                f"{transport}-{number}",
                f"u{number}",
                transport,
                servers=[("127.0.0.1", proxies[number % 2].port), *cluster.addresses],
            )
            for transport in ("sse", "websocket")
            for number in range(20)
        ]
        cluster.join(clients)
        with cluster.publishing(rate=20):
            at = time.time()
            for proxy in proxies:
                proxy.mute()
            # Everybody comes back past the proxies; what the servers still hold beyond that is dead.
            time.sleep(5)
            cluster.wait_open(40, timeout=120)
            wait_until(lambda: len(returns(cluster, at)) >= 40, 120, what="all clients to reopen")
            gone: dict[str, float] = {}

            def all_gone() -> bool:
                held = Counter(
                    transport for server in cluster.servers for transport in cluster.state(server)["transports"]
                )
                for transport in ("websocket", "sse"):
                    if held[transport] <= 20:
                        gone.setdefault(transport, time.time() - at)
                return len(gone) == 2

            wait_until(all_gone, 300, what="dead connections to be noticed")
            for proxy in proxies:
                proxy.mute(False)
        reopened = [back - at for back in returns(cluster, at)]
        row.at_most("clients reopened after", percentile(reopened, 0.98), 60, " s")
        row.at_most("dead WebSockets gone after", gone["websocket"], 60, " s")
        row.at_most("dead event streams gone after", gone["sse"], 120 * 1.2 + 15, " s")
        row.judge(cluster.judge())
        row.finish()


@pytest.fixture
def own_postgres() -> Any:
    """A PostgreSQL that this test may kill."""
    with PostgresServer() as server:
        yield server


def test_database_killed(
    make_cluster: MakeCluster, own_redis: RedisServer, own_postgres: PostgresServer, row: Row
) -> None:
    """The database is killed, and comes back after 10 s

    Streams stay open, and nothing that was committed is lost.
    """
    cluster = make_cluster(redis=own_redis, postgres=own_postgres)
    cluster.connect()

    def away() -> None:
        own_postgres.kill()
        time.sleep(10)
        own_postgres.start()

    database_row(cluster, row, away)


def test_database_slow(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """The database is slow

    Queries of the log take five seconds, four times in a row (an exclusive lock on its table).
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()

    def slow() -> None:
        assert cluster.postgres is not None
        for _ in range(4):
            with cluster.postgres.connect(cluster.database) as connection, connection.transaction():
                connection.execute("LOCK TABLE notifications_event IN ACCESS EXCLUSIVE MODE")
                time.sleep(5)
            time.sleep(0.5)

    database_row(cluster, row, slow)


def test_database_full(
    make_cluster: MakeCluster, own_redis: RedisServer, own_postgres: PostgresServer, row: Row
) -> None:
    """The database has no connection left for 10 s

    All that it allows are taken by somebody else.
    """
    cluster = make_cluster(redis=own_redis, postgres=own_postgres)
    cluster.connect()

    def take_all() -> None:
        held: list[psycopg.Connection] = []
        end = time.time() + 10
        try:
            while time.time() < end:
                try:
                    held.append(psycopg.connect(own_postgres.url, autocommit=True))
                except psycopg.OperationalError:
                    time.sleep(0.05)
        finally:
            for connection in held:
                connection.close()

    database_row(cluster, row, take_all)


def database_row(cluster: Cluster, row: Row, away: Any) -> None:
    at = time.time()
    held = sum(cluster.state(server)["subscriptions"] for server in cluster.servers)
    peak = [0]
    done = threading.Event()
    sampler = threading.Thread(target=sample_backends, args=[cluster, peak, done])
    sampler.start()
    try:
        with cluster.publishing():
            away()
            time.sleep(3)
            heartbeats = time.time()
            time.sleep(5)
    finally:
        done.set()
        sampler.join()
    row.at_most("streams that ended", len(cluster.ends(at)), 0)
    row.at_least("streams", held, 100)
    row.at_most("connections of the servers", peak[0], 4 * 4 + 2 * 3 + 4)
    row.note(f"publishers saw {sum(cluster.report['errors'].values())} errors")
    row.note(f"p99 from 3 s after: {percentile(cluster.latencies(heartbeats), 0.99):.2f} s")
    row.judge(cluster.judge())
    row.finish()


def sample_backends(cluster: Cluster, peak: list[int], done: threading.Event, interval: float = 0.5) -> None:
    while not done.wait(interval):
        try:
            peak[0] = max(peak[0], cluster.backends())
        except psycopg.OperationalError:
            continue


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_exception_in_a_stream(make_cluster: MakeCluster, row: Row, kind: str) -> None:
    """An exception is raised inside a stream

    RuntimeError, TypeError and OSError, at each place it can come from, at the stream's start and when an event comes.
    """
    broken_stream(make_cluster(kinds=(kind,)), row)
    row.finish()


def test_clock(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """The clock of two of the four servers is stepped

    By +1 h, -1 h, +1 day, -1 day, ten seconds each (``time.time`` and Django's ``now`` in the process).
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    at = time.time()
    with cluster.publishing():
        for step in (3600, -3600, 86_400, -86_400, 0):
            for server in (cluster.servers[0], cluster.servers[2]):
                cluster.instrument(server, "clock", by=step)
            time.sleep(10)
    ends = Counter(reason for _, reason in cluster.ends(at))
    # daphne closes each WebSocket that is a day old by the wall clock (websocket_timeout): not a timer of ours.
    by_daphne = ends.pop("closed 1000", 0) + ends.pop("broken off", 0) + ends.pop("closed 1006", 0)
    row.at_most("disconnects by our timers", sum(ends.values()), 0)
    row.note(f"{by_daphne} by daphne's own (+1 day is its limit for a WebSocket)")
    row.judge(cluster.judge())
    row.finish()


def test_transactions(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """Long transactions, many short ones, rollbacks, savepoints, topics in any order

    Four publishers, of whose transactions 20 % are rolled back and 10 % roll back a savepoint; each keeps one open for
    up to five seconds now and then.
    """
    cluster = make_cluster(redis=own_redis)
    cluster.connect()
    with cluster.publishing(rate=100, processes=4):
        time.sleep(30)
    findings = cluster.judge()
    deadlocks = cluster.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = %s", cluster.database)[0][0]
    counts = cluster.report["counts"]
    row.at_least("transactions", counts["committed"], 500)
    row.at_least("rolled back", counts["rolled back"], 50)
    row.note(f"{counts['savepoints rolled back']} savepoints rolled back")
    row.at_most("deadlocks", deadlocks, 0)
    row.at_most("errors of publishers", sum(cluster.report["errors"].values()), 0)
    row.judge(findings)
    row.finish()


def test_sqlite(own_redis: RedisServer, tmp_path: Path, row: Row) -> None:
    """SQLite with four writers

    Transactions begin IMMEDIATE, as the settings of the demo and the system check ask for; WAL.
    """
    site, knows = prepare(None, tmp_path / "site.sqlite3")
    with Cluster(
        site.copy(site.database_url, redis_url=own_redis.url),
        redis=own_redis,
        postgres=None,
        kinds=("daphne", "uvicorn"),
    ) as cluster:
        cluster.readers, cluster.group = knows.readers, knows.group
        cluster.connect(20, 20)
        with cluster.publishing(rate=40, processes=4, long=0):
            time.sleep(20)
        row.at_most("errors of publishers", sum(cluster.report["errors"].values()), 0)
        locked = sum(server.log.count("database is locked") for server in cluster.servers)
        row.at_most('"database is locked" in the servers', locked, 0)
        row.judge(cluster.judge())
        row.finish()


def test_restored_dump(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """The database is restored from an older copy

    Dropped and made again from a copy taken before the last events, under open streams.
    """
    cluster = make_cluster(redis=own_redis)
    assert cluster.postgres is not None
    cluster.connect(20, 20)
    with cluster.publishing(long=0):
        time.sleep(1)
    settle(cluster)
    copy_database(cluster.postgres, cluster.database, "older")
    before = cluster.topic_heads()
    with cluster.publishing(long=0):
        time.sleep(4)
    settle(cluster)
    gone = {topic for topic, head in cluster.topic_heads().items() if head > before[topic]}
    at = time.time()
    copy_database(cluster.postgres, "older", cluster.database)
    wait_until(
        lambda: (
            sum(len([1 for when, *_ in client["resets"] if when >= at]) for client in cluster.farm.call("record"))
            >= sum(
                len([topic for topic in gone if client["user"] in cluster.readers[topic]])
                for client in cluster.farm.call("record")
            )
        ),
        60,
        what="a reset for each topic that went back",
    )
    with cluster.publishing(long=0):
        time.sleep(2)
    settle(cluster)
    check_resets(cluster, row, at, {"ahead"}, gone)
    row.at_most("streams that ended", len(cluster.ends(at)), 0)
    row.finish()


def copy_database(postgres: PostgresServer, source: str, target: str) -> None:
    """Make ``target`` a copy of ``source``, whoever is connected to either."""
    with postgres.connect() as connection:
        connection.execute(f'ALTER DATABASE "{source}" ALLOW_CONNECTIONS false'.encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [source])
        connection.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)'.encode())
        for _ in range(50):
            try:
                connection.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"'.encode())
                break
            except psycopg.errors.ObjectInUse:
                time.sleep(0.1)
        connection.execute(f'ALTER DATABASE "{source}" ALLOW_CONNECTIONS true'.encode())


def test_idle_thousand(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """1,000 streams do nothing for five minutes

    A short stand-in for a day.
    """
    cluster = make_cluster(redis=own_redis, settings=DEFAULTS | {"STREAMS_PER_USER": 100, "LIFETIME": 7200.0})
    cluster.connect(500, 500, spread=10)
    time.sleep(30)
    then, peak = cluster.resources(), 0
    at = time.time()
    for _ in range(60):
        time.sleep(5)
        peak = max(peak, cluster.backends())
    now = cluster.resources()
    drift = max(after["rss"] / before["rss"] - 1 for after, before in zip(now, then, strict=True))
    row.at_most("memory drift", 100 * drift, 2, " %")
    row.note(f"{max(server['rss'] for server in now) / 2**20:.0f} MB for 250 streams at most")
    row.at_most("threads", max(server["threads"] for server in now), 16)
    row.at_most("connections of all servers to the database, at any moment", peak, 16)
    row.at_most("disconnects", len(cluster.ends(at)), 0)
    row.finish()


def test_storm(own_redis: RedisServer, own_postgres: PostgresServer, row: Row) -> None:
    """5,000 clients come back in the same moment

    1,000 people with five tabs each, 3,000 over SSE and 2,000 WebSockets, on four servers on this very machine; nobody
    has missed anything. Each server keeps at most four connections to the database for streams.
    """
    site, knows = prepare(own_postgres, users=1000)
    with Cluster(
        site.copy(site.database_url, redis_url=own_redis.url),
        redis=own_redis,
        postgres=own_postgres,
        settings=DEFAULTS | {"LIFETIME": 7200.0, "HEARTBEAT": 60.0},
    ) as cluster:
        cluster.readers, cluster.group = dict(knows.readers), knows.group
        cluster.connect(3000, 2000, spread=30, ready_within=60.0, timeout=180.0)
        with Visitor(cluster, interval=0.05) as visitor:
            time.sleep(5)
            usual = visitor.slower_than(0)
            visitor.visits.clear()
            before, at, peak, done = cluster.queries(), time.time(), [0], threading.Event()
            sampler = threading.Thread(target=sample_backends, args=[cluster, peak, done, 0.1])
            sampler.start()
            number = cluster.farm.call("redial")
            time.sleep(0.5)
            cluster.wait_open(number, timeout=120)
            took = time.time() - at
            after = cluster.queries()
            during = visitor.slower_than(0)
            done.set()
            sampler.join()
        hub = after["hub"] - before["hub"]
        lookups = after["hub authorize"] - before["hub authorize"]
        row.at_most("all live again after", took, 30, " s")
        row.at_most("connections to the database", peak[0], 4 * 4 + 2 * 4, "")
        row.note(f"{hub:.0f} queries of the hubs, of which {lookups} for sessions, users and what they may read")
        # What the servers ask by themselves all the time is among them.
        row.at_most("other queries for each client", (hub - lookups) / number, 0.1)
        row.at_most("queries in requests for each client", (after["requests"] - before["requests"]) / number, 2)
        row.note(f"ordinary pages: p99 {usual * 1000:.0f} ms before, {during * 1000:.0f} ms during")
        row.at_most("page views that failed", visitor.errors, 0)
        with cluster.publishing():
            time.sleep(3)
        row.judge(cluster.judge())
        row.finish()


def test_leaving(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """All clients leave

    What the servers hold afterwards, against what they held before these clients came.
    """
    cluster = make_cluster(redis=own_redis)
    for _ in range(2):
        # What a server keeps once it has had clients at all is no leak.
        cluster.connect()
        with cluster.publishing():
            time.sleep(5)
        cluster.judge(quiet=0)
        cluster.disconnect()
    leaving(cluster, row, memory=1.05)


def test_mutations(row: Row) -> None:
    """The eight most important lines are broken, one at a time

    In a copy of the tree; the smallest tests that are about it must fail (tests/faults/mutations.py).
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.mutations"], capture_output=True, text=True, timeout=1800
    )
    row.note(done.stdout.strip().replace("\n", "; "))
    row.at_most("breakages that went unnoticed", done.returncode, 0)
    row.finish()
