"""Rows out of a database and into another, of either kind: as JSON, a bounded number at a time."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.backup.errors import BackupFailed, DamagedBackup, naming
from service.backup.manifest import Manifest, Part
from service.backup.place import Place, folder_of
from service.errors import UnknownBlob
from service.store.references import NAMING, Reference, named_in
from service.store.tables import Document

PART_BYTES = 8 * 2**20  # of JSON, which is held in memory
PAGE = 500  # rows read, or written, at once
OWN = {"alembic_version", "alias_changes", "orphans", "turns"}  # of one database, whatever it holds

Row = dict[str, Any]


def tables_of(connection: Connection) -> list[sa.Table]:
    """The tables as the database has them, whatever its schema, each after those that it refers to."""
    found = sa.MetaData()
    found.reflect(connection)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, sa.JSON):
                column.type = Document  # else None would become JSON's null
    return [table for table in found.sorted_tables if table.name not in OWN]


def dump(connection: Connection, place: Place, id_: str) -> Iterator[tuple[Part, list[Reference]]]:
    """Write all rows of one moment; each part comes with what its rows name, once it is durable."""
    for table in tables_of(connection):
        number, lines, size, named = 0, list[bytes](), 0, list[Reference]()
        order = table.primary_key.columns
        statement = sa.select(table).order_by(*order).execution_options(yield_per=PAGE)
        for row in connection.execute(statement).mappings():
            lines.append(_line(row))
            size += len(lines[-1])
            named += named_in(table.name, row)
            if size >= PART_BYTES:
                yield _put(place, id_, table.name, number, lines), named
                number, lines, size, named = number + 1, [], 0, []
        if lines:
            yield _put(place, id_, table.name, number, lines), named


def read(place: Place, part: Part) -> list[Row]:
    """The rows of a part, as JSON has them. Raises: DamagedBackup, BackupFailed."""
    try:
        with naming(place.where):
            data = place.blobs.get(part.key)
    except UnknownBlob:
        raise DamagedBackup(f"{place.where}/{part.key} is missing") from None
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise DamagedBackup(f"{place.where}/{part.key} is damaged: its digest is another one")
    return [json.loads(line) for line in gzip.decompress(data).splitlines()]


def named(place: Place, manifest: Manifest) -> Iterator[Reference]:
    """What a backup's rows name; every part is read, and held against its digest. Raises: DamagedBackup."""
    for part in manifest.parts:
        rows = read(place, part)
        if part.table in NAMING:
            for row in rows:
                yield from named_in(part.table, row)


def load(connection: Connection, place: Place, manifest: Manifest) -> None:
    """Write a backup's rows into tables that are empty. Raises: DamagedBackup, BackupFailed."""
    check_empty(connection)
    tables = {table.name: table for table in tables_of(connection)}
    for part in manifest.parts:
        table = tables[part.table]
        rows = [_row(table, row) for row in read(place, part)]
        for start in range(0, len(rows), PAGE):
            connection.execute(sa.insert(table), rows[start : start + PAGE])
    if connection.dialect.name == "postgresql":
        _go_on_counting(connection, list(tables.values()))


def check_empty(connection: Connection) -> None:
    """Raises: BackupFailed: a table has rows."""
    for table in tables_of(connection):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            raise BackupFailed(f"the database isn't empty: there is something in {table.name}")


def _line(row: Mapping[Any, Any]) -> bytes:
    said = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value
        for name, value in row.items()
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _row(table: sa.Table, said: Row) -> Row:
    return {
        name: base64.b64decode(value)
        if value is not None and isinstance(table.columns[name].type, sa.LargeBinary)
        else value
        for name, value in said.items()
    }


def _put(place: Place, id_: str, table: str, number: int, lines: Sequence[bytes]) -> Part:
    data = gzip.compress(b"".join(lines), compresslevel=1, mtime=0)
    key = f"{folder_of(id_)}{table}-{number:04d}.jsonl.gz"
    with naming(place.where):
        place.blobs.put_new(key, data)
    return Part(table=table, key=key, rows=len(lines), sha256=hashlib.sha256(data).hexdigest())


def _go_on_counting(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """A sequence doesn't notice ids that were written."""
    for table in tables:
        for column in table.primary_key.columns:
            sequence = connection.execute(
                sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))
            ).scalar()
            last = connection.execute(sa.select(sa.func.max(column))).scalar() if sequence else None
            if last is not None:
                connection.execute(sa.select(sa.func.setval(sequence, last)))
