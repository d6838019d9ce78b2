"""The table's main rows as pictures, for docs/benchmarks."""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

from bench.rows import Row

mpl.use("Agg")

import matplotlib.pyplot as plt  # after the backend is chosen

WIDTH, HEIGHT, DPI = 8.0, 3.6, 110  # inches, inches, dots an inch


def draw(rows: list[Row], folder: Path) -> None:
    """throughput.png: every round of the contenders; goals.png: each row with a goal, as a share of it."""
    folder.mkdir(parents=True, exist_ok=True)
    speed: dict[str, list[float]] = {}
    for row in rows:
        if row.name.startswith("throughput"):
            speed |= row.values
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    _dots(axes, speed, "images/s, one task, saturated: every round and the median")
    figure.savefig(folder / "throughput.png", dpi=DPI)
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(WIDTH, 2 * HEIGHT), layout="constrained")
    _against_goals(axes, [row for row in rows if row.goal])
    figure.savefig(folder / "goals.png", dpi=DPI)
    plt.close(figure)


def _dots(axes: Any, values: dict[str, list[float]], title: str) -> None:
    for place, numbers in enumerate(values.values()):
        axes.scatter(numbers, [place] * len(numbers), alpha=0.5)
        axes.plot([median(numbers)] * 2, [place - 0.3, place + 0.3], color="black")
    named = [f"{name}: {median(numbers):.0f}" for name, numbers in values.items()]
    axes.set_yticks(range(len(values)), named)
    axes.set(title=title, xlim=(0, None), ylim=(-0.6, len(values) - 0.4))


def _against_goals(axes: Any, rows: list[Row]) -> None:
    """Above 1 is reached, whichever direction is better."""
    for place, row in enumerate(reversed(rows)):
        assert row.goal is not None
        shares = [_share(figure, row) for figure in row.figures]
        middle = median(shares)
        axes.plot([min(shares), max(shares)], [place] * 2, color="grey", linewidth=1)
        colour = "tab:green" if middle >= 1 else "tab:red"
        filled = "white" if row.disturbed else colour
        axes.scatter([middle], [place], edgecolor=colour, facecolor=filled, zorder=2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row.name} ({row.goal})" for row in reversed(rows)], fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="share of the goal (hollow: disturbed by others)")


def _share(figure: float, row: Row) -> float:
    assert row.goal is not None
    figure = max(figure, 1e-3 * row.goal.bound)  # a difference may be below zero
    share = figure / row.goal.bound
    return share if row.goal.better == "higher" else min(1 / share, 16.0)
