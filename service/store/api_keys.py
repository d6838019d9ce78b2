"""API keys: who may do what, with whose things."""

import builtins
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from service.errors import UnknownKey
from service.store.checks import check_name, check_text
from service.store.database import Database, insert
from service.store.records import ApiKey
from service.store.tables import api_keys


class ApiKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKey) -> bool:
        """Keep a key; one of this id that is there already stays as it is, also a revoked one.

        Returns: whether it is new.
        Raises:  InvalidField: a tenant that can't be part of a blob's key; a name that can't be stored.
        """
        check_name(key.tenant, "/tenant")
        check_text(key.name, "/name")
        row = {column: getattr(key, column) for column in api_keys.c.keys()}  # noqa: SIM118 - no dict
        with self._database.write() as connection:
            new = insert(connection, api_keys).values(row | {"scopes": list(key.scopes)})
            kept = connection.execute(new.on_conflict_do_nothing().returning(api_keys.c.id))
            return kept.one_or_none() is not None

    def find(self, key_id: str) -> ApiKey | None:
        with self._database.read() as connection:
            row = connection.execute(_one(key_id)).mappings().one_or_none()
        return None if row is None else _record(row)

    def list(self) -> builtins.list[ApiKey]:
        """All keys of all tenants, newest first, the revoked among them."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.id.desc())).mappings()
            return [_record(row) for row in rows]

    def any_usable(self, peppers: Collection[str]) -> bool:
        """Whether anybody could be let in. Args: peppers: ids of those that are known."""
        usable = api_keys.c.revoked_at.is_(None), api_keys.c.pepper.in_(peppers)
        with self._database.read() as connection:
            return connection.execute(sa.select(api_keys.c.id).where(*usable).limit(1)).first() is not None

    def revoke(self, key_id: str, now: float) -> ApiKey:
        """End a key; one that was revoked before keeps its time.

        Raises: UnknownKey.
        """
        with self._database.write() as connection:
            still = api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)
            connection.execute(sa.update(api_keys).where(*still).values(revoked_at=now))
            row = connection.execute(_one(key_id)).mappings().one_or_none()
        if row is None:
            raise UnknownKey(key_id)
        return _record(row)

    def note_use(
        self, key_id: str, now: float, *, apart_s: float, kept: tuple[str, str] | None = None
    ) -> None:
        """Write when the key was last used, unless that was less than `apart_s` ago.

        Args: kept: the key's digest under another pepper, and that one's id, to keep instead.
        """
        values: dict[str, Any] = {"last_used_at": now}
        long_ago: sa.ColumnElement[bool] = sa.or_(
            api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= now - apart_s
        )
        if kept is not None:
            values["digest"], values["pepper"] = kept
            long_ago = sa.or_(long_ago, api_keys.c.pepper != kept[1])
        with self._database.write() as connection:
            connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id, long_ago).values(values))


def _one(key_id: str) -> sa.Select[Any]:
    return sa.select(api_keys).where(api_keys.c.id == key_id)


def _record(row: RowMapping) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(row["scopes"])})
