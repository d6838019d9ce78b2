"""A thousand tasks in seconds: real rows and real head.onnx files through the store, from synthetic fits."""

import hashlib
import time
from pathlib import Path

import numpy as np

from models.arrays import FloatArray
from models.export import head_metadata, head_onnx
from models.head import LinearHead
from models.identity import BackboneIdentity
from service.store import Store, keys, migrate, open_store
from service.store.records import NewRun, NewVersion, Task

TENANT = "default"
LEASE_S = 60.0
CLASSES = 10


def task_name(number: int) -> str:
    return f"bench-{number:04d}"


def synthetic_head(embeddings: FloatArray, seed: int) -> LinearHead:
    """Random directions in the standardised embeddings of real photos: answers differ from photo to photo.

    Args: embeddings: (N, D).
    """
    rng = np.random.default_rng(seed)
    mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6  # (D,), (D,)
    weight = rng.normal(size=(CLASSES, embeddings.shape[1])) / scale / np.sqrt(embeddings.shape[1])  # (C, D)
    return LinearHead(
        kind="multiclass",
        labels=tuple(f"class-{number}" for number in range(CLASSES)),
        weight=weight.astype(np.float32),
        bias=(-weight @ mean).astype(np.float32),
    )


def publish_tasks(data_dir: Path, count: int, embeddings: FloatArray, identity: BackboneIdentity) -> None:
    """Make tasks with a served version each in a data folder that no server uses yet."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database_url = f"sqlite:///{data_dir.resolve() / 'polyhead.db'}"
    migrate(database_url)
    store = open_store(database_url, (data_dir.resolve() / "blobs").as_uri())
    try:
        for number in range(count):
            head = synthetic_head(embeddings, number)
            task = store.tasks.create(
                TENANT, task_name(number), "multiclass", classes=head.labels, now=time.time()
            )
            _publish(store, task, head, identity)
    finally:
        store.close()


def write_head(folder: Path, embeddings: FloatArray, identity: BackboneIdentity) -> tuple[Path, Path]:
    """The head of the first task for the contenders without a store: as head.onnx, and as arrays."""
    (arrays,) = write_arrays(folder, embeddings, 1)
    onnx = folder / "head.onnx"
    onnx.write_bytes(_file(task_name(0), synthetic_head(embeddings, 0), identity))
    return onnx, arrays


def arrays_file(folder: Path, task: int) -> Path:
    """Where `write_arrays` puts a task's head."""
    return folder / f"head-{task}.npz"


def write_arrays(folder: Path, embeddings: FloatArray, tasks: int) -> list[Path]:
    """The heads of the first tasks as arrays, for contenders that keep a network for each."""
    files = [arrays_file(folder, number) for number in range(tasks)]
    for number, file in enumerate(files):
        head = synthetic_head(embeddings, number)
        np.savez(file, weight=head.weight, bias=head.bias, labels=np.array(head.labels))
    return files


def _file(task: str, head: LinearHead, identity: BackboneIdentity) -> bytes:
    said = head_metadata(task=task, version=1, kind=head.kind, labels=head.labels, identity=identity)
    return head_onnx(head, metadata=said)


def _publish(store: Store, task: Task, head: LinearHead, identity: BackboneIdentity) -> None:
    new = NewRun(
        task_id=task.id,
        kind="train",
        strategy="head",
        options={"seed": 0},
        publish="first",
        backbone_digest=identity.digest,
    )
    store.runs.create(TENANT, new, now=time.time())
    run = store.runs.claim(LEASE_S, 1)
    assert run is not None
    data = _file(task.name, head, identity)
    digest = hashlib.sha256(data).hexdigest()
    key = keys.head_key(task, digest)
    store.blobs.put_new(key, data)
    store.runs.publish(
        run.id,
        run.attempt,
        _version(head, identity, digest, key, len(data)),
        publish=True,
        reason="synthetic",
    )


def _version(head: LinearHead, identity: BackboneIdentity, digest: str, key: str, size: int) -> NewVersion:
    return NewVersion(
        strategy="head", kind=head.kind, labels=head.labels, threshold=None, options={"seed": 0}, seed=0,
        data_revision=1, split_digest="0" * 64, evaluation="test", fitted_on="nothing: synthetic", metrics={},
        history=[], decision={}, backbone_digest=identity.digest, trainable_parameters=head.parameters,
        total_parameters=identity.total_parameters + head.parameters, shares_backbone=True,
        head_digest=digest, head_key=key, head_bytes=size, predictions_key="",
    )  # fmt: skip
