"""The map: training size x domain x strategy, each cell scored on photos that nothing was fitted on."""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.adaptation.climbing import climb
from bench.adaptation.features import Features, Tell
from bench.adaptation.fits import OPTIONS, Lab, Outcome, to_hex
from bench.adaptation.images import Collection, collections, held_out, sample
from bench.adaptation.journal import Journal
from bench.processes import BenchFailed
from models.arrays import IntArray
from models.errors import InvalidOption
from models.identity import BackboneConfig

Key = tuple[str, int, str, int]  # collection, photos of a class, strategy, seed

AUTO = "auto"
ENOUGH = 0.75  # of the photos that a size asks for, which a collection must have
HELD_OUT = {"elpv": 0.25, "stamps": 0.4}  # share of each class


@dataclass(frozen=True, kw_only=True)
class Plan:
    datasets: tuple[str, ...]
    sizes: tuple[int, ...]  # photos of a class
    strategies: tuple[str, ...]  # `name`, or `name@blocks`
    seeds: int
    backbone: str
    input_size: int | None  # pixels; None: the weights' own
    finetune_size: int
    finetune_epochs: int
    given: dict[str, dict[str, Any]]  # options by strategy, over its defaults
    threads: int

    def options(self, strategy: str, seed: int) -> Any:
        """Raises: BenchFailed: an unknown strategy or option."""
        name, _, blocks = strategy.partition("@")
        said: dict[str, Any] = {"seed": seed}
        if name == "finetune":
            said["epochs"] = self.finetune_epochs
        if blocks:
            said["blocks"] = int(blocks) if blocks.isdecimal() else blocks  # which the options refuse
        if name not in OPTIONS:
            raise BenchFailed(f"there is no strategy {name}: only {', '.join(OPTIONS)}")
        try:
            return OPTIONS[name](**said | self.given.get(name, {}))
        except (TypeError, InvalidOption) as error:
            raise BenchFailed(f"strategy {strategy}: {error}") from error

    def settings(self, strategy: str) -> dict[str, Any]:
        """That decide its figures, defaults included: a changed default is measured anew."""
        said: dict[str, Any] = {
            "held_out": "of each seed",
            "backbone": self.backbone,
            "input_size": self.finetune_size if strategy == "finetune" else self.input_size,
        }
        # auto's rules are no options: after a change of them, its lines are to be taken out of map.jsonl
        options = {} if strategy == AUTO else asdict(self.options(strategy, 0))
        return said | {"options": {name: value for name, value in options.items() if name != "seed"}}

    @cached_property
    def all_strategies(self) -> tuple[str, ...]:
        return (*self.strategies, AUTO)


def journal_of(plan: Plan, strategy: str, folder: Path) -> Journal:
    return Journal(folder / "map.jsonl", plan.settings(strategy))


def rows_of_plan(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """What is measured by now."""
    found = []
    for strategy in plan.all_strategies:
        for row in journal_of(plan, strategy, folder).rows():
            dataset, size, of, seed = row["key"]
            if of == strategy and dataset in plan.datasets and size in plan.sizes and seed < plan.seeds:
                found.append(row)
    return found


def measure(plan: Plan, folder: Path, said: argparse.Namespace, tell: Tell) -> None:
    """Everything that is lacking. Raises: BenchFailed, BackboneError, InvalidOption, NoTail."""
    torch.set_num_threads(plan.threads)
    photos = collections(plan.datasets, stamps_root=said.stamps, cache=said.work, per_class=said.per_class)
    labs = {name: open_lab(plan, photos[name], said.work, tell) for name in plan.datasets}
    done = {tuple(row["key"]) for row in rows_of_plan(plan, folder)}
    keys = [key for key in keys_of(plan, labs) if key not in done]
    tell(f"{len(keys)} fits")
    began = time.monotonic()
    for number, (name, size, strategy, seed) in enumerate(keys, start=1):
        lab = cut(labs[name], seed)
        rows = sample(lab.features.collection, lab.pool, size, seed)
        if strategy == AUTO:
            outcome = climb(lab, rows, seed, plan.finetune_epochs)
        else:
            outcome = lab.fit(strategy.partition("@")[0], rows, plan.options(strategy, seed))
        note(journal_of(plan, strategy, folder), (name, size, strategy, seed), outcome, rows)
        left = (time.monotonic() - began) / number * (len(keys) - number) / 60
        share = f"{outcome.correct.mean():.3f}"
        tell(f"{name}, {size} a class, {strategy}, seed {seed}: {share}; {left:.0f} minutes left")


def keys_of(plan: Plan, labs: Mapping[str, Lab]) -> list[Key]:
    """A seed of everything first: an early look has all of the cells in it."""
    return [
        (name, size, strategy, seed)
        for seed in range(plan.seeds)
        for name, lab in labs.items()
        for size in sizes_of(plan, lab)
        for strategy in plan.all_strategies
    ]


def note(journal: Journal, key: Key, outcome: Outcome, rows: IntArray) -> None:
    journal.add(
        list(key),
        accuracy=float(outcome.correct.mean()),
        correct=to_hex(outcome.correct),
        held_out=len(outcome.correct),
        examples=len(rows),
        validation=outcome.validation,
        evaluation=outcome.evaluation,
        seconds=round(outcome.seconds, 3),
        chose=outcome.chose,
    )


def cut(lab: Lab, seed: int) -> Lab:
    """Put other photos aside for each seed, so that a mean over seeds doesn't hang on a few dozen of them."""
    collection = lab.features.collection
    pool, held = held_out(collection, HELD_OUT[collection.name], seed)
    return replace(lab, pool=pool, held=held)


def open_lab(plan: Plan, collection: Collection, work: Path, tell: Tell) -> Lab:
    pool, held = held_out(collection, HELD_OUT[collection.name], 0)
    config = BackboneConfig(name=plan.backbone, input_size=plan.input_size, threads=plan.threads)
    small = BackboneConfig(name=plan.backbone, input_size=plan.finetune_size, threads=plan.threads)
    return Lab(
        features=Features.of(collection, config, work, tell),
        small=Features.of(collection, small, work, tell),
        pool=pool,
        held=held,
    )


def sizes_of(plan: Plan, lab: Lab) -> list[int]:
    """Those for which there are photos enough; a class that has fewer then gives all that it has."""
    counts = np.bincount(lab.features.collection.targets[lab.pool])
    return [size for size in plan.sizes if np.minimum(counts, size).sum() >= ENOUGH * size * len(counts)]


def plan_of(said: argparse.Namespace) -> Plan:
    """Raises: BenchFailed: an unknown strategy, or options that it doesn't have."""
    try:
        given = json.loads(said.options)
    except json.JSONDecodeError as error:
        raise BenchFailed(f"--options is no JSON: {error}") from error
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise BenchFailed('--options must have an object for each strategy: {"last_block": {"epochs": 8}}')
    if unknown := given.keys() - OPTIONS.keys():
        raise BenchFailed(
            f"--options has no strategy {', '.join(sorted(unknown))}: only {', '.join(OPTIONS)}"
        )
    plan = Plan(
        datasets=tuple(said.datasets),
        sizes=tuple(said.sizes),
        strategies=tuple(said.strategies),
        seeds=said.seeds,
        backbone=said.backbone,
        input_size=said.input_size,
        finetune_size=said.finetune_size,
        finetune_epochs=said.finetune_epochs,
        given=given,
        threads=said.threads,
    )
    for strategy in plan.strategies:
        plan.options(strategy, 0)  # refused now, not an hour later
    return plan
