"""Rows of the table in ``docs/guarantees.md``: what was done, what was measured, whether that is as promised."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.cluster import Findings

__all__ = ["Row", "write"]

#: Figures that depend on how busy the machine is may be this much worse where nobody measures (`make test`).
SLACK = float(os.environ.get("FAULTS_SLACK", "4"))

ROW = re.compile(r" \| (pass|\*\*FAIL\*\*) \|$")
BEGIN, END = "<!-- measured by `make faults` -->", "<!-- end of what was measured -->"


@dataclass
class Row:
    """One row; :meth:`finish` fails the test if anything was not as promised."""

    name: str
    done: str = ""
    figures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passed: bool = False

    def at_most(self, what: str, value: float, limit: float, unit: str = "", *, soft: bool = False) -> None:
        """Note a figure that must not exceed ``limit``; a ``soft`` one depends on how busy the machine is."""
        self.figures.append(f"{what} {value:.4g}{unit} (≤ {limit:g}{unit})" if limit else f"{what} {value:.4g}{unit}")
        if value > limit * (SLACK if soft else 1):
            self.problems.append(f"{what} is {value:.4g}{unit}, more than {limit:g}{unit}")

    def at_least(self, what: str, value: float, limit: float, unit: str = "") -> None:
        """Note a figure that must reach ``limit``, or the row proves nothing."""
        self.figures.append(f"{what} {value:.4g}{unit}")
        if value < limit:
            self.problems.append(f"{what} is {value:.4g}{unit}, less than {limit:g}{unit}")

    def note(self, what: str) -> None:
        """Note a figure that nothing is promised about."""
        self.figures.append(what)

    def judge(self, findings: Findings) -> None:
        """Note what the oracle found."""
        self.figures.append(
            f"{findings.applied:,} deliveries of {findings.committed:,} events: "
            + ", ".join(f"{what} {number}" for what, number in findings.faults.items())
            + f"; {findings.wire_duplicates} doubled on the wire"
        )
        if any(findings.faults.values()):
            self.problems.append(f"{findings.faults}:\n" + "\n".join(findings.examples))
        if not findings.applied:
            self.problems.append("nothing was delivered at all")

    def finish(self) -> None:
        print(f"{self.name}: {'; '.join(self.figures)}")
        assert not self.problems, f"{self.name}:\n" + "\n".join(self.problems) + "\n-- " + "\n-- ".join(self.figures)
        self.passed = True


def write(path: Path, rows: list[Row]) -> None:
    """Put the table into the document, between its two marks; rows that were not measured this time stay."""
    text = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    measured, _, after = rest.partition(END)
    table = {line.split(" | ")[0].removeprefix("| "): line for line in measured.splitlines() if ROW.search(line)}
    today = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    for row in rows:
        cells = [row.name, row.done, "; ".join(row.figures), today, "pass" if row.passed else "**FAIL**"]
        cells = [re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells]
        table[cells[0]] = "| " + " | ".join(cells) + " |"
    packages = ["Django", "channels", "daphne", "channels-redis", "redis", "uvicorn", "asgiref", "psycopg"]
    versions = [f"{name} {version(name)}" for name in packages]
    lines = [
        BEGIN,
        "",
        f"Measured last {today} UTC, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {', '.join(versions)}.",
        "",
        "| what happened | what was done | figures (and what was promised) | measured (UTC) | |",
        "|---|---|---|---|---|",
        *(table[name] for name in sorted(table)),
    ]
    passed = sum(line.endswith("| pass |") for line in table.values())
    lines += ["", f"{passed} of {len(table)} rows pass.", "", END]
    path.write_text(before + "\n".join(lines) + after)
