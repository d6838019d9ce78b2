"""Embeddings, by image and backbone: computed once, whatever the number of tasks that show the image."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.database import CHUNK, Database, insert
from service.store.example_rows import read_examples
from service.store.records import Example, Task
from service.store.tables import embeddings, examples


class Embeddings:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, tenant: str, digests: Sequence[str], backbone_digest: str) -> dict[str, bytes]:
        """Those that are there, by image digest: (D,) float32 little-endian."""
        found: dict[str, bytes] = {}
        with self._database.read() as connection:
            for start in range(0, len(digests), CHUNK):
                statement = sa.select(embeddings.c.image_digest, embeddings.c.vector).where(
                    embeddings.c.tenant == tenant,
                    embeddings.c.backbone_digest == backbone_digest,
                    embeddings.c.image_digest.in_(digests[start : start + CHUNK]),
                )
                found |= {row.image_digest: row.vector for row in connection.execute(statement)}
        return found

    def put_many(self, tenant: str, vectors: Mapping[str, bytes], backbone_digest: str) -> None:
        """Keep these, by image digest; one that is there already stays."""
        with self._database.write() as connection:
            put_embeddings(connection, tenant, vectors, backbone_digest)

    def sample(self, task: Task, backbone_digest: str, *, start: str, limit: int) -> list[bytes]:
        """Embeddings of labelled examples that no test holds, in the order of their images' digests.

        Args: start: a digest (hex) to begin at, going on from the first one after the last. Digests are as
              good as random, so this is a fair choice, and costs the same however many examples there are.
        """
        statement = (
            sa.select(embeddings.c.vector)
            .join(
                examples,
                sa.and_(
                    embeddings.c.tenant == examples.c.tenant,
                    embeddings.c.image_digest == examples.c.image_digest,
                    embeddings.c.backbone_digest == backbone_digest,
                ),
            )
            .where(examples.c.task_id == task.id, examples.c.labelled)
            .where(sa.or_(examples.c.split.is_(None), examples.c.split != "test"))
            .order_by(examples.c.image_digest)
        )
        after, before = examples.c.image_digest >= start, examples.c.image_digest < start
        with self._database.read() as connection:
            found = list(connection.execute(statement.where(after).limit(limit)).scalars())
            rest = limit - len(found)
            return [*found, *connection.execute(statement.where(before).limit(rest)).scalars()]

    def missing(
        self, task: Task, backbone_digest: str, *, labelled_only: bool, limit: int, after: str | None = None
    ) -> list[Example]:
        """Examples without an embedding on this backbone, oldest first, from beyond the id `after`."""
        statement = sa.select(examples).where(examples.c.task_id == task.id, ~_there(backbone_digest))
        if labelled_only:
            statement = statement.where(examples.c.labelled)
        if after is not None:
            statement = statement.where(examples.c.id > after)
        with self._database.read() as connection:
            return read_examples(connection, statement.order_by(examples.c.id).limit(limit))

    def count_missing(self, task: Task, backbone_digest: str) -> int:
        """Examples without an embedding on this backbone, labelled or not."""
        counted = sa.select(sa.func.count()).select_from(examples)
        with self._database.read() as connection:
            return connection.execute(
                counted.where(examples.c.task_id == task.id, ~_there(backbone_digest))
            ).scalar_one()


def _there(backbone_digest: str) -> sa.Exists:
    """Whether an example's image has its embedding."""
    return sa.exists().where(
        embeddings.c.tenant == examples.c.tenant,
        embeddings.c.image_digest == examples.c.image_digest,
        embeddings.c.backbone_digest == backbone_digest,
    )


def put_embeddings(
    connection: Connection, tenant: str, vectors: Mapping[str, bytes], backbone_digest: str
) -> None:
    rows = [
        {"tenant": tenant, "image_digest": digest, "backbone_digest": backbone_digest, "vector": vector}
        for digest, vector in sorted(vectors.items())  # in one order, or two writers could deadlock
    ]
    if rows:
        connection.execute(insert(connection, embeddings).on_conflict_do_nothing(), rows)
