"""Rows of `examples` as records, and the one column that needs converting."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.store.classes import labels_of
from service.store.records import Example


def read_examples(connection: Connection, statement: sa.Select[Any]) -> list[Example]:
    """The examples that a selection of their rows finds."""
    rows = connection.execute(statement).mappings().all()
    labels = labels_of(connection, [row["id"] for row in rows])
    return [_record(row, labels.get(row["id"], ())) for row in rows]


def _record(row: RowMapping, labels: tuple[str, ...]) -> Example:
    same = (
        "id", "task_id", "image_digest", "blob_key", "media_type", "filename", "width", "height", "size",
        "value", "split", "split_by_user", "created_at",
    )  # fmt: skip
    return Example(
        **{column: row[column] for column in same},
        perceptual_hash=row["perceptual_hash"] % 2**64,
        labels=labels if row["labelled"] and row["value"] is None else None,
        group=row["group_name"],
    )


def signed(perceptual_hash: int) -> int:
    """64 bits as the signed number that a database can hold."""
    return perceptual_hash - 2**64 if perceptual_hash >= 2**63 else perceptual_hash
