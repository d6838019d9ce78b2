"""Adding a batch of examples to a locked task: new, duplicate, conflict or bad, one by one."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.errors import PolyheadError
from service.errors import LabelConflict
from service.store.checks import check_target, check_text
from service.store.classes import TaskClasses, labels_of, set_labels
from service.store.database import CHUNK
from service.store.embeddings import put_embeddings
from service.store.example_rows import signed
from service.store.ids import new_id
from service.store.quotas import Room
from service.store.records import AddResult, NewExample
from service.store.tables import examples
from service.store.tasks import note_new_classes, note_new_data

Row = dict[str, Any]


class Adding:
    """One batch. Rows are collected first and written together: a batch costs a handful of statements."""

    def __init__(
        self, connection: Connection, task: RowMapping, room: Room, backbone_digest: str, now: float
    ) -> None:
        self._connection = connection
        self._task = task
        self._room = room
        self._backbone_digest = backbone_digest
        self._now = now
        self._classes = TaskClasses(connection, task)
        self._known: dict[str, Row] = {}  # by image digest: the task's examples, with "labels"
        self._created: list[Row] = []
        self._changed: list[Row] = []  # fields that a duplicate has filled in
        self._labels: dict[str, list[int]] = {}  # class ids by example id
        self._new_data = False

    def add(self, items: Sequence[NewExample]) -> list[AddResult]:
        self._load([item.image_digest for item in items])
        results = [self._result(item) for item in items]
        self._write()
        self._embed(items, results)
        return results

    def _load(self, digests: Sequence[str]) -> None:
        for start in range(0, len(digests), CHUNK):
            statement = sa.select(examples).where(
                examples.c.task_id == self._task["id"],
                examples.c.image_digest.in_(digests[start : start + CHUNK]),
            )
            rows = [dict(row) for row in self._connection.execute(statement).mappings()]
            labels = labels_of(self._connection, [row["id"] for row in rows])
            for row in rows:
                self._known[row["image_digest"]] = row | {"labels": set(labels.get(row["id"], ()))}

    def _result(self, item: NewExample) -> AddResult:
        try:
            check_target(self._task["kind"], item.labels, item.value)
            check_text(item.filename, "/filename")
            check_text(item.group, "/group")
            self._classes.check_known(item.labels or ())
            known = self._known.get(item.image_digest)
            if known is None:
                self._room.take(item.size)
        except PolyheadError as error:
            return AddResult(status=None, example_id=None, error=error)
        return self._create(item) if known is None else self._meet(item, known)

    def _create(self, item: NewExample) -> AddResult:
        row = {
            "id": new_id("ex"), "tenant": self._task["tenant"], "task_id": self._task["id"],
            "image_digest": item.image_digest, "blob_key": item.blob_key, "media_type": item.media_type,
            "filename": item.filename, "width": item.width, "height": item.height, "size": item.size,
            "perceptual_hash": signed(item.perceptual_hash), "labelled": _labelled(item),
            "value": item.value, "group_name": item.group, "split": item.split,
            "split_by_user": item.split is not None, "created_at": self._now,
        }  # fmt: skip
        self._created.append(row)
        self._known[item.image_digest] = row | {"labels": set(item.labels or ())}
        self._label(row["id"], item)
        return AddResult(status="created", example_id=row["id"])

    def _meet(self, item: NewExample, known: Row) -> AddResult:
        """The same bytes again: the label that is there stays, one that is missing is filled in."""
        id_: str = known["id"]
        if known["labelled"] and _labelled(item):
            if (set(item.labels or ()), item.value) != (known["labels"], known["value"]):
                return AddResult(status="conflict", example_id=id_, error=LabelConflict(id_))
        elif _labelled(item):
            filled: Row = {"labelled": True, "value": item.value}
            if known["group_name"] is None:
                filled["group_name"] = item.group
            if known["split"] is None and item.split is not None:
                filled |= {"split": item.split, "split_by_user": True}
            known |= filled | {"labels": set(item.labels or ())}
            self._changed.append(known)
            self._label(id_, item)
        return AddResult(status="duplicate", example_id=id_)

    def _label(self, example_id: str, item: NewExample) -> None:
        if _labelled(item):
            self._labels[example_id] = self._classes.require(item.labels or ())
            self._new_data = True

    def _write(self) -> None:
        if self._created:
            self._connection.execute(sa.insert(examples), self._created)
        for row in self._changed:
            filled = {
                name: row[name] for name in ("labelled", "value", "group_name", "split", "split_by_user")
            }
            self._connection.execute(sa.update(examples).where(examples.c.id == row["id"]).values(filled))
        set_labels(self._connection, self._task["tenant"], self._labels)
        if self._classes.changed:
            note_new_classes(self._connection, self._task["id"], self._now)
        if self._new_data:
            note_new_data(self._connection, self._task["id"])

    def _embed(self, items: Sequence[NewExample], results: Sequence[AddResult]) -> None:
        vectors = {
            item.image_digest: item.embedding
            for item, result in zip(items, results, strict=True)
            if item.embedding is not None and result.example_id is not None
        }
        put_embeddings(self._connection, self._task["tenant"], vectors, self._backbone_digest)


def _labelled(item: NewExample) -> bool:
    return item.labels is not None or item.value is not None
