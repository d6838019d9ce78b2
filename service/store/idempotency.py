"""The answers to requests that carried an Idempotency-Key, for those who ask again."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.errors import IdempotencyKeyReused, RequestInProgress
from service.store.database import Database, database_clock, insert
from service.store.records import StoredResponse
from service.store.tables import idempotency

KEPT_S = 24 * 3600.0
ABANDONED_S = 600.0  # whoever held the key this long without an answer is taken to be gone


class Idempotency:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, tenant: str, key: str, fingerprint: str) -> StoredResponse | None:
        """The answer that is there; None: the key is the caller's, to `finish` or `abandon`.

        Raises: RequestInProgress, IdempotencyKeyReused.
        """
        with self._database.write() as connection:
            expired = idempotency.c.created_at < database_clock() - KEPT_S
            connection.execute(sa.delete(idempotency).where(expired))
            new = {"request_digest": fingerprint, "created_at": database_clock()}
            held = insert(connection, idempotency).values(tenant=tenant, key=key, **new)
            held_now = held.on_conflict_do_nothing().returning(idempotency.c.key)
            if connection.execute(held_now).one_or_none() is not None:
                return None
            row = _locked(connection, tenant, key)
            if row is None:  # abandoned at this moment
                raise RequestInProgress
            if row["request_digest"] != fingerprint:
                raise IdempotencyKeyReused
            if row["status"] is not None:
                return _response(row)
            if row["age"] < ABANDONED_S:
                raise RequestInProgress
            connection.execute(sa.update(idempotency).where(*_mine(tenant, key)).values(new))
            return None

    def finish(self, tenant: str, key: str, response: StoredResponse) -> None:
        """Keep the answer; the first one stays."""
        answer: dict[str, Any] = {
            "status": response.status, "headers": response.headers, "body": response.body,
        }  # fmt: skip
        with self._database.write() as connection:
            unanswered = (*_mine(tenant, key), idempotency.c.status.is_(None))
            connection.execute(sa.update(idempotency).where(*unanswered).values(answer))

    def abandon(self, tenant: str, key: str) -> None:
        """Let go of a key whose request has no answer worth keeping."""
        with self._database.write() as connection:
            unanswered = (*_mine(tenant, key), idempotency.c.status.is_(None))
            connection.execute(sa.delete(idempotency).where(*unanswered))


def _locked(connection: Connection, tenant: str, key: str) -> RowMapping | None:
    age = (database_clock() - idempotency.c.created_at).label("age")
    statement = sa.select(idempotency, age).where(*_mine(tenant, key)).with_for_update()
    return connection.execute(statement).mappings().one_or_none()


def _mine(tenant: str, key: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (idempotency.c.tenant == tenant, idempotency.c.key == key)


def _response(row: RowMapping) -> StoredResponse:
    return StoredResponse(
        request_digest=row["request_digest"], status=row["status"], headers=row["headers"], body=row["body"]
    )
