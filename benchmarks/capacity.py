"""A capacity model: what so many connected users need, by what was measured; a table of docs/operate.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["USERS", "Costs", "Need", "capacity", "need"]

USERS = (10_000, 100_000, 1_000_000)
#: What is assumed of each connected user and hour; and of the site: broadcasts to everybody.
PAGES, DIRECT, BROADCASTS = 30, 6, 12
#: Seconds after which a stream ends and returns, and how many a process takes (settings, by default).
LIFETIME, STREAMS = 600.0, 10_000
#: How much of a core a process may use, so that it is not late when more comes at once.
BUSY = 0.5
#: What one of these has: Redis works on one core; PostgreSQL on a machine of its own, with its default of connections.
#: A process holds that many for its streams; while many connect, it has REQUEST_THREADS more for some seconds.
REDIS_CORES, DATABASE_CORES, DATABASE_CONNECTIONS, CONNECTIONS_PER_PROCESS = 1, 8, 100, 4
#: Queries of one ``notify()``.
NOTIFY_QUERIES = 6
PARTS = ("servers", "nginx", "Redis", "PostgreSQL")


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU of each part for one thing that happens, and what else one of them takes.

    :ivar connect: somebody connects; ``at_once``: when many do in the same moment.
    :ivar direct: a message to one user.
    :ivar delivery: of a broadcast, to one client; ``broadcast``: the rest of it; ``listener``: that for each process.
    :ivar idle: a second of a connection.
    :ivar process: a second of a process.
    """

    connect: dict[str, float]
    at_once: dict[str, float]
    direct: dict[str, float]
    delivery: dict[str, float]
    broadcast: dict[str, float]
    listener: dict[str, float]
    idle: dict[str, float]
    process: dict[str, float]
    connect_commands: float
    connect_queries: float
    process_commands: float
    process_queries: float
    idle_queries: float
    server_bytes: float
    process_bytes: float
    nginx_bytes: float

    @classmethod
    def measured(cls, results: dict[str, Any]) -> Costs | None:
        """Return what the run says of event streams with one and with most processes; None if it does not."""
        found = results.get("scale", {}).get("SSE, HTTP/1.1", {})
        counts = sorted(map(int, found))
        if not counts:
            return None
        one, many, more = found[str(counts[0])], found[str(counts[-1])], counts[-1] - counts[0]
        if "few idle: queries" not in one or "delivery: queries" not in many or not more:
            return None
        clients, handful = int(one["most"]), int(one["few"])

        def of(name: str, figures: dict[str, Any] = one, times: float = 1.0) -> dict[str, float]:
            return {part: figures[f"{name}: CPU us, {part}"] * times / 1e6 for part in PARTS}

        def per_process(name: str, times: float = 1.0) -> dict[str, float]:
            """What each further process adds."""
            first, last = of(name, one, times), of(name, many, times)
            return {part: max(0.0, last[part] - first[part]) / more for part in PARTS}

        delivery, listener, few = of("delivery"), per_process("delivery", clients), of("few idle")
        # A process is the same with few connections and with many: what is more is theirs.
        idle = {part: max(0.0, used - few[part]) / (clients - handful) for part, used in of("idle").items()}
        # A broadcast costs the databases the same for any number of clients, servers and nginx so much for each client.
        once = {part: delivery[part] * clients if part in PARTS[2:] else 0.0 for part in PARTS}
        return cls(
            connect=of("connect"),
            at_once=of("connect at once"),
            direct={part: of("direct")[part] if part in PARTS[:3] else once[part] for part in PARTS},
            delivery={part: 0.0 if part in PARTS[2:] else delivery[part] for part in PARTS},
            broadcast={part: max(0.0, once[part] - listener[part]) for part in PARTS},
            listener={part: listener[part] if part == "Redis" else 0.0 for part in PARTS},
            idle=idle,
            process={part: max(0.0, few[part] - handful * idle[part]) for part in PARTS},
            connect_commands=one["connect: Redis commands"],
            connect_queries=one["connect: queries"],
            process_commands=one["few idle: Redis commands"],
            process_queries=one["few idle: queries"],
            idle_queries=max(0.0, one["idle: queries"] - one["few idle: queries"]) / (clients - handful),
            server_bytes=one["KiB per connection"] * 1024,
            process_bytes=one["MiB per process"] * 2**20,
            nginx_bytes=one["KiB per connection, nginx"] * 1024,
        )


@dataclass(frozen=True)
class Need:
    """What so many users need; CPU in cores, that is in seconds each second."""

    users: int
    connects: float
    direct: float
    deliveries: float
    processes: int
    cores: dict[str, float]
    of_servers: dict[str, float]
    server_bytes: float
    nginx_bytes: float
    commands: float
    queries: float
    everybody: float
    storm: float

    def breaks(self) -> list[tuple[str, float]]:
        """Return what can not just be given another process, and how much of one it uses; the fullest first."""
        shares = {
            "Redis (a core)": self.cores["Redis"] / REDIS_CORES,
            f"PostgreSQL's CPU ({DATABASE_CORES} cores)": self.cores["PostgreSQL"] / DATABASE_CORES,
            f"PostgreSQL's connections ({DATABASE_CONNECTIONS})": self.processes
            * CONNECTIONS_PER_PROCESS
            / DATABASE_CONNECTIONS,
        }
        return sorted(shares.items(), key=lambda share: -share[1])


def need(costs: Costs, users: int) -> Need:
    """Calculate what ``users`` connected users need."""
    connects = users * (1 / LIFETIME + PAGES / 3600)
    direct, broadcasts = users * DIRECT / 3600, BROADCASTS / 3600
    deliveries = direct + users * broadcasts

    def parts_of(part: str) -> dict[str, float]:
        return {
            "connecting": connects * costs.connect[part],
            "idle connections": users * costs.idle[part],
            "direct messages": direct * costs.direct[part],
            "broadcasts": broadcasts * (users * costs.delivery[part] + costs.broadcast[part]),
        }

    of_servers = parts_of("servers")
    # Each process has something to do of its own: what it has left is for clients.
    own = min(costs.process["servers"], BUSY / 2)
    processes = max(1, math.ceil(sum(of_servers.values()) / (BUSY - own)), math.ceil(users / STREAMS))
    cores = {
        part: sum(parts_of(part).values()) + processes * (costs.process[part] + broadcasts * costs.listener[part])
        for part in PARTS
    }
    return Need(
        users=users,
        connects=connects,
        direct=direct,
        deliveries=deliveries,
        processes=processes,
        cores=cores,
        of_servers=of_servers,
        server_bytes=processes * costs.process_bytes + users * costs.server_bytes,
        nginx_bytes=users * costs.nginx_bytes,
        commands=connects * costs.connect_commands + direct + broadcasts + processes * costs.process_commands,
        queries=connects * costs.connect_queries
        + (direct + broadcasts) * NOTIFY_QUERIES
        + processes * costs.process_queries
        + users * costs.idle_queries,
        everybody=users * costs.delivery["servers"] / processes,
        storm=users * costs.at_once["servers"] / processes,
    )


def number(value: float) -> str:
    """Return a number with two digits that count; more of them would not be true."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, digits)}f}"


def capacity(results: dict[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Return the header and the rows of the table; None if the run did not measure what it needs."""
    costs = Costs.measured(results)
    if costs is None:
        return None
    needs = [need(costs, users) for users in USERS]

    def row(title: str, *cells: str) -> list[str]:
        return [title, *cells]

    def numbers(title: str, *values: float) -> list[str]:
        return row(title, *map(number, values))

    rows = [
        numbers("connects a second", *(n.connects for n in needs)),
        numbers("direct messages a second", *(n.direct for n in needs)),
        numbers("deliveries a second, all in all", *(n.deliveries for n in needs)),
        row("**server processes**", *(f"**{n.processes:,}**" for n in needs)),
        numbers("server CPU, cores", *(n.cores["servers"] for n in needs)),
    ]
    for name in needs[0].of_servers:
        rows.append(numbers(f"– of it for {name}", *(n.of_servers[name] for n in needs)))
    rows += [
        numbers("server memory, GiB", *(n.server_bytes / 2**30 for n in needs)),
        numbers("nginx CPU, cores", *(n.cores["nginx"] for n in needs)),
        numbers("nginx memory, GiB", *(n.nginx_bytes / 2**30 for n in needs)),
        numbers("nginx's open files", *(2.0 * n.users for n in needs)),
        numbers("Redis commands a second", *(n.commands for n in needs)),
        numbers("Redis CPU, cores", *(n.cores["Redis"] for n in needs)),
        numbers("queries a second", *(n.queries for n in needs)),
        numbers("PostgreSQL CPU, cores", *(n.cores["PostgreSQL"] for n in needs)),
        row("PostgreSQL connections at most", *(f"{CONNECTIONS_PER_PROCESS * n.processes:,}" for n in needs)),
        numbers("a broadcast has reached everybody after, s", *(n.everybody for n in needs)),
        numbers("all have come back after a restart of all, s", *(n.storm for n in needs)),
        row(
            "**breaks first**",
            *(f"{name}: {number(share * 100)} % used" for name, share in (n.breaks()[0] for n in needs)),
        ),
        row("**then**", *(f"{name}: {number(share * 100)} %" for name, share in (n.breaks()[1] for n in needs))),
    ]
    return ["connected users", *(f"{users:,}" for users in USERS)], rows
