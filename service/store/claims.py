"""A trainer's side of a run: claim it, keep it, end it.

A claim is a lease on the database's clock and a number, the attempt, that grows with every claim. Whatever a
trainer writes later is conditional on its attempt, so that one that was stopped and woken changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import LostLease
from service.store.database import Database, database_clock, insert
from service.store.notices import RUNS, notify
from service.store.publishing import publish_version, reserve_number
from service.store.records import UNSET, ImportItem, NewVersion, Run, RunState, Unset
from service.store.run_rows import append_event, append_state, lock_task_of, read_run
from service.store.tables import import_items, runs, tasks

ABANDONED_S = 600.0  # a trainer that is scaled up for a run has long begun by then


class Claims:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        lease_s: float,
        max_attempts: int,
        *,
        backbone_digest: str | None = None,
        abandoned_s: float | None = ABANDONED_S,
        ended: Callable[[Run], None] = lambda _: None,
    ) -> Run | None:
        """The oldest run that is queued, or whose trainer fell silent; it is the caller's for `lease_s`.

        One whose attempts are used up fails, one that was to be cancelled is, and the next is looked at.

        Args: backbone_digest: of the caller. Another backbone's runs are left to its own trainers, which may
              be there beside this one; None: they aren't.
              abandoned_s: without a sign of such a trainer, after which its runs are claimed all the same,
              so that somebody says that they fail; None: never.
              ended: told each run that has ended so.
        """
        claimable = _claimable(backbone_digest, abandoned_s)
        with self._database.read() as connection:  # an idle poll takes no lock
            if connection.execute(claimable).first() is None:
                return None
        given_up: list[Run] = []
        with self._database.write() as connection:
            claimed = _claim_next(connection, _claiming(claimable, lease_s), max_attempts, given_up)
        for run in given_up:
            ended(run)
        return claimed

    def heartbeat(
        self, run_id: str, attempt: int, lease_s: float, progress: Mapping[str, Any] | None = None
    ) -> bool:
        """Keep the run for another `lease_s`; progress is shown with the run and appended to its events.

        Returns: whether a user wants it cancelled.
        Raises:  LostLease.
        """
        kept: dict[str, Any] = {"lease_until": database_clock() + lease_s, "heartbeat_at": database_clock()}
        if progress is not None:
            kept["progress"] = dict(progress)
        with self._database.write() as connection:
            if progress is not None:
                lock_task_of(connection, run_id)
            cancel_requested: bool = _hold(connection, run_id, attempt, **kept).cancel_requested
            if progress is not None:
                append_event(connection, run_id, "progress", progress)
            return cancel_requested

    def finish(
        self,
        run_id: str,
        attempt: int,
        state: Literal["succeeded", "failed", "cancelled"],
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """End a run without a version. Raises: LostLease."""
        with self._database.write() as connection:
            lock_task_of(connection, run_id)
            _hold(connection, run_id, attempt)
            _end(connection, run_id, state, result=result, error=error)

    def release(self, run_id: str, attempt: int) -> Run:
        """Give the run back in good order: the next claim goes on, and this attempt doesn't count.

        Returns: the run, queued, or cancelled where that was asked for meanwhile.
        Raises:  LostLease.
        """
        with self._database.write() as connection:
            lock_task_of(connection, run_id)
            back = {"state": "queued", "lease_until": None, "released": runs.c.released + 1}
            if _hold(connection, run_id, attempt, **back).cancel_requested:
                _end(connection, run_id, "cancelled")
            else:
                append_state(connection, run_id)
                notify(connection, RUNS)
            return read_run(connection, run_id)

    def reserve_version(self, run_id: str, attempt: int) -> int:
        """The number that this run's version will have; the same again after a crash, never another run's.

        Raises: LostLease.
        """
        with self._database.write() as connection:
            lock_task_of(connection, run_id)
            return reserve_number(connection, _hold(connection, run_id, attempt))

    def publish(
        self,
        run_id: str,
        attempt: int,
        version: NewVersion,
        *,
        publish: bool,
        reason: str,
        seen_production: int | Unset | None = UNSET,
    ) -> int:
        """Make the version, move `production` to it when `publish`, and end the run, all at once.

        A pinned `production` stays, and so does one that has moved from `seen_production` since the caller
        decided: the run then says so instead of `reason`.

        Returns: the version's number, the reserved one if there is one.
        Raises:  LostLease.
        """
        with self._database.write() as connection:
            lock_task_of(connection, run_id)
            run = _hold(connection, run_id, attempt)
            number = reserve_number(connection, run)
            kept = publish_version(connection, run, number, version, move=publish, seen=seen_production)
            outcome = {"published": publish and kept is None, "published_reason": kept or reason}
            _end(connection, run_id, "succeeded", version=number, **outcome)
            return number

    def add_items(self, run_id: str, attempt: int, items: Sequence[ImportItem]) -> None:
        """Record what became of an archive's members; a retried import says it again.

        Raises: LostLease.
        """
        with self._database.write() as connection:
            tenant = _hold(connection, run_id, attempt).tenant
            rows = [_item_row(tenant, run_id, item) for item in items]
            if not rows:
                return
            new = insert(connection, import_items)
            said = {column: new.excluded[column] for column in ("filename", "status", "example_id", "error")}
            connection.execute(
                new.on_conflict_do_update(index_elements=["run_id", "position"], set_=said), rows
            )


def _claimable(backbone_digest: str | None, abandoned_s: float | None) -> sa.Select[tuple[str]]:
    silent = (runs.c.state == "running") & (runs.c.lease_until < database_clock())
    found = (
        sa.select(runs.c.id)
        .join(tasks, tasks.c.id == runs.c.task_id)
        .where((runs.c.state == "queued") | silent)
        .order_by(runs.c.created_at, runs.c.id)
        .limit(1)
    )
    if backbone_digest is None:
        return found
    may = (runs.c.backbone_digest == backbone_digest) | runs.c.cancel_requested
    return found.where(may if abandoned_s is None else may | _abandoned(abandoned_s))


def _abandoned(abandoned_s: float) -> sa.ColumnElement[bool]:
    """Old enough, and no trainer of its backbone has worked lately: one that is busy comes to it later."""
    since = database_clock() - abandoned_s
    theirs = runs.alias("theirs")
    worked = (theirs.c.backbone_digest == runs.c.backbone_digest) & (theirs.c.heartbeat_at > since)
    # Those that run are few and have an index; all others are looked through only where none of them tells.
    at_work = sa.exists().where(theirs.c.state == "running", worked)
    return (runs.c.created_at < since) & ~at_work & ~sa.exists().where(worked)


def _claiming(claimable: sa.Select[tuple[str]], lease_s: float) -> sa.sql.dml.ReturningUpdate[Any]:
    # SKIP LOCKED lets trainers claim side by side on PostgreSQL; SQLite has one writer and leaves it out. It
    # is of the task too (`lock_task_of`): while that is written to or deleted, its run is passed over.
    oldest = claimable.with_for_update(skip_locked=True, key_share=True).scalar_subquery()
    return (
        sa.update(runs)
        .where(runs.c.id == oldest)
        .values(
            state="running",
            attempt=runs.c.attempt + 1,
            lease_until=database_clock() + lease_s,
            heartbeat_at=database_clock(),
            started_at=sa.func.coalesce(runs.c.started_at, database_clock()),
            progress={},
        )
        .returning(runs.c.id, runs.c.attempt, runs.c.released, runs.c.cancel_requested)
    )


def _claim_next(
    connection: Connection, claiming: sa.Executable, max_attempts: int, given_up: list[Run]
) -> Run | None:
    """Claim a run that may go on; those that end instead are added to `given_up`."""
    while (row := connection.execute(claiming).mappings().one_or_none()) is not None:
        if row["cancel_requested"]:
            _end(connection, row["id"], "cancelled")
        elif row["attempt"] - row["released"] > max_attempts:
            _end(connection, row["id"], "failed", error=_interrupted(max_attempts))
        else:
            append_state(connection, row["id"])
            return read_run(connection, row["id"])
        given_up.append(read_run(connection, row["id"]))
    return None


def _hold(connection: Connection, run_id: str, attempt: int, **values: Any) -> sa.Row[Any]:
    """Write to the run and lock it, if it is still this attempt's. Raises: LostLease."""
    mine = (runs.c.id == run_id) & (runs.c.attempt == attempt) & (runs.c.state == "running")
    statement = sa.update(runs).where(mine).values(values or {"attempt": attempt}).returning(*runs.c)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise LostLease(run_id)
    return row


def _end(connection: Connection, run_id: str, state: RunState, **values: Any) -> None:
    ended = {"state": state, "lease_until": None, "finished_at": database_clock(), **values}
    connection.execute(sa.update(runs).where(runs.c.id == run_id).values(ended))
    append_state(connection, run_id)


def _interrupted(attempts: int) -> dict[str, Any]:
    return {
        "code": "run_interrupted",
        "title": "Run interrupted",
        "status": 500,
        "detail": f"the trainer stopped in the middle of this run {attempts} times; start another",
    }


def _item_row(tenant: str, run_id: str, item: ImportItem) -> dict[str, Any]:
    row = asdict(item)
    return row | {"tenant": tenant, "run_id": run_id, "position": row.pop("index")}
