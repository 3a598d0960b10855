"""Clients that mean harm, as far as streams are concerned; by `make faults`."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.faults.cluster import Cluster, percentile
from tests.faults.report import Row
from tests.faults.wire import BINARY, CLOSE, TEXT, Closed, EventStream, Refused, WebSocket, connect, request
from tests.servers import AsgiServer, RedisServer, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.processes]

STREAM, SOCKET = "/notifications/stream/", "/ws/notifications/"
KINDS = ["daphne", "uvicorn"]


@pytest.fixture(scope="module")
def cluster(build: Callable[..., Cluster]) -> Iterator[Cluster]:
    """A daphne and a uvicorn, run as docs/operate.md says, with some clients that mean well."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        limits = {
            "daphne": ["--websocket-max-message-size", "65536"],
            "uvicorn": ["--ws-max-size", "65536", "--ws-per-message-deflate", "false"],
        }
        cluster = stack.enter_context(build(redis=redis, kinds=("daphne", "uvicorn"), arguments=limits))
        cluster.connect(10, 10)
        yield cluster


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, cluster: Cluster) -> AsgiServer:
    return next(server for server in cluster.servers if server.kind == request.param)


def address(server: AsgiServer) -> tuple[str, int]:
    return "127.0.0.1", server.port


def request_queries(cluster: Cluster, server: AsgiServer) -> int:
    """Queries of requests, not of the hub's own rounds."""
    return int(cluster.state(server)["queries"].get("requests", 0))


def test_foreign_origins(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """WebSockets and event streams from pages of other sites

    Another host, another port, a subdomain, ``null``, and for WebSockets none at all.
    """
    host = f"127.0.0.1:{server.port}"
    cookie = cluster.site.sessions["u1"]
    origins = [
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{server.port + 1}",
        f"http://evil.{host}",
        f"https://{host}",
    ]

    async def attempts() -> list[int]:
        statuses = []
        for origin in [*origins, None]:
            try:
                socket = await WebSocket.open(address(server), SOCKET, cookie=cookie, origin=origin)
                socket.close()
                statuses.append(101)
            except Refused as refusal:
                statuses.append(refusal.status)
        for origin in origins:
            status, headers, _ = await request(address(server), STREAM, cookie=cookie, Origin=origin)
            statuses.append(status)
            if "access-control-allow-origin" in headers:
                statuses.append(-1)
        return statuses

    before = request_queries(cluster, server)
    statuses = asyncio.run(attempts())
    row.at_most("not refused with 403", sum(status != 403 for status in statuses), 0)
    row.at_most("queries", request_queries(cluster, server) - before, 0)
    row.at_least("attempts", len(statuses), 11)
    row.finish()


def test_forged_cursors(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """Cursors that were never given to their bearer

    Of other people's topics from their beginning, of groups and staff without being a member, ahead, of another life,
    and nonsense.
    """
    outsider = next(
        name for name in cluster.site.users if name not in cluster.readers["staff"] | cluster.readers[cluster.group]
    )
    topics = cluster.sql("SELECT id, epoch, name FROM notifications_topic")
    everything = ".".join(["1", *(f"{id}-{epoch}-0" for id, epoch, _ in topics)])
    ahead = ".".join(["1", *(f"{id}-{epoch}-999999" for id, epoch, _ in topics)])
    other_life = ".".join(["1", *(f"{id}-deadbeef-1" for id, _, _ in topics)])
    nonsense = ["x", "1.1-e", "1." + "9" * 30 + "-a-1", "2." + everything[2:], everything + ".", "0", "1..", "-1"]
    mine = {"everyone", f"user:{cluster.site.users[outsider]}"}
    foreign, resets, ended = 0, 0, 0

    async def read(way: type[EventStream | WebSocket], path: str, cursor: str) -> None:
        nonlocal foreign, resets, ended
        await few.acquire()
        stream = await way.open(address(server), path, cookie=cluster.site.sessions[outsider], cursor=cursor)
        try:
            async with asyncio.timeout(1.5):
                async for event in stream.events():
                    foreign += event.data.get("topic", "*") not in mine | {"*"}
                    resets += event.type == "reset"
                ended += 1
        except TimeoutError:
            pass
        except Closed:
            ended += 1
        finally:
            stream.close()
            few.release()

    # Fewer at a time than a user may have: this is about something else.
    few = asyncio.Semaphore(6)

    async def attempts() -> None:
        await asyncio.gather(
            *(
                read(way, path, cursor)
                for way, path in ((EventStream, STREAM), (WebSocket, SOCKET))
                for cursor in [everything, ahead, other_life, *nonsense]
            )
        )

    with cluster.publishing(long=0):
        asyncio.run(attempts())
    row.at_most("foreign events", foreign, 0)
    row.at_most("streams that broke", ended, 0)
    row.at_least("resets", resets, 2 * (len(nonsense) + 4))
    row.judge(cluster.judge(quiet=0))
    row.finish()


def test_bad_sessions(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """Streams without a session, or with one that is not

    None, made up, expired, altered, very long; a key in the URL.
    """
    real = cluster.site.sessions["u1"]
    with cluster.site.worker() as worker:
        expired = worker.run(
            "from django.test import Client\nfrom django.contrib.auth.models import User\n"
            "from django.contrib.sessions.models import Session\nfrom django.utils import timezone\n"
            "client = Client()\nclient.force_login(User.objects.get(username='u2'))\n"
            "result = client.cookies['sessionid'].value\n"
            "Session.objects.filter(pk=result).update(expire_date=timezone.now())"
        )

    async def attempts() -> list[int]:
        answers = []
        for cookie in ("", "x" * 32, expired, real[:-1] + ("a" if real[-1] != "a" else "b"), "y" * 3000):
            status, _, body = await request(address(server), STREAM, cookie=cookie)
            answers.append(status)
            assert real not in body.decode()
            socket = await WebSocket.open(address(server), SOCKET, cookie=cookie)
            answers.append(await closed(socket))
        status, _, _ = await request(address(server), f"{STREAM}?sessionid={real}&session_key={real}")
        return [*answers, status]

    answers = asyncio.run(attempts())
    row.at_most("not refused with 401 or 4401", sum(answer not in (401, 4401) for answer in answers), 0)
    row.at_least("attempts", len(answers), 11)
    row.at_most("session keys in the log", server.log.count(real[:-1]) - server.log.count(f"session_key={real}"), 1)
    row.finish()


async def closed(socket: WebSocket, seconds: float = 5) -> int:
    """Return the code that the server closes with; 0: not within ``seconds``, 1006: it broke off."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                await socket.receive()
    except Closed as end:
        return end.code or 1006
    except TimeoutError:
        return 0
    finally:
        socket.close()


REVOCATIONS = {
    "logged out": "from django.test import Client\nclient = Client()\nclient.cookies['sessionid'] = session\n"
    "client.post('/leave/', headers={'host': '127.0.0.1'})",
    "session deleted": "from django.contrib.sessions.models import Session\n"
    "Session.objects.filter(pk=session)._raw_delete('default')",
    "deactivated": "user.is_active = False\nuser.save()",
    "password changed": "user.set_password('another')\nuser.save()",
    "deleted": "user.delete()",
    "left the group": "user.groups.clear()",
    "left the staff": "user.is_staff = False\nuser.save()",
}


@pytest.mark.parametrize("away", [False, True], ids=["Redis up", "Redis away"])
def test_revocation(build: Callable[..., Cluster], row: Row, away: bool) -> None:
    """Somebody loses the right to read while connected

    Logout in another tab, session deleted in the database, deactivation, new password, user deleted, group left, staff
    left; over both transports and both servers. What is published afterwards must not arrive, live or by a replay.
    """
    settings = {"RECHECK_INTERVAL": 10.0} if away else {}
    with RedisServer() as redis, build(redis=redis, kinds=("daphne", "uvicorn"), settings=settings) as cluster:
        cluster.connect(0, 0)
        slowest, leaked = 0.0, 0
        with cluster.site.worker() as worker:
            users = iter(sorted(set(cluster.readers["staff"])))
            if away:
                redis.kill()
            for what, code in REVOCATIONS.items():
                # Of the staff and the group at once, so that each loss leaves something that could leak.
                name = next(users, None)
                if name is None:
                    name = f"v {what}"
                    cluster.site.create_users([name], staff=True, worker=worker)
                took, more = asyncio.run(revoke(cluster, worker, name, what, code))
                leaked += more
                slowest = max(slowest, took)
                row.note(f"{what} {took:.2f} s")
        limit = 15 if away else 2
        row.at_most("slowest end", slowest, limit, " s", soft=True)
        row.at_most("events after the end", leaked, 0)
        row.finish()


async def revoke(cluster: Cluster, worker: Any, name: str, what: str, code: str) -> tuple[float, int]:
    """Return seconds until all four streams have ended, and how many events of lost topics came afterwards."""
    user, session = cluster.site.users[name], cluster.site.sessions[name]
    lookup = "from django.contrib.auth.models import Group, User\nuser = User.objects.get(pk=pk)\n"
    await asyncio.to_thread(worker.run, lookup + "user.groups.add(Group.objects.get(name='crew'))", pk=user)
    await asyncio.sleep(2.5)
    lost = {"left the group": {cluster.group}, "left the staff": {"staff"}}.get(
        what, {"everyone", "staff", cluster.group, f"user:{user}"}
    )
    streams: list[EventStream | WebSocket] = []
    for server in cluster.servers:
        streams.append(await EventStream.open(address(server), STREAM, cookie=session))
        streams.append(await WebSocket.open(address(server), SOCKET, cookie=session))
    cursors: list[str] = []
    loop = asyncio.get_running_loop()

    async def to_the_end(stream: EventStream | WebSocket) -> float:
        cursor = ""
        try:
            async with asyncio.timeout(90):
                async for event in stream.events():
                    cursor = event.cursor or cursor
                    if event.type == "ready":
                        ready.release()
                    if event.type == "bye":
                        break
        except Closed:
            pass
        finally:
            cursors.append(cursor)
            stream.close()
        return loop.time()

    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(to_the_end(stream)) for stream in streams]
    for _ in streams:
        await ready.acquire()
    began = loop.time()
    await asyncio.to_thread(worker.run, lookup + code, pk=user, session=session)
    took = max(await asyncio.gather(*tasks)) - began
    await asyncio.to_thread(
        worker.run,
        "from notifications import publish\nfor topic in topics: publish(topic, 'secret', {})",
        topics=sorted(lost),
    )
    leaked = 0
    for server in cluster.servers:
        for way, path in ((EventStream, STREAM), (WebSocket, SOCKET)):
            for cursor in cursors:
                with suppress(Refused, Closed, TimeoutError):
                    stream = await way.open(address(server), path, cookie=session, cursor=cursor)
                    try:
                        async with asyncio.timeout(1):
                            async for event in stream.events():
                                leaked += event.type == "secret" and event.data["topic"] in lost
                    finally:
                        stream.close()
    return took, leaked


def deflated_bomb() -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(b"0" * 50_000_000) + compressor.flush(zlib.Z_SYNC_FLUSH)


def bad_frames() -> dict[str, Callable[[WebSocket], None]]:
    def endless(socket: WebSocket) -> None:
        socket.frame(b"[" * 1000, TEXT, final=False)
        for _ in range(2000):
            socket.frame(b"[" * 1000, 0, final=False)

    return {
        "65 KB": lambda socket: socket.frame(b"x" * 65_536),
        "1 MB": lambda socket: socket.frame(b"x" * 1_000_000),
        "fragmented without end": endless,
        "compressed without leave": lambda socket: socket.frame(deflated_bomb()[:60_000], TEXT, reserved=0x40),
        "invalid UTF-8": lambda socket: socket.frame(b'{"type":"\xff\xfe"}'),
        "no JSON": lambda socket: socket.frame(b"{"),
        "deep JSON": lambda socket: socket.frame(b"[" * 4000),
        "unknown type": lambda socket: socket.send({"type": "subscribe", "topic": "user:1"}),
        "a consumer's method": lambda socket: socket.send({"type": "websocket.disconnect"}),
        "an ack without text": lambda socket: socket.send({"type": "ack", "cursor": [1]}),
        "not an object": lambda socket: socket.send([1]),
        "binary": lambda socket: socket.frame(b"\0" * 10, BINARY),
        "bad close": lambda socket: socket.frame(struct.pack("!H", 1005), CLOSE),
        "not masked": lambda socket: socket.writer.write(b"\x81\x02{}"),
    }


def test_bad_frames(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """Frames that no client of ours sends

    Large, endless, compressed, not UTF-8, not JSON, of unknown types, binary, not masked.
    """
    rss = server.rss()

    def tracebacks() -> int:
        # uvicorn itself writes one for what is not UTF-8.
        return server.log.count("Traceback") - server.log.count("Invalid UTF-8 sequence received from client")

    before = tracebacks()
    slowest, codes = 0.0, {}

    async def attempt(send: Callable[[WebSocket], None]) -> tuple[int, float]:
        socket = await WebSocket.open(address(server), SOCKET, cookie=cluster.site.sessions["u3"])
        await socket.receive()
        began = time.monotonic()
        with suppress(OSError):
            send(socket)
            await socket.writer.drain()
        return await closed(socket), time.monotonic() - began

    for name, send in bad_frames().items():
        codes[name], took = asyncio.run(attempt(send))
        slowest = max(slowest, took)
    row.note(", ".join(f"{name} {code}" for name, code in codes.items()))
    allowed = {1002, 1003, 1005, 1006, 1007, 1009, 4400}
    row.at_most("not closed as they should", sum(code not in allowed for code in codes.values()), 0)
    row.at_most("slowest close", slowest, 1, " s", soft=True)
    row.at_most("tracebacks", tracebacks() - before, 0)
    row.at_most("memory", (server.rss() - rss) / 2**20, 4, " MB")
    row.finish()


def test_frame_flood(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """One WebSocket sends as many frames as it can

    While the others get their events.
    """
    rss = server.rss()

    async def flood() -> tuple[int, float, int]:
        socket = await WebSocket.open(address(server), SOCKET, cookie=cluster.site.sessions["u4"])
        await socket.receive()
        began, sent = time.monotonic(), 0
        task = asyncio.create_task(closed(socket, 10))
        with suppress(OSError):
            while not task.done() and sent < 100_000:
                for _ in range(100):
                    socket.send({"type": "ping"})
                    sent += 100
                await socket.writer.drain()
                await asyncio.sleep(0)
        code = await task
        return code, time.monotonic() - began, sent

    at = time.time()
    with cluster.publishing(rate=20, long=0):
        time.sleep(3)
        usual = percentile(cluster.latencies(at), 0.99)
        at = time.time()
        code, took, sent = asyncio.run(flood())
        time.sleep(1)
        during = percentile(cluster.latencies(at), 0.99)
    row.at_most("codes other than 4429", int(code != 4429), 0)
    row.at_most("closed after", took, 1, " s", soft=True)
    row.note(f"{sent:,} frames; the others' p99 {usual * 1000:.0f} ms before, {during * 1000:.0f} ms during")
    row.at_most("memory", (server.rss() - rss) / 2**20, 20 if server.kind == "daphne" else 4, " MB")
    row.judge(cluster.judge(quiet=0))
    row.finish()


def test_many_tabs(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """200 tabs of one user

    Beyond STREAMS_PER_USER (20) the oldest is told to stay away for a minute.
    """

    async def open_tabs() -> list[Any]:
        tabs = []
        byes = []

        async def watch(stream: EventStream) -> None:
            with suppress(Closed):
                async for event in stream.events():
                    if event.type == "bye":
                        byes.append(event.data)

        tasks = []
        for _ in range(200):
            tab = await EventStream.open(address(server), STREAM, cookie=cluster.site.sessions["u20"])
            tabs.append(tab)
            tasks.append(asyncio.create_task(watch(tab)))
        await asyncio.sleep(2)
        state = await asyncio.to_thread(cluster.state, server)
        held.append(state["users"].count(str(cluster.site.users["u20"])))
        for tab in tabs:
            tab.close()
        await asyncio.gather(*tasks)
        return byes

    held: list[int] = []
    byes = asyncio.run(open_tabs())
    row.at_most("streams held of this user", held[0], 20)
    row.at_least("told politely", sum(bye == {"reason": "capacity", "retry": 60_000} for bye in byes), 180)
    row.finish()


def test_connect_flood(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """1,000 connects a second from one place

    Without a session, of one user, and of nobody; afterwards everything is as before.
    """

    async def one(number: int) -> int:
        try:
            if number % 3 == 0:
                status, _, _ = await request(address(server), STREAM)
                return status
            if number % 3 == 1:
                stream = await EventStream.open(address(server), STREAM, cookie=cluster.site.sessions["u21"])
                stream.close()
                return 200
            socket = await WebSocket.open(address(server), SOCKET)
            return await closed(socket, 30)
        except Refused as refusal:
            return refusal.status
        except OSError:
            return 0

    async def flood() -> list[int]:
        tasks = []
        for number in range(1000):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0.001)
        return await asyncio.gather(*tasks)

    began = time.monotonic()
    held = cluster.state(server)["subscriptions"]
    statuses = asyncio.run(flood())
    row.note(
        f"{time.monotonic() - began:.1f} s; " + ", ".join(f"{s}: {statuses.count(s)}" for s in sorted(set(statuses)))
    )
    row.at_most("server errors", sum(status >= 500 and status != 503 and status < 1000 for status in statuses), 0)
    wait_until(lambda: cluster.state(server)["subscriptions"] <= held, 30, what="their streams to end")
    wait_until(lambda: cluster.backends() <= 8, 30, what="their connections to the database to be closed")
    with cluster.publishing(long=0):
        time.sleep(1)
    row.judge(cluster.judge(quiet=0))
    row.finish()


def test_large_requests(cluster: Cluster, server: AsgiServer, row: Row) -> None:
    """Slow and oversized requests

    A 16 KB ``Last-Event-ID``, 10,000 topics in the URL, a head that never ends (Slowloris).
    """
    cookie = cluster.site.sessions["u8"]
    topics = ".".join(["1", *(f"{number}-a-1" for number in range(10_000))])

    async def attempts() -> list[int]:
        answers = []
        requests: list[tuple[str, dict[str, Any]]] = [
            (STREAM, {"Last-Event-ID": "x" * 16_384}),
            (STREAM, {"Last-Event-ID": "1." + "1-a-1." * 900}),
            (f"{STREAM}?cursor={topics}", {}),
            (f"/notifications/events/?cursor={topics[:9000]}", {}),
        ]
        for path, headers in requests:
            try:
                status, _, _ = await request(address(server), path, cookie=cookie, seconds=5, **headers)
            except (Closed, OSError):
                status = 400  # Cut off by the server's own limit.
            answers.append(status)
        try:
            socket = await WebSocket.open(address(server), SOCKET, cookie=cookie, cursor="1." + "1-a-1." * 900)
            answers.append(await closed(socket))
        except (Refused, Closed) as refusal:
            answers.append(getattr(refusal, "status", 400))
        return answers

    async def slowloris() -> int:
        writers = []
        for _ in range(200):
            _reader, writer = await connect(address(server))
            writer.write(b"GET /notifications/stream/ HTTP/1.1\r\nHost: x\r\nX-A: ")
            writers.append(writer)
        status, _, _ = await request(address(server), "/page/", cookie=cookie, seconds=5)
        for writer in writers:
            writer.close()
        return status

    answers = asyncio.run(attempts())
    row.note(f"answers {answers}")
    row.at_most("not refused", sum(answer not in (400, 414, 431, 4400) for answer in answers), 0)
    row.at_most("pages that failed beside 200 heads without end", int(asyncio.run(slowloris()) != 200), 0)
    row.finish()


def test_publish_flood(build: Callable[..., Cluster], row: Row) -> None:
    """1,000 events a second to everyone

    For ten seconds, to 40 clients; what they can not take at once they get from the log.
    """
    with RedisServer() as redis, build(redis=redis, kinds=("daphne", "uvicorn")) as cluster:
        cluster.connect(20, 20)
        rss = [server.rss() for server in cluster.servers]
        at = time.time()
        with cluster.site.worker() as worker:
            worker.run(FLOOD, timeout=120)
        took = time.time() - at
        findings = cluster.judge(timeout=60, quiet=0)
        late = percentile(cluster.latencies(at), 0.99)
        row.note(f"10,000 events in {took:.0f} s; p99 {late:.2f} s")
        grown = max(server.rss() - before for server, before in zip(cluster.servers, rss, strict=True))
        row.at_most("memory", grown / 2**20, 80, " MB")
        row.judge(findings)
        row.finish()


FLOOD = """
import time
from django.db import transaction
from notifications import publish
for batch in range(100):
    began = time.monotonic()
    with transaction.atomic():
        for number in range(100):
            publish("everyone", "progress", {"n": f"flood-{batch}-{number}", "at": time.time()})
    time.sleep(max(0, 0.1 - (time.monotonic() - began)))
"""
