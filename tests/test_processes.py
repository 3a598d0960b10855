"""What only real processes can show: other processes, two kinds of server, threads and connections of open streams."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest
import redis

from tests.clients import TRANSPORTS, Client, Network, connect
from tests.conftest import MakeSite
from tests.servers import AsgiServer, PostgresServer, RedisServer, Site, wait_until

Kind = Literal["daphne", "uvicorn"]
KINDS: tuple[Kind, ...] = ("daphne", "uvicorn")

#: What a process may use, whatever the number of its streams (issue: an open stream holds nothing).
THREADS = 12


async def open_stream(server: AsgiServer, site: Site, name: str, transport: str = "sse", **options: Any) -> Client:
    client: Client = await connect(transport, Network(server.url), site.sessions[name], **options)
    return client


def publish(site: Site, code: str, **values: Any) -> Any:
    with site.worker() as worker:
        return worker.run(code, **values)


NOTIFY = """
from django.contrib.auth import get_user_model
from notifications import notify
for title in titles:
    notify(get_user_model().objects.get(username=name), title)
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_command_without_redis_reaches_an_open_stream(make_site: MakeSite, kind: Kind) -> None:
    site = make_site("sqlite")
    with site.server(kind) as server:
        stream = await open_stream(server, site, "alice")
        try:
            await asyncio.to_thread(site.manage, "notify", "alice", "hi")
            committed = time.monotonic()
            event = await stream.next()
            assert (event.type, event.data["title"]) == ("notification", "hi")
            # The safety poll asks each second; the rest is for a busy machine.
            assert time.monotonic() - committed < 5
        finally:
            await stream.close()


PREPARED = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT statement FROM pg_prepared_statements")
    result = [statement for statement, in cursor]
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_prepared_statements_as_operate_md_has_them(make_site: MakeSite, kind: Kind) -> None:
    site = make_site("postgresql")
    site = site.copy(f"{site.database_url}?server_side_binding=true&prepare_threshold=3")
    titles = [str(number) for number in range(6)]
    with site.server(kind) as server, site.worker() as worker:
        stream = await open_stream(server, site, "alice")
        try:
            await asyncio.to_thread(worker.run, NOTIFY, name="alice", titles=titles)
            assert [(await stream.next()).data["title"] for _ in titles] == titles
            prepared = "\n".join(worker.run(PREPARED))
        finally:
            await stream.close()
    for words, tables in {
        "INSERT INTO": ("notification", "event"),
        "FROM": ("topic", "event"),
        "UPDATE": ("topic", "event"),
    }.items():
        for table in tables:
            assert f'{words} "notifications_{table}"' in prepared


@pytest.mark.parametrize("kind", KINDS)
async def test_each_transport_resumes_what_another_left(site: Site, kind: Kind) -> None:
    with site.server(kind) as server, site.worker() as worker:
        for transport in TRANSPORTS:
            first = await open_stream(server, site, "alice", transport)
            await asyncio.to_thread(worker.run, NOTIFY, name="alice", titles=["one"])
            assert (await first.next()).data["title"] == "one"
            cursor = first.cursor
            await first.close()
            await asyncio.to_thread(worker.run, NOTIFY, name="alice", titles=["two", "three"])
            for other in TRANSPORTS:
                again = await open_stream(server, site, "alice", other, cursor=cursor)
                assert [(await again.next()).data["title"] for _ in range(2)] == ["two", "three"]
                await again.close()


async def test_broadcast_of_a_third_process_is_one_publish_for_two_servers(
    make_site: MakeSite, redis_server: RedisServer
) -> None:
    site = make_site("postgresql", redis=redis_server.url)
    names = ["alice", "bob", "carol", "sam", "root"]
    async with AsyncExitStack() as stack:
        servers = [stack.enter_context(site.server(kind)) for kind in KINDS]
        worker = stack.enter_context(site.worker())
        group = worker.run(
            "from notifications.doorbell import group_name; result = 'asgi__group__' + group_name('everyone')"
        )
        streams = [
            await open_stream(server, site, name, transport)
            for server in servers
            for name in names
            for transport in ("sse", "websocket")
        ]
        for stream in streams:
            stack.push_async_callback(stream.close)
        listener = stack.enter_context(redis.Redis(port=redis_server.port))
        heard = listener.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(group)
        calls = redis_server.calls("publish")
        await asyncio.to_thread(worker.run, "from notifications import broadcast; broadcast('to all')")
        for event in await asyncio.gather(*(stream.next() for stream in streams)):
            assert (event.type, event.data["title"]) == ("notification", "to all")
        published = [message for _ in range(20) if (message := heard.get_message(timeout=0.1))]
        assert len(published) == 1
        # Each server's probe publishes now and then, too; twenty clients would be twenty more.
        assert redis_server.calls("publish") - calls < 10
        heard.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_open_streams_hold_neither_threads_nor_connections(
    make_site: MakeSite, postgres_server: PostgresServer, redis_server: RedisServer, kind: Kind
) -> None:
    site = make_site("postgresql", redis=redis_server.url)
    database = site.database_url.rsplit("/", 1)[1].partition("?")[0]
    # A hundred of each transport: either alone would show, were it a thread or a connection each.
    people = [(f"user{number}", ("sse", "websocket")[number % 2]) for number in range(200)]
    await asyncio.to_thread(site.create_users, [name for name, _ in people])
    async with AsyncExitStack() as stack:
        # Held between two polls, a connection could not be told from one that a stream holds.
        server = stack.enter_context(site.server(kind))
        for start in range(0, len(people), 25):
            for stream in await asyncio.gather(
                *(open_stream(server, site, name, transport) for name, transport in people[start : start + 25])
            ):
                stack.push_async_callback(stream.close)
        # The safety poll opens one for a moment now and then.
        await asyncio.to_thread(
            wait_until,
            lambda: postgres_server.backends(database) == 0,
            timeout=30,
            what="no connection while streams are open",
        )
        assert server.threads() <= THREADS


async def test_one_connection_is_kept_while_events_come_and_made_anew_when_it_was_cut(
    make_site: MakeSite, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    site = make_site("postgresql", redis=redis_server.url)
    database = site.database_url.rsplit("/", 1)[1].partition("?")[0]
    with site.server("uvicorn") as server, site.worker() as worker, postgres_server.connect() as watching:
        publisher = worker.run(
            "from django.db import connection as c; c.connect(); result = c.connection.info.backend_pid"
        )

        def pids(query: str) -> list[int]:
            """Return what ``query`` takes of ``found``, the server's connections."""
            found = (
                "SELECT pid, state, now() - state_change AS age FROM pg_stat_activity WHERE datname = %s AND pid != %s"
            )
            return [pid for (pid,) in watching.execute(f"WITH found AS ({found}) {query}", [database, publisher])]

        def backends() -> list[int]:
            return pids("SELECT pid FROM found ORDER BY pid")

        def kept() -> int | None:
            """Return the connection that is always there while events come, for longer than from poll to poll."""
            looks = []
            for number in range(25):
                if number % 5 == 0:
                    worker.run(NOTIFY, name="alice", titles=["one of many"])
                looks.append(set(backends()))
                time.sleep(0.1)
            always = set.intersection(*looks)
            return always.pop() if len(always) == 1 else None

        def cut() -> list[int]:
            """Cut it while it waits for the next poll, and not in the midst of one."""
            idle = "SELECT pid FROM found WHERE state = 'idle' AND age BETWEEN interval '0.6 s' AND interval '1 s'"
            return pids(f", idle AS MATERIALIZED ({idle}) SELECT pid FROM idle WHERE pg_terminate_backend(pid)")

        stream = await open_stream(server, site, "alice")
        try:
            pid = await asyncio.to_thread(wait_until, kept, timeout=30, what="a connection that stays")
            assert await asyncio.to_thread(wait_until, cut, what="the time between two polls") == [pid]
            another = await asyncio.to_thread(wait_until, kept, timeout=30, what="another connection that stays")
            assert another != pid
            await asyncio.to_thread(worker.run, NOTIFY, name="alice", titles=["the last"])
            while (await stream.next()).data["title"] != "the last":
                pass
            assert "safety poll failed" not in server.log
            none = "no connection when all is quiet"
            await asyncio.to_thread(wait_until, lambda: not backends(), timeout=30, what=none)
        finally:
            await stream.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_two_processes_on_one_database_without_redis(site: Site, kind: Kind) -> None:
    with site.server(kind) as one, site.server(kind) as two:
        streams = [await open_stream(server, site, "alice") for server in (one, two)]
        await asyncio.to_thread(publish, site, NOTIFY, name="alice", titles=["a", "b", "c"])
        for stream in streams:
            assert [(await stream.next()).data["title"] for _ in range(3)] == ["a", "b", "c"]
            await stream.close()
