"""How a trained version enters the store: its row, its number, and the pointer that makes it served."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.database import database_clock, insert
from service.store.notices import ALIASES, notify
from service.store.records import PRODUCTION, NewVersion, Unset
from service.store.tables import aliases, runs, tasks, versions


def options_digest(strategy: str, options: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits): equal for equal options, whatever the order of their keys."""
    said = json.dumps([strategy, options], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def reserve_number(connection: Connection, run: sa.Row[Any]) -> int:
    """The number kept for this run's version, taken from its task if there is none yet."""
    if run.reserved_version is not None:
        return int(run.reserved_version)
    taken = (
        sa.update(tasks)
        .where(tasks.c.id == run.task_id)
        .values(next_version=tasks.c.next_version + 1)
        .returning(tasks.c.next_version)
    )
    number: int = connection.execute(taken).scalar_one() - 1
    connection.execute(sa.update(runs).where(runs.c.id == run.id).values(reserved_version=number))
    return number


def publish_version(
    connection: Connection,
    run: sa.Row[Any],
    number: int,
    version: NewVersion,
    *,
    move: bool,
    seen: int | Unset | None,
) -> str | None:
    """Write the version and, when `move`, point `production` at it.

    Returns: why `production` had to stay where it is, None where it moved or wasn't to.
    """
    row = asdict(version) | {"labels": list(version.labels), "views": list(version.views)}
    connection.execute(
        sa.insert(versions).values(
            **row, tenant=run.tenant, task_id=run.task_id, number=number, run_id=run.id,
            options_digest=options_digest(version.strategy, version.options), created_at=database_clock(),
        )
    )  # fmt: skip
    if not move:
        return None
    statement = sa.select(aliases.c.version, aliases.c.pinned).where(
        aliases.c.task_id == run.task_id,
        aliases.c.name == PRODUCTION,
        aliases.c.backbone_digest == version.backbone_digest,
    )
    pointer = connection.execute(statement.with_for_update()).one_or_none()
    if pointer is not None and pointer.pinned:
        return f"{PRODUCTION} is pinned to version {pointer.version}"
    now_at = None if pointer is None else pointer.version
    if not isinstance(seen, Unset) and now_at != seen:
        return f"{PRODUCTION} was changed during the run"
    point(
        connection, run.tenant, run.task_id, PRODUCTION,
        backbone_digest=version.backbone_digest, version=number, pinned=False, now=database_clock(),
    )  # fmt: skip
    return None


def point(
    connection: Connection,
    tenant: str,
    task_id: str,
    name: str,
    *,
    backbone_digest: str,
    version: int,
    pinned: bool,
    now: float | sa.ColumnElement[float],
) -> None:
    """Point an alias at a version; its revision is greater than any that an alias of the task has had."""
    counted = (
        sa.update(tasks)
        .where(tasks.c.id == task_id)
        .values(alias_revision=tasks.c.alias_revision + 1)
        .returning(tasks.c.alias_revision)
    )
    changed = {
        "version": version,
        "pinned": pinned,
        "revision": connection.execute(counted).scalar_one(),
        "updated_at": now,
    }
    key = {"tenant": tenant, "task_id": task_id, "name": name, "backbone_digest": backbone_digest}
    connection.execute(
        insert(connection, aliases)
        .values(**key, **changed)
        .on_conflict_do_update(index_elements=["task_id", "name", "backbone_digest"], set_=changed)
    )
    notify(connection, ALIASES, task_id)
