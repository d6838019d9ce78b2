"""What one tenant may have, counted where it is written, so that no two requests at once exceed it."""

from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.errors import QuotaExceeded, TooManyRuns
from service.settings import Settings
from service.store.database import lock_name
from service.store.records import ACTIVE_STATES
from service.store.tables import examples, runs, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Each tenant's; None: no bound, and nothing is counted."""

    tasks: int | None = None
    examples: int | None = None  # in all tasks together
    image_bytes: int | None = None  # of their images
    active_runs: int | None = None  # queued or running

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            tasks=settings.tenant_max_tasks,
            examples=settings.tenant_max_examples,
            image_bytes=settings.tenant_max_image_bytes,
            active_runs=settings.tenant_max_active_runs,
        )

    def check_tasks(self, connection: Connection, tenant: str) -> None:
        """After another task was written. Raises: QuotaExceeded: take it back."""
        if self.tasks is None:
            return
        lock_name(connection, f"quota of {tenant}")
        if _count(connection, tasks, tenant) > self.tasks:
            raise QuotaExceeded("tasks", self.tasks)

    def check_runs(self, connection: Connection, tenant: str) -> None:
        """Before another run is queued. Raises: TooManyRuns."""
        if self.active_runs is None:
            return
        lock_name(connection, f"quota of {tenant}")
        if _count(connection, runs, tenant, runs.c.state.in_(ACTIVE_STATES)) >= self.active_runs:
            raise TooManyRuns(self.active_runs)

    def room(self, connection: Connection, tenant: str) -> "Room":
        """What is left for examples; before the task is locked, or two uploads could wait for each other."""
        if self.examples is None and self.image_bytes is None:
            return Room(self, 0, 0)
        lock_name(connection, f"quota of {tenant}")
        used = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(examples.c.size), 0))
        count, size = connection.execute(used.where(examples.c.tenant == tenant)).one()
        return Room(self, count, int(size))


@dataclass(slots=True)
class Room:
    """What a tenant has of its quotas, while a batch of examples is added."""

    quotas: Quotas
    examples: int
    image_bytes: int

    def take(self, size: int) -> None:
        """Count an image of `size` bytes in. Raises: QuotaExceeded: it doesn't fit, and isn't counted."""
        most, most_bytes = self.quotas.examples, self.quotas.image_bytes
        if most is not None and self.examples >= most:
            raise QuotaExceeded("examples", most)
        if most_bytes is not None and self.image_bytes + size > most_bytes:
            raise QuotaExceeded("bytes of images", most_bytes)
        self.examples += 1
        self.image_bytes += size


UNLIMITED = Quotas()


def _count(connection: Connection, table: sa.Table, tenant: str, *more: sa.ColumnElement[bool]) -> int:
    statement: sa.Select[Any] = sa.select(sa.func.count()).select_from(table)
    return int(connection.execute(statement.where(table.c.tenant == tenant, *more)).scalar_one())
