"""Tasks: what an app has registered to be taught."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.errors import InvalidField, StaleETag, TaskExists, UnknownTask
from service.store.checks import check_label, check_name, check_text
from service.store.classes import TaskClasses, class_names
from service.store.database import Database, insert
from service.store.ids import new_id
from service.store.notices import ALIASES, notify
from service.store.paging import id_after, page_of
from service.store.quotas import UNLIMITED, Quotas
from service.store.records import Kind, Page, Task, TaskSummary
from service.store.summaries import summaries_of
from service.store.tables import embeddings, example_labels, examples, tasks


class Tasks:
    def __init__(self, database: Database, quotas: Quotas = UNLIMITED) -> None:
        self._database = database
        self._quotas = quotas

    def create(
        self,
        tenant: str,
        name: str,
        kind: Kind,
        classes: Sequence[str] | None = None,
        *,
        description: str = "",
        now: float,
    ) -> Task:
        """Register a task; with `classes` they are closed.

        Raises: TaskExists, QuotaExceeded, InvalidField.
        """
        check_name(name)
        check_text(description, "/description")
        _check_classes(kind, classes)
        row = {
            "id": new_id("task"), "tenant": tenant, "name": name, "kind": kind, "closed": classes is not None,
            "description": description, "data_revision": 0, "revision": 1, "next_version": 1,
            "alias_revision": 0, "created_at": now, "updated_at": now,
        }  # fmt: skip
        with self._database.write() as connection:
            new = insert(connection, tasks).values(row).on_conflict_do_nothing().returning(tasks.c.id)
            if connection.execute(new).one_or_none() is None:
                raise TaskExists(name)
            self._quotas.check_tasks(connection, tenant)
            TaskClasses(connection, row).add(classes or ())
            return task_of(connection, row)

    def get(self, tenant: str, name: str) -> Task:
        """Raises: UnknownTask."""
        with self._database.read() as connection:
            return task_of(connection, find_task(connection, tenant, name))

    def get_by_id(self, task_id: str) -> Task:
        """Raises: UnknownTask."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).mappings().one_or_none()
            if row is None:
                raise UnknownTask(task_id)
            return task_of(connection, row)

    def list(self, tenant: str, limit: int, after: str | None = None) -> Page[Task]:
        statement = sa.select(tasks).where(tasks.c.tenant == tenant)
        if (last := id_after(after, "task")) is not None:
            statement = statement.where(tasks.c.id < last)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(tasks.c.id.desc()).limit(limit + 1)).mappings().all()
            names = class_names(connection, [row["id"] for row in rows])
        return page_of([_record(row, names[row["id"]]) for row in rows], limit, lambda task: task.id)

    def update(
        self,
        tenant: str,
        name: str,
        *,
        description: str | None = None,
        add_classes: Sequence[str] = (),
        rename_classes: Mapping[str, str] | None = None,
        remove_classes: Sequence[str] = (),
        if_match: int | None = None,
        now: float,
    ) -> Task:
        """Remove, then rename, then add classes; None leaves the description as it is.

        Raises: UnknownTask, StaleETag, ClassInUse, Conflict, InvalidField.
        """
        check_text(description, "/description")
        with self._database.write() as connection:
            row = find_task(connection, tenant, name, lock=True)
            if if_match not in (None, row["revision"]):
                raise StaleETag
            if row["kind"] == "regression" and (add_classes or rename_classes or remove_classes):
                raise InvalidField("a regression task has no classes")
            changing = TaskClasses(connection, row)
            changing.remove(remove_classes)
            changing.rename(rename_classes or {})
            changing.add(add_classes)
            changed: dict[str, Any] = {}
            if changing.changed:
                changed["data_revision"] = row["data_revision"] + 1
            if description not in (None, row["description"]):
                changed["description"] = description
            if changed:
                changed |= {"revision": row["revision"] + 1, "updated_at": now}
                connection.execute(sa.update(tasks).where(tasks.c.id == row["id"]).values(changed))
            return task_of(connection, {**row, **changed})

    def delete(self, tenant: str, name: str, *, if_match: int | None = None) -> Task:
        """Delete the task and all that hangs on it; its blobs go with a later sweep (`sweeping`).

        Raises: UnknownTask, StaleETag.
        """
        with self._database.write() as connection:
            row = find_task(connection, tenant, name, lock=True)
            if if_match not in (None, row["revision"]):
                raise StaleETag
            task = task_of(connection, row)
            delete_embeddings(connection, tenant, task.id)
            # The labels first: their classes may not go before them, and cascades have no order.
            of_task = sa.select(examples.c.id).where(examples.c.task_id == task.id)
            connection.execute(sa.delete(example_labels).where(example_labels.c.example_id.in_(of_task)))
            connection.execute(sa.delete(tasks).where(tasks.c.id == task.id))
            notify(connection, ALIASES, task.id)
            return task

    def summary(self, task: Task, backbone_digest: str) -> TaskSummary:
        """Counts and pointers, of one moment."""
        return self.summaries([task], backbone_digest)[task.id]

    def summaries(self, tasks: Sequence[Task], backbone_digest: str) -> dict[str, TaskSummary]:
        """The same of a page of tasks, by id: as many statements as for one."""
        with self._database.read() as connection:
            return summaries_of(connection, [task.id for task in tasks], backbone_digest)


def find_task(connection: Connection, tenant: str, name: str, *, lock: bool = False) -> RowMapping:
    """Raises: UnknownTask."""
    statement = sa.select(tasks).where(tasks.c.tenant == tenant, tasks.c.name == name)
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().one_or_none()
    if row is None:
        raise UnknownTask(name)
    return row


def lock_task(connection: Connection, task: Task) -> RowMapping:
    """Make other writers of this task wait for the end of the transaction.

    Raises: UnknownTask, since it may be gone by now.
    """
    statement = sa.select(tasks).where(tasks.c.id == task.id).with_for_update()
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise UnknownTask(task.name)
    return row


def note_new_data(connection: Connection, task_id: str) -> None:
    """Something that a training would see has changed."""
    grown = {"data_revision": tasks.c.data_revision + 1}
    connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(grown))


def note_new_classes(connection: Connection, task_id: str, now: float) -> None:
    """A label has made a class: the task itself has changed."""
    grown = {"revision": tasks.c.revision + 1, "updated_at": now}
    connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(grown))


def delete_embeddings(
    connection: Connection, tenant: str, task_id: str, example_id: str | None = None
) -> None:
    """Delete the embeddings of a task's images, or of one, that no other example of the tenant shows."""
    going = examples.alias("going")
    goes = (going.c.task_id == task_id) if example_id is None else (going.c.id == example_id)
    stays = (examples.c.task_id != task_id) if example_id is None else (examples.c.id != example_id)
    used = sa.exists().where(
        examples.c.tenant == tenant, examples.c.image_digest == embeddings.c.image_digest, stays
    )
    connection.execute(
        sa.delete(embeddings).where(
            embeddings.c.tenant == tenant,
            embeddings.c.image_digest.in_(sa.select(going.c.image_digest).where(goes)),
            ~used,
        )
    )


def _check_classes(kind: Kind, labels: Sequence[str] | None) -> None:
    if labels is None:
        return
    if kind == "regression":
        raise InvalidField("a regression task has no classes", pointer="/classes")
    if not labels:
        raise InvalidField("leave `classes` out, or name at least one", pointer="/classes")
    if len(set(labels)) != len(labels):
        raise InvalidField("a class is given twice", pointer="/classes")
    for index, label in enumerate(labels):
        check_label(label, f"/classes/{index}")


def task_of(connection: Connection, row: Mapping[Any, Any]) -> Task:
    """A task of its row and the rows of its classes."""
    return _record(row, class_names(connection, [row["id"]])[row["id"]])


def _record(row: Mapping[Any, Any], names: tuple[str, ...]) -> Task:
    own = ("id", "tenant", "name", "kind", "closed", "description", "data_revision", "revision")
    times = ("created_at", "updated_at")
    return Task(**{column: row[column] for column in (*own, *times)}, classes=names)
