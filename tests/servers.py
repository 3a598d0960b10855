"""Real servers and sites for tests: Redis, PostgreSQL, daphne, uvicorn, each a process on a free loopback port.

Everything here is a context manager that leaves no process behind. ``python -m tests.servers postgres COMMAND …``
runs a command with ``DATABASE_URL`` naming a PostgreSQL that lives as long as the command.
"""

from __future__ import annotations

import glob
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

import psycopg
import redis
from psycopg import sql

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
#: Where Debian keeps server programs that are not on everybody's PATH; the newest PostgreSQL first.
PROGRAM_PATHS = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), "/usr/local/sbin", "/usr/sbin"]


def program(*names: str) -> str:
    """Return the path of the first of ``names`` that is installed.

    :raises FileNotFoundError: if none is; it names the command that installs them all.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *PROGRAM_PATHS])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise FileNotFoundError(f"{' or '.join(names)} is not installed; run .ci/system-packages")


def wait_until(condition: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T:
    """Return the first true value of ``condition()``, which is asked every 20 ms for ``timeout`` seconds.

    :raises TimeoutError: if it stays false; the text says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what or condition}")
        time.sleep(0.02)
    return value


def free_port() -> int:
    """Return a loopback port that nobody uses, below the range from which the kernel picks ports for connections."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server(ABC):
    """One server process, in a process group of its own; it keeps its port and its directory over restarts."""

    name: str
    scheme: str
    #: Where it runs; None is its own directory.
    working_directory: Path | None = None
    #: The account to run as; None is this process's own.
    user: str | None = None
    #: What asks it to stop soon, but in good order.
    stop: signal.Signals = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.output = self.directory / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line that serves on ``port``."""

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the process."""
        return os.environ

    def accepts(self) -> bool:
        """Return whether the server takes connections now."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written so far, to stdout and stderr."""
        return self.output.read_text(errors="replace")

    def start(self, timeout: float = 30.0) -> None:
        """Start the process and return when it takes connections.

        :raises RuntimeError: if it ends, or does not answer within ``timeout`` seconds; with its output.
        """
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.working_directory or self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        try:
            wait_until(lambda: self.accepts() or not self.running, timeout, what=self.name)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"{error}:\n{self.log}") from error
        if not self.running:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its port still accepts, nothing answers."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after :meth:`pause` (SIGCONT)."""
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL); :meth:`start` brings it back on the same port."""
        self.end(signal.SIGKILL)

    def terminate(self, timeout: float = 15.0) -> float:
        """Ask it to stop (SIGTERM; PostgreSQL: SIGINT, "fast") and return the seconds that took.

        :raises subprocess.TimeoutExpired: if it is still there after ``timeout`` seconds.
        """
        return self.end(self.stop, timeout)

    def interrupt(self, timeout: float = 15.0) -> float:
        """Like :meth:`terminate`, by Ctrl-C (SIGINT)."""
        return self.end(signal.SIGINT, timeout)

    def end(self, number: signal.Signals, timeout: float = 15.0) -> float:
        start = time.monotonic()
        if self.process is not None and self.running:
            self.send_signal(number)
            self.process.wait(timeout)
        return time.monotonic() - start

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self.output.exists():
            # pytest shows it with the failure.
            print(f"--- {self.name} on port {self.port} wrote:\n{self.log[-8000:]}", file=sys.stderr)
        self.close()

    def close(self) -> None:
        """Kill whatever is left of it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(Server):
    """A Redis that keeps nothing on disk: after :meth:`kill` and :meth:`start` it is empty."""

    name = "redis"
    scheme = "redis"

    def command(self) -> list[str]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        options["dir"] = str(self.directory)
        return [program("redis-server"), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def client(self) -> redis.Redis:
        """Return a new client with a timeout of 5 seconds; close it, or use it in a ``with``."""
        return redis.Redis(port=self.port, socket_timeout=5, decode_responses=True)

    def calls(self, command: str) -> int:
        """Return how often ``command`` was called since the start (``INFO commandstats``)."""
        with self.client() as client:
            stats = cast(dict[str, Any], client.info("commandstats"))
        return int(stats.get(f"cmdstat_{command.lower()}", {}).get("calls", 0))


class PostgresServer(Server):
    """A PostgreSQL cluster in a temporary directory, as fast as one is that need not survive a power cut."""

    name = "postgres"
    scheme = "postgresql"
    stop = signal.SIGINT

    def __init__(self) -> None:
        super().__init__()
        self.databases = 0
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            self.user = "postgres"
            shutil.chown(self.directory, "postgres", "postgres")
        self.data = self.directory / "data"

    def command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "port": str(self.port), "max_connections": "200"}
        options |= {"unix_socket_directories": str(self.directory), "fsync": "off", "full_page_writes": "off"}
        # synchronous_commit stays on: what was committed must survive kill(), as it would in a real cluster.
        options |= {"shared_buffers": "32MB"}
        settings = (word for key, value in options.items() for word in ("-c", f"{key}={value}"))
        return [program("postgres"), "-D", str(self.data), *settings]

    def start(self, timeout: float = 30.0) -> None:
        if not self.data.exists():
            command = [program("initdb"), "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
            subprocess.run(
                [*command, "--locale=C", "--no-sync"],
                check=True,
                cwd=self.directory,
                stdout=subprocess.DEVNULL,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        super().start(timeout)

    def kill(self) -> None:
        # Its children have sessions of their own, and a new server refuses to start while one is left.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split() if self.running else []
        super().kill()
        for child in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), what="PostgreSQL's children")

    def accepts(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return f"{self.scheme}://postgres@127.0.0.1:{self.port}/{name}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a new autocommit connection of the superuser; close it, or use it in a ``with``."""
        return psycopg.connect(self.database_url(database), autocommit=True, connect_timeout=5)

    def create_database(self, name: str = "", *, template: str = "template0") -> str:
        """Create an empty database, or a copy of ``template``, and return its URL; without a name it picks one."""
        self.databases += 1
        name = name or f"site_{self.databases}"
        with self.connect() as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.database_url(name)

    def backends(self, database: str) -> int:
        """Return how many connections of clients ``database`` has now."""
        with self.connect() as connection:
            row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database]).fetchone()
        return int(row[0]) if row else 0


#: What a site's nginx has around ``docs/nginx.conf``.
NGINX_AROUND = """
daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    gzip on;
    gzip_min_length 1;
    gzip_types *;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{configuration}
}}
"""


class NginxServer(Server):
    """nginx with ``docs/nginx.conf``, in which ports and paths are replaced and nothing else.

    :param behind: the ports of the site's server processes.
    :param workers: nginx's processes.
    :param tls: also listen on ``tls_port``, with TLS and HTTP/2, by the lines which are comments there.
    """

    name = "nginx"
    scheme = "http"

    def __init__(self, behind: Iterable[int], *, workers: int = 1, tls: bool = False) -> None:
        super().__init__()
        self.tls_port = free_port()
        text = (ROOT / "docs" / "nginx.conf").read_text()
        listen = f"listen 127.0.0.1:{self.port};"
        if tls:
            listen += self._listen_tls()
        servers = "\n".join(f"    server 127.0.0.1:{port};" for port in behind)
        for old, new in {"listen 80;": listen, "    server 127.0.0.1:8000;": servers}.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.configuration = self.directory / "nginx.conf"
        self.configuration.write_text(
            NGINX_AROUND.format(directory=self.directory, configuration=text, workers=workers)
        )

    def _listen_tls(self) -> str:
        certificate, key = self.directory / "certificate.pem", self.directory / "key.pem"
        command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        said = subprocess.run([program("nginx"), "-v"], check=True, capture_output=True, text=True).stderr
        version = tuple(map(int, said.split("nginx/")[1].split()[0].split(".")))
        http2 = "ssl http2;" if version < (1, 25, 1) else "ssl; http2 on;"
        files = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        return f"\n    listen 127.0.0.1:{self.tls_port} {http2}\n    {files}"

    def command(self) -> list[str]:
        return [program("nginx"), "-c", str(self.configuration), "-e", "stderr"]


class AsgiServer(Server):
    """A daphne or uvicorn that serves ``app`` on :attr:`url`.

    :param env: environment variables on top of this process's own.
    :param arguments: further words for the server's command line.
    :param python: the interpreter to run it with.
    :param working_directory: from where ``app`` is importable.
    """

    scheme = "http"

    def __init__(
        self,
        kind: Literal["daphne", "uvicorn"] = "daphne",
        env: Mapping[str, str] | None = None,
        app: str = "project.asgi:application",
        arguments: Iterable[str] = (),
        *,
        python: str = sys.executable,
        working_directory: Path = ROOT,
    ) -> None:
        self.name = self.kind = kind
        self.python = python
        self.working_directory = working_directory
        self.app = app
        self.env = dict(env or {})
        self.arguments = list(arguments)
        super().__init__()

    def command(self) -> list[str]:
        if self.kind == "daphne":
            options = ["-b", "127.0.0.1", "-p", str(self.port), "--no-server-name"]
        else:
            options = ["--host", "127.0.0.1", "--port", str(self.port), "--timeout-graceful-shutdown", "5"]
        return [self.python, "-m", self.kind, *options, *self.arguments, self.app]

    def environment(self) -> Mapping[str, str]:
        return os.environ | self.env

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def threads(self) -> int:
        """Return the number of threads of the process."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def fds(self) -> int:
        """Return the number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss(self) -> int:
        """Return the resident memory, in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """A Python process of a site that runs what it is told: another process that publishes, crashes, or looks."""

    def __init__(self, site: Site) -> None:
        self.process = subprocess.Popen(
            [site.python, "-c", (ROOT / "tests" / "worker.py").read_text()],
            cwd=site.directory,
            env=site.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, code: str, *, timeout: float = 30.0, **values: Any) -> Any:
        """Execute ``code`` with ``values`` as its names and return what it left in the name ``result``.

        Names stay from one call to the next. Values and result are JSON.

        :raises RuntimeError: if the code raised, with its traceback; or if the process has ended.
        :raises TimeoutError: if it takes more than ``timeout`` seconds.
        """
        requests, answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        requests.write(json.dumps({"code": code, "values": values}).encode() + b"\n")
        requests.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise TimeoutError(f"the worker took more than {timeout:g} s")
        line = answers.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            cast(IO[bytes], self.process.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.kill()
        cast(IO[bytes], self.process.stdout).close()


CREATE_USERS = """
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.test import Client

hashed = make_password("password")
result = {}
for name in names:
    # One hash for all: to make it is slow on purpose.
    user = get_user_model()(username=name, password=hashed, is_staff=staff, is_superuser=superuser)
    user.save()
    client = Client()
    client.force_login(user)
    result[name] = [user.pk, client.cookies["sessionid"].value]
"""


@dataclass
class Site:
    """A migrated database and what the processes of one site have in common.

    :ivar extra: environment variables on top of those that this class sets.
    :ivar python: the interpreter of the site's processes, which run in ``directory``.
    :ivar sessions: the session key of each user; ``alice``, ``bob`` and ``carol`` are customers, ``sam`` is staff,
        ``root`` a superuser. Their passwords are ``password``.
    :ivar users: the primary key of each user.
    """

    database_url: str
    redis_url: str = ""
    settings: str = "project.settings"
    app: str = "project.asgi:application"
    extra: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    directory: Path = ROOT
    sessions: dict[str, str] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)

    @cached_property
    def environment(self) -> dict[str, str]:
        site = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "DJANGO_SETTINGS_MODULE": self.settings}
        return {**os.environ, **site, "SECRET_KEY": "only for tests", "DEBUG": "1", **self.extra}

    def prepare(self) -> None:
        """Migrate the database and create the users."""
        self.manage("migrate", "--verbosity=0")
        with self.worker() as worker:
            self.create_users(["alice", "bob", "carol"], worker=worker)
            self.create_users(["sam"], staff=True, worker=worker)
            self.create_users(["root"], staff=True, superuser=True, worker=worker)

    def copy(self, database_url: str, **changes: Any) -> Site:
        """Return this site on a copy of its database, with the same users and sessions."""
        return replace(self, database_url=database_url, sessions=dict(self.sessions), users=dict(self.users), **changes)

    def create_users(
        self, names: Iterable[str], *, staff: bool = False, superuser: bool = False, worker: Worker | None = None
    ) -> None:
        """Create and log in users; they are found in :attr:`users` and :attr:`sessions` afterwards."""
        with nullcontext(worker) if worker else self.worker() as process:
            created = process.run(CREATE_USERS, names=list(names), staff=staff, superuser=superuser)
        for name, (pk, session) in created.items():
            self.users[name], self.sessions[name] = pk, session

    def manage(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run ``django-admin`` with ``arguments`` and return what it printed to stdout and stderr.

        :raises RuntimeError: if it fails, with what it printed.
        """
        done = subprocess.run(
            [self.python, "-m", "django", *arguments],
            cwd=self.directory,
            env=self.environment,
            timeout=timeout,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def worker(self) -> Worker:
        """Return a new process of this site, to be used in a ``with``."""
        return Worker(self)

    def server(self, kind: Literal["daphne", "uvicorn"] = "daphne", *arguments: str, **env: str) -> AsgiServer:
        """Return a new server of this site, to be used in a ``with``."""
        return AsgiServer(
            kind, self.environment | env, self.app, arguments, python=self.python, working_directory=self.directory
        )

    def headers(self, name: str) -> dict[str, str]:
        """Return the header that makes a request one of the user ``name``."""
        return {"Cookie": f"sessionid={self.sessions[name]}"}

    async def log_in(self, context: BrowserContext, name: str, server: AsgiServer) -> None:
        """Log the browser ``context`` in to ``server`` as the user ``name``."""
        await context.add_cookies([{"name": "sessionid", "value": self.sessions[name], "url": server.url}])


def main(arguments: list[str]) -> int:
    """Run a command beside a PostgreSQL of its own; what follows a question mark are Django's options for it."""
    kind, mark, options = arguments[0].partition("?") if arguments else ("", "", "")
    if len(arguments) < 2 or kind != "postgres":
        sys.exit('usage: python -m tests.servers "postgres[?option=value&…]" COMMAND …')
    with PostgresServer() as postgres:
        url = f"{postgres.create_database()}{mark}{options}"
        return subprocess.run(arguments[1:], env=os.environ | {"DATABASE_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
