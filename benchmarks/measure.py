"""What is measured of one target, at one number of connections."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from tests.servers import RedisServer, wait_until

from .processes import Database, Lines, Load, MeasuredServer, Stolen
from .targets import Target

#: Seconds of each part of a run.
SECONDS = 2.0
#: The size at which everything is measured; at the others cost and memory only.
FULL = 1000
#: Messages of each round whose latency is measured.
PACED = 60
#: The figure that tells how much other guests of the machine took while the parts were measured that are tried again.
STOLEN = "stolen %"
#: Per cent of the time in which there was work (see :class:`Stolen`): more than that, and a part is tried again.
STOLEN_MOST = 1.0
#: How often it is tried in all.
TRIES = 4
#: Seconds of rest before the second try, twice as many before the third, and so on: a disturbance may last.
REST = 2.0
#: Seconds in which an idle server is watched. In 15, the default ``HEARTBEAT``, each of our clients has one heartbeat.
IDLE = 15.0
#: Messages of one transaction when throughput is measured; two such batches are in flight. django-eventstream holds ten
#: for each client and, without its storage, loses what is more.
BATCH = 4


class Backstage:
    """What all runs share: the databases, the users, the compiled load."""

    def __init__(self, load: Path, redis: RedisServer, postgres: Database, database: str) -> None:
        self.load = load
        self.redis = redis
        self.postgres = postgres
        self.database = database
        self.sessions: Sequence[str] = []
        #: Of the last message: it goes on from one server to the next, as the log does.
        self.number = 0

    def environment(self, user: str) -> dict[str, str]:
        """Return what tells a process where the databases are; ``user`` is the role it has in PostgreSQL."""
        url = self.postgres.database_url(self.database).replace("postgres@", f"{user}@")
        return {"DATABASE_URL": url, "REDIS_URL": self.redis.url}

    def publisher(self, kind: str, port: int = 0) -> Lines:
        environment = self.environment("publisher") | {"BENCH_PORT": str(port)}
        return Lines([sys.executable, "-m", "benchmarks.publishers", kind], environment)

    def redis_commands(self) -> int:
        """Return how many commands Redis has executed, without those that ask it that."""
        with self.redis.client() as client:
            stats = cast(dict[str, dict[str, Any]], client.info("commandstats"))
        return sum(int(stat["calls"]) for name, stat in stats.items() if name not in ASKING)

    def server_queries(self) -> int:
        return self.postgres.queries(self.database, "postgres")

    def backends(self) -> int:
        """Return how many connections servers have to their database."""
        with self.postgres.connect() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = 'postgres'", [self.database]
            ).fetchone()
        return int(row[0]) if row else 0


ASKING = {"cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello", "cmdstat_ping"}


class Run:
    """One server with one number of connections, from start to end."""

    def __init__(self, backstage: Backstage, target: Target, size: int) -> None:
        self.backstage = backstage
        self.target = target
        self.size = size
        self.wrong: dict[str, int] = {}
        self.stolen = 0.0
        self.load_command = [str(backstage.load)]

    def __call__(self, *, everything: bool, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the figures; ``everything`` is the full programme, else cost and memory, and with 1,000 latency."""
        backstage, target = self.backstage, self.target
        with ExitStack() as stack:
            environment = backstage.environment("postgres") | target.environment
            self.server = stack.enter_context(MeasuredServer(target.command, environment))
            self.publisher = stack.enter_context(backstage.publisher(target.publisher, self.server.port))
            with self._clients(min(50, self.size)) as self.load:
                self._warm_up()
            self.load = stack.enter_context(self._clients(self.size))
            result = self._connect()
            result |= self._undisturbed(lambda: self._one_in_flight(seconds))
            if self.size == FULL:
                result |= self._undisturbed(lambda: self._paced("5 a second", 5, PACED))
            if everything:
                result |= self._throughput(seconds)
                rate = result["messages/s"] / 2
                result |= self._paced("half load", rate, max(5, int(rate * seconds)))
                result |= self._undisturbed(lambda: self._direct(3))
            result |= {STOLEN: self.stolen, "wrong": self.wrong}
            return result

    def _undisturbed(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what ``measure`` does in the first of its tries in which the machine was left alone.

        Where none was, that which was disturbed least; whatever was measured in it.
        """
        tries: list[tuple[float, dict[str, Any]]] = []
        while len(tries) < TRIES and not (tries and tries[-1][0] <= STOLEN_MOST):
            if tries:
                time.sleep(REST * 2 ** (len(tries) - 1))
            stolen = Stolen()
            figures = measure()
            tries.append((stolen.percent(), figures))
        percent, figures = min(tries, key=itemgetter(0))
        self.stolen = max(self.stolen, percent)
        return figures

    @property
    def number(self) -> int:
        return self.backstage.number

    @number.setter
    def number(self, value: int) -> None:
        self.backstage.number = value

    def _clients(self, count: int) -> Load:
        """Return a load of ``count`` clients, who know all there is now, as one does whose page was just made."""
        target = self.target
        cursors = self.publisher.ask("cursors", count)["result"]
        users = list(zip(self.backstage.sessions, cursors, strict=False)) if cursors else [None] * count
        requests = [target.request(self.server.port, index, user) for index, user in enumerate(users)]
        return Load(self.load_command, self.server.port, target.protocol, target.ready, requests)

    def _warm_up(self) -> None:
        before = self.server.descriptors()
        answer = self.load.ask("connect", min(50, self.size), 50)
        if answer["failed"]:
            raise RuntimeError(f"connections failed: {answer['failure']}")
        self._listening()
        for _ in range(30):
            self._publish_and_wait()
        self.load.ask("close")
        time.sleep(1.0)
        wait_until(lambda: self.server.descriptors() <= before + 20, 30, what="the clients' end")

    def _listening(self) -> None:
        """Return once messages arrive. A peer may lose what is published while it begins to listen; we may not."""
        for left in reversed(range(1 if self.target.ours else 3)):
            self.load.ask("base", self.number + 1)
            try:
                return self._publish_and_wait(timeout=20.0)
            except TimeoutError:
                if not left:
                    raise

    def _publish_and_wait(self, timeout: float = 60.0) -> None:
        self.number += 1
        self.publisher.tell("broadcast", self.number, 1)
        try:
            self.load.wait_all(self.number, timeout)
        finally:
            self.publisher.read()

    def _connect(self) -> dict[str, Any]:
        memory, queries, cpu = self.server.memory(), self.backstage.server_queries(), self.server.cpu()
        storm = self.size <= 1000
        answer = self.load.ask("connect", self.size, self.size if storm else 250, timeout=180)
        refused = answer["failed"]
        if refused and storm and not self.target.ours:
            # A peer that can not take them all at once is measured all the same, with those who come one by one.
            self.load.ask("close")
            time.sleep(2.0)
            answer = self.load.ask("connect", self.size, 20, timeout=180)
        if answer["failed"]:
            raise RuntimeError(f"{answer['failed']} of {self.size} connections failed: {answer['failure']}")
        cpu, queries = self.server.cpu() - cpu, self.backstage.server_queries() - queries
        self.load.ask("base", self.number + 1)
        self._publish_and_wait()  # What is made at the first delivery is a part of what a connection holds.
        time.sleep(2.0)
        return {
            "refused at once": refused,
            "connect s": None if refused else answer["seconds"],
            "connects/s": self.size / answer["seconds"],
            "connect p99 ms": answer["p99"],
            "connect CPU us": cpu / self.size * 1e6,
            "queries per connect": queries / self.size,
            "KiB per connection": (self.server.memory() - memory) / self.size / 1024,
            "threads": self.server.threads(),
            "database backends": self.backstage.backends(),
        }

    def _one_in_flight(self, seconds: float) -> dict[str, Any]:
        """The headline: the next message when all have the last."""
        self.load.ask("reset")
        first, start = self.number, time.monotonic()
        commands, queries, cpu = self.backstage.redis_commands(), self.backstage.server_queries(), self.server.cpu()
        while time.monotonic() - start < seconds or self.number - first < 5:
            self._publish_and_wait()
        cpu, elapsed, count = self.server.cpu() - cpu, time.monotonic() - start, self.number - first
        commands, queries = self.backstage.redis_commands() - commands, self.backstage.server_queries() - queries
        stats = self._check(count)
        return {
            "CPU us per delivery": cpu / stats["delivered"] * 1e6,
            "bytes per delivery": stats["bytes"] / stats["delivered"],
            "one in flight p50 ms": stats["p50"],
            "one in flight p99 ms": stats["p99"],
            "one in flight messages/s": count / elapsed,
            "Redis commands per broadcast": commands / count,
            "server queries per broadcast": queries / count,
        }

    def _paced(self, name: str, rate: float, count: int) -> dict[str, Any]:
        self.load.ask("reset")
        cpu, start = self.server.cpu(), time.monotonic()
        first = self.number + 1
        self.number += count
        self.publisher.tell("pace", first, count, f"{rate:.3f}")
        self.load.wait_all(self.number, timeout=30 + count / rate)
        self.publisher.read()
        busy = (self.server.cpu() - cpu) / (time.monotonic() - start)
        stats = self._check(count)
        return {
            f"{name}: p50 ms": stats["p50"],
            f"{name}: p99 ms": stats["p99"],
            f"{name}: longest ms": stats["longest"],
            f"{name}: server busy": busy,
        }

    def _throughput(self, seconds: float) -> dict[str, Any]:
        """Two transactions of several messages in flight all the time."""
        self.load.ask("reset")
        first, start, cpu = self.number, time.monotonic(), self.server.cpu()
        asked = 0
        for _ in range(2):
            self.publisher.tell("broadcast", self.number + 1, BATCH)
            self.number += BATCH
            asked += 1
        while time.monotonic() - start < seconds:
            self.load.wait_all(self.number - BATCH)
            self.publisher.tell("broadcast", self.number + 1, BATCH)
            self.number += BATCH
            asked += 1
        self.load.wait_all(self.number)
        elapsed, cpu = time.monotonic() - start, self.server.cpu() - cpu
        for _ in range(asked):
            self.publisher.read()
        stats = self._check(self.number - first)
        return {
            "messages/s": (self.number - first) / elapsed,
            "deliveries/s": stats["delivered"] / elapsed,
            "throughput: server busy": cpu / elapsed,
            "throughput: CPU us per delivery": cpu / stats["delivered"] * 1e6,
        }

    def _direct(self, rounds: int) -> dict[str, Any]:
        """A message of their own to each user; what the server would have used anyway in that time is taken off."""
        idle = self._idle()
        self.load.ask("reset")
        cpu, start = self.server.cpu(), time.monotonic()
        for _ in range(rounds):
            self.number += 1
            self.publisher.tell("direct", self.number, self.size)
            self.load.wait_all(self.number)
            self.publisher.read()
        cpu, elapsed = self.server.cpu() - cpu, time.monotonic() - start
        self._check(rounds)
        return {
            "direct: CPU us per message": (cpu - idle * elapsed) / self.size / rounds * 1e6,
            "direct: s": elapsed / rounds,
            "idle: CPU us per connection and second": idle / self.size * 1e6,
        }

    def _idle(self) -> float:
        """Return the CPU seconds that the server uses in a second when nothing is sent."""
        time.sleep(1.0)
        cpu, start = self.server.cpu(), time.monotonic()
        time.sleep(IDLE)
        return (self.server.cpu() - cpu) / (time.monotonic() - start)

    def _check(self, count: int) -> dict[str, Any]:
        """Every client has every message, once, in order, and none of somebody else's."""
        stats = cast(dict[str, Any], self.load.ask("stats"))
        missing = count * self.size - stats["delivered"]
        found = {name: stats[name] for name in ("lost", "duplicate", "foreign", "ended")} | {"missing": missing}
        for name, number in found.items():
            if number:
                self.wrong[name] = self.wrong.get(name, 0) + number
        return stats
