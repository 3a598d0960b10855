"""The capacity model of docs/operate.md: explicit sums, of figures that a run of the benchmarks measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.capacity import BUSY, PARTS, STREAMS, USERS, Costs, capacity, need, number


def figures(processes: int) -> dict[str, Any]:
    """What a run would say of 1,000 clients, and idle of 50: round numbers, of which processes add to Redis's part."""
    cpu = {"connect": 4000.0, "connect at once": 2000.0, "delivery": 10.0, "direct": 100.0}
    cpu |= {"idle": 15_000.0, "few idle": 5500.0}
    found: dict[str, Any] = {f"{name}: CPU us, {part}": used for name, used in cpu.items() for part in PARTS}
    found |= {f"{name}: Redis commands": 2.0 for name in cpu} | {f"{name}: queries": 6.0 for name in cpu}
    found["delivery: CPU us, Redis"] = 0.1 + 0.02 * processes
    found["few idle: queries"] = 4.0
    found |= {"few": 50, "most": 1000 // processes, "MiB per process": 100.0}
    return found | {"KiB per connection": 20.0, "KiB per connection, nginx": 16.0}


@pytest.fixture
def results() -> dict[str, Any]:
    return {"scale": {"SSE, HTTP/1.1": {str(count): figures(count) for count in (1, 2, 4)}}}


def test_costs_of_a_process_are_told_from_those_of_its_connections(results: dict[str, Any]) -> None:
    costs = Costs.measured(results)
    assert costs is not None
    assert costs.process["servers"] == pytest.approx(5000e-6)
    assert costs.idle["servers"] == pytest.approx(10e-6)
    assert costs.process_queries == pytest.approx(4.0)
    assert costs.idle_queries == pytest.approx(2.0 / 950)
    # 1,000 clients; 20 µs for each process that listens, 100 µs whoever does.
    assert costs.listener["Redis"] == pytest.approx(20e-6)
    assert costs.broadcast["Redis"] == pytest.approx(100e-6)


@pytest.mark.parametrize("users", USERS)
def test_processes_are_half_busy_and_have_room(results: dict[str, Any], users: int) -> None:
    costs = Costs.measured(results)
    assert costs is not None
    needed = need(costs, users)
    assert needed.processes * STREAMS >= users
    assert needed.cores["servers"] <= needed.processes * BUSY * 1.01
    assert sum(needed.of_servers.values()) < needed.cores["servers"]


def test_what_grows_with_users_is_linear(results: dict[str, Any]) -> None:
    costs = Costs.measured(results)
    assert costs is not None
    few, many = need(costs, 10_000), need(costs, 1_000_000)
    assert many.connects == pytest.approx(100 * few.connects)
    assert many.deliveries == pytest.approx(100 * few.deliveries)
    assert many.of_servers["connecting"] == pytest.approx(100 * few.of_servers["connecting"])


def test_table_has_a_cell_for_each_number_of_users(results: dict[str, Any]) -> None:
    table = capacity(results)
    assert table is not None
    header, rows = table
    assert header == ["connected users", "10,000", "100,000", "1,000,000"]
    assert {len(row) for row in rows} == {4}


def test_connection_does_not_cost_less_than_nothing(results: dict[str, Any]) -> None:
    results["scale"]["SSE, HTTP/1.1"]["1"]["idle: CPU us, nginx"] = 5000.0
    costs = Costs.measured(results)
    assert costs is not None
    assert costs.idle["nginx"] == 0.0
    assert costs.process["nginx"] == pytest.approx(5500e-6)


@pytest.mark.parametrize("results", [{}, {"scale": {}}, {"scale": {"SSE, HTTP/1.1": {"1": {"error": "refused"}}}}])
def test_run_that_measured_too_little_makes_no_table(results: dict[str, Any]) -> None:
    assert capacity(results) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0123, "0.012"), (0.5, "0.50"), (7, "7.0"), (186, "190"), (22_400, "22,000")]
)
def test_number_has_two_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown
