"""The results as a table, as claims with their limits, and as plots, in docs/performance.md.

``python -m benchmarks.report FILE`` writes the docs again from the JSON of a run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from . import capacity, plots
from .measure import STOLEN

__all__ = ["claims", "scale_page", "table", "write"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- measured: begin (written by `make bench`) -->", "<!-- measured: end -->"
SCALE_BEGIN, SCALE_END = "<!-- scale: begin (written by `make bench`) -->", "<!-- scale: end -->"
OPERATE = DOCS / "operate.md"
CAPACITY_BEGIN, CAPACITY_END = "<!-- capacity: begin (written by `make bench`) -->", "<!-- capacity: end -->"

FULL = "1000"
FLOOR = "floor, C, epoll"
SSE, SOCKET = "notifications SSE", "notifications WebSocket"
EVENTSTREAM, TUTORIAL = "django-eventstream", "Channels tutorial, pub/sub"
#: See :func:`benchmarks.targets.by_stock_send`.
STOCK = "daphne, stock"

#: Column, key in the results, digits.
COLUMNS = [
    ("CPU µs per delivery", "CPU us per delivery", 1),
    ("p50 ms", "5 a second: p50 ms", 1),
    ("p99 ms", "5 a second: p99 ms", 1),
    ("deliveries/s", "deliveries/s", 0),
    ("p50 ms at half load", "half load: p50 ms", 1),
    ("p99 ms at half load", "half load: p99 ms", 1),
    ("CPU µs per direct message", "direct: CPU us per message", 0),
]
CONNECTIONS = [
    ("KiB per connection", "KiB per connection", 1),
    ("threads", "threads", 0),
    ("database connections", "database backends", 0),
    ("1,000 connect in s", "connect s", 2),
    ("of them refused", "refused at once", 0),
    ("CPU µs per connect", "connect CPU us", 0),
    ("queries per connect", "queries per connect", 2),
    ("idle: CPU µs per second", "idle: CPU us per connection and second", 1),
    ("Redis commands per broadcast", "Redis commands per broadcast", 2),
    ("server's queries per broadcast", "server queries per broadcast", 2),
]


def figure(results: dict[str, Any], target: str, key: str, size: str = FULL) -> float | None:
    """Return one figure, or None if it was not measured."""
    value = results["targets"].get(target, {}).get("sizes", {}).get(size, {}).get(key)
    return None if value is None else float(value)


def shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *(["---:"] * (len(header) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(results: dict[str, Any]) -> str:
    """Return the table of everything that was measured with 1,000 connections, with its ratios."""
    floor = figure(results, FLOOR, COLUMNS[0][1])
    rows = []
    for key in results["targets"]:
        cost = figure(results, key, COLUMNS[0][1])
        ratio = f"{cost / floor:.1f} ×" if cost and floor else "–"
        cells = [shown(figure(results, key, name), digits) for _, name, digits in COLUMNS]
        rows.append([key, cells[0], ratio, *cells[1:]])
    header = ["server", COLUMNS[0][0], "of the floor", *(title for title, _, _ in COLUMNS[1:])]
    return markdown(header, rows)


def connections(results: dict[str, Any]) -> str:
    """Return the table of what a connection costs."""
    rows = [
        [key, *(shown(figure(results, key, name), digits) for _, name, digits in CONNECTIONS)]
        for key in results["targets"]
    ]
    return markdown(["server", *(title for title, _, _ in CONNECTIONS)], rows)


def growth(results: dict[str, Any]) -> str:
    """Return the table of CPU per delivery by the number of connections."""
    sizes = sorted({size for found in results["targets"].values() for size in found["sizes"]}, key=int)
    rows = []
    for key in results["targets"]:
        costs = [figure(results, key, "CPU us per delivery", size) for size in sizes]
        first, last = (
            figure(results, key, "CPU us per delivery", "100"),
            figure(results, key, "CPU us per delivery", "5000"),
        )
        grown = f"{last / first:.1f} ×" if first and last else "–"
        rows.append([key, *(shown(cost, 1) for cost in costs), grown])
    return markdown(["CPU µs per delivery with … connections", *(f"{int(s):,}" for s in sizes), "5,000 : 100"], rows)


def claims(results: dict[str, Any]) -> Iterator[tuple[str, float | None, float, str]]:
    """Yield what is claimed: the sentence, what was measured, the limit, and the unit."""

    def of(target: str, server: str, key: str, size: str = FULL) -> float | None:
        return figure(results, f"{target}, {server}", key, size)

    def ratio(one: float | None, other: float | None) -> float | None:
        return one / other if one is not None and other else None

    cost, direct, p99 = "CPU us per delivery", "direct: CPU us per message", "5 a second: p99 ms"
    floor = figure(results, FLOOR, cost)
    socket_io = of("Socket.IO", "node", cost)
    uvicorn = {name: of(name, "uvicorn", cost) for name in (SSE, SOCKET, EVENTSTREAM, TUTORIAL)}
    daphne = {name: of(name, "daphne", cost) for name in (EVENTSTREAM, TUTORIAL)}
    yield "uvicorn: SSE, of django-eventstream", ratio(uvicorn[SSE], uvicorn[EVENTSTREAM]), 0.20, "×"
    yield "uvicorn: WebSocket, of the tutorial's consumer", ratio(uvicorn[SOCKET], uvicorn[TUTORIAL]), 0.08, "×"
    yield "uvicorn: WebSocket, of Socket.IO", ratio(uvicorn[SOCKET], socket_io), 1.25, "×"
    yield "uvicorn: SSE, of the floor in C", ratio(uvicorn[SSE], floor), 2.5, "×"
    yield "uvicorn: WebSocket, of the floor in C", ratio(uvicorn[SOCKET], floor), 2.5, "×"
    for server in ("daphne", STOCK):
        yield f"{server}: SSE, of django-eventstream", ratio(of(SSE, server, cost), daphne[EVENTSTREAM]), 0.42, "×"
        peer = ratio(of(SOCKET, server, cost), daphne[TUTORIAL])
        yield f"{server}: WebSocket, of the tutorial's consumer", peer, 0.25, "×"
    for server, limit in (("uvicorn", 20.0), ("daphne", 50.0)):
        for name in (SSE, SOCKET):
            yield f"{server}: {name}, p99 at 5 broadcasts a second", of(name, server, p99), limit, "ms"
            peer = ratio(of(name, server, p99), of(EVENTSTREAM, server, p99))
            yield f"{server}: {name}, the same, of django-eventstream's", peer, 1.0, "×"
    for server in ("uvicorn", "daphne"):
        for name in (SSE, SOCKET):
            peer = ratio(of(name, server, direct), of(TUTORIAL, server, direct))
            yield f"{server}: {name}, direct messages, of the tutorial's consumer", peer, 0.4, "×"
    for server, limit in (("uvicorn", 20.0), ("daphne", 26.0)):
        yield f"{server}: memory of an idle event stream", of(SSE, server, "KiB per connection"), limit, "KiB"
        yield f"{server}: memory of an idle WebSocket", of(SOCKET, server, "KiB per connection"), 32.0, "KiB"
        for name in (SSE, SOCKET):
            yield f"{server}: {name}, 1,000 logged-in clients at once are live", of(name, server, "connect s"), 3.0, "s"
            yield f"{server}: {name}, queries for each of them", of(name, server, "queries per connect"), 3.0, ""
            threads = of(name, server, "threads")
            yield f"{server}: {name}, threads with 1,000 streams", threads, 12.0, ""
            yield f"{server}: {name}, database connections then", of(name, server, "database backends"), 1.0, ""
    for name in (SSE, SOCKET):
        grown = ratio(of(name, "uvicorn", cost, "5000"), of(name, "uvicorn", cost, "100"))
        yield f"uvicorn: {name}, cost with 5,000 clients, of that with 100", grown, 2.0, "×"
        commands = of(name, "uvicorn", "Redis commands per broadcast", "5000")
        yield f"uvicorn: {name}, Redis commands per broadcast to 5,000", commands, 1.1, ""
    notify = results.get("notify") or {}
    yield "`notify()`: queries before the commit", notify.get("queries before commit"), 2.0, ""
    yield "`notify()`: queries after the commit", notify.get("queries after commit"), 4.0, ""
    beyond = notify.get("CPU ms beyond the ORM")
    yield "`notify()`: CPU of the publisher beyond the same rows written by the ORM", beyond, 1.0, "ms"


def claims_table(results: dict[str, Any]) -> str:
    rows = []
    for sentence, value, limit, unit in claims(results):
        kept = "–" if value is None else "yes" if value <= limit else "**no**"
        measured = "–" if value is None else f"{value:.3g} {unit}".strip()
        rows.append([sentence, measured, f"{limit:g} {unit}".strip(), kept])
    return markdown(["claim", "measured", "at most", "kept"], rows)


def page(results: dict[str, Any]) -> str:
    """Return the measured part of docs/performance.md."""
    about = results["about"]
    machine, notify = about["machine"], results.get("notify") or {}
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    wrong = {key: f["wrong"] for key, t in results["targets"].items() for f in t["sizes"].values() if f.get("wrong")}
    failed = [
        f"{key} with {int(size):,} connections: {figures['error']}"
        for key, found in results["targets"].items()
        for size, figures in found["sizes"].items()
        if "error" in figures
    ]
    correct = "Every delivery was checked: none lost, none twice, none out of order, none for somebody else."
    if wrong:
        correct = f"**Deliveries lost, doubled, disordered or misdirected:** {wrong}"
    shares = [f[STOLEN] for found in results["targets"].values() for f in found["sizes"].values() if STOLEN in f]
    stolen = ""
    if shares:
        stolen = (
            " In the tries that count of what is tried again, other guests of the machine took at most "
            f"{max(shares):.1f} % of the time in which there was work, as a rule (median) {median(shares):.1f} %."
        )
    kept = [value <= limit for _, value, limit, _ in claims(results) if value is not None]
    parts = [
        BEGIN,
        f"{sum(kept)} of {len(kept)} [claims](#claims) are kept by this run.",
        f"Measured on {about['date']} by `{about['command']}`: {machine['processor']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}; load average at the start {about['load average']:.1f}.{stolen}",
        f"{versions}.",
        correct,
        "### 1,000 connections\n\n" + table(results),
        "p50 and p99: from the call that publishes until a client has it, at five broadcasts a second. Deliveries/s: "
        "with eight messages in flight. Half load: at half the rate of that, for two seconds, in which a slow server "
        "sends a handful of messages. These and direct messages are of one round.",
        "![CPU per delivery](images/cpu-per-delivery.svg)",
        "![Latency](images/latency.svg)",
        "### What a connection costs\n\n" + connections(results),
        "![Memory per connection](images/memory.svg)",
        "### How cost grows\n\n" + growth(results),
        "![CPU per delivery by connections](images/growth.svg)",
    ]
    if notify:
        parts.append(
            "### What `notify()` costs its caller\n\n"
            f"Queries: {notify['queries before commit']} before the commit, {notify['queries after commit']} "
            f"after it; {notify['CPU ms']:.2f} ms of CPU and {notify['ms']:.2f} ms in all, at 50 a second. To write "
            f"the same rows the ORM takes {notify['CPU ms of the rows by the ORM']:.2f} ms of CPU, which is what the "
            "claim below compares with. A cursor that is given the finished statements takes "
            f"{notify['CPU ms of the statements by a cursor']:.2f} ms; `notify()` is "
            f"{notify['CPU ms beyond a cursor']:.2f} ms beyond that, with the doorbell, which neither of them rings. "
            "(Medians, of the differences, too.)"
        )
    parts.append("### Claims\n\n" + claims_table(results))
    if failed:
        parts.append("### What could not be measured\n\n" + "\n".join(f"- {line}" for line in failed))
    return "\n\n".join([*parts, END])


#: Column, key, for how many of them, digits; each for every transport and number of processes.
SCALE_COLUMNS = [
    ("servers: CPU µs per delivery", "delivery: CPU us, servers", 1, 1),
    ("nginx: CPU µs per delivery", "delivery: CPU us, nginx", 1, 1),
    ("Redis: CPU µs per broadcast", "delivery: CPU us, Redis", 1000, 0),
    ("Redis commands per broadcast", "Redis commands per broadcast", 1, 2),
    ("p50 ms", "one in flight p50 ms", 1, 1),
    ("deliveries/s", "deliveries/s", 1, 0),
    ("KiB per connection, nginx", "KiB per connection, nginx", 1, 1),
]
SCALE_COSTS = [
    ("a client connects, one after the other", "connect", 1, 0),
    ("a client connects, 950 at once", "connect at once", 1, 0),
    ("a delivery of a broadcast", "delivery", 1, 1),
    ("the same, eight broadcasts in flight", "burst", 1, 1),
    ("a direct message, a thousand in one transaction", "direct", 1, 0),
    ("an idle second of all 1,000", "idle", 1, 0),
]


def scale_page(results: dict[str, Any]) -> str:
    """Return the part of docs/performance.md about several processes behind nginx."""
    scaled, about = results["scale"], results["about"]
    rows, costs, failed = [], [], []
    for name, found in scaled.items():
        for count, figures in found.items():
            if "error" in figures:
                failed.append(f"- {name}, {count} processes: {figures['error']}")
                continue
            cells = [shown(figures[key] * times, digits) for _, key, times, digits in SCALE_COLUMNS]
            spread = f"{figures['fewest']:,}–{figures['most']:,}"
            rows.append([f"{name}, {count} {'process' if count == '1' else 'processes'}", *cells, spread])
        if figures := {} if "error" in found["1"] else found["1"]:
            for title, key, times, digits in SCALE_COSTS:
                if f"{key}: queries" in figures:
                    cpu = [shown(figures[f"{key}: CPU us, {part}"] * times, digits) for part in capacity.PARTS]
                    counted = [shown(figures[f"{key}: {what}"], 2) for what in ("Redis commands", "queries")]
                    costs.append([f"{name}: {title}", *cpu, *counted])
    wrong = {name: f["wrong"] for name, found in scaled.items() for f in found.values() if f.get("wrong")}
    correct = "Every delivery was checked: none lost, none twice, none out of order, none for somebody else."
    if wrong:
        correct = f"**Deliveries lost, doubled, disordered or misdirected:** {wrong}"
    header = ["1,000 clients", *(title for title, *_ in SCALE_COLUMNS), "connections on each process"]
    cost_header = ["CPU µs (one process)", *capacity.PARTS, "Redis commands", "server's queries"]
    parts = [
        SCALE_BEGIN,
        f"Measured on {about['date']}, on {about['machine']['cores']} cores. {correct}",
        markdown(header, rows),
        f"{about['machine']['cores']} cores, on which the load, nginx and the databases run as well, can not show that "
        "four processes are four times as fast as one: deliveries/s say how much CPU all of them use together. What to "
        "read is what a delivery costs the servers in four processes and in one, and what Redis has to do. HTTP/2 is "
        "with TLS, a hundred streams on a connection, and its load is a program in Python, which is slower.",
        markdown(cost_header, costs),
        "What PostgreSQL does for a message is mostly what `notify()` asks of it; the queries counted are those of the "
        "servers. The [capacity model](operate.md#capacity) is calculated from these figures.",
        *failed,
    ]
    return "\n\n".join([*parts, SCALE_END])


def capacity_part(results: dict[str, Any]) -> str:
    """Return the table of docs/operate.md; a sentence where the run did not measure what it needs."""
    found = capacity.capacity(results)
    body = "The run did not measure what this needs." if found is None else markdown(*found)
    about = f"Calculated from what was measured on {results['about']['date']}."
    return "\n\n".join([CAPACITY_BEGIN, about, body, CAPACITY_END])


def put(path: Path, begin: str, end: str, text: str) -> None:
    """Write what stands between two marks, marks included."""
    page = path.read_text()
    path.write_text(page.split(begin)[0] + text + page.split(end)[1])


def write(results: dict[str, Any]) -> None:
    """Put tables and plots into docs/performance.md, docs/operate.md and docs/images: all that was measured."""
    if results.get("scale"):
        put(PAGE, SCALE_BEGIN, SCALE_END, scale_page(results))
        put(OPERATE, CAPACITY_BEGIN, CAPACITY_END, capacity_part(results))
    if not results["targets"]:
        return
    put(PAGE, BEGIN, END, page(results))
    images = DOCS / "images"
    images.mkdir(exist_ok=True)
    for name, svg in plots.all_plots(results).items():
        (images / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()))
