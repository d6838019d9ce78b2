"""Small tasks of generated photos, and runs on them."""

import colorsys
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from models.identity import Preprocessing
from models.preprocess import DecodedImage, decode_image, perceptual_hash
from service.store import Store
from service.store.keys import image_key, import_key
from service.store.records import (
    DEFAULT_TENANT,
    AddResult,
    Kind,
    NewExample,
    NewRun,
    NewVersion,
    Run,
    Task,
    Version,
)
from service.trainer.workbench import Workbench
from service.trainer.worker import work_on

HUES = {"red": 0.0, "green": 0.33, "blue": 0.66, "yellow": 0.16}


def picture(hue: float, seed: int, *, brightness: float = 0.8) -> bytes:
    """A PNG of 40x36 pixels in one hue with a pattern of its own, so that no two are near-duplicates."""
    rng = np.random.default_rng(seed)
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.8, brightness)) * 255
    pattern = np.kron(rng.normal(0, 40, (9, 10, 3)), np.ones((4, 4, 1)))
    pixels = np.clip(colour + pattern, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def coloured(label: str, seed: int) -> bytes:
    return picture(HUES[label], seed)


def spotted(label: str, seed: int) -> bytes:
    """A grey PNG of some brightness, with a small white square if the label is "spot".

    The maxima of an early stage tell; the embedding, a mean, hardly does.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.normal(rng.uniform(60, 140), 6, (40, 40, 1)).repeat(3, axis=2)
    if label == "spot":
        row, column = rng.integers(8, 29, 2)
        pixels[row : row + 4, column : column + 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def new_task(store: Store, kind: Kind = "multiclass", *, name: str = "colours", **fields: Any) -> Task:
    return store.tasks.create(DEFAULT_TENANT, name, kind, now=1.0, **fields)


def add(bench: Workbench, task: Task, images: Iterable[tuple[bytes, dict[str, Any]]]) -> list[AddResult]:
    """Upload images with what is said of them; their embeddings are left to the trainer."""
    items = [_example(bench, task, data, said) for data, said in images]
    return bench.store.examples.add(task, items, backbone_digest=bench.identity.digest, now=1.0)


@cache
def _decoded(data: bytes, preprocessing: Preprocessing) -> DecodedImage:
    return decode_image(data, preprocessing, max_pixels=10**7)


def _example(bench: Workbench, task: Task, data: bytes, said: dict[str, Any]) -> NewExample:
    decoded = _decoded(data.rstrip(b"\0"), bench.identity.preprocessing)
    digest = hashlib.sha256(data).hexdigest()
    key = image_key(task, digest)
    bench.store.blobs.put_new(key, data)
    fields: dict[str, Any] = {"filename": None, "labels": None, "value": None, "group": None, "split": None}
    return NewExample(
        image_digest=digest,
        blob_key=key,
        media_type=decoded.media_type,
        width=decoded.width,
        height=decoded.height,
        size=len(data),
        perceptual_hash=perceptual_hash(decoded.pixels),
        **fields | said,
    )


def colours(
    each: int, labels: tuple[str, ...] = ("red", "green", "blue")
) -> list[tuple[bytes, dict[str, Any]]]:
    """A multiclass data set with `each` photos a class."""
    return [
        (coloured(label, 1000 * number + seed), {"labels": (label,)})
        for number, label in enumerate(labels)
        for seed in range(each)
    ]


def add_slow(bench: Workbench, task: Task, count: int) -> None:
    """Two classes of one large image that takes a while to decode, so that there is time to interfere."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((3000, 3000)).convert("RGB").save(buffer, "PNG", compress_level=1)
    # Bytes after the end of a PNG make it another file that looks the same.
    images = [
        (buffer.getvalue() + bytes(number), {"labels": (("red", "green")[number % 2],)})
        for number in range(count)
    ]
    add(bench, task, images)


def queue_training(bench: Workbench, task: Task, **changed: Any) -> Run:
    fields: dict[str, Any] = {
        "task_id": task.id,
        "kind": "train",
        "strategy": "head",
        "options": {"seed": 0},
        "publish": "first",
        "backbone_digest": bench.identity.digest,
    }
    return bench.store.runs.create(DEFAULT_TENANT, NewRun(**fields | changed), now=2.0)


def copied(version: Version, **changed: Any) -> NewVersion:
    """One that differs in this from a version that is there."""
    own = {"task_id", "number", "run_id", "created_at"}
    fields = {name: getattr(version, name) for name in version.__dataclass_fields__ if name not in own}
    return NewVersion(**fields | changed)


def queue_import(bench: Workbench, task: Task, archive: bytes, *, run_id: str) -> Run:
    key = import_key(task, run_id)
    bench.store.blobs.put_new(key, archive)
    options = {"archive": key, "filename": "photos.zip"}
    return queue_training(bench, task, id=run_id, kind="import", strategy=None, options=options)


def cancelled_when(
    bench: Workbench, queued: Run, due: Callable[[dict[str, Any]], bool]
) -> tuple[dict[str, Any], float]:
    """Work on a run in a thread and cancel it when its progress says so. Returns: that, and the seconds."""
    run = bench.store.runs.claim(15, 3)
    worker = threading.Thread(target=work_on, args=(run, bench, threading.Event()))
    worker.start()
    seen, end = {}, time.monotonic() + 60
    while not due(seen) and time.monotonic() < end:
        seen = bench.store.runs.get(run.tenant, run.id).progress
        time.sleep(0.05)
    asked = time.monotonic()
    bench.store.runs.cancel(run.tenant, queued.id)
    worker.join(10)
    assert bench.store.runs.get(run.tenant, run.id).state == "cancelled"
    return seen, time.monotonic() - asked
