"""A whole run: all targets at all sizes, one after the other, each server alone on its core."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.servers import RedisServer, program

from .measure import FULL, STOLEN, Backstage, Run
from .processes import Database, Lines, compiled, leave_server_core
from .scale import CLIENTS, scale
from .targets import Target, targets

#: So often each server is measured at that size, one server after the other and then again: a machine has better and
#: worse minutes, and a process more and less fortunate places in memory.
ROUNDS = 3
#: What is the median of these rounds.
MEDIANS = (
    *("CPU us per delivery", "one in flight p50 ms", "5 a second: p50 ms", "5 a second: p99 ms"),
    *("KiB per connection", "connect s", "connect CPU us"),
)
PACKAGES = [
    *("Django", "channels", "daphne", "channels_redis", "redis", "hiredis", "psycopg"),
    *("uvicorn", "uvloop", "httptools", "websockets"),
    *("django-eventstream", "sse-starlette", "starlette"),
]


def run(options: argparse.Namespace) -> int:
    """Measure what ``options`` ask for, print it, write it; return the exit status."""
    leave_server_core()
    cache: Path = options.cache
    shutil.copy(Path(__file__).parent / "peers" / "socketio.js", cache)
    load = compiled("load.c", cache)
    compiled("floor.c", cache)
    sizes = [int(word) for word in options.sizes.split(",")]
    wanted = [word for word in options.only.split(",") if word]
    chosen = [target for target in targets(cache) if not wanted or any(word in target.key for word in wanted)]
    results: dict[str, Any] = {"about": about(cache), "targets": {}}
    output = options.output or cache / "results.json"
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        postgres = stack.enter_context(Database())
        postgres.create_database("site")
        backstage = Backstage(load, redis, postgres, "site")
        scaled = not wanted or "scale" in wanted
        if scaled or any(target.ours for target in chosen):
            prepare(backstage, max([*sizes, CLIENTS]))
            with backstage.publisher("ours") as publisher:
                results["notify"] = publisher.ask("cost", 250, "50.0")["result"]
                print("notify():", results["notify"], flush=True)
        for target in chosen:
            found = results["targets"][target.key] = {"name": target.name, "server": target.server, "sizes": {}}
            for size in (size for size in sizes if size <= target.most):
                try:
                    figures = Run(backstage, target, size)(everything=size == FULL, seconds=options.seconds)
                except Exception as error:
                    figures = {"error": f"{type(error).__name__}: {error}"}
                found["sizes"][str(size)] = figures
                print(target.key, size, json.dumps(figures), flush=True)
                output.write_text(json.dumps(results, indent=1))
        for _ in range(1, ROUNDS if FULL in sizes else 1):
            for target in chosen:
                _measure_again(backstage, target, results["targets"][target.key]["sizes"][str(FULL)], options.seconds)
                output.write_text(json.dumps(results, indent=1))
        if scaled:

            def tell(name: str, processes: int, figures: dict[str, Any]) -> None:
                print(f"scale: {name}, {processes} processes", json.dumps(figures), flush=True)

            results["scale"] = scale(backstage, options.seconds, tell)
            output.write_text(json.dumps(results, indent=1))
    from . import report

    if results["targets"]:
        print(report.table(results))
    if results.get("scale"):
        print(report.scale_page(results))
    if options.write:
        report.write(results)
    bad = [key for key, found in results["targets"].items() if any(map(is_bad, found["sizes"].values()))]
    bad += [
        f"notifications {name}, {count} processes"
        for name, found in results.get("scale", {}).items()
        for count, figures in found.items()
        if is_bad(figures)
    ]
    if bad:
        print("failed, or lost, doubled, disordered or misdirected deliveries:", "; ".join(bad))
    return 1 if any(key.startswith("notifications") for key in bad) else 0


def _measure_again(backstage: Backstage, target: Target, figures: dict[str, Any], seconds: float) -> None:
    """Measure a server once more, with a process of its own, and make ``figures`` the medians; ``rounds`` has all."""
    if "error" in figures:
        return
    try:
        found = Run(backstage, target, FULL)(everything=False, seconds=seconds)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "wrong": {}}
        figures["error"] = found["error"]
    print(target.key, FULL, "again", json.dumps(found), flush=True)
    rounds = figures.setdefault("rounds", {name: [figures[name]] for name in MEDIANS})
    for name in MEDIANS:
        rounds[name].append(found.get(name))
        figures[name] = median(known) if (known := [value for value in rounds[name] if value is not None]) else None
    figures[STOLEN] = max(figures[STOLEN], found.get(STOLEN, 0.0))
    for name, number in found["wrong"].items():
        figures["wrong"][name] = figures["wrong"].get(name, 0) + number


def is_bad(figures: dict[str, Any]) -> bool:
    return bool(figures.get("wrong") or figures.get("error"))


def prepare(backstage: Backstage, users: int) -> None:
    """Migrate the site's database and log in its users."""
    environment = os.environ | backstage.environment("publisher")
    migrate = [sys.executable, "-m", "django", "migrate", "-v", "0", "--settings", "benchmarks.site.settings"]
    subprocess.run(migrate, env=environment, check=True)
    publisher: Lines
    with backstage.publisher("ours") as publisher:
        backstage.sessions = publisher.ask("prepare", users, timeout=300)["result"]
    with backstage.postgres.connect(backstage.database) as connection:
        connection.execute("ANALYZE")


def about(cache: Path) -> dict[str, Any]:
    """Return when, where and with which versions."""
    versions: dict[str, str] = {name: version(name) for name in PACKAGES}
    versions["Python"] = platform.python_version()
    versions["node"] = said("node", "--version").lstrip("v")
    for name in ("socket.io", "redis"):
        package = json.loads((cache / "node_modules" / name / "package.json").read_text())
        versions[f"npm {name}"] = package["version"]
    versions["Redis"] = said(program("redis-server"), "--version").split("v=")[1].split()[0]
    versions["PostgreSQL"] = said(program("postgres"), "--version").split()[2]
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = processors[0].split(":")[1].strip() if processors else platform.machine()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["make", "bench"]),
        "arguments": sys.argv[1:],
        "load average": os.getloadavg()[0],
        "machine": {"processor": model, "cores": os.cpu_count(), "kernel": platform.release().split("-")[0]},
        "versions": versions,
    }


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
