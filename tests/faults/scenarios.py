"""What is done to a site, and what must hold then: shared by the short suite and the long one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

from tests.faults.cluster import Cluster, Visitor, percentile
from tests.faults.report import Row
from tests.faults.wire import Closed, EventStream, Refused, WebSocket
from tests.servers import wait_until

__all__ = [
    "away_row",
    "broken_stream",
    "busiest_second",
    "check_resets",
    "crash",
    "leaving",
    "never_reader",
    "resumption",
    "returns",
    "settle",
]


def resumption(cluster: Cluster, since: float) -> list[float]:
    """Return how long each client whose connection ended after ``since`` was without one."""
    answer = []
    for client in cluster.farm.call("record"):
        ends = [at for at, *_ in client["ended"] if at >= since]
        back = [at for at, _ in client["opened"] if ends and at > ends[0]]
        if ends:
            answer.append((back[-1] if back else time.time()) - ends[0])
    return answer


def returns(cluster: Cluster, since: float) -> list[float]:
    """Return when clients were connected again after ``since``."""
    return [at for client in cluster.farm.call("record") for at, _ in client["opened"] if at >= since]


def busiest_second(times: list[float]) -> int:
    return max((sum(start <= at < start + 1 for at in times) for start in times), default=0)


def crash(cluster: Cluster, failpoint: str, times: int) -> int:
    users = [str(pk) for name, pk in cluster.site.users.items() if name.startswith("u")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crasher", str(times), *users],
        env=cluster.site.environment | {"NOTIFICATIONS_FAILPOINTS": f"{failpoint}=kill"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    return int(json.loads(done.stdout)["killed"])


def away_row(row: Row, cluster: Cluster, visitor: Visitor, at: float, killed: float, back: float, seen: float) -> None:
    """What holds whenever the channel layer was away."""
    row.at_most("disconnects", len(cluster.ends(at)), 0)
    row.at_most("page views that failed", visitor.errors, 0)
    row.at_most("slowest page view", visitor.slower_than(0, share=1.0), 1.1, " s", soft=True)
    row.at_most(
        "slowest commit of a publisher",
        max([0.0, *(took for took, _ in cluster.report["slowest"])]),
        1.1,
        " s",
        soft=True,
    )
    row.at_most("latest event while away", max(cluster.latencies(killed, back), default=0), 6, " s", soft=True)
    row.at_most("link up again after", seen - back, 5, " s", soft=True)
    row.at_most("p99 from 5 s after its return", percentile(cluster.latencies(back + 5), 0.99), 1, " s", soft=True)
    row.judge(cluster.judge())
    row.finish()


FAT = """
import time
from notifications import notify
for number in range(times):
    began = time.monotonic()
    notify(topic, f"Fat {number}", "x" * 20_000, data={"n": f"fat-{time.time_ns()}"})
    time.sleep(max(0, 0.025 - (time.monotonic() - began)))
"""


def never_reader(cluster: Cluster, row: Row, kind: str, *, clients: int, times: int, pace: float = 0.0) -> None:
    """``clients`` of each transport stop reading while ``times`` events of 20 KB come, 40 a second; then read again.

    With a ``pace`` they go on reading, so many bytes a second.
    """
    server = next(server for server in cluster.servers if server.kind == kind)
    topic = f"user:{cluster.site.users['u24']}"
    never = [
        cluster.client(
            f"{transport}-never-{index}", "u24", transport, servers=[("127.0.0.1", server.port)], receive_buffer=4096
        )
        for transport in ("sse", "websocket")
        for index in range(clients)
    ]
    names = [client["name"] for client in never]
    cluster.join(never)
    with cluster.site.worker() as worker, cluster.publishing(rate=30, long=0):
        at = time.time()
        time.sleep(3)
        usual = percentile(of_others(cluster, at), 0.99)
        if pace:
            cluster.farm.call("pace", names=names, pace=pace)
        else:
            cluster.farm.call("read", names=names, reading=False)
        rss, at = server.rss(), time.time()
        worker.run(FAT, topic=topic, times=times, timeout=300)
        during = percentile(of_others(cluster, at), 0.99)
        grown = max(0, server.rss() - rss) / len(names) / 2**20
        # Closed and opened again: whoever reads 1 KB/s would be at it for an hour.
        cluster.farm.call("pace", names=names, pace=0)
        cluster.farm.call("read", names=names, reading=True)
    findings = cluster.judge()
    cluster.disconnect(names)
    row.at_most("memory of each", grown, 5 if kind == "daphne" else 1, " MB", soft=True)
    row.note(f"the others' p99 {usual * 1000:.0f} ms before, {during * 1000:.0f} ms during")
    row.judge(findings)
    row.finish()


def of_others(cluster: Cluster, since: float) -> list[float]:
    """Return how late events were for those who do read."""
    records = cluster.farm.call("record")
    return [late for client in records if client["user"] != "u24" for at, late in client["latencies"] if at >= since]


def leaving(cluster: Cluster, row: Row, *, memory: float) -> None:
    """Clients come, get events and leave; what the servers hold is what they held before, memory within a factor."""
    then = cluster.resources()
    cluster.connect()
    with cluster.publishing():
        time.sleep(2)
    findings = cluster.judge()
    cluster.disconnect()
    wait_until(lambda: not any(cluster.state(server)["subscriptions"] for server in cluster.servers), 30)

    def more(what: str) -> int:
        return max(after[what] - before[what] for after, before in zip(cluster.resources(), then, strict=True))

    wait_until(lambda: more("fds") <= 3, 20, what="file descriptors to be closed")
    now = cluster.resources()
    for what, unit in (("fds", ""), ("threads", ""), ("rss", " MB")):
        scale = 2**20 if what == "rss" else 1
        pairs = (f"{before[what] // scale} → {after[what] // scale}" for before, after in zip(then, now, strict=True))
        row.note(f"{what} {', '.join(pairs)}{unit}")
    grown = max(after["rss"] / before["rss"] for before, after in zip(then, now, strict=True))
    row.at_most("memory against the start", grown, memory)
    row.at_most("threads more", more("threads"), 2)
    row.at_most("connections to the database", cluster.backends(), 4 * len(cluster.servers))
    row.judge(findings)
    row.finish()


#: Where a stream can fail: at its start, and when an event comes.
PLACES = ["authorize", "heads", "unread", "wait", "take", "encode", "encode json", "send", "replay", "catch up", "read"]

#: Where the hub may have been on its own business, which it tries again.
THE_HUBS_OWN = {"authorize", "heads", "read"}


def broken_stream(cluster: Cluster, row: Row, kinds: tuple[str, ...] = ("runtime", "type", "os")) -> None:
    """Let a stream of the cluster's one server raise at each place; its client must see the end of it at once."""
    server = cluster.servers[0]
    cluster.instrument(server, "breakable")
    # Itself counted, which daphne does not do the first time.
    held = max(1, cluster.state(server)["connections"])
    slowest = 0.0
    tried = 0
    for kind in kinds:
        for transport in ("sse", "websocket"):
            for place in PLACES:
                for later in (False, True):
                    took = asyncio.run(break_stream(cluster, transport, place, kind, later=later))
                    if took is not None:
                        tried += 1
                        slowest = max(slowest, took)
                        if took > 5:
                            row.problems.append(f"{transport}: {place}, {kind}, later={later}: the client hung")
    row.at_least("exceptions", tried, 20)
    row.at_most("slowest end for its client", slowest, 1, " s", soft=True)
    kept = held
    for _ in range(4):
        # daphne forgets connections once a second; to ask more often is to find those that asked.
        time.sleep(2.5)
        if (kept := cluster.state(server)["connections"]) <= held:
            break
    row.at_most("connections the server still keeps", max(0, kept - held), 0)
    row.at_most("streams the hub still keeps", cluster.state(server)["subscriptions"], 0)


async def break_stream(cluster: Cluster, transport: str, place: str, kind: str, *, later: bool) -> float | None:
    """Return the seconds from the exception to the end of the connection; None: this stream never comes by there."""
    server = cluster.servers[0]
    way: type[EventStream | WebSocket] = EventStream if transport == "sse" else WebSocket
    path = "/notifications/stream/" if transport == "sse" else "/ws/notifications/"

    async def arm(name: str, **query: Any) -> dict[str, Any]:
        return await asyncio.to_thread(cluster.instrument, server, name, **query)

    cookie = cluster.site.sessions["u1"]
    # Events to replay, so that the stream goes to the log at all.
    cursor = "" if later else cluster.old_cursor
    if not later:
        await arm("raise", at=place, kind=kind)
    loop = asyncio.get_running_loop()
    began = loop.time()
    connection: EventStream | WebSocket | None = None
    try:
        connection = await way.open(("127.0.0.1", server.port), path, cookie=cookie, cursor=cursor)
        async with asyncio.timeout(6):
            async for event in connection.events():
                if event.type == "ready" and later:
                    await arm("raise", at=place, kind=kind)
                    await asyncio.to_thread(request_order, cluster)
                    began = loop.time()
                elif event.type == "heartbeat" and place in THE_HUBS_OWN and not (await arm("armed")).get(place):
                    return None
                elif not later and not (await arm("armed")).get(place):
                    continue
                elif event.type in ("notification", "heartbeat") and (await arm("armed")).get(place):
                    return None
    except (Closed, Refused):
        pass
    except TimeoutError:
        return 6.0
    finally:
        if connection is not None:
            connection.close()
        unused = (await arm("armed")).get(place)
        await arm("raise", at=place, times=0)
    return None if unused else loop.time() - began


def request_order(cluster: Cluster) -> None:
    """Let a view publish for the user who is looking on."""
    request = urllib.request.Request(cluster.servers[0].url + "/order/", headers=cluster.site.headers("u1"))
    urllib.request.urlopen(request, timeout=30).close()


ROTATE = "from notifications import log\nresult = log.rotate_epoch()"


def check_resets(cluster: Cluster, row: Row, since: float, reasons: set[str], topics: set[str]) -> None:
    """Each client has had exactly one reset for each of ``topics`` that it reads, and its list is the inbox."""
    wrong = 0
    rows = cluster.sql("SELECT topic, id FROM notifications_notification")
    total = 0
    for client in cluster.farm.call("record"):
        mine = {topic for topic, readers in cluster.readers.items() if client["user"] in readers}
        resets = [(topic, reason) for at, topic, reason in client["resets"] if at >= since]
        total += len(resets)
        inbox = {id for topic, id in rows if topic in mine}
        if sorted(topic for topic, _ in resets) != sorted(mine & topics) or {reason for _, reason in resets} - reasons:
            wrong += 1
            row.problems.append(f"{client['name']} had {resets}, but reads {sorted(mine & topics)}")
        elif set(client["known"]) != inbox:
            wrong += 1
            known = set(client["known"])
            lacks, extra = sorted(inbox - known)[:9], sorted(known - inbox)[:9]
            row.problems.append(f"{client['name']} lacks {lacks} of its inbox, and has {extra} too many")
    row.at_least(f"resets ({', '.join(sorted(reasons))})", total, 1)
    row.at_most("clients without exactly one for each topic, or whose list is wrong", wrong, 0)


def settle(cluster: Cluster) -> None:
    """Wait until every client has everything."""
    wait_until(cluster.settled, 45, what="all clients to have everything")
