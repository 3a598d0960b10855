"""Several Redis hosts, and Redis Sentinel: what is lost with one of them is late, and nothing else is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.clients import Client, Network, connect
from tests.conftest import MakeSite
from tests.servers import AsgiServer, RedisServer, Site, Worker, program, wait_until

#: As good as never: whatever arrives did not come by the safety poll.
NEVER = "3600"
#: Seconds for what comes by a hint, and for a failover to be noticed, on a busy machine.
LIVE, PATIENCE = 5.0, 30.0

NOTIFY = """
from django.contrib.auth import get_user_model
from notifications import notify
for name in names:
    notify(get_user_model().objects.get(username=name), title)
"""
HOSTS = """
from channels_redis.utils import _consistent_hash
from django.contrib.auth import get_user_model
from notifications.access import user_topic
from notifications.doorbell import group_name
result = {
    user.username: _consistent_hash("asgi__group__" + group_name(user_topic(user)), 2)
    for user in get_user_model().objects.all()
}
"""


class Replica(RedisServer):
    """A Redis that follows another."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self.master = master

    def command(self) -> list[str]:
        return [*super().command(), "--replicaof", f"127.0.0.1 {self.master.port}", "--repl-diskless-sync-delay", "0"]

    def follows(self) -> bool:
        with self.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")


class Sentinel(RedisServer):
    """One Redis Sentinel, which alone decides."""

    name = "sentinel"

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self.configuration = self.directory / "sentinel.conf"
        self.configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 5000\n"
        )

    def command(self) -> list[str]:
        return [program("redis-server"), str(self.configuration), "--sentinel"]

    def master(self) -> int:
        """Return the port of the master."""
        with self.client() as client:
            return int(client.sentinel_get_master_addr_by_name("mymaster")[1])

    def knows_replica(self) -> bool:
        with self.client() as client:
            return len(client.sentinel_slaves("mymaster")) == 1


class Titles:
    """Streams, by any name, each of which expects the titles of notifications in order, and no other."""

    def __init__(self, site: Site, worker: Worker) -> None:
        self.site = site
        self.worker = worker
        self.streams: dict[str, Client] = {}

    async def open(self, key: str, server: AsgiServer, user: str) -> None:
        self.streams[key] = await connect("sse", Network(server.url), self.site.sessions[user])

    async def notify(self, title: str, *users: str) -> None:
        await asyncio.to_thread(self.worker.run, NOTIFY, title=title, names=list(users))

    async def expect(self, title: str, *keys: str, within: float = LIVE) -> None:
        async with asyncio.timeout(within):
            for key in keys:
                event = await self.streams[key].next()
                assert (event.type, event.data["title"]) == ("notification", title), key

    async def close(self) -> None:
        for stream in self.streams.values():
            await stream.close()


async def until_logged(server: AsgiServer, text: str, times: int = 1) -> None:
    await asyncio.to_thread(wait_until, lambda: server.log.count(text) >= times, PATIENCE, what=text)


@pytest.mark.parametrize("broken", ["killed", "frozen"])
async def test_one_of_two_hosts_away_is_a_delay_for_its_own_topics_only(make_site: MakeSite, broken: str) -> None:
    async with AsyncExitStack() as stack:
        hosts = [stack.enter_context(RedisServer()) for _ in range(2)]
        url = ",".join(host.url for host in hosts)
        site = make_site(
            "postgresql", redis=url, app="tests.impatient:application", DJANGO_SETTINGS_MODULE="tests.impatient"
        )
        await asyncio.to_thread(site.create_users, [f"user{number}" for number in range(12)])
        worker = stack.enter_context(site.worker())
        of_host: dict[int, list[str]] = {0: [], 1: []}
        for name, host in worker.run(HOSTS).items():
            of_host[host].append(name)
        lost, kept, later = of_host[0][0], of_host[1][0], of_host[1][1]
        live = stack.enter_context(site.server("uvicorn", SAFETY_INTERVAL=NEVER))
        polling = stack.enter_context(site.server("daphne", SAFETY_INTERVAL="1"))
        titles = Titles(site, worker)
        stack.push_async_callback(titles.close)
        for name in (lost, kept):
            await titles.open(f"{name} live", live, name)
            await titles.open(f"{name} polling", polling, name)
        everybody = list(titles.streams)
        await titles.notify("both hosts", lost, kept)
        await titles.expect("both hosts", *everybody)

        (hosts[0].kill if broken == "killed" else hosts[0].pause)()
        await titles.notify("one host", lost, kept)
        await titles.expect("one host", f"{kept} live", f"{kept} polling")
        await titles.expect("one host", f"{lost} polling", within=PATIENCE)
        await until_logged(live, "is away")
        # Nor is it a delay once the link has been found broken, and is being made anew again and again.
        for number in range(6):
            await titles.notify(f"still one {number}", kept)
            await titles.expect(f"still one {number}", f"{kept} live")
            await asyncio.sleep(0.5)
        await titles.open("later", live, later)
        await titles.notify("to who came meanwhile", later)
        await titles.expect("to who came meanwhile", "later")

        (hosts[0].start if broken == "killed" else hosts[0].resume)()
        await until_logged(live, "is back")
        await titles.expect("one host", f"{lost} live", within=PATIENCE)
        await until_logged(polling, "is back")
        await titles.notify("both again", lost, kept, later)
        await titles.expect("both again", f"{lost} live", f"{kept} live", "later", f"{lost} polling")


async def test_failover_by_sentinel_loses_nothing(make_site: MakeSite) -> None:
    async with AsyncExitStack() as stack:
        master = stack.enter_context(RedisServer())
        replica = stack.enter_context(Replica(master))
        await asyncio.to_thread(wait_until, replica.follows, what="the replica")
        sentinel = stack.enter_context(Sentinel(master))
        await asyncio.to_thread(wait_until, sentinel.knows_replica, PATIENCE, what="the sentinel")
        site = make_site(
            "postgresql",
            app="tests.impatient:application",
            DJANGO_SETTINGS_MODULE="tests.impatient",
            SENTINEL=f"127.0.0.1:{sentinel.port}",
        )
        worker = stack.enter_context(site.worker())
        titles = Titles(site, worker)
        stack.push_async_callback(titles.close)
        live = stack.enter_context(site.server("uvicorn", SAFETY_INTERVAL=NEVER))
        polling = stack.enter_context(site.server("daphne", SAFETY_INTERVAL="1"))
        await titles.open("live", live, "alice")
        await titles.open("polling", polling, "alice")
        await titles.notify("by the master", "alice")
        await titles.expect("by the master", "live", "polling")
        assert master.calls("publish") > 0

        master.kill()
        await titles.notify("by nobody", "alice")
        await titles.expect("by nobody", "polling", within=PATIENCE)
        await until_logged(live, "is back")
        assert sentinel.master() == replica.port
        await titles.expect("by nobody", "live", within=PATIENCE)
        await until_logged(polling, "is back")
        await titles.notify("by the replica", "alice")
        await titles.expect("by the replica", "live", "polling")
        assert replica.calls("publish") > 0
