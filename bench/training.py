"""Rows of training: from the first upload to a served version, against fine-tuning on the same photos."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from bench.contenders import Contenders
from bench.photos import LABELLED, OpenPhotos
from bench.processes import BenchFailed, child
from bench.rows import Goal, Row, ratios

UPLOADS = 2  # at a time
RUN_S = 300  # the longest wait for a run


@dataclass(frozen=True, slots=True)
class Trained:
    """Seconds."""

    to_served: (
        float  # from the first upload, or the request of the repeated run, to a prediction of the version
    )
    training: float  # of these, the run's own


def training(run: Contenders) -> list[Row]:
    scale = run.scale
    photos = run.polyhead.pools[LABELLED.name].photos.open()
    first, again = list[Trained](), list[Trained]()
    with run.plain.running.frozen(), httpx.Client(base_url=run.polyhead.url, timeout=RUN_S + 30) as http:
        for number in range(scale.trainings):
            name, start = f"trained-{number}", number * (scale.labelled + scale.added)
            _created(http.post("/v1/tasks", json={"name": name, "kind": "multiclass"}))
            first.append(_first_training(http, name, photos, start, run))
            more = start + scale.labelled
            _upload(http, name, photos, start=more, count=scale.added, classes=scale.classes)
            again.append(_train(http, name, photos[start], time.monotonic(), version=2))
        with child("bench.finetune", run.folder / "finetune.log") as loop:
            tuned = loop.ask(
                backbone=scale.backbone,
                photos=str(run.polyhead.pools[LABELLED.name].photos.path),
                count=scale.labelled,
                classes=scale.classes,
                epochs=scale.epochs,
            )
    return _rows(run, first, again, tuned)


def _rows(run: Contenders, first: list[Trained], again: list[Trained], tuned: dict[str, Any]) -> list[Row]:
    scale = run.scale
    served = [each.to_served for each in first]
    loop = f"timm, {scale.epochs} epochs"
    return [
        Row(
            name=f"{scale.labelled} images in {scale.classes} classes: first upload to served",
            unit="s",
            values={"polyhead": served},
            compared="polyhead",
            figures=served,
            figure_unit="s",
            goal=Goal(10, "lower", "s"),
        ),
        Row(
            name="the same: the training in it",
            unit="s",
            values={"polyhead": [each.training for each in first]},
            compared="polyhead",
            figures=[each.training for each in first],
            figure_unit="s",
            goal=Goal(1, "lower", "s"),
            notes=["the run from its claim to its end: fitting, evaluation, export, check and publishing"],
        ),
        Row(
            name="the same, against fine-tuning",
            unit="s",
            values={"polyhead": served, loop: [tuned["seconds"]]},
            compared=f"{loop} / polyhead",
            figures=ratios([tuned["seconds"]] * len(served), served),
            notes=[
                f"the loop: {tuned['images_s']:.1f} images/s, without importing torch and building the net"
            ],
        ),
        Row(
            name=f"retrained after {scale.added} more images",
            unit="s",
            values={"polyhead": [each.to_served for each in again]},
            compared="polyhead",
            figures=[each.to_served for each in again],
            figure_unit="s",
            goal=Goal(1, "lower", "s"),
            notes=["from the request of the run to a prediction by the new version"],
        ),
    ]


def _first_training(
    http: httpx.Client, name: str, photos: OpenPhotos, start: int, run: Contenders
) -> Trained:
    began = time.monotonic()
    _upload(http, name, photos, start=start, count=run.scale.labelled, classes=run.scale.classes)
    return _train(http, name, photos[start], began, version=1)


def _upload(
    http: httpx.Client, name: str, photos: OpenPhotos, *, start: int, count: int, classes: int
) -> None:
    """A request for each class, two at a time; photo i belongs to class i modulo their number."""

    def send(label: int) -> None:
        numbers = range(start + label, start + count, classes)
        files = [("file", (f"{number}.jpg", photos[number], LABELLED.media_type)) for number in numbers]
        if files:
            path = f"/v1/tasks/{name}/examples"
            _created(http.post(path, files=files, data={"label": f"class-{label:02d}"}))

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(send, range(classes)))


def _train(http: httpx.Client, name: str, photo: bytes, began: float, *, version: int) -> Trained:
    """Run, publish whatever comes out, and predict until the new version answers."""
    answer = http.post(
        f"/v1/tasks/{name}/runs", json={"publish": "always"}, headers={"Prefer": f"wait={RUN_S}"}
    )
    ended = answer.json()
    if ended.get("state") != "succeeded" or ended["version"] != version:
        raise BenchFailed(f"the run ended as {ended}")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = http.post(
            f"/v1/tasks/{name}/predict", content=photo, headers={"Content-Type": LABELLED.media_type}
        )
        if answer.status_code == 200 and answer.json()["version"] == version:
            took = datetime.fromisoformat(ended["finished_at"]) - datetime.fromisoformat(ended["started_at"])
            return Trained(time.monotonic() - began, took.total_seconds())
    raise BenchFailed(f"version {version} is not served: {answer.text}")


def _created(answer: httpx.Response) -> None:
    if answer.status_code != 201:
        raise BenchFailed(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
