"""Several server processes behind nginx, and what each part of the site uses for each thing that happens.

nginx has the configuration of the docs. Servers and nginx may run on any core, as on a machine of a site; two cores can
not show that four processes are faster than one, so what counts is CPU per delivery, and the load of the databases.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.servers import NginxServer

from .measure import Backstage, Run
from .processes import MeasuredServer, children, cpu, family_cpu, memory
from .targets import UVICORN, Target, ours

__all__ = ["CLIENTS", "PARTS", "PROCESSES", "scale"]

PROCESSES = (1, 2, 4)
CLIENTS = 1000
#: Of the clients, those who come one after the other, as on an ordinary day; the others come all at once.
SINGLE = 50
#: The parts of a site whose CPU is measured.
PARTS = ("servers", "nginx", "Redis", "PostgreSQL")
#: Seconds of idleness: four heartbeats of each connection, and as a rule everybody's rights are looked at once.
IDLE = 60.0
#: So few connections are idle before the others come: what one adds is told from what a process uses anyway.
FEW = 50


class Process(MeasuredServer):
    """One server process, on any core."""

    cores = f"0-{(os.cpu_count() or 1) - 1}"

    def connections(self) -> int:
        """Return how many established connections its port has."""
        port, rows = f":{self.port:04X}", Path("/proc/net/tcp").read_text().splitlines()[1:]
        return sum(row.split()[1].endswith(port) and row.split()[3] == "01" for row in rows)


class Nginx(NginxServer):
    """nginx as Debian runs it, with a process for each core."""

    def __init__(self, behind: list[int]) -> None:
        super().__init__(behind, workers=os.cpu_count() or 1, tls=True)

    def command(self) -> list[str]:
        return ["taskset", "--cpu-list", Process.cores, *super().command()]


class Cluster:
    """Server processes and the nginx before them; to a :class:`Run` it is a server."""

    def __init__(
        self, command: list[str], environment: dict[str, str], count: int, stack: ExitStack, tls: bool
    ) -> None:
        self.servers = [stack.enter_context(Process(command, environment)) for _ in range(count)]
        self.nginx = stack.enter_context(Nginx([server.port for server in self.servers]))
        self.port = self.nginx.tls_port if tls else self.nginx.port

    def cpu(self) -> float:
        return sum(server.cpu() for server in self.servers)

    def memory(self) -> int:
        return sum(server.memory() for server in self.servers)

    def descriptors(self) -> int:
        return sum(server.descriptors() for server in self.servers)

    def nginx_cpu(self) -> float:
        return sum(map(cpu, self._nginx_processes()))

    def nginx_memory(self) -> int:
        return sum(map(memory, self._nginx_processes()))

    def _nginx_processes(self) -> list[int]:
        return [self.nginx.pid, *children(self.nginx.pid)]


class Meter:
    """What each part of the site has used since the last :meth:`start`."""

    def __init__(self, backstage: Backstage, cluster: Cluster) -> None:
        self.backstage = backstage
        redis, postgres = backstage.redis.pid, backstage.postgres.pid
        self.parts: dict[str, Callable[[], float]] = {
            "servers": cluster.cpu,
            "nginx": cluster.nginx_cpu,
            "Redis": lambda: cpu(redis),
            "PostgreSQL": lambda: family_cpu(postgres),
        }

    def start(self) -> None:
        # To ask costs something, too: not within what is measured.
        self.counted = self._counted()
        self.used = {name: read() for name, read in self.parts.items()}
        self.started = time.monotonic()

    def read(self, name: str, count: float) -> dict[str, float]:
        """Return what was used for each of ``count`` things that are called ``name``; CPU in microseconds."""
        self.seconds = time.monotonic() - self.started
        used = {part: read() - self.used[part] for part, read in self.parts.items()}
        counted = {what: number - self.counted[what] for what, number in self._counted().items()}
        result = {f"{name}: CPU us, {part}": seconds / count * 1e6 for part, seconds in used.items()}
        return result | {f"{name}: {what}": number / count for what, number in counted.items()}

    def _counted(self) -> dict[str, int]:
        return {"Redis commands": self.backstage.redis_commands(), "queries": self.backstage.server_queries()}


class ScaledRun(Run):
    """So many processes of our server behind nginx, from start to end."""

    def __init__(self, backstage: Backstage, target: Target, processes: int, *, http2: bool) -> None:
        super().__init__(backstage, target, CLIENTS)
        self.processes = processes
        self.http2 = http2
        if http2:
            self.load_command = [sys.executable, "-m", "benchmarks.load_h2"]

    def __call__(self, *, everything: bool, seconds: float = 4.0) -> dict[str, Any]:
        """Return the figures; ``everything`` includes what an idle site uses, which takes two minutes."""
        backstage = self.backstage
        with ExitStack() as stack:
            command, environment = self.target.command, backstage.environment("postgres")
            self.cluster = Cluster(command, environment, self.processes, stack, self.http2)
            self.server: Any = self.cluster
            self.meter = Meter(backstage, self.cluster)
            self.publisher = stack.enter_context(backstage.publisher(self.target.publisher))
            result: dict[str, Any] = {}
            with self._clients(FEW) as self.load:
                self._warm_up()
                if everything:
                    self._connected(FEW, FEW)
                    result |= self._idle_parts("few idle") | {"few": FEW}
            self.load = stack.enter_context(self._clients(self.size))
            result |= self._connect()
            if everything:
                result |= self._idle_parts("idle")
            result |= self._measured("delivery", self._one_in_flight, seconds)
            result |= self._measured("burst", self._throughput, seconds)
            result |= self._measured("direct", self._directs, 3)
            return result | {"wrong": self.wrong}

    def _connect(self) -> dict[str, Any]:
        memory, nginx_memory = self.cluster.memory(), self.cluster.nginx_memory()
        at_once = self.size - SINGLE
        self.meter.start()
        answer = self._connected(at_once, at_once)
        result: dict[str, Any] = {"connect s": answer["seconds"]} | self.meter.read("connect at once", at_once)
        self.meter.start()
        self._connected(self.size, 1)
        result |= self.meter.read("connect", SINGLE)
        self.load.ask("base", self.number + 1)
        self._publish_and_wait()
        time.sleep(2.0)
        spread = [server.connections() for server in self.cluster.servers]
        return result | {
            "fewest": min(spread),
            "most": max(spread),
            "KiB per connection": (self.cluster.memory() - memory) / self.size / 1024,
            "KiB per connection, nginx": (self.cluster.nginx_memory() - nginx_memory) / self.size / 1024,
            "MiB per process": memory / self.processes / 2**20,
        }

    def _idle_parts(self, name: str) -> dict[str, float]:
        time.sleep(2.0)
        self.meter.start()
        time.sleep(IDLE)
        return self.meter.read(name, IDLE)

    def _connected(self, count: int, at_once: int) -> dict[str, Any]:
        answer: dict[str, Any] = self.load.ask("connect", count, at_once, timeout=180)
        if answer["failed"]:
            raise RuntimeError(f"{answer['failed']} of {count} connections failed: {answer['failure']}")
        return answer

    def _measured(self, name: str, part: Callable[..., dict[str, Any]], length: float) -> dict[str, Any]:
        first = self.number
        self.meter.start()
        result = part(length)
        count = self.number - first
        return result | self.meter.read(name, count * self.size) | {f"{name}: messages": count}

    def _directs(self, rounds: float) -> dict[str, Any]:
        self.load.ask("reset")
        for _ in range(int(rounds)):
            self.number += 1
            self.publisher.tell("direct", self.number, self.size)
            self.load.wait_all(self.number)
            self.publisher.read()
        self._check(int(rounds))
        return {}


def scale(backstage: Backstage, seconds: float, tell: Callable[[str, int, dict[str, Any]], None]) -> dict[str, Any]:
    """Return the figures of each transport and number of processes; ``tell`` is called with each as it comes."""
    sse, sockets = ours("uvicorn", UVICORN)
    transports = {"SSE, HTTP/1.1": sse, "SSE, HTTP/2": sse, "WebSocket": sockets}
    results: dict[str, Any] = {}
    for name, target in transports.items():
        for count in PROCESSES:
            run = ScaledRun(backstage, target, count, http2=name.endswith("2"))
            idle = not run.http2 and count == 1
            try:
                figures = run(everything=idle, seconds=seconds)
            except Exception as error:
                figures = {"error": f"{type(error).__name__}: {error}"}
            results.setdefault(name, {})[str(count)] = figures
            tell(name, count, figures)
    return results
