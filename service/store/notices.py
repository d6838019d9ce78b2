"""Notices from one process to those that wait: PostgreSQL's LISTEN and NOTIFY, carried by nothing else.

They only shorten a wait. SQLite has none, and a pooler may swallow them: whoever waits looks again anyhow.
"""

import threading
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.database import SILENCE_S, Database

RUNS = "polyhead_runs"  # something is queued
ALIASES = "polyhead_aliases"  # what is served of a task has changed; about: its id


def notify(connection: Connection, channel: str, about: str = "") -> None:
    """Wake whoever waits on this channel once the transaction is durable."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(channel, about)))


class Listener:
    """Of one channel, on a connection of its own; for one thread."""

    def __init__(self, database: Database, channel: str) -> None:
        self._engine = database.engine
        self._channel = channel
        self._connection: Any = None  # psycopg's; the package is an extra

    @property
    def hears(self) -> bool:
        """Whether there are notices at all."""
        return self._engine.dialect.driver == "psycopg"

    def wait(self, seconds: float, stop: threading.Event) -> list[str]:
        """Return at a notice, also one since the last wait, or after `seconds`. Never fails.

        Args:    stop: ends the wait too, at the latest after `seconds`.
        Returns: what each notice was about.
        """
        if self.hears:
            try:
                return self._hear(seconds)
            except self._engine.dialect.loaded_dbapi.Error:
                self.close()  # the next wait connects anew
        stop.wait(seconds)
        return []

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _hear(self, seconds: float) -> list[str]:
        if self._connection is None:
            from service.store.silence import BoundedConnection  # noqa: PLC0415 - psycopg is an extra

            # Not of the pool: it would go on listening there.
            arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
            self._connection = BoundedConnection.open(
                *arguments, **options, autocommit=True, silence_s=SILENCE_S
            )
            self._connection.execute(f"LISTEN {self._channel}")
        return [notice.payload for notice in self._connection.notifies(timeout=seconds, stop_after=1)]
