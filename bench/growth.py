"""What a store grows by, and what its acts cost, counted in bytes and statements: `python -m bench.growth`.

A real SQLite file and a real folder of blobs, filled through the store's own methods with synthetic examples,
embeddings and heads. Bytes and statements don't depend on who else uses the machine; CPU does a little.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import platformdirs
import sqlalchemy as sa
from sqlalchemy import event

from bench.heads import CLASSES, TENANT, publish_tasks, task_name
from models.identity import BackboneConfig, BackboneIdentity
from models.prepare import prepare_backbone
from service.store import Store, migrate, open_store
from service.store.records import NewExample, Task

BATCH = 64  # examples of one upload, as `polyhead push` sends them
SEEN = 200  # embeddings that synthetic heads are scaled by
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    backbone: str
    examples: int
    per_task: int  # examples
    heads: int  # tasks with a version that is served


FULL = Plan(backbone="efficientnet_lite0", examples=20_000, per_task=400, heads=200)
QUICK = Plan(backbone="tests.networks:tiny", examples=256, per_task=64, heads=4)


@dataclass(slots=True)
class Statements:
    """SQL statements since the start, BEGIN and COMMIT not counted."""

    count: int = 0


@contextmanager
def counted() -> Iterator[Statements]:
    seen = Statements()

    def note(*_: object) -> None:
        seen.count += 1

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


def measure(plan: Plan, folder: Path, cache_dir: Path) -> list[str]:
    """The lines of the report."""
    identity = prepare_backbone(BackboneConfig(name=plan.backbone), cache_dir).identity
    rng = np.random.default_rng(0)
    lines = [f"backbone {identity.name}, {identity.embedding_dim} numbers an embedding"]
    without = _filled(folder / "rows", plan, identity, None)
    with_them = _filled(folder / "all", plan, identity, rng)
    row, vector = (without / plan.examples, (with_them - without) / plan.examples)
    lines += [
        f"an example's row, labels and indexes: {row:.0f} bytes, {row * 1e6 / GB:.2f} GB for 10^6",
        (
            f"an embedding with its key and index: {vector:.0f} bytes, {vector * 1e6 / GB:.2f} GB for 10^6 "
            f"({identity.embedding_dim * 4} bytes are the numbers)"
        ),
    ]
    return lines + _tasks(folder / "tasks", plan, identity, rng)


def _filled(folder: Path, plan: Plan, identity: BackboneIdentity, rng: np.random.Generator | None) -> int:
    """Bytes of a database with examples. Args: rng: of their embeddings; None: without."""
    with _store(folder) as store:
        for number in range(plan.examples // plan.per_task):
            task = store.tasks.create(TENANT, task_name(number), "multiclass", now=time.time())
            for start in range(0, plan.per_task, BATCH):
                some = range(start, min(start + BATCH, plan.per_task))
                new = [_example(number, index, identity, rng) for index in some]
                store.examples.add(task, new, backbone_digest=identity.digest, now=time.time())
    return (folder / "polyhead.db").stat().st_size


def _example(
    task: int, index: int, identity: BackboneIdentity, rng: np.random.Generator | None
) -> NewExample:
    digest = hashlib.sha256(f"{task} {index}".encode()).hexdigest()
    vector = None if rng is None else rng.normal(size=identity.embedding_dim).astype("<f4").tobytes()
    return NewExample(
        image_digest=digest, blob_key=f"{TENANT}/tasks/{task:036}/images/{digest}", media_type="image/jpeg",
        filename=f"photo-{index:05}.jpg", width=640, height=480, size=40_000, perceptual_hash=index,
        labels=(f"class-{index % CLASSES}",), value=None, group=None, split=None, embedding=vector,
    )  # fmt: skip


def _tasks(folder: Path, plan: Plan, identity: BackboneIdentity, rng: np.random.Generator) -> list[str]:
    """What a task with a published head costs: to make, to keep, to resolve."""
    embeddings = rng.normal(size=(SEEN, identity.embedding_dim)).astype(np.float32)  # (N, D)
    folder.mkdir(parents=True)
    with _store(folder):  # what an empty one has is not the tasks'
        pass
    before = (folder / "polyhead.db").stat().st_size
    started = time.process_time()
    with counted() as seen:
        publish_tasks(folder, plan.heads, embeddings, identity)
    cpu = time.process_time() - started
    rows = ((folder / "polyhead.db").stat().st_size - before) / plan.heads
    blobs = [path.stat().st_size for path in (folder / "blobs").rglob("*") if path.is_file()]
    with _store(folder) as store, counted() as asked:
        tasks = [store.tasks.get(TENANT, task_name(number)) for number in range(plan.heads)]
        asked.count = 0
        cost = [_cpu_ms(lambda task=task: _resolve(store, task, identity)) for task in tasks]  # type: ignore[misc]
    return [
        (
            f"a task with a run and a version of {CLASSES} classes: {rows:.0f} bytes of rows and indexes, "
            f"{sum(blobs) / plan.heads:.0f} of {len(blobs) / plan.heads:g} blob; "
            f"{(rows + sum(blobs) / plan.heads) * 1e6 / GB:.1f} GB for 10^6"
        ),
        (
            f"creating it, a run and publishing: {seen.count / plan.heads:.0f} statements, "
            f"{1000 * cpu / plan.heads:.1f} ms of CPU with the export of its head"
        ),
        f"resolving task@production: {asked.count / plan.heads:g} statements, {median(cost):.2f} ms of CPU",
    ]


def _resolve(store: Store, task: Task, identity: BackboneIdentity) -> None:
    store.aliases.resolve(TENANT, task.name, alias="production", backbone_digest=identity.digest)


def _cpu_ms(act: Callable[[], None]) -> float:
    started = time.process_time()
    act()
    return 1000 * (time.process_time() - started)


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    """A store that is closed with all its bytes in its one file."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder.resolve() / 'polyhead.db'}"
    migrate(url)
    store = open_store(url, (folder.resolve() / "blobs").as_uri())
    try:
        yield store
    finally:
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny network, and a few hundred examples")
    plan = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory(prefix="polyhead-growth-") as folder:
        for line in measure(plan, Path(folder), Path(platformdirs.user_cache_dir("polyhead"))):
            print(line)


if __name__ == "__main__":
    main()
