"""Aliases: the movable pointers to versions, one set for each backbone."""

import builtins
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.errors import BackboneMismatch, PolyheadError
from service.errors import InvalidField, NothingPublished, StaleETag, UnknownAlias
from service.store.checks import check_alias_name
from service.store.database import Database
from service.store.notices import ALIASES, notify
from service.store.publishing import point
from service.store.records import PRODUCTION, Alias, Resolved, Served, Task
from service.store.tables import alias_changes, aliases, tasks, versions
from service.store.tasks import find_task, lock_task, task_of
from service.store.versions import resolve_version, resolved_of, select_resolved

Stamp = int


class Aliases:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, task: Task, name: str, backbone_digest: str) -> Alias:
        """Raises: UnknownAlias."""
        with self._database.read() as connection:
            return _known(connection, task, name, backbone_digest)

    def list(self, task: Task, backbone_digest: str) -> builtins.list[Alias]:
        """By name."""
        statement = sa.select(aliases).where(
            aliases.c.task_id == task.id, aliases.c.backbone_digest == backbone_digest
        )
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(aliases.c.name)).mappings()
            return [_record(row) for row in rows]

    def served(self, backbone_digest: str) -> builtins.list[Served]:
        """Every version behind an alias of this backbone, of all tenants, by tenant, task and version."""
        statement = (
            sa.select(aliases, tasks.c.name.label("task_name"))
            .join(tasks, tasks.c.id == aliases.c.task_id)
            .where(aliases.c.backbone_digest == backbone_digest)
            .order_by(aliases.c.tenant, tasks.c.name, aliases.c.version, aliases.c.name)
        )
        found: dict[tuple[str, str, str, int], builtins.list[Alias]] = {}
        with self._database.read() as connection:
            for row in connection.execute(statement).mappings():
                own = {column: value for column, value in row.items() if column != "task_name"}
                key = (row["tenant"], row["task_id"], row["task_name"], row["version"])
                found.setdefault(key, []).append(_record(own))
        return [
            Served(tenant=tenant, task_id=id_, task_name=name, version=version, aliases=tuple(pointing))
            for (tenant, id_, name, version), pointing in found.items()
        ]

    def backbones(self) -> dict[str, int]:
        """For how many tasks something is published on each backbone, by its digest."""
        counted = sa.func.count(aliases.c.task_id.distinct())
        statement = sa.select(aliases.c.backbone_digest, counted).group_by(aliases.c.backbone_digest)
        with self._database.read() as connection:
            return {digest: count for digest, count in connection.execute(statement)}  # noqa: C416 - rows to pairs, for mypy

    def put(
        self,
        task: Task,
        name: str,
        version: int,
        *,
        pinned: bool = False,
        backbone_digest: str,
        if_match: int | None = None,
        now: float,
    ) -> Alias:
        """Point the alias at a version; a pinned one isn't moved by a run, and is kept in memory.

        Raises: UnknownTask, UnknownVersion, BackboneMismatch, StaleETag, InvalidField.
        """
        check_alias_name(name)
        with self._database.write() as connection:
            lock_task(connection, task)
            old = _find(connection, task, name, backbone_digest)
            if if_match is not None and (old is None or old["revision"] != if_match):
                raise StaleETag
            resolve_version(connection, task, version, backbone_digest)
            if old is None or (old["version"], old["pinned"]) != (version, pinned):
                point(
                    connection, task.tenant, task.id, name,
                    backbone_digest=backbone_digest, version=version, pinned=pinned, now=now,
                )  # fmt: skip
            return _known(connection, task, name, backbone_digest)

    def delete(self, task: Task, name: str, backbone_digest: str, *, if_match: int | None = None) -> None:
        """Raises: UnknownTask, UnknownAlias, StaleETag."""
        with self._database.write() as connection:
            lock_task(connection, task)
            old = _known(connection, task, name, backbone_digest)
            if if_match not in (None, old.revision):
                raise StaleETag
            connection.execute(sa.delete(aliases).where(*_key(task, name, backbone_digest)))
            notify(connection, ALIASES, task.id)

    def stamp(self) -> Stamp:
        """What is another one after any change of what is served, whoever made it; it costs the same for any
        number of tasks.
        """
        # Each change adds one where it is committed, not before: so no two states have the same sum.
        seen = sa.select(sa.func.sum(alias_changes.c.count))
        with self._database.read() as connection:
            return int(connection.execute(seen).scalar_one())

    def resolve_many(
        self, tenant: str, named: Collection[tuple[str, str]], backbone_digest: str
    ) -> dict[tuple[str, str], Resolved]:
        """The versions behind many aliases of many tasks, of those where there is one.

        Args: named: tasks, each with an alias.
        """
        names, of = {task for task, _ in named}, {alias for _, alias in named}
        statement = _pointed_at(tenant, backbone_digest).where(
            tasks.c.name.in_(names), aliases.c.name.in_(of)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).mappings().all()
        found = {(row["task_name"], row["alias"]): row for row in rows}
        return {pair: resolved_of(found[pair]) for pair in named if pair in found}

    def resolve(
        self,
        tenant: str,
        task_name: str,
        *,
        alias: str | None = None,
        version: int | None = None,
        backbone_digest: str,
    ) -> Resolved:
        """The version that a prediction uses: the one named, or the one behind an alias (`production`).

        Raises: UnknownTask, UnknownVersion; UnknownAlias (NothingPublished for `production`), or
            BackboneMismatch where only another backbone's heads are there; InvalidField for both.
        """
        if alias is not None and version is not None:
            raise InvalidField("name a version or an alias, not both", pointer="/version")
        with self._database.read() as connection:
            if version is None:
                name = PRODUCTION if alias is None else alias
                statement = _pointed_at(tenant, backbone_digest)
                named = statement.where(tasks.c.name == task_name, aliases.c.name == name)
                row = connection.execute(named).mappings().one_or_none()
                if row is not None:
                    return resolved_of(row)
            task = task_of(connection, find_task(connection, tenant, task_name))
            if version is None:
                raise _why_nothing(connection, task, name, backbone_digest)
            return resolve_version(connection, task, version, backbone_digest)


def _pointed_at(tenant: str, backbone_digest: str) -> sa.Select[Any]:
    """One statement, since every prediction asks it: versions with the aliases that point at them."""
    pointed = (aliases.c.task_id == versions.c.task_id) & (aliases.c.version == versions.c.number)
    return (
        select_resolved()
        .add_columns(aliases.c.name.label("alias"), aliases.c.pinned)
        .join(aliases, pointed)
        .where(tasks.c.tenant == tenant, aliases.c.backbone_digest == backbone_digest)
    )


def _why_nothing(connection: Connection, task: Task, name: str, backbone_digest: str) -> PolyheadError:
    elsewhere = sa.select(aliases.c.backbone_digest).where(
        aliases.c.task_id == task.id, aliases.c.name == name
    )
    newest = elsewhere.order_by(aliases.c.revision.desc()).limit(1)
    fitted_on = connection.execute(newest).scalar_one_or_none()
    if fitted_on is not None:
        return BackboneMismatch(fitted_on=fitted_on, serving=backbone_digest)
    return NothingPublished(task.name, name) if name == PRODUCTION else UnknownAlias(task.name, name)


def _find(connection: Connection, task: Task, name: str, backbone_digest: str) -> RowMapping | None:
    statement = sa.select(aliases).where(*_key(task, name, backbone_digest))
    return connection.execute(statement).mappings().one_or_none()


def _known(connection: Connection, task: Task, name: str, backbone_digest: str) -> Alias:
    row = _find(connection, task, name, backbone_digest)
    if row is None:
        raise UnknownAlias(task.name, name)
    return _record(row)


def _key(task: Task, name: str, backbone_digest: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        aliases.c.task_id == task.id,
        aliases.c.name == name,
        aliases.c.backbone_digest == backbone_digest,
    )


def _record(row: Mapping[Any, Any]) -> Alias:
    return Alias(**{column: value for column, value in row.items() if column != "tenant"})
