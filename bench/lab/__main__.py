"""`python -m bench.lab`: the taught transfer over twenty seeds, and its exercises over five, as tables."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.lab.course import NEW, Course, Scores, Setting, run_course
from bench.lab.network import pretrained

WAYS = {"head only, by Adam": "head", "last convolution too": "tuned", "exact head": "exact"}
FEW = 5  # seeds of an exercise, the first ones
EXERCISES = {
    "A fourth class, the saltire": Setting(classes=(*NEW, "saltire")),
    "40 pictures a class": Setting(each=40),
    "Last convolution and head at 0.05": Setting(head_rate=0.05, last_rate=0.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    count = parser.parse_args().seeds
    torch.set_num_threads(1)  # such small tensors are slower on several
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="polyhead-lab-") as folder:
        report(count, Path(folder), lambda text: print(text, flush=True))
    print(f"\n{count} seeds, {time.process_time() - began:.0f} seconds of one core")


def report(count: int, folder: Path, say: Callable[[str], None]) -> None:
    """Markdown, as it is measured. Args: count: seeds; folder: of the pretrained weights."""
    networks = [pretrained("pooled", seed, folder) for seed in range(count)]
    taught = [run_course(network, seed, Setting()) for seed, network in enumerate(networks)]
    say(f"As taught, {count} seeds\n\n{table(taught)}\n\n{gains(taught)}")
    for title, setting in EXERCISES.items():
        courses = [run_course(network, seed, setting) for seed, network in enumerate(networks[:FEW])]
        say(f"\n{title}, {len(courses)} seeds\n\n{table(courses)}\n\n{gains(courses)}")
    flat = [
        run_course(pretrained("flattened", seed, folder), seed, Setting()) for seed in range(min(FEW, count))
    ]
    for title, courses in {"Pooled": taught[:FEW], "Flattened": flat}.items():
        say(f"\n{title} features, {len(courses)} seeds\n\n{table(courses)}")


def table(courses: list[Course]) -> str:
    """Means over the seeds, a row each way."""
    columns: dict[str, Callable[[Scores], float | None]] = {
        "validation, last epoch": lambda each: each.validation,
        "validation, epoch kept": lambda each: each.kept,
        "test": lambda each: each.test,
        "test, moved": lambda each: each.moved,
    }
    rows = [f"| | {' | '.join(columns)} | test, worst seed | parameters |", "|---" * (len(columns) + 3) + "|"]
    for title, way in WAYS.items():
        scores: list[Scores] = [getattr(course, way) for course in courses]
        cells = [mean([of(each) for each in scores]) for of in columns.values()]
        worst = f"{min(each.test for each in scores):.3f}"
        rows.append(f"| {' | '.join([title, *cells, worst, trains(courses[0], way)])} |")
    return "\n".join(rows)


def gains(courses: list[Course]) -> str:
    """What the last convolution adds to the head, seed by seed."""
    kept = [(each.tuned.kept or 0.0) - (each.head.kept or 0.0) for each in courses]
    last = [(each.tuned.validation or 0.0) - (each.head.validation or 0.0) for each in courses]
    test = [each.tuned.test - each.head.test for each in courses]
    over = [(each.tuned.kept or 0.0) - (each.head.validation or 0.0) for each in courses]
    said = {
        "last epoch over last": last,
        "epoch kept over kept": kept,
        "epoch kept over the head's last": over,
        "on test": test,
    }
    shown = (f"{name} {np.mean(values):+.3f}, least {min(values):+.3f}" for name, values in said.items())
    return f"Gain of the last convolution: {'; '.join(shown)}."


def mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "-"


def trains(course: Course, way: str) -> str:
    """How many parameters."""
    return f"{sum((course.tuned_trains if way == 'tuned' else course.head_trains).values()):,}"


if __name__ == "__main__":
    main()
