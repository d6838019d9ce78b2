"""Versions: the trained heads of a task, which never change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.errors import BackboneMismatch
from service.errors import UnknownVersion
from service.store.database import Database
from service.store.paging import number_after, page_of
from service.store.publishing import options_digest
from service.store.records import Page, Resolved, Task, Version
from service.store.tables import tasks, versions

LARGEST = 2**31 - 1  # of a version's column; a greater number is unknown, not an error of the database
NEWEST = 20  # versions that are looked through for one to start from
_HIDDEN = {"tenant", "options_digest"}  # columns that the record doesn't have


@dataclass(frozen=True, slots=True)
class LinearVersion:
    """Where a linear head's file lies."""

    number: int
    head_key: str
    head_digest: str  # sha256, hex


class Versions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, task: Task, number: int) -> Version:
        """Raises: UnknownVersion."""
        with self._database.read() as connection:
            return version_of(find_version(connection, task, number))

    def list(self, task: Task, limit: int, after: str | None = None) -> Page[Version]:
        statement = sa.select(versions).where(versions.c.task_id == task.id)
        last = number_after(after)
        if last is not None:
            statement = statement.where(versions.c.number < last)
        with self._database.read() as connection:
            ordered = statement.order_by(versions.c.number.desc()).limit(limit + 1)
            found = [version_of(row) for row in connection.execute(ordered).mappings()]
        return page_of(found, limit, lambda version: version.number)

    def find_equal(
        self, task: Task, strategy: str, options: Mapping[str, Any], data_revision: int, backbone_digest: str
    ) -> int | None:
        """The newest version made of the same data with the same options on the same backbone."""
        statement = (
            sa.select(versions.c.number)
            .where(
                versions.c.task_id == task.id,
                versions.c.options_digest == options_digest(strategy, options),
                versions.c.data_revision == data_revision,
                versions.c.backbone_digest == backbone_digest,
            )
            .order_by(versions.c.number.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            number: int | None = connection.execute(statement).scalar_one_or_none()
        return number

    def find_counterpart(self, task: Task, version: Version, backbone_digest: str) -> int | None:
        """The newest version on another backbone by the recipe of this one, on its data or newer."""
        statement = sa.select(sa.func.max(versions.c.number)).where(
            versions.c.task_id == task.id,
            versions.c.options_digest == options_digest(version.strategy, version.options),
            versions.c.data_revision >= version.data_revision,
            versions.c.backbone_digest == backbone_digest,
        )
        with self._database.read() as connection:
            number: int | None = connection.execute(statement).scalar_one()
        return number

    def find_linear(self, task: Task, backbone_digest: str) -> LinearVersion | None:
        """The newest version of strategy head on older data that has the task's labels and no hidden layer.

        Not one on the same data: trained again, that gives the same head, bit for bit.
        """
        statement = (
            sa.select(
                *(versions.c[name] for name in ("number", "labels", "options", "head_key", "head_digest"))
            )
            .where(
                versions.c.task_id == task.id,
                versions.c.strategy == "head",
                versions.c.backbone_digest == backbone_digest,
                versions.c.data_revision < task.data_revision,
            )
            .order_by(versions.c.number.desc())
            .limit(NEWEST)
        )
        with self._database.read() as connection:
            for row in connection.execute(statement):
                if tuple(row.labels) == task.classes and row.options.get("hidden") is None:
                    return LinearVersion(row.number, row.head_key, row.head_digest)
        return None


def find_version(connection: Connection, task: Task, number: int) -> RowMapping:
    """Raises: UnknownVersion."""
    statement = sa.select(versions).where(versions.c.task_id == task.id, versions.c.number == number)
    row = None if abs(number) > LARGEST else connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise UnknownVersion(task.name, number)
    return row


def select_resolved() -> sa.Select[Any]:
    """What a prediction needs, without the evidence: that can be many times larger."""
    same = (
        *("kind", "labels", "threshold", "head_digest", "head_key"),
        *("backbone_digest", "backbone_output", "views", "input_size"),
    )
    return sa.select(
        tasks.c.id.label("task_id"),
        tasks.c.name.label("task_name"),
        versions.c.number.label("version"),
        *(versions.c[column] for column in same),
    ).join(tasks, tasks.c.id == versions.c.task_id)


def resolved_of(row: RowMapping) -> Resolved:
    return Resolved(**{**row, "labels": tuple(row["labels"]), "views": tuple(row["views"])})


def resolve_version(connection: Connection, task: Task, number: int, backbone_digest: str) -> Resolved:
    """Raises: UnknownVersion, BackboneMismatch."""
    statement = select_resolved().where(versions.c.task_id == task.id, versions.c.number == number)
    row = None if abs(number) > LARGEST else connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise UnknownVersion(task.name, number)
    if row["backbone_digest"] != backbone_digest:
        raise BackboneMismatch(fitted_on=row["backbone_digest"], serving=backbone_digest)
    return resolved_of(row)


def version_of(row: RowMapping) -> Version:
    shown = {column: value for column, value in row.items() if column not in _HIDDEN}
    return Version(**shown | {"labels": tuple(row["labels"]), "views": tuple(row["views"])})
