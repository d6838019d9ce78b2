"""Examples: the labelled and unlabelled images that tasks are taught with."""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import UnknownExample
from service.store.adding import Adding
from service.store.checks import check_target, check_text
from service.store.classes import TaskClasses, set_labels
from service.store.database import CHUNK, Database
from service.store.example_rows import read_examples
from service.store.paging import id_after, page_of
from service.store.quotas import UNLIMITED, Quotas
from service.store.records import (
    UNSET,
    AddResult,
    Example,
    NewExample,
    Page,
    SplitName,
    Task,
    Unset,
)
from service.store.tables import classes, example_labels, examples
from service.store.tasks import delete_embeddings, lock_task, note_new_classes, note_new_data


class Examples:
    def __init__(self, database: Database, quotas: Quotas = UNLIMITED) -> None:
        self._database = database
        self._quotas = quotas

    def add(
        self, task: Task, items: Sequence[NewExample], *, backbone_digest: str, now: float
    ) -> builtins.list[AddResult]:
        """Add examples, one result each, in order; a bad item is a result, not an exception.

        The blob of an item that wasn't `created` is not referred to: its owner deletes it (`keys.image_key`).

        Raises: UnknownTask.
        """
        with self._database.write() as connection:
            room = self._quotas.room(connection, task.tenant)
            adding = Adding(connection, lock_task(connection, task), room, backbone_digest, now)
            return adding.add(items)

    def get(self, task: Task, example_id: str) -> Example:
        """Raises: UnknownExample."""
        with self._database.read() as connection:
            return _one(connection, task, example_id)

    def which_exist(self, task: Task, example_ids: Sequence[str]) -> set[str]:
        """Those that haven't been deleted, of at most a page of ids."""
        statement = sa.select(examples.c.id).where(
            examples.c.task_id == task.id, examples.c.id.in_(example_ids)
        )
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())

    def splits_in_use(self, task: Task) -> set[SplitName | None]:
        """The splits of the labelled examples; None among them where some have none yet."""
        statement = sa.select(examples.c.split).distinct()
        with self._database.read() as connection:
            of_labelled = statement.where(examples.c.task_id == task.id, examples.c.labelled)
            return set(connection.execute(of_labelled).scalars())

    def list(
        self,
        task: Task,
        *,
        label: str | None = None,
        split: SplitName | None = None,
        labelled: bool | None = None,
        group: str | None = None,
        limit: int,
        after: str | None = None,
    ) -> Page[Example]:
        statement = sa.select(examples).where(examples.c.task_id == task.id)
        if label is not None:
            having = sa.select(example_labels.c.example_id).join(classes)
            having = having.where(classes.c.task_id == task.id, classes.c.name == label)
            statement = statement.where(examples.c.id.in_(having))
        wanted = {"split": split, "labelled": labelled, "group_name": group}
        for column, value in wanted.items():
            if value is not None:
                statement = statement.where(examples.c[column] == value)
        if (last := id_after(after, "ex")) is not None:
            statement = statement.where(examples.c.id < last)
        with self._database.read() as connection:
            found = read_examples(connection, statement.order_by(examples.c.id.desc()).limit(limit + 1))
        return page_of(found, limit, lambda example: example.id)

    def update(
        self,
        task: Task,
        example_id: str,
        *,
        labels: Sequence[str] | Unset | None = UNSET,
        value: float | Unset | None = UNSET,
        group: str | Unset | None = UNSET,
        split: SplitName | Unset | None = UNSET,
        now: float,
    ) -> Example:
        """Change what is said of an image; None takes it away. A new label leaves the split as it is.

        Raises: UnknownTask, UnknownExample, UnknownLabel, InvalidField.
        """
        with self._database.write() as connection:
            row = lock_task(connection, task)
            old = _one(connection, task, example_id)
            new_labels = old.labels if labels is UNSET else labels
            new_value = old.value if value is UNSET else value
            check_target(task.kind, new_labels, new_value)
            changed: dict[str, Any] = {}
            if new_labels is not None and set(new_labels) != set(old.labels or ()):
                known = TaskClasses(connection, row)
                set_labels(connection, task.tenant, {old.id: known.require(new_labels)})
                if known.changed:
                    note_new_classes(connection, task.id, now)
            elif new_labels is None:
                set_labels(connection, task.tenant, {old.id: ()})
            changed["labelled"] = new_labels is not None or new_value is not None
            changed["value"] = new_value
            if group is not UNSET:
                check_text(group, "/group")
                changed["group_name"] = group
            if split is not UNSET and split != old.split:
                changed |= {"split": split, "split_by_user": split is not None}
            elif split is not UNSET:
                changed["split_by_user"] = split is not None
            connection.execute(sa.update(examples).where(examples.c.id == old.id).values(changed))
            new = _one(connection, task, example_id)
            if new != old and (new.labelled or old.labelled):
                note_new_data(connection, task.id)
            return new

    def delete(self, task: Task, example_id: str) -> Example:
        """Delete the row, and the embedding unless another example of the tenant shows the same image.

        The blob goes with a later sweep.

        Raises: UnknownTask, UnknownExample.
        """
        with self._database.write() as connection:
            lock_task(connection, task)
            old = _one(connection, task, example_id)
            delete_embeddings(connection, task.tenant, task.id, old.id)
            connection.execute(sa.delete(examples).where(examples.c.id == old.id))
            if old.labelled:
                note_new_data(connection, task.id)
            return old

    def for_training(self, task: Task) -> builtins.list[Example]:
        """All labelled examples, oldest first."""
        statement = sa.select(examples).where(examples.c.task_id == task.id, examples.c.labelled)
        with self._database.read() as connection:
            return read_examples(connection, statement.order_by(examples.c.id))

    def assign_splits(self, task: Task, splits: Mapping[str, SplitName]) -> None:
        """Give a split to the examples that have none; a split, once there, stays.

        Raises: UnknownTask.
        """
        with self._database.write() as connection:
            lock_task(connection, task)
            for split in sorted(set(splits.values())):
                ids = sorted(id_ for id_, given in splits.items() if given == split)
                for start in range(0, len(ids), CHUNK):
                    connection.execute(
                        sa.update(examples)
                        .where(examples.c.task_id == task.id, examples.c.split.is_(None))
                        .where(examples.c.id.in_(ids[start : start + CHUNK]))
                        .values(split=split)
                    )


def _one(connection: Connection, task: Task, example_id: str) -> Example:
    statement = sa.select(examples).where(examples.c.task_id == task.id, examples.c.id == example_id)
    found = read_examples(connection, statement)
    if not found:
        raise UnknownExample(example_id)
    return found[0]
