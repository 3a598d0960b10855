"""Clients that behave like the one in the browser, by the hundred, in a process of their own.

Each resumes from its cursor, waits as ``bye``, ``Retry-After`` or a jittered backoff say, reopens a connection that has
gone quiet, acknowledges on WebSockets, drops what it has applied already, fetches the inbox again on ``reset``, and
keeps a record of all that for the oracle. :class:`Farm` is the test's end of the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import IO, Any, Self, cast

from tests.faults.wire import Closed, Event, EventStream, Refused, WebSocket, request

__all__ = ["Client", "Farm"]

STREAM = "/notifications/stream/"
SOCKET = "/ws/notifications/"
INBOX = "/notifications/?format=json&limit=100"

#: As in the browser client: seconds, seconds, bytes.
BACKOFF, BACKOFF_CAP, STEADY = 1.0, 30.0, 5.0
ACK_SECONDS, ACK_BYTES = 1.0, 65_536


@dataclass(eq=False)
class Client:
    """One client and all that happened to it.

    :ivar servers: addresses, of which it takes another one after each connection that ended; one: always that one.
    :ivar ready_within: seconds it waits for ``ready`` before it tries again.
    :ivar receive_buffer: bytes the system may keep for it (0: as usual).
    :ivar pace: bytes a second that it reads; 0: as fast as it can.
    """

    name: str
    user: str
    cookie: str
    transport: str
    servers: list[tuple[str, int]]
    cursor: str = ""
    ready_within: float = 10.0
    receive_buffer: int = 0
    pace: float = 0.0
    server: int = 0
    moving: int = -1

    state: str = "new"
    connection: Any = None
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    #: (time, server) of each ``ready``; (time, reason, asked wait in seconds or None) of each end.
    opened: list[tuple[float, int]] = field(default_factory=list)
    ended: list[tuple[float, str, float | None]] = field(default_factory=list)
    #: By topic: (number, the publisher's own number) in the order applied.
    applied: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    #: (time received, seconds since it was published).
    latencies: list[tuple[float, float]] = field(default_factory=list)
    resets: list[tuple[float, str, str]] = field(default_factory=list)
    #: Ids of notifications in this client's list: from events, and from the inbox after a reset.
    known: set[int] = field(default_factory=set)
    duplicates: int = 0
    gaps: list[tuple[str, int, int]] = field(default_factory=list)
    first_cursor: str = ""
    heartbeat: float = 15.0
    stopping: bool = False

    async def run(self) -> None:
        """Stay connected until :meth:`stop`."""
        attempt = 0
        self.reading.set()
        while not self.stopping:
            began = time.time()
            opened = len(self.opened)
            self.state = "connecting"
            reason, wait = await self._connection()
            now = time.time()
            self.ended.append((now, reason, wait))
            if reason in ("revoked", "HTTP 401", "HTTP 403", "closed 4400", "closed 4401", "closed 4403"):
                self.state = "stopped"
                return
            if len(self.opened) > opened and now - self.opened[-1][0] >= STEADY:
                attempt = 0
            if self.moving >= 0:
                self.server, self.moving, wait = self.moving, -1, 0.0
                continue
            if wait is None:
                wait = random.random() * min(BACKOFF_CAP, BACKOFF * 2**attempt)
                attempt += 1
            self.state = "waiting"
            if len(self.servers) > 1:
                self.server = random.choice([n for n in range(len(self.servers)) if n != self.server])
            await asyncio.sleep(max(wait, 0.01 if now - began < 0.01 else 0))
        self.state = "stopped"

    def stop(self) -> None:
        self.stopping = True
        if self.connection is not None:
            self.connection.close()

    async def _connection(self) -> tuple[str, float | None]:
        """One connection, to its end; return why it ended and for how long the server asked to stay away."""
        try:
            async with asyncio.timeout(self.ready_within):
                way: type[EventStream | WebSocket] = EventStream if self.transport == "sse" else WebSocket
                path = STREAM if self.transport == "sse" else SOCKET
                self.connection = await way.open(
                    self.servers[self.server],
                    path,
                    cookie=self.cookie,
                    cursor=self.cursor,
                    receive_buffer=self.receive_buffer,
                )
            return await self._read()
        except Refused as refusal:
            return f"HTTP {refusal.status}", refusal.retry_after
        except Closed as closed:
            return f"closed {closed.code}" if closed.code else "broken off", None
        except TimeoutError:
            return "silent", None
        except OSError as error:
            return type(error).__name__, None
        finally:
            if self.connection is not None:
                self.connection.close()
                self.connection = None

    async def _read(self) -> tuple[str, float | None]:
        loop = asyncio.get_running_loop()
        acked, unacked = loop.time(), 0
        stale = loop.call_later(self.ready_within, self._stale)
        quiet = False
        try:
            async for event in self.connection.events():
                stale.cancel()
                stale = loop.call_later(3 * self.heartbeat, self._stale)
                if event.type == "bye":
                    retry = event.data["retry"]
                    return event.data["reason"], None if retry is None else retry / 1000
                if event.type == "error":
                    continue
                await self._apply(event)
                unacked += event.size
                if self.transport == "websocket" and (unacked >= ACK_BYTES or loop.time() - acked >= ACK_SECONDS):
                    self.connection.send({"type": "ack", "cursor": self.cursor})
                    acked, unacked = loop.time(), 0
                if self.pace:
                    stale.cancel()
                    await asyncio.sleep(event.size / self.pace)
                if not self.reading.is_set():
                    stale.cancel()
                    await self.reading.wait()
            return "end", None
        except Closed:
            quiet = stale.when() <= loop.time() and not stale.cancelled()
            if quiet:
                return "stale", 0.0
            raise
        finally:
            stale.cancel()

    def _stale(self) -> None:
        if self.connection is not None:
            self.connection.writer.transport.abort()

    async def _apply(self, event: Event) -> None:
        if event.cursor:
            self.cursor = event.cursor
        data = event.data
        if event.type == "ready":
            self.heartbeat = data["heartbeat"] / 1000
            self.first_cursor = self.first_cursor or event.cursor
            self.opened.append((time.time(), self.server))
            self.state = "open"
        elif event.type == "reset":
            self.resets.append((time.time(), data["topic"], data["reason"]))
            if data["topic"] == "*":
                self.positions.clear()
            else:
                self.positions.pop(data["topic"], None)
            await self._fetch_inbox()
        elif "seq" in data:
            topic, seq = data["topic"], data["seq"]
            position = self.positions.get(topic)
            if position is not None and seq <= position:
                self.duplicates += 1
                return
            if position is not None and seq != position + 1:
                self.gaps.append((topic, position, seq))
            self.positions[topic] = seq
            inner = data.get("data") or data
            self.applied.setdefault(topic, []).append((seq, inner.get("n", "")))
            if "at" in inner:
                now = time.time()
                self.latencies.append((now, now - inner["at"]))
            if event.type == "notification":
                self.known.add(data["id"])

    async def _fetch_inbox(self) -> None:
        """The list as the server has it; tried until it answers, as a page would show what it had until then."""
        for _ in range(60):
            for address in self.servers:
                with suppress(Exception):
                    known: set[int] = set()
                    path: str | None = INBOX
                    while path:
                        status, _headers, body = await request(address, path, cookie=self.cookie, seconds=10)
                        if status != 200:
                            raise Refused(status, {}, body)
                        answer = json.loads(body)
                        known |= {row["id"] for row in answer["results"]}
                        path = answer["next"]
                        if path and "://" in path:
                            path = "/" + path.split("://", 1)[1].split("/", 1)[1]
                    self.known = known
                    return
            await asyncio.sleep(0.5)


class FarmProcess:
    """The other end of :class:`Farm`."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, clients: list[dict[str, Any]], spread: float = 0.0) -> None:
        for index, specification in enumerate(clients):
            specification["servers"] = [tuple(server) for server in specification["servers"]]
            client = Client(**specification)
            self.clients[client.name] = client
            self.tasks[client.name] = asyncio.create_task(self.begin(client, spread * index / len(clients)))

    async def begin(self, client: Client, delay: float) -> None:
        await asyncio.sleep(delay)
        await client.run()

    async def stop(self, names: list[str] | None = None) -> None:
        for name in names or list(self.clients):
            self.clients[name].stop()
            self.tasks[name].cancel()
            with suppress(asyncio.CancelledError):
                await self.tasks[name]

    async def forget(self, names: list[str] | None = None) -> None:
        """Stop clients and drop what is known of them."""
        names = names or list(self.clients)
        await self.stop(names)
        for name in names:
            del self.clients[name], self.tasks[name]

    def resume(self, servers: list[tuple[str, int]] | None = None, spread: float = 0.0) -> None:
        """Let all stopped clients come back from their cursors."""
        clients = [client for client in self.clients.values() if self.tasks[client.name].done()]
        for index, client in enumerate(clients):
            client.stopping = False
            client.servers = servers or client.servers
            client.server %= len(client.servers)
            self.tasks[client.name] = asyncio.create_task(self.begin(client, spread * index / len(clients)))

    def redial(self) -> int:
        """Let all clients lose their connections and come back in the same moment; return how many there are."""
        for client in self.clients.values():
            if client.connection is not None:
                client.moving = client.server
                client.connection.writer.transport.abort()
        return len(self.clients)

    def pace(self, names: list[str], pace: float) -> None:
        """Let clients read so many bytes a second from their next event on; 0: all they get."""
        for name in names:
            self.clients[name].pace = pace

    def read(self, names: list[str], reading: bool) -> None:
        """Let clients stop reading, or read again."""
        for name in names:
            (self.clients[name].reading.set if reading else self.clients[name].reading.clear)()

    def spread(self) -> None:
        """Put the clients on all servers in equal numbers again; those that have to move reconnect at once."""
        for index, client in enumerate(self.clients.values()):
            server = index % len(client.servers)
            if client.server != server and client.connection is not None:
                client.server = client.moving = server
                client.connection.close()

    def gather(self, server: int) -> None:
        """Put all clients on one server."""
        for client in self.clients.values():
            if client.server != server and client.connection is not None:
                client.moving = server
                client.connection.close()

    async def churn(self, seconds: float, rate: float) -> int:
        """Let clients come and go, ``rate`` a second, one after the other; return how many came back."""
        loop = asyncio.get_running_loop()
        end, before = loop.time() + seconds, sum(len(client.opened) for client in self.clients.values())
        clients = list(self.clients.values())
        random.shuffle(clients)
        for client in itertools.cycle(clients):
            if loop.time() > end:
                break
            await asyncio.sleep(1 / rate)
            if client.connection is not None and client.state == "open":
                client.moving = random.randrange(len(client.servers))
                client.connection.close()
        return sum(len(client.opened) for client in clients) - before

    def status(self) -> dict[str, Any]:
        clients = self.clients.values()
        states = [client.state for client in clients]
        return {
            "states": {state: states.count(state) for state in set(states)},
            "applied": sum(len(numbers) for client in clients for numbers in client.applied.values()),
            "behind": {},
        }

    def cursors(self) -> dict[str, str]:
        """Return where each client is."""
        return {client.name: client.cursor for client in self.clients.values()}

    def record(self, names: list[str] | None = None) -> list[dict[str, Any]]:
        return [
            {
                "name": client.name,
                "user": client.user,
                "transport": client.transport,
                "state": client.state,
                "cursor": client.cursor,
                "first_cursor": client.first_cursor,
                "opened": client.opened,
                "ended": client.ended,
                "applied": client.applied,
                "latencies": client.latencies,
                "resets": client.resets,
                "known": sorted(client.known),
                "duplicates": client.duplicates,
                "gaps": client.gaps,
            }
            for client in self.clients.values()
            if names is None or client.name in names
        ]

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            try:
                result = getattr(self, command["do"])(**command["with"])
                if asyncio.iscoroutine(result):
                    result = await result
                answer: dict[str, Any] = {"result": result}
            except Exception as error:
                answer = {"error": repr(error)}
            # By a file: a pipe would block the loop, and with it all clients, until the test has read.
            with NamedTemporaryFile("w", dir=command["directory"], suffix=".json", delete=False) as file:
                json.dump(answer, file)
            print(file.name, flush=True)
        await self.stop()


class Farm:
    """A process full of clients; each public method of :class:`FarmProcess` is one of this."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = itertools.count()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.clients"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def call(self, do: str, **arguments: Any) -> Any:
        stdin, stdout = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        message = {"do": do, "with": arguments, "directory": str(self.directory)}
        stdin.write(json.dumps(message).encode() + b"\n")
        stdin.flush()
        name = stdout.readline().decode().strip()
        if not name:
            raise RuntimeError(f"the clients' process ended with {self.process.wait()}")
        file = Path(name)
        answer = json.loads(file.read_text())
        file.unlink()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        cast(IO[bytes], self.process.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        cast(IO[bytes], self.process.stdout).close()


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    if os.environ.get("FAULTS_SEED"):
        random.seed(os.environ["FAULTS_SEED"])
    asyncio.run(FarmProcess().serve())


if __name__ == "__main__":
    main()
