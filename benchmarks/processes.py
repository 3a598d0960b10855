"""The processes of a run: servers pinned to one core; databases, load and publishers on the others."""

from __future__ import annotations

import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.servers import ROOT, PostgresServer, Server

#: What is measured runs alone on this core.
SERVER_CORE = 0


def leave_server_core() -> None:
    """Keep this process, and all that it starts, off the servers' core.

    :raises SystemExit: on a machine with one core, where nothing could be told from anything.
    """
    others = os.sched_getaffinity(0) - {SERVER_CORE}
    if not others:
        sys.exit("the benchmark needs two cores: one for the server, one for everything else")
    os.sched_setaffinity(0, others)


def compiled(source: str, directory: Path) -> Path:
    """Compile ``source`` of this directory with gcc, if it is newer than what was compiled before."""
    path, program = Path(__file__).parent / source, directory / Path(source).stem
    if not program.exists() or program.stat().st_mtime < path.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(path)], check=True)
    return program


def cpu(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used, those that have ended included."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of the process, see clock_getcpuclockid(3).


class Stolen:
    """How much of the time in which the processors had work, other guests of the machine took since this was made.

    ``steal`` in proc(5). What it is a part of does not include idle time, in which nothing can be taken.
    """

    def __init__(self) -> None:
        self._at = self._ticks()

    def percent(self) -> float:
        """Return it as a percentage; 0 where the kernel does not tell."""
        user, nice, system, _, _, irq, softirq, steal = (
            now - then for now, then in zip(self._ticks(), self._at, strict=True)
        )
        wanted = user + nice + system + irq + softirq + steal
        return 100 * steal / wanted if wanted else 0.0

    @staticmethod
    def _ticks(path: Path = Path("/proc/stat")) -> list[int]:
        # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted as user time, too.
        return [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family_cpu(pid: int) -> float:
    """Return the CPU seconds of a process and its children, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = cpu(pid) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    for child in children(pid):
        with suppress(OSError):  # It has ended in this moment.
            total += cpu(child)
    return total


class Database(PostgresServer):
    """A PostgreSQL that counts statements, those of servers (user postgres) apart from those of publishers."""

    def command(self) -> list[str]:
        settings = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_utility=off")
        return [*super().command(), *(word for setting in settings for word in ("-c", setting))]

    def start(self, timeout: float = 30.0) -> None:
        super().start(timeout)
        with self.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            connection.execute("CREATE ROLE publisher SUPERUSER LOGIN")

    def queries(self, database: str, user: str) -> int:
        """Return how many statements ``user`` has executed in ``database``."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
                " WHERE d.datname = %s AND pg_get_userbyid(s.userid) = %s",
                [database, user],
            ).fetchone()
        return int(row[0]) if row else 0


class MeasuredServer(Server):
    """A server under measurement, on its core."""

    name = "measured"
    scheme = "http"
    working_directory = ROOT
    cores = str(SERVER_CORE)

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        super().__init__()
        self.words = command
        self.env = env

    def command(self) -> list[str]:
        words = [word.replace("{port}", str(self.port)) for word in self.words]
        return ["taskset", "--cpu-list", self.cores, *words]

    def environment(self) -> dict[str, str]:
        return os.environ | self.env

    def cpu(self) -> float:
        return cpu(self.pid)

    def memory(self) -> int:
        """Return the resident memory, in bytes."""
        return memory(self.pid)

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Lines:
    """A child that takes lines on stdin and answers with lines of JSON."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        self.output, self.input = self.process.stdout, self.process.stdin
        self.buffer = b""

    def tell(self, *words: object) -> None:
        self.input.write(" ".join(map(str, words)).encode() + b"\n")
        self.input.flush()

    def read(self, timeout: float = 60.0) -> Any:
        """Return the next answer.

        :raises TimeoutError: if there is none in time. :raises EOFError: if the process has ended.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            if not select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {timeout:g} s")
            data = os.read(self.output.fileno(), 65536)
            if not data:
                raise EOFError("the process has ended")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def ask(self, *words: object, timeout: float = 60.0) -> Any:
        self.tell(*words)
        return self.read(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.input.close()
        self.output.close()


class Load(Lines):
    """The clients, see ``load.c``; ``command`` is what runs it."""

    def __init__(self, command: Sequence[str], port: int, protocol: str, ready: str, requests: Iterable[bytes]) -> None:
        self.directory = tempfile.mkdtemp(prefix="load-")
        path = Path(self.directory) / "requests"
        path.write_bytes(b"".join(struct.pack("<I", len(request)) + request for request in requests))
        self.received = -1
        super().__init__([*command, str(port), protocol, ready, str(path)])

    def read(self, timeout: float = 60.0) -> Any:
        answer = super().read(timeout)
        while "all" in answer:
            self.received = answer["all"]
            answer = super().read(timeout)
        return answer

    def wait_all(self, number: int, timeout: float = 60.0) -> None:
        """Return when every client has message ``number``.

        :raises TimeoutError: if one of them does not get it; with what was counted.
        """
        try:
            while self.received < number:
                self.received = Lines.read(self, timeout)["all"]
        except TimeoutError:
            raise TimeoutError(f"message {number} has not reached everybody: {self.ask('stats')}") from None

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        shutil.rmtree(self.directory, ignore_errors=True)
