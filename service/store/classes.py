"""The classes of a task, and the rows that give examples their labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import ClassInUse, Conflict, InvalidField, UnknownLabel
from service.store.checks import check_label
from service.store.database import CHUNK
from service.store.tables import classes, example_labels


class TaskClasses:
    """The classes of one task, inside a transaction that holds the task's lock."""

    def __init__(self, connection: Connection, task: Mapping[Any, Any]) -> None:
        """`task` is its row."""
        self._connection = connection
        self._tenant: str = task["tenant"]
        self._task_id: str = task["id"]
        self._closed: bool = task["closed"]
        self.changed = False
        statement = sa.select(classes.c.id, classes.c.name, classes.c.position)
        rows = connection.execute(statement.where(classes.c.task_id == self._task_id)).all()
        self._ids: dict[str, int] = {row.name: row.id for row in rows}
        self._names = {id_: name for name, id_ in self._ids.items()}
        self._next_position = max((row.position for row in rows), default=-1) + 1

    def check_known(self, labels: Sequence[str]) -> None:
        """Raises: UnknownLabel for the first that a closed task doesn't have."""
        for label in labels:
            if self._closed and label not in self._ids:
                raise UnknownLabel(label)

    def require(self, labels: Sequence[str]) -> list[int]:
        """The labels' ids; an open task gets the classes that it lacks.

        Raises: UnknownLabel; InvalidField for a label that can't be stored.
        """
        self.check_known(labels)
        return [self._ids[label] if label in self._ids else self._create(label) for label in labels]

    def add(self, labels: Iterable[str]) -> None:
        """Raises: Conflict for a class that is there already."""
        for label in labels:
            if label in self._ids:
                raise Conflict(f"the task has a class {label!r} already")
            self._create(label)

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename all at once, so that two classes can swap names.

        Raises: InvalidField for an old name that isn't there; Conflict for a new one that is.
        """
        names = {old: new for old, new in names.items() if old != new or old not in self._ids}
        for old in names:
            if old not in self._ids:
                raise InvalidField(f"the task has no class {old!r}", pointer="/rename_classes")
        staying = self._ids.keys() - names.keys()
        for new in names.values():
            check_label(new, "/rename_classes")
            if new in staying or list(names.values()).count(new) > 1:
                raise Conflict(f"the task would have two classes {new!r}")
        ids = {self._ids[old]: new for old, new in names.items()}
        for id_ in ids:  # out of the way: too long for a label, so no label is in it
            self._set_name(id_, f"{id_}".rjust(200))
        for id_, new in ids.items():
            self._set_name(id_, new)
        self._names |= ids
        self._ids = {name: id_ for id_, name in self._names.items()}
        self.changed |= bool(ids)

    def remove(self, labels: Iterable[str]) -> None:
        """Raises: InvalidField for a class that isn't there, ClassInUse for one that has examples."""
        for label in labels:
            if label not in self._ids:
                raise InvalidField(f"the task has no class {label!r}", pointer="/remove_classes")
            id_ = self._ids.pop(label)
            del self._names[id_]
            using = sa.select(sa.func.count()).where(example_labels.c.class_id == id_)
            examples = self._connection.execute(using).scalar_one()
            if examples:
                raise ClassInUse(label, examples)
            self._connection.execute(sa.delete(classes).where(classes.c.id == id_))
            self.changed = True

    def _create(self, label: str) -> int:
        check_label(label)
        row = {"tenant": self._tenant, "task_id": self._task_id, "name": label}
        statement = sa.insert(classes).values(**row, position=self._next_position).returning(classes.c.id)
        id_: int = self._connection.execute(statement).scalar_one()
        self._ids[label] = id_
        self._names[id_] = label
        self._next_position += 1
        self.changed = True
        return id_

    def _set_name(self, id_: int, name: str) -> None:
        self._connection.execute(sa.update(classes).where(classes.c.id == id_).values(name=name))


def class_names(connection: Connection, task_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The class names of each task, in logit order."""
    statement = (
        sa.select(classes.c.task_id, classes.c.name)
        .where(classes.c.task_id.in_(task_ids))
        .order_by(classes.c.task_id, classes.c.position)
    )
    names: dict[str, list[str]] = {task_id: [] for task_id in task_ids}
    for row in connection.execute(statement):
        names[row.task_id].append(row.name)
    return {task_id: tuple(found) for task_id, found in names.items()}


def labels_of(connection: Connection, example_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The labels of each example that has any, in logit order."""
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(example_ids), CHUNK):
        statement = (
            sa.select(example_labels.c.example_id, classes.c.name)
            .join(classes, classes.c.id == example_labels.c.class_id)
            .where(example_labels.c.example_id.in_(example_ids[start : start + CHUNK]))
            .order_by(classes.c.position)
        )
        for row in connection.execute(statement):
            found[row.example_id] = (*found.get(row.example_id, ()), row.name)
    return found


def set_labels(connection: Connection, tenant: str, ids_of: Mapping[str, Sequence[int]]) -> None:
    """Give each example exactly these classes."""
    examples = list(ids_of)
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        connection.execute(sa.delete(example_labels).where(example_labels.c.example_id.in_(chunk)))
    rows = [
        {"tenant": tenant, "example_id": example, "class_id": class_id}
        for example, class_ids in ids_of.items()
        for class_id in class_ids
    ]
    if rows:
        connection.execute(sa.insert(example_labels), rows)
