"""The plots of docs/performance.md. SVG is text: bars and lines need no library, and no build for those who read."""

from __future__ import annotations

import math
from html import escape
from typing import Any

__all__ = ["all_plots"]

WIDTH, LEFT, RIGHT, ROW = 790, 290, 70, 26
OURS, THEIRS, FLOOR = "#0b6e4f", "#8a94a6", "#c9a227"
STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}"
    ".s{fill:#666;font-size:12px}"
    "line{stroke:#ccc}@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#aaa}line{stroke:#444}}</style>"
)


def colour(key: str) -> str:
    return OURS if key.startswith("notifications") else FLOOR if key.startswith("floor") else THEIRS


def document(title: str, subtitle: str, height: int, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    words = f'<title>{escape(title)}</title>{STYLE}<text class="t" x="8" y="20">{escape(title)}</text>'
    return "\n".join([head, words, f'<text class="s" x="8" y="38">{escape(subtitle)}</text>', *parts, "</svg>", ""])


def bars(title: str, subtitle: str, values: dict[str, float], digits: int = 1) -> str:
    """Return horizontal bars, the shortest first."""
    most = max(values.values(), default=1.0) or 1.0
    parts = []
    for index, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        top = 52 + index * ROW
        length = max(1.0, value / most * (WIDTH - LEFT - RIGHT))
        parts.append(f'<text x="{LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top + 2}" width="{length:.1f}" height="18" fill="{colour(name)}"/>')
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{top + 15}">{value:,.{digits}f}</text>')
    return document(title, subtitle, 60 + len(values) * ROW, parts)


def lines(title: str, subtitle: str, series: dict[str, dict[int, float]]) -> str:
    """Return lines over the number of connections; both axes are logarithmic."""
    height, top, bottom, left, right = 430, 56, 40, 50, 280
    xs = sorted({x for points in series.values() for x in points})
    ys = [y for points in series.values() for y in points.values()]
    if len(xs) < 2 or not ys:
        return document(title, subtitle, 60, [])
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def x_of(value: float) -> float:
        part = math.log(value / xs[0]) / math.log(xs[-1] / xs[0])
        return left + part * (WIDTH - left - right)

    def y_of(value: float) -> float:
        return top + (high - math.log10(value)) / (high - low) * (height - top - bottom)

    parts = []
    for power in range(low, high + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**power
            if power < high or factor == 1:
                y = y_of(value)
                parts.append(f'<line x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
                parts.append(f'<text class="s" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for x in xs:
        parts.append(f'<text class="s" x="{x_of(x):.1f}" y="{height - 16}" text-anchor="middle">{x:,}</text>')
    ends = []
    for name, points in series.items():
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in sorted(points.items()))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(name)}" stroke-width="2"/>')
        ends.append((y_of(points[max(points)]), name))
    at = 0.0
    for y, name in sorted(ends):
        at = max(at + 15, y)  # Names that would cover each other are moved apart.
        parts.append(f'<text x="{WIDTH - right + 8}" y="{at + 4:.1f}">{escape(name)}</text>')
    return document(title, subtitle, max(height, int(at) + 20), parts)


def all_plots(results: dict[str, Any]) -> dict[str, str]:
    """Return the plots by the names of their files."""

    def column(key: str) -> dict[str, float]:
        found = {name: target["sizes"].get("1000", {}).get(key) for name, target in results["targets"].items()}
        return {name: value for name, value in found.items() if value is not None}

    cost = "CPU us per delivery"
    grown: dict[str, dict[int, float]] = {}
    for name, target in results["targets"].items():
        points = {int(size): figures[cost] for size, figures in target["sizes"].items() if figures.get(cost)}
        if points:
            grown[name] = points
    return {
        "cpu-per-delivery": bars(
            "Server CPU per delivery, µs", "1,000 connections, one message in flight", column(cost)
        ),
        "latency": bars(
            "Latency, 99th percentile, ms", "1,000 connections, 5 broadcasts/s", column("5 a second: p99 ms")
        ),
        "memory": bars("Memory per idle connection, KiB", "1,000 connections", column("KiB per connection")),
        "growth": lines("Server CPU per delivery, µs", "by the number of connections", grown),
    }
