"""A whole site under test: Redis, PostgreSQL, four servers, publishers, a hundred clients; and the oracle over them.

The oracle is the same whatever was done to the site: in the end each client has applied exactly the committed events
that it may see, each once, each topic in order, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal, Self, cast

from tests.faults.clients import Farm
from tests.servers import AsgiServer, PostgresServer, RedisServer, Site, wait_until

__all__ = ["Cluster", "Publisher", "Visitor", "percentile"]

KINDS: tuple[Literal["daphne", "uvicorn"], ...] = ("daphne", "daphne", "uvicorn", "uvicorn")
USERS = 25


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` (0 … 1) of all do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Publisher:
    """A running :mod:`tests.faults.publisher`; its report is in :attr:`report` after :meth:`stop`."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self.report: dict[str, Any] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.publisher", *arguments],
            env=site.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def stop(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            output, _ = self.process.communicate(timeout=60)
            self.report = json.loads(output.splitlines()[-1]) if output else {}

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Visitor:
    """Somebody who uses the site's ordinary pages all the while; keeps each answer's status and time."""

    def __init__(self, cluster: Cluster, path: str = "/page/", user: str = "u0", interval: float = 0.2) -> None:
        self.cluster = cluster
        self.path = path
        self.interval = interval
        self.headers = cluster.site.headers(user)
        #: (time, seconds, status; 0: no connection)
        self.visits: list[tuple[float, float, int]] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.visit)

    def visit(self) -> None:
        for server in self.round():
            began, wall = time.monotonic(), time.time()
            status = 0
            with suppress(OSError):
                request = urllib.request.Request(server.url + self.path, headers=self.headers)
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        answer.read()
                        status = answer.status
                except urllib.error.HTTPError as error:
                    status = error.code
            self.visits.append((wall, time.monotonic() - began, status))

    def round(self) -> Iterator[AsgiServer]:
        while True:
            for server in self.cluster.servers:
                if self.stopping.wait(self.interval):
                    return
                yield server

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopping.set()
        self.thread.join()

    @property
    def errors(self) -> int:
        return sum(status >= 500 for _, _, status in self.visits)

    def slower_than(self, seconds: float, *, share: float = 0.99) -> float:
        return percentile((took for _, took, status in self.visits if status), share)


@dataclass
class Findings:
    """What the oracle saw; all four must be 0."""

    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    foreign: int = 0
    #: On the wire, and dropped by the client: allowed.
    wire_duplicates: int = 0
    committed: int = 0
    applied: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, int]:
        return {"lost": self.lost, "twice": self.twice, "out of order": self.out_of_order, "foreign": self.foreign}

    def note(self, example: str) -> None:
        if len(self.examples) < 20:
            self.examples.append(example)


class Cluster:
    """Enter it, and everything runs; leave it, and nothing does.

    :param site: a site with a database of its own, and ``redis_url`` set (or empty for the layer in memory).
    :param settings: ``NOTIFICATIONS`` of the servers.
    :param arguments: further words for the command line, by kind of server.
    """

    def __init__(
        self,
        site: Site,
        *,
        redis: RedisServer | None,
        postgres: PostgresServer | None,
        kinds: Sequence[Literal["daphne", "uvicorn"]] = KINDS,
        settings: dict[str, Any] | None = None,
        arguments: dict[str, list[str]] | None = None,
        **environment: str,
    ) -> None:
        environment["FAULTS_NOTIFICATIONS"] = json.dumps(settings or {})
        # For publishers and workers, too: they must be on the same layer.
        self.site = site = site.copy(site.database_url, extra=site.extra | environment)
        self.redis = redis
        self.postgres = postgres
        self.database = site.database_url.rpartition("/")[2]
        self.servers = [site.server(kind, *(arguments or {}).get(kind, [])) for kind in kinds]
        self.publishers: list[Publisher] = []
        self.stack = ExitStack()
        #: Who reads what, by the test's own account: topic → users.
        self.readers: dict[str, set[str]] = {}
        #: By client: where the log stood when it came.
        self.heads: dict[str, dict[str, int]] = {}
        self.extra_topics: list[str] = []
        #: Whose each client is.
        self.users_of: dict[str, str] = {}

    # ---- life

    def __enter__(self) -> Self:
        self.directory = Path(self.stack.enter_context(TemporaryDirectory(prefix="faults-")))
        try:
            self.farm = self.stack.enter_context(Farm(self.directory))
            # All at once: each takes seconds to import what it needs.
            threads = [threading.Thread(target=self.start_quietly, args=[server]) for server in self.servers]
            for server in self.servers:
                self.stack.callback(server.close)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for server in self.servers:
                if not server.running:
                    raise RuntimeError(f"{server.name} did not start:\n{server.log}")
        except BaseException:
            self.stack.close()
            raise
        return self

    @staticmethod
    def start_quietly(server: AsgiServer) -> None:
        with suppress(RuntimeError):
            server.start(60)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for publisher in self.publishers:
            with suppress(Exception):
                publisher.kill()
        self.stack.close()

    def logs(self) -> str:
        """Return the last that each server wrote."""
        return "\n".join(f"--- {server.name} {server.port} wrote:\n{server.log[-2000:]}" for server in self.servers)

    # ---- who is there

    def create_users(self, number: int = USERS) -> None:
        """Users ``u0`` …: all read "everyone", every fifth is on the staff, the first ten are in a group."""
        names = [f"u{index}" for index in range(number)]
        staff = names[::5]
        with self.site.worker() as worker:
            for start in range(0, number, 100):
                batch = names[start : start + 100]
                self.site.create_users([name for name in batch if name not in staff], worker=worker)
                self.site.create_users([name for name in batch if name in staff], staff=True, worker=worker)
            group = worker.run(
                "from django.contrib.auth.models import Group, User\n"
                "group, _ = Group.objects.get_or_create(name='crew')\n"
                "group.user_set.add(*User.objects.filter(username__in=members))\n"
                "result = group.pk",
                members=names[:10],
            )
            self.group = f"group:{group}"
            self.readers = {"everyone": set(names), "staff": set(staff), self.group: set(names[:10])}
            self.readers |= {f"user:{self.site.users[name]}": {name} for name in names}
            # Each topic has its row, so that heads are known before anybody connects.
            worker.run(
                "from notifications import publish\nfor topic in topics: publish(topic, 'begin', {'n': ''})",
                topics=list(self.readers),
                timeout=120,
            )
        wait_until(lambda: set(self.topic_heads()) >= set(self.readers), what="the topics")

    def extend_readers(self) -> None:
        """Let the oracle know of the topics of :func:`tests.faults.urls.own_topics`, and publish to them, too."""
        own = {f"own:{pk}:{n}": {name} for name, pk in self.site.users.items() if name[0] == "u" for n in range(25)}
        self.readers = self.readers | own
        self.extra_topics = list(own)
        with self.site.worker() as worker:
            worker.run(
                "from notifications import publish\nfor topic in topics: publish(topic, 'begin', {'n': ''})",
                topics=self.extra_topics,
                timeout=120,
            )

    @property
    def old_cursor(self) -> str:
        """A cursor before all that was ever published; its form is nobody's business but the tests'."""
        rows = self.sql("SELECT id, epoch FROM notifications_topic ORDER BY id")
        return ".".join(["1", *(f"{id}-{epoch}-0" for id, epoch in rows)])

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", server.port) for server in self.servers]

    def client(self, name: str, user: str, transport: str, **changes: Any) -> dict[str, Any]:
        """Return what :class:`tests.faults.clients.Client` is to be made of."""
        self.users_of[name] = user
        specification = {"name": name, "user": user, "cookie": self.site.sessions[user], "transport": transport}
        return {**specification, "servers": self.addresses, **changes}

    def connect(
        self, sse: int = 50, websocket: int = 50, *, spread: float = 1.0, timeout: float = 60.0, **changes: Any
    ) -> None:
        """Start clients of all users on all servers."""
        users = [name for name in self.site.users if name.startswith("u")]
        clients = []
        for transport, number in (("sse", sse), ("websocket", websocket)):
            for index in range(number):
                specification = self.client(f"{transport}-{index}", users[index % len(users)], transport, **changes)
                specification["server"] = index % len(self.servers)
                clients.append(specification)
        random.shuffle(clients)
        self.join(clients, spread=spread, timeout=timeout)

    def join(self, clients: list[dict[str, Any]], *, spread: float = 0.0, timeout: float = 60.0) -> None:
        """Start clients, and remember where the log stands: the oracle begins there, so nothing may be published."""
        self.farm.call("start", clients=clients, spread=spread)
        heads = self.topic_heads()
        self.heads |= {client["name"]: heads for client in clients}
        self.wait_open(len(self.users_of), timeout)

    def disconnect(self, names: Sequence[str] = ()) -> None:
        """Let clients (none: all) go, and forget what they had."""
        names = list(names) or list(self.users_of)
        self.farm.call("forget", names=names)
        for name in names:
            del self.users_of[name], self.heads[name]

    def wait_open(self, number: int, timeout: float = 60.0) -> None:
        """Wait until so many clients are connected."""

        def all_open() -> bool:
            return bool(self.farm.call("status")["states"].get("open", 0) >= number)

        try:
            wait_until(all_open, timeout, what=f"{number} open clients")
        except TimeoutError as error:
            ends = Counter(reason for _, reason in self.ends(time.time() - 20))
            states = self.farm.call("status")["states"]
            raise TimeoutError(f"{error}; they are {states}, ended by {ends}\n{self.logs()}") from None

    def publish(self, *, rate: float = 50.0, long: float = 5.0, size: int = 40, processes: int = 2) -> None:
        """Start the publishers."""
        users = ",".join(str(pk) for name, pk in self.site.users.items() if name.startswith("u"))
        for _ in range(processes):
            arguments = {
                "name": f"p{len(self.publishers)}-{os.getpid()}-{time.time_ns() % 10**9}",
                "users": users,
                "topics": ",".join(["everyone", "everyone", "everyone", "staff", self.group, *self.extra_topics]),
                "rate": str(rate / processes),
                "long": str(long),
                "size": str(size),
            }
            words = [f"--{name}={value}" for name, value in arguments.items()]
            self.publishers.append(Publisher(self.site, *words))

    def stop_publishing(self) -> dict[str, Any]:
        """Stop the publishers and return what they did, added up."""
        counts: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        slowest: list[tuple[float, float]] = []
        for publisher in self.publishers:
            publisher.stop()
            counts.update(publisher.report.get("counts", {}))
            errors.update(publisher.report.get("errors", {}))
            slowest += [(took, at) for took, at in publisher.report.get("slowest", [])]
        self.publishers.clear()
        return {"counts": counts, "errors": errors, "slowest": sorted(slowest, reverse=True)}

    @contextmanager
    def publishing(self, **options: Any) -> Iterator[None]:
        """Publish inside the block, and for a moment before and after it."""
        before = sum(self.topic_heads().values())
        self.publish(**options)
        wait_until(lambda: sum(self.topic_heads().values()) > before + 20, 30, what="the first events")
        yield
        self.report = self.stop_publishing()

    # ---- what the servers tell

    def state(self, server: AsgiServer) -> dict[str, Any]:
        """Return what the server's instruments show (:mod:`tests.faults.asgi`)."""
        return self.instrument(server, "state")

    @staticmethod
    def instrument(server: AsgiServer, name: str, **query: Any) -> dict[str, Any]:
        words = "&".join(f"{key}={str(value).replace(' ', '+').replace(',', '%2C')}" for key, value in query.items())
        with urllib.request.urlopen(f"{server.url}/faults/{name}?{words}", timeout=30) as answer:
            return cast(dict[str, Any], json.load(answer))

    def wait_up(self, up: bool = True, timeout: float = 40.0) -> None:
        """Wait until every server knows that the channel layer is there, or that it is not."""
        states: list[dict[str, Any]] = []

        def all_know() -> bool:
            states[:] = [self.state(server) for server in self.servers if server.running]
            return all(state["up"] is up for state in states)

        try:
            wait_until(all_know, timeout, what=f"the servers to know that the layer is {'there' if up else 'away'}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {states}") from None

    def queries(self) -> Counter[str]:
        """Return the queries of all running servers so far, by who asked."""
        total: Counter[str] = Counter()
        for server in self.servers:
            if server.running:
                total.update(self.state(server)["queries"])
        return total

    def resources(self) -> list[dict[str, int]]:
        """Return each server's file descriptors, threads and memory."""
        return [
            {"fds": server.fds(), "threads": server.threads(), "rss": server.rss()} if server.running else {}
            for server in self.servers
        ]

    def backends(self) -> int:
        assert self.postgres is not None
        return self.postgres.backends(self.database)

    # ---- the oracle

    def sql(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Read the site's database."""
        if self.postgres is not None:
            with self.postgres.connect(self.database) as connection:
                return connection.execute(cast(Any, query), arguments).fetchall()
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(self.site.database_url.removeprefix("sqlite:///"), timeout=20)) as connection:
            return connection.execute(query.replace("%s", "?"), arguments).fetchall()

    def topic_heads(self) -> dict[str, int]:
        return dict(self.sql("SELECT name, head FROM notifications_topic"))

    def committed(self) -> dict[str, list[tuple[int, str]]]:
        """Return all events of the log by topic, numbered or not, and check it against the rows of the inbox.

        An event without a number, a hole, or a number given twice is a fault of its own.
        """
        events: dict[str, list[tuple[int, str]]] = {}
        notifications: Counter[str] = Counter()
        query = "SELECT topic, seq, type, payload FROM notifications_event ORDER BY topic, seq"
        for topic, seq, type, payload in self.sql(query):
            content = json.loads(payload)
            inner = content.get("data") or content
            assert "doomed" not in inner, f"an event of a savepoint that was rolled back: {payload}"
            events.setdefault(topic, []).append((seq, inner.get("n", "")))
            notifications[topic] += type == "notification"
        for topic, numbers in events.items():
            seqs = [seq for seq, _ in numbers]
            assert None not in seqs, f"{topic} has events without a number"
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), f"{topic} has holes"
        rows = dict(self.sql("SELECT topic, count(*) FROM notifications_notification GROUP BY topic"))
        assert +notifications == Counter(rows), "the log and the inbox differ"
        return events

    def settled(self) -> bool:
        """Return whether each client has got to the heads of all that it reads."""
        if self.sql("SELECT 1 FROM notifications_event WHERE seq IS NULL LIMIT 1"):
            return False
        topics = {
            name: (f"{id}-{epoch}", head)
            for name, id, epoch, head in self.sql("SELECT name, id, epoch, head FROM notifications_topic")
        }
        mine = self.topics_of()
        for client, cursor in self.farm.call("cursors").items():
            there = dict(part.rpartition("-")[::2] for part in cursor.split(".")[1:])
            for name in mine[self.users_of[client]]:
                life, head = topics.get(name, ("", -1))
                if int(there.get(life, -1)) < head:
                    return False
        return True

    def topics_of(self) -> dict[str, list[str]]:
        """Return what each user reads."""
        answer: dict[str, list[str]] = defaultdict(list)
        for topic, users in self.readers.items():
            for user in users:
                answer[user].append(topic)
        return answer

    def judge(self, timeout: float = 45.0, quiet: float | None = None) -> Findings:
        """Wait until all is delivered, then ``quiet`` seconds more, and compare; lost is whatever is missing then."""
        with suppress(TimeoutError):
            wait_until(self.settled, timeout, what="all clients to have everything")
        time.sleep(float(os.environ.get("FAULTS_QUIET", "0")) if quiet is None else quiet)
        events = self.committed()
        findings = Findings(committed=sum(map(len, events.values())))
        mine = self.topics_of()
        for client in self.farm.call("record"):
            self.compare(client, mine[client["user"]], events, findings)
        return findings

    def compare(
        self,
        client: dict[str, Any],
        topics: list[str],
        events: dict[str, list[tuple[int, str]]],
        findings: Findings,
    ) -> None:
        findings.wire_duplicates += client["duplicates"]
        for topic, numbers in client["applied"].items():
            findings.applied += len(numbers)
            if client["user"] not in self.readers.get(topic, ()):
                findings.foreign += len(numbers)
                findings.note(f"{client['name']} got {len(numbers)} events of {topic}")
        for topic in topics:
            head = self.heads[client["name"]].get(topic, 0)
            expected = [(seq, n) for seq, n in events.get(topic, ()) if seq > head]
            applied = [(seq, n) for seq, n in client["applied"].get(topic, ())]
            if applied == expected:
                continue
            seqs = [seq for seq, _ in applied]
            missing = set(expected) - set(applied)
            findings.lost += len(missing)
            findings.twice += len(seqs) - len(set(seqs))
            findings.out_of_order += sum(second < first for first, second in itertools.pairwise(seqs))
            # Not in the log: rolled back, or of somebody else's.
            phantom = set(applied) - set(expected)
            findings.foreign += len(phantom)
            findings.note(
                f"{client['name']} on {topic}: missing {sorted(missing, key=str)[:5]}, not in the log "
                f"{sorted(phantom)[:5]}; {client['state']}, {client['ended'][-3:]}"
            )

    def latencies(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Return how late events were, of those received in a time."""
        return [late for client in self.farm.call("record") for at, late in client["latencies"] if since <= at <= until]

    def ends(self, since: float = 0.0) -> list[tuple[float, str]]:
        """Return when and why connections ended."""
        return [(at, reason) for client in self.farm.call("record") for at, reason, _ in client["ended"] if at >= since]


def run(coroutine: Any) -> Any:
    """Run a coroutine of a test that is otherwise a plain function."""
    return asyncio.run(coroutine)
