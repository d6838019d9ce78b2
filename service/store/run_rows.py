"""Rows of `runs` as records, and the events that every change of one appends."""

from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.errors import UnknownRun
from service.store.database import database_clock
from service.store.records import TERMINAL_STATES, Run
from service.store.tables import run_events, runs, tasks

_OWN = (
    "id", "tenant", "task_id", "kind", "state", "strategy", "options", "publish", "backbone_digest",
    "progress", "attempt", "cancel_requested", "version", "published", "published_reason", "reused", "result",
    "error", "created_at", "started_at", "finished_at",
)  # fmt: skip


def select_runs() -> sa.Select[Any]:
    return sa.select(runs, tasks.c.name.label("task_name")).join(tasks, tasks.c.id == runs.c.task_id)


def run_of(row: RowMapping) -> Run:
    return Run(**{column: row[column] for column in _OWN}, task_name=row["task_name"])


def read_run(connection: Connection, run_id: str, tenant: str | None = None) -> Run:
    """Raises: UnknownRun, also for another tenant's."""
    statement = select_runs().where(runs.c.id == run_id)
    if tenant is not None:
        statement = statement.where(runs.c.tenant == tenant)
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    return run_of(row)


def lock_task_of(connection: Connection, run_id: str) -> None:
    """Before a run that is changed, since a deletion locks them in this order: the other could deadlock.

    PostgreSQL looks the task up, and locks it, at the second change of a run in one transaction.
    """
    task_id = sa.select(runs.c.task_id).where(runs.c.id == run_id).scalar_subquery()
    connection.execute(sa.select(tasks.c.id).where(tasks.c.id == task_id).with_for_update())


def append_event(
    connection: Connection, run_id: str, event: Literal["state", "progress"], data: Mapping[str, Any]
) -> None:
    """The run's row counts its events, so that whoever appends holds its lock."""
    counted = (
        sa.update(runs)
        .where(runs.c.id == run_id)
        .values(last_event=runs.c.last_event + 1)
        .returning(runs.c.last_event, runs.c.tenant)
    )
    row = connection.execute(counted).one()
    connection.execute(
        sa.insert(run_events).values(
            tenant=row.tenant, run_id=run_id, id=row.last_event, event=event, data=dict(data),
            created_at=database_clock(),
        )
    )  # fmt: skip


def append_state(connection: Connection, run_id: str) -> None:
    """Append a `state` event that says where the run stands now."""
    columns = ("state", "attempt", "version", "published", "published_reason", "reused", "error")
    statement = sa.select(*(runs.c[column] for column in columns)).where(runs.c.id == run_id)
    row = connection.execute(statement).mappings().one()
    data: dict[str, Any] = {"state": row["state"]}
    if row["state"] in TERMINAL_STATES:
        data |= {column: row[column] for column in columns[2:]}
    append_event(connection, run_id, "state", data)
