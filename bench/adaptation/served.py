"""ELPV as a user would do it: over HTTP, fold by fold, the test fold never more than a test.

Three of four stratified folds are uploaded without a split, the fourth with `split=test`. The version that
the run publishes was refitted on train and validation; it then predicts the fourth fold through /predict.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from bench.adaptation.images import Collection, sample, solar_cells
from bench.adaptation.journal import Journal
from bench.processes import BenchFailed, free_port, running, wait_for_http
from models.arrays import IntArray
from service.client.api import Client, ClientError, Json, task_path
from service.client.folder import Photo
from service.client.predict import PredictOptions, predict_files
from service.client.training import follow
from service.client.upload import Tally, upload_photos
from service.layouts import Labelling

FOLDS = 4
BATCH = 64  # photos in one request
TASK = "cells"
QUICK_CELLS = 100  # of each class


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    seed: int  # of the folds
    folds: tuple[int, ...]
    strategy: str
    options: dict[str, Any]  # of the run
    server: dict[str, str]  # POLYHEAD_… without the prefix, in lower case
    per_class: int | None  # cells; None: all

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy, "options": self.options, "server": self.server,
            "per_class": self.per_class,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    cells: Collection
    learned: IntArray  # rows without a split
    tested: IntArray  # rows of the test

    @property
    def truth(self) -> list[str]:
        """Labels of the test."""
        return [self.cells.labels[target] for target in self.cells.targets[self.tested]]

    @property
    def photos(self) -> list[Photo]:
        """What is uploaded."""
        return [*photos_of(self.cells, self.learned, None), *photos_of(self.cells, self.tested, "test")]


def cells_of(plan: Plan) -> Collection:
    cells = solar_cells()
    if plan.per_class is None:
        return cells
    return cells.take(sample(cells, np.arange(len(cells)), plan.per_class, plan.seed))


def folds_of(cells: Collection, seed: int) -> list[Fold]:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return [
        Fold(cells=cells, learned=learned, tested=tested)
        for learned, tested in folds.split(np.zeros(len(cells)), cells.targets)
    ]


def measure(plan: Plan, journal: Journal, work: Path, console: Console) -> None:
    """The folds that the journal lacks. Raises: BenchFailed."""
    folds = folds_of(cells_of(plan), plan.seed)
    for seed, fold in journal.missing([[plan.seed, fold] for fold in plan.folds]):
        console.print(f"seed {seed}, fold {fold}: starting the server")
        journal.add([seed, fold], **one_fold(plan, folds[fold], work, console))


def one_fold(plan: Plan, fold: Fold, work: Path, console: Console) -> dict[str, Any]:
    """A server of its own, so that nothing is known to it from another fold."""
    with tempfile.TemporaryDirectory(prefix="polyhead-elpv-") as folder:
        port = free_port()
        own = {"port": str(port), "data_dir": f"{folder}/data", "cache_dir": str(work / "backbones")}
        settings = {"log_level": "warning"} | plan.server | own
        environment = {f"POLYHEAD_{name.upper()}": value for name, value in settings.items()}
        url = f"http://127.0.0.1:{port}"
        with running(["service", "serve"], Path(folder) / "server.log", environment) as server:
            ready_s = wait_for_http(server, f"{url}/readyz")
            try:
                with Client(url) as client:
                    return {"ready_s": ready_s, **through_http(plan, fold, client, console)}
            except ClientError as error:
                raise BenchFailed(f"{error}\n{server.tail()}") from error


def through_http(plan: Plan, fold: Fold, client: Client, console: Console) -> dict[str, Any]:
    """Upload, train, predict. Raises: BenchFailed, ClientError."""
    client.ensure_task(TASK, "multiclass")
    began = time.monotonic()
    upload(client, fold.photos, console)
    uploaded = time.monotonic()
    run = train(plan, client, console)
    trained = time.monotonic()
    labels = predictions(client, [fold.cells.paths[row] for row in fold.tested])
    predicted = time.monotonic()
    version = client.get(task_path(TASK, "versions", str(run["version"])))
    truth = fold.truth
    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
    return {
        "accuracy": float(np.mean(np.array(labels) == np.array(truth))),
        "balanced_accuracy": float(balanced_accuracy_score(truth, labels)),
        "test": {name: version["metrics"][name] for name in ("accuracy", "balanced_accuracy", "count")},
        "upload_s": uploaded - began,
        "run_s": took.total_seconds(),
        "asked_to_served_s": trained - uploaded,
        "predict_s": predicted - trained,
        "total_s": predicted - began,
        "strategy": version["strategy"],
        "options": version["options"],
        "fitted_on": version["fitted_on"],
        "decision": version["decision"],
        "cores": os.cpu_count(),
    }


def photos_of(cells: Collection, rows: IntArray, split: Any) -> list[Photo]:
    """Ordered by label: a request has one for all of its files."""
    ordered = rows[np.argsort(cells.targets[rows], kind="stable")]
    return [
        Photo(
            path=cells.paths[row],
            name=cells.paths[row].name,
            labelling=Labelling(labels=(cells.labels[cells.targets[row]],), split=split),
        )
        for row in ordered
    ]


def upload(client: Client, photos: Sequence[Photo], console: Console) -> Tally:
    tally = upload_photos(client, TASK, photos, batch=BATCH, as_json=False, console=console)
    # ELPV has no photo twice, byte for byte
    if tally.created != len(photos):
        raise BenchFailed(f"of {len(photos)} photos {tally.created} were taken: {tally.failures[:3]}")
    return tally


def train(plan: Plan, client: Client, console: Console) -> Json:
    """A run that has succeeded, its progress shown as it comes."""
    asked = {"strategy": plan.strategy, "publish": "always", **plan.options}
    run = follow(client, client.post(task_path(TASK, "runs"), json=asked)["id"], console)
    if run["state"] != "succeeded":
        raise BenchFailed(f"the run has {run['state']}: {run.get('error')}")
    return run


def predictions(client: Client, files: Sequence[Path]) -> list[str]:
    options = PredictOptions(files=files, task=TASK, version=None, alias=None, top_k=None, as_json=False)
    answers = list(predict_files(client, options))
    if failed := [answer for answer in answers if "error" in answer]:
        raise BenchFailed(f"{len(failed)} photos were not predicted: {failed[0]['error']}")
    return [answer["label"] for answer in answers]


def plan_of(said: argparse.Namespace) -> Plan:
    """Raises: BenchFailed: options that are no JSON object, or a setting without a value."""
    try:
        options = json.loads(said.options)
        folds = tuple(int(fold) for fold in said.folds.split(","))
    except ValueError as error:
        raise BenchFailed(f"--options or --folds can't be read: {error}") from error
    if not isinstance(options, dict) or not all(0 <= fold < FOLDS for fold in folds):
        raise BenchFailed(f"--options must be a JSON object and --folds from 0 to {FOLDS - 1}")
    server = {"backbone": said.backbone}
    for setting in said.set:
        name, equals, value = setting.partition("=")
        if not equals:
            raise BenchFailed(f"--set {setting}: it must be NAME=VALUE, as in --set input_size=300")
        server[name.removeprefix("POLYHEAD_").lower()] = value
    return Plan(
        seed=said.seed,
        folds=folds,
        strategy=said.strategy,
        options=options,
        server=server,
        per_class=QUICK_CELLS if said.quick else None,
    )
