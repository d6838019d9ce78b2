"""Which blobs the rows name, and the digests that they should have."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.records import ACTIVE_STATES
from service.store.tables import examples, runs, versions

NAMING = ("examples", "versions", "runs")  # the tables whose rows name blobs
DIGEST = re.compile(r"[0-9a-f]{64}")
PAGE = 1000  # rows held at once


@dataclass(frozen=True, slots=True)
class Reference:
    key: str
    digest: str | None  # sha256, hex; None: of an upload that is still to be read


def named_in(table: str, row: Mapping[Any, Any]) -> Iterator[Reference]:
    """What one row of a table names."""
    if table == "examples":
        yield Reference(row["blob_key"], row["image_digest"])
    elif table == "versions":
        yield Reference(row["head_key"], row["head_digest"])
        for key in (row["predictions_key"], row["factors_key"]):
            if key:
                found = DIGEST.search(key.rpartition("/")[2])
                yield Reference(key, found and found[0])
    elif table == "runs" and row["kind"] == "import" and row["state"] in ACTIVE_STATES:
        yield Reference(row["options"]["archive"], None)


def references(connection: Connection, task_id: str | None = None) -> Iterator[Reference]:
    """What all rows name, or those of one task; a blob may come twice."""
    for name, statement in _STATEMENTS.items():
        asked = (
            statement if task_id is None else statement.where(statement.selected_columns.task_id == task_id)
        )
        found = connection.execution_options(yield_per=PAGE).execute(asked).mappings()
        for row in found:
            yield from named_in(name, row)


_STATEMENTS = {
    "examples": sa.select(examples.c.task_id, examples.c.blob_key, examples.c.image_digest),
    "versions": sa.select(
        versions.c.task_id, versions.c.head_key, versions.c.head_digest, versions.c.predictions_key,
        versions.c.factors_key,
    ),
    "runs": sa.select(runs.c.task_id, runs.c.kind, runs.c.state, runs.c.options).where(
        runs.c.kind == "import", runs.c.state.in_(ACTIVE_STATES)
    ),
}  # fmt: skip
