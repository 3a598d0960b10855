"""What is measured: this project and its peers, each with its server's command line and its clients' requests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["Target", "User", "targets"]

#: A session key and a cursor.
User = Sequence[str]

#: The servers as docs/operate.md says to run them, but for what concerns a proxy and the length of what clients send,
#: and with room for thousands who connect in one moment; for peers the same.
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--backlog", "4096"),
    *("--loop", "uvloop", "--http", "httptools", "--ws-per-message-deflate", "false"),
    *("--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "5"),
]
DAPHNE = [
    *(sys.executable, "-m", "daphne", "-v", "0", "--no-server-name"),
    *("-e", "tcp:{port}:interface=127.0.0.1:backlog=4096"),
]
OURS, DJANGO = "benchmarks.site.asgi:application", "benchmarks.peers.django_asgi:application"


@dataclass(frozen=True)
class Target:
    """One line of the table.

    :ivar path: what clients ask for; ``{user}`` is their index, ``{cursor}`` where they are.
    :ivar protocol, ready: as ``load.c`` has them.
    :ivar publisher: a kind of :mod:`benchmarks.publishers`.
    :ivar most: more connections than this are not tried; a broadcast would take seconds.
    :ivar environment: variables that the server gets beside those that tell where the databases are.
    """

    name: str
    server: str
    command: list[str]
    path: str
    protocol: str
    ready: str
    publisher: str
    headers: dict[str, str] = field(default_factory=dict)
    most: int = 10_000
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}, {self.server}"

    @property
    def ours(self) -> bool:
        return self.publisher == "ours"

    def request(self, port: int, index: int, user: User | None) -> bytes:
        """Return what client ``index`` sends first."""
        session, cursor = user or ("", "")
        headers = {"Host": f"127.0.0.1:{port}", **self.headers}
        if session:
            headers |= {"Cookie": f"csrftoken=fgQSOlQ3OfZwDqVvFDYCGhnP4mUfdTRm; sessionid={session}"}
            headers |= {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
        if self.protocol == "sse":
            headers |= {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        else:
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": f"http://127.0.0.1:{port}"}
        lines = [f"GET {self.path.format(user=index, cursor=cursor)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


def ours(server: str, command: list[str]) -> list[Target]:
    stream, sockets = "/notifications/stream/?cursor={cursor}", "/ws/notifications/?cursor={cursor}"
    subprotocol = {"Sec-WebSocket-Protocol": "notifications.v1"}
    return [
        Target("notifications SSE", server, [*command, OURS], stream, "sse", "event: ready", "ours"),
        Target("notifications WebSocket", server, [*command, OURS], sockets, "ack", '"ready"', "ours", subprotocol),
    ]


def by_stock_send(target: Target) -> Target:
    """Return the same without ``DIRECT_WRITES``: every byte goes through the server's own ``send()``."""
    environment = {"BENCH_DIRECT_WRITES": "0"}
    return replace(target, server=f"{target.server}, stock", most=1000, environment=environment)


def peers(server: str, command: list[str]) -> list[Target]:
    stream, sockets = "/events/?channel=everyone&channel=user-{user}", "/ws/chat/?user={user}"
    return [
        Target(
            "django-eventstream",
            server,
            [*command, DJANGO],
            stream,
            "sse",
            "event: stream-open",
            "eventstream",
            most=5000,
        ),
        Target("Channels tutorial, pub/sub", server, [*command, DJANGO], sockets, "ws", "", "tutorial", most=5000),
    ]


def targets(cache: Path) -> list[Target]:
    """Return all targets; ``cache`` is where peers are installed and programs compiled."""
    starlette = [*UVICORN, "benchmarks.peers.starlette_app:application"]
    node = ["node", str(cache / "socketio.js"), "{port}"]
    sockets = "/socket.io/?EIO=4&transport=websocket&user={user}"
    uvloop = [sys.executable, "-m", "benchmarks.peers.floor_uvloop", "{port}"]
    return [
        Target("floor", "C, epoll", [str(cache / "floor"), "{port}"], "/?user={user}", "sse", "", "floor"),
        Target("floor", "uvloop", uvloop, "/?user={user}", "sse", "", "floor"),
        *ours("uvicorn", UVICORN),
        *ours("daphne", DAPHNE),
        *map(by_stock_send, ours("daphne", DAPHNE)),
        Target("Socket.IO", "node", node, sockets, "sio", '42["ready"]', "redis"),
        Target("sse-starlette", "uvicorn", starlette, "/events?user={user}", "sse", "event: ready", "redis"),
        *peers("uvicorn", UVICORN),
        *peers("daphne", DAPHNE),
    ]
