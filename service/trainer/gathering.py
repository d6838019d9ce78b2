"""From a task's rows to the arrays that a fit takes: examples, embeddings, those missing computed."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.dataset import Dataset, Targets
from models.errors import PolyheadError
from models.trainable import check_trainable
from service.errors import RunFailed, UnknownBlob, UnknownExample
from service.store import Store
from service.store.records import Example, Task
from service.trainer.child import Report
from service.trainer.jobs import Embedded
from service.trainer.lease import Lease
from service.trainer.workbench import CHUNK_BYTES, CHUNK_IMAGES, Countdown, Workbench

SNAPSHOTS = 5  # tries to read a task that is being changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A task and its labelled examples, as they were together."""

    task: Task  # with the data_revision that a version of these examples has
    examples: list[Example]  # oldest first

    def check_trainable(self, min_examples_per_class: int) -> None:
        """Raises: UntrainableData."""
        per_class = dict.fromkeys(self.task.classes, 0)
        for example in self.examples:
            for label in example.labels or ():
                per_class[label] += 1
        check_trainable(self.task.kind, per_class, len(self.examples), min_examples_per_class)


def take_snapshot(store: Store, task_id: str) -> Snapshot:
    """Raises: UnknownTask."""
    task = store.tasks.get_by_id(task_id)
    for _ in range(SNAPSHOTS):
        examples = store.examples.for_training(task)
        again = store.tasks.get_by_id(task_id)
        if again == task:
            break
        task = again
    # Under constant change: what the older reading doesn't know yet is left to the next run.
    known = set(task.classes)
    return Snapshot(task=task, examples=[each for each in examples if known.issuperset(each.labels or ())])


def embeddings_of(snapshot: Snapshot, bench: Workbench, *, report: Report, lease: Lease) -> dict[str, bytes]:
    """The embedding of each example's image, by image digest; those that aren't stored yet are made now.

    An example that was deleted meanwhile may have none.

    Raises: RunFailed: an image is lost or can't be decoded; LostLease, BackboneError.
    """
    tenant, digest = snapshot.task.tenant, bench.identity.digest
    wanted = [example.image_digest for example in snapshot.examples]
    found = bench.store.embeddings.get_many(tenant, wanted, digest)
    missing = list(
        {each.image_digest: each for each in snapshot.examples if each.image_digest not in found}.values()
    )
    countdown = Countdown(report, len(missing))
    done = 0
    for chunk in chunks(bench.store, snapshot.task, missing):
        answers = bench.embed(
            [data for _, data in chunk],
            report=lambda progress, done=done: countdown.show(done + progress["done"]),  # type: ignore[misc]
            lease=lease,
        )
        new = vectors_of(chunk, answers)
        bench.store.embeddings.put_many(tenant, new, digest)
        found |= new
        done += len(chunk)
    return found


def vectors_of(
    chunk: Sequence[tuple[Example, bytes]], answers: Sequence[Embedded | PolyheadError]
) -> dict[str, bytes]:
    """What was made of a chunk, by image digest. Raises: RunFailed: an image can't be decoded."""
    vectors = {}
    for (example, _), answer in zip(chunk, answers, strict=True):
        if isinstance(answer, PolyheadError):
            raise RunFailed(f"the image of example {example.id} can't be read: {answer}")
        vectors[example.image_digest] = answer.embedding
    return vectors


def chunks(store: Store, task: Task, examples: Sequence[Example]) -> Iterator[list[tuple[Example, bytes]]]:
    """Examples with their images, as many at once as go to the child; without those deleted meanwhile.

    Raises: RunFailed: an image is lost.
    """
    chunk: list[tuple[Example, bytes]] = []
    size = 0
    for example in examples:
        data = _image_of(store, task, example)
        if data is None:
            continue
        chunk.append((example, data))
        size += len(data)
        if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _image_of(store: Store, task: Task, example: Example) -> bytes | None:
    """An image's bytes; None if its example has been deleted.

    Raises: RunFailed: the example is there and its image is not.
    """
    try:
        return store.blobs.get(example.blob_key)
    except UnknownBlob as error:
        try:
            store.examples.get(task, example.id)
        except UnknownExample:
            return None
        raise RunFailed(f"the image of example {example.id} is lost: delete the example") from error


def sample_images(store: Store, snapshot: Snapshot, count: int) -> list[bytes]:
    """Up to `count` of the task's own images."""
    images: list[bytes] = []
    for example in snapshot.examples:
        if len(images) == count:
            break
        data = _image_of(store, snapshot.task, example)
        if data is not None:
            images.append(data)
    return images


def images_of(store: Store, snapshot: Snapshot, ids: Collection[str]) -> list[bytes]:
    """Those of some examples; of whoever was deleted meanwhile none."""
    chosen = [example for example in snapshot.examples if example.id in ids]
    found = (_image_of(store, snapshot.task, example) for example in chosen)
    return [data for data in found if data is not None]


def previous_head(snapshot: Snapshot, bench: Workbench) -> tuple[int, bytes] | None:
    """The newest linear head of the same labels on the same backbone, as version and file.

    None where there isn't one, or its file is lost or damaged: a new head is then fitted from nothing.
    """
    task = snapshot.task
    found = bench.store.versions.find_linear(task, bench.identity.digest)
    if found is None:
        return None
    try:
        data = bench.store.blobs.get(found.head_key)
    except UnknownBlob:
        return None
    return (found.number, data) if hashlib.sha256(data).hexdigest() == found.head_digest else None


def dataset_of(snapshot: Snapshot, embeddings: dict[str, bytes]) -> Dataset:
    """The arrays of all examples whose embedding is known."""
    task = snapshot.task
    examples = [each for each in snapshot.examples if each.image_digest in embeddings]
    rows = b"".join(embeddings[each.image_digest] for each in examples)
    return Dataset(
        kind=task.kind,
        labels=task.classes,
        ids=tuple(each.id for each in examples),
        embeddings=np.frombuffer(rows, "<f4").astype(np.float32).reshape(len(examples), -1),
        targets=targets_of(task, examples),
        groups=tuple(each.group for each in examples),
        hashes=np.array([each.perceptual_hash for each in examples], dtype=np.uint64),
        splits=tuple(each.split for each in examples),
        split_by_user=tuple(each.split_by_user for each in examples),
    )


def targets_of(task: Task, examples: Sequence[Example]) -> Targets:
    """(N,) int64 class numbers | (N, C) bool | (N,) float64 values, by kind."""
    if task.kind == "regression":
        return np.array([each.value for each in examples], dtype=np.float64)
    if task.kind == "multiclass":
        number = {label: index for index, label in enumerate(task.classes)}
        return np.array([number[label] for each in examples for label in each.labels or ()], dtype=np.int64)
    taught = [[label in (each.labels or ()) for label in task.classes] for each in examples]
    return np.array(taught, dtype=np.bool_).reshape(len(examples), len(task.classes))
