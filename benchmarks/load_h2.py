"""The load over HTTP/2: event streams, a hundred on each TLS connection; commands and answers as those of ``load.c``.

    python -m benchmarks.load_h2 PORT sse READY REQUESTS

The h2 library opens the connections and the streams. What comes on them afterwards is taken apart here: it is the same
few bytes again and again, and the library would cost more than the server does.
"""

from __future__ import annotations

import gc
import json
import os
import re
import selectors
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes

EVERYBODY = 999_999
MARK = re.compile(rb"\[\[(\d{9})\.(\d{16})\.(\d{6})\]\]")
MARK_LENGTH = 37
#: nginx allows 128.
STREAMS = 100
#: Not a limit here: nobody is slow.
WINDOW = 2**31 - 1
DATA, END_STREAM = 0, 1
#: Seconds between two looks, as in ``load.c``.
NAP = 0.0002


def now() -> int:
    """Return CLOCK_MONOTONIC in microseconds."""
    return time.monotonic_ns() // 1000


class Client:
    """One event stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.started = now()
        self.live = False
        self.text = b""
        self.expected = 0


class Connection:
    """One TLS connection."""

    def __init__(self, load: Load) -> None:
        self.load = load
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", load.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        if self.socket.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not speak HTTP/2")
        self.buffer = b""
        self.clients: dict[int, Client] = {}
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.ENABLE_PUSH: 0})
        self.http.increment_flow_control_window(WINDOW - 65535)
        self.flush()

    def open(self, client: Client) -> None:
        stream = self.http.get_next_available_stream_id()
        self.clients[stream] = client
        self.http.send_headers(stream, self.load.requests[client.index], end_stream=True)
        self.flush()

    def flush(self) -> None:
        if data := self.http.data_to_send():
            self.socket.setblocking(True)
            self.socket.sendall(data)
            self.socket.setblocking(False)

    def read(self) -> None:
        while True:
            try:
                data = self.socket.recv(1 << 18)
            except ssl.SSLWantReadError:
                break
            if not data:
                raise ConnectionError("the server closed a connection")
            self.load.bytes += len(data)
            self.buffer += data
        self._frames(now())
        self.flush()

    def _frames(self, at: int) -> None:
        buffer, start, size = self.buffer, 0, len(self.buffer)
        while size - start >= 9:
            end = start + 9 + int.from_bytes(buffer[start : start + 3], "big")
            if end > size:
                break
            if buffer[start + 3] == DATA:
                client = self.clients[int.from_bytes(buffer[start + 5 : start + 9], "big")]
                self.load.text(client, buffer[start + 9 : end], at)
                if buffer[start + 4] & END_STREAM:
                    self.load.ended_one(client)
            else:
                for event in self.http.receive_data(buffer[start:end]):
                    if isinstance(event, ResponseReceived):
                        status = dict(cast(Any, event.headers))[":status"]
                        if status != "200":
                            self.load.connected(self.clients[event.stream_id or 0], status)
            start = end
        self.buffer = buffer[start:]


class Load:
    """All clients, and what was counted."""

    def __init__(self, port: int, ready: bytes, requests: list[list[tuple[str, str]]]) -> None:
        self.port = port
        self.ready = ready
        self.requests = requests
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, None)
        self.close()
        self.reset()

    def close(self) -> None:
        for connection in getattr(self, "connections", ()):
            self.selector.unregister(connection.socket)
            connection.socket.close()
        self.connections: list[Connection] = []
        self.clients: list[Client] = []
        self.goal = self.connecting = self.live = self.ended = 0
        self.counts: Counter[int] = Counter()

    def reset(self) -> None:
        self.delivered = self.lost = self.duplicate = self.foreign = self.bytes = 0
        self.samples: list[int] = []

    def connect(self, count: int, at_once: int) -> None:
        self.goal, self.started, self.times = count, now(), list[int]()
        self.failed, self.failure = 0, ""
        while self.connecting < at_once and len(self.clients) < self.goal:
            self._open_next()

    def _open_next(self) -> None:
        client = Client(len(self.clients))
        self.clients.append(client)
        self.connecting += 1
        if client.index % STREAMS == 0:
            connection = Connection(self)
            self.connections.append(connection)
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.connections[-1].open(client)

    def connected(self, client: Client, failure: str = "") -> None:
        self.connecting -= 1
        if failure:
            self.failed, self.failure = self.failed + 1, self.failure or failure
        else:
            client.live = True
            self.live += 1
            self.times.append(now() - client.started)
        if len(self.clients) < self.goal:
            self._open_next()
        elif not self.connecting:
            seconds = (now() - self.started) / 1e6
            say(
                connected=self.live,
                failed=self.failed,
                failure=self.failure,
                seconds=seconds,
                **percentiles(self.times),
            )

    def ended_one(self, client: Client) -> None:
        if not client.live:
            return self.connected(client, "closed by the server")
        client.live = False
        self.live -= 1
        self.ended += 1

    def text(self, client: Client, data: bytes, at: int) -> None:
        """Take what came on a stream: find the marks in it, also those that began in what came before."""
        text, end = client.text + data, 0
        for found in MARK.finditer(text):
            end = found.end()
            self._mark(client, int(found[1]), int(found[2]), int(found[3]), at)
        if client.live:
            rest = text[max(end, len(text) - MARK_LENGTH + 1) :]
            client.text = rest if b"[" in rest else b""
        else:
            client.text = text
            if self.ready in text:
                client.text = b""
                self.connected(client)

    def _mark(self, client: Client, number: int, sent: int, who: int, at: int) -> None:
        if who not in (EVERYBODY, client.index):
            self.foreign += 1
        if number < client.expected:
            self.duplicate += 1
            return
        self.lost += number - client.expected
        client.expected = number + 1
        self.delivered += 1
        self.samples.append(at - sent)
        self.counts[number] += 1
        if self.counts[number] == self.live:
            del self.counts[number]
            say(all=number)

    def command(self, line: str) -> None:
        name, *numbers = line.split()
        if name == "connect":
            return self.connect(int(numbers[0]), int(numbers[1]))
        if name == "stats":
            counted = {
                key: getattr(self, key) for key in ("delivered", "lost", "duplicate", "foreign", "ended", "bytes")
            }
            return say(**counted, **percentiles(self.samples))
        if name == "base":
            for client in self.clients:
                client.expected = int(numbers[0])
        else:
            {"reset": self.reset, "close": self.close}[name]()
        say(done=line)

    def run(self) -> None:
        commands = b""
        while True:
            for key, _ in self.selector.select():
                if isinstance(key.data, Connection):
                    key.data.read()
                    continue
                if not (data := os.read(0, 65536)):
                    return
                *lines, commands = (commands + data).split(b"\n")
                for line in lines:
                    self.command(line.decode())
            time.sleep(NAP)


def percentiles(times: list[int]) -> dict[str, float]:
    """Return milliseconds."""
    ordered = sorted(times) or [0]
    parts = {"p50": 0.5, "p99": 0.99, "longest": 1.0}
    return {name: ordered[int(part * (len(ordered) - 1))] / 1000 for name, part in parts.items()}


def say(**answer: Any) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def read_requests(path: Path, port: int) -> list[list[tuple[str, str]]]:
    """Return the headers of HTTP/2 for requests that were written for HTTP/1.1."""
    data, at, requests = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        first, *lines = data[at + 4 : at + 4 + length].decode().strip().split("\r\n")
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", f"127.0.0.1:{port}")]
        headers.append((":path", first.split()[1]))
        for name, _, value in (line.partition(": ") for line in lines):
            if name != "Host":
                headers.append((name.lower(), value))
        requests.append(headers)
        at += 4 + length
    return requests


if __name__ == "__main__":
    gc.disable()
    port, _, ready, path = sys.argv[1:]
    Load(int(port), ready.encode(), read_requests(Path(path), int(port))).run()
