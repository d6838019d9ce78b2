"""Runs: long work on a task, one at a time, as its users see it; `claims` is the trainers' side."""

import builtins
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import RunActive, RunEnded, UnknownRun, UnknownTask
from service.store.claims import Claims
from service.store.database import Database, database_clock
from service.store.ids import new_id
from service.store.notices import RUNS, notify
from service.store.paging import id_after, number_after, page_of
from service.store.quotas import UNLIMITED, Quotas
from service.store.records import ACTIVE_STATES, ImportItem, NewRun, Page, Run, RunEvent
from service.store.run_rows import append_state, lock_task_of, read_run, run_of, select_runs
from service.store.tables import import_items, run_events, runs, tasks


class Runs(Claims):
    def __init__(self, database: Database, quotas: Quotas = UNLIMITED) -> None:
        super().__init__(database)
        self._quotas = quotas

    def create(self, tenant: str, run: NewRun, now: float) -> Run:
        """Queue a run.

        Raises: RunActive, naming the one; TooManyRuns; UnknownTask.
        """
        with self._database.write() as connection:
            self._quotas.check_runs(connection, tenant)
            _lock_task(connection, tenant, run.task_id)
            active = sa.select(runs.c.id).where(
                runs.c.task_id == run.task_id, runs.c.state.in_(ACTIVE_STATES)
            )
            active_id = connection.execute(active).scalar_one_or_none()
            if active_id is not None:
                raise RunActive(active_id)
            notify(connection, RUNS)
            return _insert(connection, tenant, run, now, state="queued")

    def create_reused(
        self,
        tenant: str,
        run: NewRun,
        version: int,
        now: float,
        *,
        published: bool = False,
        reason: str = "nothing has changed since that version was trained",
    ) -> Run:
        """A run that has succeeded already, with a version that is there.

        Raises: UnknownTask.
        """
        with self._database.write() as connection:
            _lock_task(connection, tenant, run.task_id)
            return _insert(
                connection, tenant, run, now, state="succeeded", version=version, reused=True,
                published=published, published_reason=reason, started_at=now, finished_at=now,
            )  # fmt: skip

    def get(self, tenant: str, run_id: str) -> Run:
        """Raises: UnknownRun."""
        with self._database.read() as connection:
            return read_run(connection, run_id, tenant)

    def list(
        self, tenant: str, *, task_id: str | None = None, limit: int, after: str | None = None
    ) -> Page[Run]:
        statement = select_runs().where(runs.c.tenant == tenant)
        if task_id is not None:
            statement = statement.where(runs.c.task_id == task_id)
        if (last := id_after(after, "run")) is not None:
            statement = statement.where(runs.c.id < last)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(runs.c.id.desc()).limit(limit + 1)).mappings().all()
        return page_of([run_of(row) for row in rows], limit, lambda run: run.id)

    def cancel(self, tenant: str, run_id: str) -> Run:
        """End a queued run at once; ask the trainer of a running one.

        Raises: UnknownRun, RunEnded.
        """
        with self._database.write() as connection:
            lock_task_of(connection, run_id)
            own = sa.select(runs.c.state).where(runs.c.id == run_id, runs.c.tenant == tenant)
            state = connection.execute(own.with_for_update()).scalar_one_or_none()
            if state is None:
                raise UnknownRun(run_id)
            if state not in ACTIVE_STATES:
                raise RunEnded(run_id, state)
            changed: dict[str, Any] = {"cancel_requested": True}
            if state == "queued":
                changed |= {"state": "cancelled", "finished_at": database_clock()}
            connection.execute(sa.update(runs).where(runs.c.id == run_id).values(changed))
            if state == "queued":
                append_state(connection, run_id)
            return read_run(connection, run_id)

    def events(self, run_id: str, after: int, limit: int) -> builtins.list[RunEvent]:
        """Those with a greater id than `after`, oldest first."""
        statement = (
            sa.select(run_events.c.id, run_events.c.event, run_events.c.data, run_events.c.created_at)
            .where(run_events.c.run_id == run_id, run_events.c.id > after)
            .order_by(run_events.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [RunEvent(**row) for row in connection.execute(statement).mappings()]

    def items(self, run_id: str, limit: int, after: str | None = None) -> Page[ImportItem]:
        """What became of an archive's members, in its order."""
        columns = [import_items.c[name] for name in ("filename", "status", "example_id", "error")]
        statement = sa.select(import_items.c.position.label("index"), *columns)
        statement = statement.where(import_items.c.run_id == run_id)
        last = number_after(after)
        if last is not None:
            statement = statement.where(import_items.c.position > last)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(import_items.c.position).limit(limit + 1)).mappings()
            items = [ImportItem(**row) for row in rows]
        return page_of(items, limit, lambda item: item.index)


def _lock_task(connection: Connection, tenant: str, task_id: str) -> None:
    statement = sa.select(tasks.c.id).where(tasks.c.id == task_id, tasks.c.tenant == tenant)
    if connection.execute(statement.with_for_update()).one_or_none() is None:
        raise UnknownTask(task_id)


def _insert(connection: Connection, tenant: str, run: NewRun, now: float, **values: Any) -> Run:
    run_id = run.id or new_id("run")
    row: dict[str, Any] = {
        "id": run_id, "tenant": tenant, "task_id": run.task_id, "kind": run.kind, "strategy": run.strategy,
        "options": run.options, "publish": run.publish, "backbone_digest": run.backbone_digest,
        "progress": {}, "attempt": 0, "released": 0, "cancel_requested": False, "reused": False,
        "last_event": 0, "created_at": now,
    }  # fmt: skip
    connection.execute(sa.insert(runs).values(row | values))
    append_state(connection, run_id)
    return read_run(connection, run_id)
