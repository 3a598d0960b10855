"""The faults that happen most, on one running site: a few minutes, in each `make test`. The rest: test_matrix.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults.cluster import Cluster, Visitor, percentile
from tests.faults.conftest import MakeCluster
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
from tests.servers import RedisServer, wait_until

pytestmark = pytest.mark.processes

CLIENTS = 100


@pytest.fixture(scope="module")
def running(build: Callable[..., Cluster]) -> Iterator[Cluster]:
    """One site for all the rows of this module, whose clients live through all of them."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        cluster = stack.enter_context(build(redis=redis))
        cluster.connect()
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """The site with everything up again, whatever the row before did."""
    redis = running.redis
    assert redis is not None
    if not redis.running:
        redis.start()
    for server in running.servers:
        if not server.running:
            server.start()
    running.wait_open(CLIENTS)
    running.farm.call("spread")
    wait_until(
        lambda: min(running.state(server)["subscriptions"] for server in running.servers) >= CLIENTS / 5,
        what="clients on each server",
    )
    running.wait_open(CLIENTS)
    running.wait_up()
    return running


def test_kill_9_of_a_server(cluster: Cluster, row: Row) -> None:
    """A server is killed (kill -9)

    One of four, under 50 events/s; its clients go to the others.
    """
    victim = cluster.servers[0]
    with cluster.publishing():
        before, at = cluster.queries(), time.time()
        before.subtract(cluster.state(victim)["queries"])
        held = cluster.state(victim)["subscriptions"]
        victim.kill()
        time.sleep(1)
        cluster.wait_open(CLIENTS)
        resumed = resumption(cluster, at)
        after = cluster.queries()
    row.at_least("clients thrown out", len(resumed), min(held, 10))
    row.at_most("99 % resumed after", percentile(resumed, 0.99), 8, " s", soft=True)
    row.at_most("reads of the log per reconnect", (after["hub event"] - before["hub event"]) / len(resumed), 3)
    row.judge(cluster.judge())
    row.finish()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_sigterm(cluster: Cluster, row: Row, kind: str) -> None:
    """A server is stopped (SIGTERM)

    Each stream says bye and when to come back; the server is gone soon.
    """
    victim = next(server for server in cluster.servers if server.kind == kind)
    with cluster.publishing():
        at = time.time()
        held = cluster.state(victim)["subscriptions"]
        took = victim.terminate(30)
        cluster.wait_open(CLIENTS)
        reasons = Counter(reason for _, reason in cluster.ends(at))
        back = returns(cluster, at)
    row.at_most("exit after", took, 6, " s", soft=True)
    row.at_most("clients that were not told", held - reasons["shutdown"], 0)
    row.at_least("clients on it", held, CLIENTS / 5)
    row.at_most("largest share of reconnects in one second", busiest_second(back) / max(1, len(back)), 0.6)
    row.judge(cluster.judge())
    row.finish()


@pytest.mark.parametrize(
    ("failpoint", "limit"), [("before-drain", 5.0), ("before-hint", 6.0)], ids=["before drain", "before hint"]
)
def test_publisher_killed(cluster: Cluster, row: Row, failpoint: str, limit: float) -> None:
    """Publishers are killed between commit and delivery

    Each in a process of its own, at a failpoint: right after its commit; or after the numbering, before the hint.
    """
    times = 15  # Two hundred in test_matrix.py.
    at = time.time()
    with cluster.publishing(rate=20):
        crashed = crash(cluster, failpoint, times)
    findings = cluster.judge()
    late = cluster.latencies(at)
    row.at_least("killed", crashed, times)
    row.at_most("latest event", max(late), limit, " s", soft=True)
    row.judge(findings)
    row.finish()


def test_redis_killed(cluster: Cluster, row: Row) -> None:
    """Redis is killed, and comes back empty after 6 s

    Under 50 events/s and page views, of which some publish.
    """
    redis = cluster.redis
    assert redis is not None
    at = time.time()
    with Visitor(cluster, "/order/") as visitor, cluster.publishing():
        redis.kill()
        killed = time.time()
        time.sleep(6)  # Longer than the pause after which publishers try again.
        redis.start()
        back = time.time()
        cluster.wait_up()
        seen = time.time()
        time.sleep(max(0, back + 7 - time.time()))
    away_row(row, cluster, visitor, at, killed, back, seen)


def test_redis_paused(cluster: Cluster, row: Row) -> None:
    """Redis hangs for 12 s (SIGSTOP)

    Connections stay open and nothing answers, which no error tells.
    """
    redis = cluster.redis
    assert redis is not None
    at = time.time()
    with Visitor(cluster, "/order/") as visitor, cluster.publishing():
        redis.pause()
        killed = time.time()
        try:
            cluster.wait_up(False)
            noticed = time.time() - killed
            time.sleep(max(0, 12 - noticed))
        finally:
            redis.resume()
        back = time.time()
        cluster.wait_up()
        seen = time.time()
        time.sleep(max(0, back + 7 - time.time()))
    row.at_most("noticed after", noticed, 10, " s", soft=True)
    away_row(row, cluster, visitor, at, killed, back, seen)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_never_reader(cluster: Cluster, row: Row, kind: str) -> None:
    """Clients stop reading, while 20 KB events come

    Two over SSE, two WebSockets, of one user; 150 events. Then they read again.
    """
    never_reader(cluster, row, kind, clients=2, times=150)


def test_leaving(cluster: Cluster, row: Row) -> None:
    """All clients leave

    What the servers hold afterwards, against what they held before these clients came.
    """
    cluster.disconnect()
    wait_until(lambda: not any(cluster.state(server)["subscriptions"] for server in cluster.servers), 30)
    leaving(cluster, row, memory=1.15)
    cluster.connect()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_exception_in_a_stream(make_cluster: MakeCluster, row: Row, kind: str) -> None:
    """An exception is raised inside a stream

    At each place it can come from, at the stream's start and when an event comes.
    """
    cluster = make_cluster(kinds=(kind,))
    broken_stream(cluster, row, kinds=("runtime",))
    row.finish()


def test_resets(make_cluster: MakeCluster, own_redis: RedisServer, row: Row) -> None:
    """The log begins a new life, is trimmed, or goes back

    ``rotate_epoch`` under open streams; retention while all clients are away; an older state of the log (numbers taken
    back) under open streams.
    """
    cluster = make_cluster(redis=own_redis, kinds=("daphne", "uvicorn"), FAULTS_LINGER="0.2")
    cluster.connect(20, 20)
    with cluster.publishing(long=0):
        time.sleep(1)
    settle(cluster)
    everything = set(cluster.readers)
    with cluster.site.worker() as worker:
        at = time.time()
        worker.run("from notifications import log\nlog.rotate_epoch()")
        with cluster.publishing(long=0):
            time.sleep(3)
        settle(cluster)
        check_resets(cluster, row, at, {"epoch"}, everything)

        cluster.farm.call("stop")
        # As long as a server still has the topics in memory, nobody misses anything.
        wait_until(lambda: not any(cluster.state(server)["topics"] for server in cluster.servers), 40)
        before = cluster.topic_heads()
        with cluster.publishing(long=0):
            time.sleep(2)
        worker.run("from datetime import timedelta\nfrom notifications import log\n"
                   "while log.trim(older_than=timedelta(0)): pass")  # fmt: skip
        missed = {topic for topic, head in cluster.topic_heads().items() if head > before[topic]}
        at = time.time()
        cluster.farm.call("resume")
        cluster.wait_open(40)
        with cluster.publishing(long=0):
            time.sleep(1)
        settle(cluster)
        check_resets(cluster, row, at, {"floor"}, missed)

        at = time.time()
        worker.run(REWIND, timeout=60)
        settle(cluster)
        wait_until(lambda: all(resets_since(cluster, at)), 20, what="resets")
        with cluster.publishing(long=0):
            time.sleep(1)
        settle(cluster)
        check_resets(cluster, row, at, {"ahead"}, {"everyone"})
    row.finish()


#: As after restoring an older dump of everybody's topic: the last events and their notifications never were.
REWIND = """
from django.db import transaction
from notifications.models import Event, Notification, Topic
with transaction.atomic():
    topic = Topic.objects.select_for_update().get(name="everyone")
    last = Event.objects.filter(topic="everyone", seq__gt=topic.head - 3)
    import json
    ids = [json.loads(event.payload)["id"] for event in last if event.type == "notification"]
    Notification.objects.filter(pk__in=ids).delete()
    last.delete()
    topic.head -= 3
    from django.db.models.functions import Now
    topic.advanced_at = Now()
    topic.save()
"""


def resets_since(cluster: Cluster, since: float) -> list[bool]:
    return [any(at >= since for at, *_ in client["resets"]) for client in cluster.farm.call("record")]
