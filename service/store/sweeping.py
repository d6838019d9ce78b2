"""Deleting blobs that no row names any more, long after.

A request or a run deletes rows alone. A sweep finds what they leave behind, and what crashed uploads and runs
have left, notes when it was first seen, and a grace time later deletes it. The grace time is longer than any
run, whose bytes come before their row, and than a backup, whose bytes come after its rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.blobs import Blobs, Listed
from service.store.database import CHUNK, Database, insert
from service.store.keys import ALL_TASKS, task_of_key
from service.store.references import references
from service.store.tables import orphans, tasks


@dataclass(slots=True)
class Swept:
    noted: int = 0  # blobs, or all of a deleted task, that will go
    deleted: int = 0


def sweep(
    database: Database,
    blobs: Blobs,
    *,
    grace_s: float,
    now: float,
    check: Callable[[], object] = lambda: None,
) -> Swept:
    """Look at every blob once. Memory holds the keys of one task.

    Args:   check: called before each task; what it raises ends the sweep.
    Raises: StoreUnavailable.
    """
    sweeping = _Sweeping(database, blobs, now, now - grace_s)
    for found, listed in groupby(blobs.list(ALL_TASKS), key=lambda each: task_of_key(each.key)):
        check()
        if found is not None:
            prefix, task_id = found
            # Listed first: what a row names by now is no orphan.
            sweeping.take(sweeping.orphans_of(prefix, task_id, list(listed)))
    with database.write() as connection:  # those whose blobs somebody else has deleted
        connection.execute(sa.delete(orphans).where(orphans.c.seen_at <= now - grace_s))
    return sweeping.swept


@dataclass(frozen=True, slots=True)
class _Sweeping:
    database: Database
    blobs: Blobs
    now: float
    before: float  # what is older has had its grace time
    swept: Swept = field(default_factory=Swept)

    def orphans_of(self, prefix: str, task_id: str, listed: Sequence[Listed]) -> list[str]:
        """The keys of a task that nothing names; the prefix of all, where the task is gone."""
        with self.database.read() as connection:
            if connection.execute(sa.select(tasks.c.id).where(tasks.c.id == task_id)).first() is None:
                return [prefix]
            named = {each.key for each in references(connection, task_id)}
        # A younger one may be of an upload or a run that is going on.
        return [each.key for each in listed if each.key not in named and each.modified_at <= self.before]

    def take(self, keys: Sequence[str]) -> None:
        """Note the keys that are new, and delete what those have that were noted long ago."""
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            with self.database.read() as connection:
                statement = sa.select(orphans).where(orphans.c.key.in_(chunk))
                seen = {row.key: row.seen_at for row in connection.execute(statement)}
            due = [key for key, seen_at in seen.items() if seen_at <= self.before]
            for key in due:
                (self.blobs.delete_prefix if key.endswith("/") else self.blobs.delete)(key)
            new = [key for key in chunk if key not in seen]
            if due or new:
                with self.database.write() as connection:
                    connection.execute(sa.delete(orphans).where(orphans.c.key.in_(due)))
                    _note(connection, new, self.now)
            self.swept.deleted += len(due)
            self.swept.noted += len(new)


def _note(connection: Connection, keys: Sequence[str], now: float) -> None:
    if keys:
        rows = [{"key": key, "seen_at": now} for key in keys]
        connection.execute(insert(connection, orphans).values(rows).on_conflict_do_nothing())
