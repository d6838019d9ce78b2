"""The map as a table and a picture, and auto's choice held against the best that was measured."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.adaptation.grid import AUTO, Plan
from bench.adaptation.images import DOMAINS
from bench.adaptation.kept import keep, table, verdict
from bench.adaptation.spread import Mean, mean, no_worse, paired
from bench.report import Machine

mpl.use("Agg")

import matplotlib.pyplot as plt  # after the backend is chosen
import numpy as np

GOAL = 0.9  # share of the cells in which auto is within ALLOWED of the best
ALLOWED = 0.01  # accuracy, or two standard errors of the paired difference
PROBE = "head"
WIDTH, HEIGHT, DPI = 8.0, 3.2, 110  # inches, inches, dots an inch


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One size of one collection."""

    dataset: str
    size: int  # photos of a class
    scores: dict[str, dict[int, float]]  # strategy -> seed -> accuracy on the photos held out, 0-1
    chose: dict[int, str]  # seed -> what auto served

    @property
    def measured(self) -> dict[str, Mean]:
        return {name: mean(list(own.values())) for name, own in self.scores.items() if name != AUTO and own}

    @property
    def best(self) -> str:
        """The strategy of the highest mean over seeds."""
        return max(self.measured, key=lambda name: self.measured[name].value)

    def against(self, other: str) -> Mean | None:
        """Auto less another, over the seeds that both have; None: auto hasn't been tried."""
        auto, theirs = self.scores.get(AUTO, {}), self.scores.get(other, {})
        seeds = sorted(auto.keys() & theirs.keys())
        return paired([auto[seed] for seed in seeds], [theirs[seed] for seed in seeds]) if seeds else None

    @property
    def near_best(self) -> bool | None:
        """Whether auto is within a point, or two standard errors of the paired difference, of the best."""
        difference = self.against(self.best)
        return None if difference is None else no_worse(difference, slack=ALLOWED)

    @property
    def above_probe(self) -> bool | None:
        """Whether the 95 % interval of auto's difference to the linear probe reaches 0."""
        difference = self.against(PROBE)
        return None if difference is None else difference.value + difference.half_width >= 0


def cells_of(plan: Plan, rows: list[dict[str, Any]]) -> list[Cell]:
    """Those with a measured strategy, in the plan's order."""
    found = []
    for dataset in plan.datasets:
        for size in plan.sizes:
            own = [row for row in rows if row["key"][:2] == [dataset, size]]
            scores = {
                strategy: {row["key"][3]: row["accuracy"] for row in own if row["key"][2] == strategy}
                for strategy in plan.all_strategies
            }
            chose = {row["key"][3]: row["chose"] for row in own if row["key"][2] == AUTO}
            cell = Cell(dataset=dataset, size=size, scores=scores, chose=chose)
            if cell.measured:
                found.append(cell)
    return found


def report(plan: Plan, rows: list[dict[str, Any]], where: Machine, folder: Path) -> str:
    """Write map.{json,md,png}; table and verdicts, for the terminal."""
    cells = cells_of(plan, rows)
    examples = {tuple(row["key"][:2]): (row["examples"], row["held_out"]) for row in rows}
    lines = table(
        ["domain", "photos a class", "trained / held out", *plan.strategies, "best", "auto", "auto chose",
         "auto less best", "near best", "not below head"],
        [_row(plan, cell, examples[cell.dataset, cell.size]) for cell in cells],
    )  # fmt: skip
    said = verdicts(cells)
    lines += ["", *(f"- {name}: {text}" for name, text in said.items())]
    _draw(plan, cells, folder)
    summary = [
        {
            "dataset": cell.dataset, "size": cell.size, "best": cell.best, "near_best": cell.near_best,
            "above_probe": cell.above_probe,
            "mean": {name: each.value for name, each in cell.measured.items()},
        }
        for cell in cells
    ]  # fmt: skip
    keep(
        folder,
        "map",
        title="The map: how much data, how far a domain, which strategy",
        about=ABOUT,
        where=where,
        said={"verdicts": said, "cells": summary, "rows": rows},
        parts=[*lines, "", "![Accuracy by size and strategy](map.png)"],
    )
    return "\n".join(lines)


ABOUT = """\
Accuracy in percent of the network that would be served, on photos that nothing was fitted on: mean ±
standard error over seeds, each of which draws its own photos to learn from and to be asked about. A class
that has fewer photos than a row asks for gives all of them. *Near best*: auto within 1 point, or two
standard errors of the paired difference, of the strategy with the highest mean. *Not below head*: the
95 % interval of the paired difference to the linear probe reaches 0."""


def _row(plan: Plan, cell: Cell, examples: tuple[int, int]) -> list[Any]:
    shown: list[Any] = [
        f"{DOMAINS[cell.dataset]} ({cell.dataset})",
        cell.size,
        f"{examples[0]} / {examples[1]}",
    ]
    for name in plan.strategies:
        score = cell.measured.get(name)
        shown.append("-" if score is None else f"**{score}**" if name == cell.best else score)
    difference = cell.against(cell.best)
    if difference is None:
        return [*shown, cell.best, *("-",) * 5]
    chose = ", ".join(f"{name} {count}x" for name, count in Counter(cell.chose.values()).most_common())
    auto = mean(list(cell.scores[AUTO].values()))
    answers = ["yes" if said else "**no**" for said in (cell.near_best, cell.above_probe)]
    return [*shown, cell.best, auto, chose, difference, *answers]


def verdicts(cells: list[Cell]) -> dict[str, str]:
    tried = [cell for cell in cells if cell.near_best is not None]
    if not tried:
        return {"auto": "not measured"}
    near = sum(cell.near_best is True for cell in tried)
    below = [f"{cell.dataset} {cell.size}" for cell in tried if cell.above_probe is False]
    return {
        "auto near the best": (
            f"{verdict(reached=near >= GOAL * len(tried))} ({near} of {len(tried)} cells; goal {GOAL:.0%})"
        ),
        "auto not below the linear probe": (
            f"{verdict(reached=not below)}" + (f" (below it: {', '.join(below)})" if below else "")
        ),
    }


def _draw(plan: Plan, cells: list[Cell], folder: Path) -> None:
    """A heat map a collection: points below the cell's best, the accuracy, and * at what auto served most."""
    folder.mkdir(parents=True, exist_ok=True)
    size = (WIDTH, HEIGHT * len(plan.datasets))
    figure, axes = plt.subplots(len(plan.datasets), 1, figsize=size, layout="constrained", squeeze=False)
    for (axis,), dataset in zip(axes, plan.datasets, strict=True):
        own = [cell for cell in cells if cell.dataset == dataset]
        below = np.full((len(plan.strategies), max(1, len(own))), np.nan)
        for column, cell in enumerate(own):
            served = Counter(cell.chose.values()).most_common(1)
            for line, name in enumerate(plan.strategies):
                if name in cell.measured:
                    value = cell.measured[name].value
                    below[line, column] = 100 * (value - cell.measured[cell.best].value)
                    star = " *" if served and served[0][0] == name else ""
                    axis.text(column, line, f"{100 * value:.1f}{star}", ha="center", va="center")
        picture = axis.imshow(below, aspect="auto", cmap="RdYlGn", vmin=-10, vmax=0)
        axis.set_xticks(range(len(own)), [str(cell.size) for cell in own])
        axis.set_yticks(range(len(plan.strategies)), list(plan.strategies))
        axis.set(
            title=f"{dataset} ({DOMAINS[dataset]}): accuracy on untouched photos, %", xlabel="photos a class"
        )
        figure.colorbar(picture, ax=axis, label="points below the best")
    figure.savefig(folder / "map.png", dpi=DPI)
    plt.close(figure)
