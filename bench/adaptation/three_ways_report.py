"""The three ways as a table, a picture and two verdicts."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.adaptation.kept import keep, table, verdict
from bench.adaptation.spread import Mean, mean, no_worse, paired
from bench.adaptation.three_ways import EARLY, WAYS, Plan
from bench.report import Machine

mpl.use("Agg")

import matplotlib.pyplot as plt  # after the backend is chosen

Rows = list[dict[str, Any]]
SINGLE, DISCRIMINATIVE = "one rate", "discriminative rates"
WIDTH, HEIGHT, DPI = 8.0, 3.6, 110  # inches, inches, dots an inch


def report(plan: Plan, rows: Rows, where: Machine, folder: Path) -> str:
    """Write three-ways.{json,md,png}; the tables and verdicts, for the terminal."""
    lines, said = list[str](), dict[str, Any]()
    for dataset in plan.datasets:
        own = {way: _of(rows, dataset, way) for way in WAYS}
        if seeds := whole_seeds(own):
            lines += _table(plan, dataset, own, seeds)
            said[dataset] = verdicts(own, seeds)
            lines += ["", *(f"- {name}: {text}" for name, text in said[dataset].items()), ""]
    _draw(plan, rows, folder)
    keep(
        folder,
        "three-ways",
        title="Three ways, as taught",
        about=ABOUT,
        where=where,
        said={"settings": plan.settings, "verdicts": said, "rows": rows},
        parts=[*lines, "![Accuracy, and how far each block moved](three-ways.png)"],
    )
    return "\n".join(lines)


ABOUT = """\
Final validation accuracy in percent, mean ± standard error over seeds; every seed draws its own photos.
All ways share the sample, a random head that trains alone for one epoch, augmentation, batches, epochs
and schedule; validation chooses nothing. *Moved*: relative weight change ‖w - w0‖ / ‖w0‖ of a block, mean
over seeds. Batch-norm statistics stay as they were pretrained; from scratch, where there are none, they
follow the batches."""


def _of(rows: Rows, dataset: str, way: str) -> dict[int, dict[str, Any]]:
    return {row["key"][2]: row for row in rows if row["key"][:2] == [dataset, way]}


def whole_seeds(own: dict[str, dict[int, dict[str, Any]]]) -> list[int]:
    """Those that every way has."""
    return sorted(set.intersection(*(set(of_way) for of_way in own.values())))


def _table(
    plan: Plan, dataset: str, own: dict[str, dict[int, dict[str, Any]]], seeds: list[int]
) -> list[str]:
    first = own[DISCRIMINATIVE][seeds[0]]
    early = early_blocks(first)
    head = ["way", "accuracy", "seconds", *(f"moved: {name}" for name in early), "moved: last block"]
    last = list(first["moved"])[-1]
    cells = []
    for way, of_seed in own.items():
        moved = {
            name: mean([of_seed[seed]["moved"][name] for seed in seeds]).value for name in [*early, last]
        }
        seconds = mean([of_seed[seed]["seconds"] for seed in seeds]).value
        accuracy = mean([of_seed[seed]["accuracy"] for seed in seeds])
        cells.append([way, accuracy, f"{seconds:.0f}", *(f"{value:.2g}" for value in moved.values())])
    photos = f"{first['train']} photos to train, {first['validation']} to validate"
    title = f"## {dataset}: {photos}, {len(seeds)} seeds, {plan.epochs} epochs"
    return [title, "", *table(head, cells)]


def early_blocks(row: dict[str, Any]) -> list[str]:
    """The first EARLY, but never the last block."""
    names = list(row["moved"])
    return names[: max(1, min(EARLY, len(names) - 1))]


def verdicts(own: dict[str, dict[int, dict[str, Any]]], seeds: list[int]) -> dict[str, str]:
    """Discriminative rates against one rate."""
    one, many = own[SINGLE], own[DISCRIMINATIVE]
    gain = paired([many[seed]["accuracy"] for seed in seeds], [one[seed]["accuracy"] for seed in seeds])
    early = early_blocks(many[seeds[0]])
    shown, calmer = [], []
    for name in early:
        ours, theirs = (mean([each[seed]["moved"][name] for seed in seeds]).value for each in (many, one))
        calmer.append(ours < theirs)
        shown.append(f"{name} {ours:.2g} against {theirs:.2g}")
    return {
        "discriminative rates match or beat one rate": (
            f"{verdict(reached=no_worse(gain))} (difference {_signed(gain)} points)"
        ),
        "they disturb early layers less": f"{verdict(reached=all(calmer))} ({', '.join(shown)})",
    }


def _signed(difference: Mean) -> str:
    return f"{'+' if difference.value >= 0 else ''}{difference}"


def _draw(plan: Plan, rows: Rows, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = (WIDTH, HEIGHT * len(plan.datasets))
    figure, grid = plt.subplots(len(plan.datasets), 2, figsize=size, layout="constrained", squeeze=False)
    for (left, right), dataset in zip(grid, plan.datasets, strict=True):
        for place, way in enumerate(WAYS):
            of_seed = _of(rows, dataset, way).values()
            values = [100 * row["accuracy"] for row in of_seed]
            left.scatter(values, [place] * len(values), alpha=0.5)
            if values:
                left.plot([sum(values) / len(values)] * 2, [place - 0.3, place + 0.3], color="black")
            if moved := [row["moved"] for row in of_seed]:
                names = list(moved[0])
                changes = [mean([each[name] for each in moved]).value for name in names]
                if any(changes):  # a frozen network has none, which a logarithmic axis can't show
                    right.plot(names, changes, marker=".", label=way)
        left.set_yticks(range(len(WAYS)), list(WAYS))
        left.set(title=f"{dataset}: validation accuracy, %")
        right.set(title="relative weight change", yscale="log")
        right.tick_params(axis="x", rotation=45)
        if right.lines:
            right.legend(fontsize=7)
    figure.savefig(folder / "three-ways.png", dpi=DPI)
    plt.close(figure)
