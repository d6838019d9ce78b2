"""The tables. A column that a user's text goes into is Text; times are seconds since the epoch, UTC.

Every change here needs a migration; a test compares the two.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Document = JSON(none_as_null=True)  # None is SQL's NULL, not JSON's


def _tenant(*, primary_key: bool = False) -> Column[str]:
    return Column("tenant", String(64), nullable=False, primary_key=primary_key)


def _task(*, primary_key: bool = False) -> Column[Any]:
    task = ForeignKey("tasks.id", ondelete="CASCADE")
    return Column("task_id", String(40), task, nullable=False, primary_key=primary_key)


def _one_of(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


tasks = Table(
    "tasks",
    metadata,
    Column("id", String(40), primary_key=True),
    _tenant(),
    Column("name", String(63), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("description", Text, nullable=False),
    Column("data_revision", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("next_version", Integer, nullable=False),  # a number given away is never given again
    Column("alias_revision", Integer, nullable=False),  # the newest ETag given to any of its aliases
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("tenant", "name"),
    _one_of("kind", "multiclass", "multilabel", "regression"),
)

# A class is a row, so that renaming it touches nothing else.
classes = Table(
    "classes",
    metadata,
    Column("id", Integer, primary_key=True),
    _tenant(),
    _task(),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),  # order of the logits
    UniqueConstraint("task_id", "name"),
)

examples = Table(
    "examples",
    metadata,
    Column("id", String(40), primary_key=True),
    _tenant(),
    _task(),
    Column("image_digest", String(64), nullable=False),
    Column("blob_key", Text, nullable=False),
    Column("media_type", String(32), nullable=False),
    Column("filename", Text),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("perceptual_hash", BigInteger, nullable=False),  # 64 bits, as a signed number
    Column("labelled", Boolean, nullable=False),  # a multilabel example may be labelled with no class at all
    Column("value", Double),
    Column("group_name", Text),
    Column("split", String(16)),
    Column("split_by_user", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("task_id", "image_digest"),
    Index(None, "task_id", "id"),
    Index(None, "tenant", "image_digest"),
    _one_of("split", "train", "validation", "test"),
)

example_labels = Table(
    "example_labels",
    metadata,
    _tenant(),
    Column("example_id", String(40), ForeignKey("examples.id", ondelete="CASCADE"), primary_key=True),
    # No cascade: a class with examples stays.
    Column("class_id", Integer, ForeignKey("classes.id"), primary_key=True, index=True),
)

embeddings = Table(
    "embeddings",
    metadata,
    _tenant(primary_key=True),
    Column("image_digest", String(64), primary_key=True),
    Column("backbone_digest", String(64), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # (D,) float32 little-endian
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    _tenant(),
    _task(),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("strategy", String(32)),
    Column("options", Document, nullable=False),
    Column("publish", String(16), nullable=False),
    Column("backbone_digest", String(64), nullable=False),
    Column("progress", Document, nullable=False),
    Column("attempt", Integer, nullable=False),  # grows with every claim: the fence
    Column("released", Integer, nullable=False),  # claims given back in good order; they don't count
    Column("lease_until", Double),
    Column("heartbeat_at", Double),
    Column("cancel_requested", Boolean, nullable=False),
    Column("reserved_version", Integer),
    Column("version", Integer),
    Column("published", Boolean),
    Column("published_reason", Text),
    Column("reused", Boolean, nullable=False),
    Column("result", Document),
    Column("error", Document),
    Column("last_event", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Index(None, "tenant", "id"),
    Index(None, "task_id", "id"),
    Index(None, "state", "created_at"),
    Index(
        "uq_runs_active",
        "task_id",
        unique=True,
        sqlite_where=text("state IN ('queued', 'running')"),
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
    _one_of("kind", "train", "import"),
    _one_of("state", "queued", "running", "succeeded", "failed", "cancelled"),
    _one_of("publish", "first", "if_better", "always", "never"),
)

run_events = Table(
    "run_events",
    metadata,
    _tenant(),
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("event", String(16), nullable=False),
    Column("data", Document, nullable=False),
    Column("created_at", Double, nullable=False),
    _one_of("event", "state", "progress"),
)

import_items = Table(
    "import_items",
    metadata,
    _tenant(),
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("filename", Text, nullable=False),
    Column("status", String(16)),
    Column("example_id", String(40)),
    Column("error", Document),
    _one_of("status", "created", "duplicate", "conflict"),
)

versions = Table(
    "versions",
    metadata,
    _tenant(),
    _task(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("run_id", String(40), nullable=False),
    Column("strategy", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("labels", Document, nullable=False),  # as they were: a published version keeps its words
    Column("threshold", Double),
    Column("options", Document, nullable=False),
    Column("options_digest", String(64), nullable=False),  # JSON can't be compared everywhere
    Column("seed", BigInteger, nullable=False),
    Column("data_revision", Integer, nullable=False),
    Column("split_digest", String(64), nullable=False),
    Column("evaluation", String(32), nullable=False),
    Column("fitted_on", String(64), nullable=False),
    Column("metrics", Document, nullable=False),
    Column("history", Document, nullable=False),
    Column("decision", Document, nullable=False),
    Column("backbone_digest", String(64), nullable=False),
    Column("trainable_parameters", BigInteger, nullable=False),
    Column("total_parameters", BigInteger, nullable=False),
    Column("shares_backbone", Boolean, nullable=False),
    Column("head_digest", String(64), nullable=False),
    Column("head_key", Text, nullable=False),
    Column("head_bytes", BigInteger, nullable=False),
    Column("predictions_key", Text, nullable=False),
    Column("backbone_output", Text, nullable=False, server_default="embedding"),
    Column("views", Document, nullable=False, server_default='["as it is"]'),
    Column("input_size", Integer),  # pixels; of a version that owns its network
    Column("factors_key", Text),
    Column("created_at", Double, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    _tenant(),
    Column("task_id", String(40), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("backbone_digest", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Double, nullable=False),
    ForeignKeyConstraint(["task_id", "version"], ["versions.task_id", "versions.number"], ondelete="CASCADE"),
)

# Kept by triggers, whoever makes the change; a migration that copies `aliases` or `tasks` makes them anew.
alias_changes = Table(
    "alias_changes",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
)

# Blobs that no row names, as a sweep has found them.
orphans = Table(
    "orphans",
    metadata,
    Column("key", Text, primary_key=True),  # of a blob, or with a slash at its end of all of a deleted task
    Column("seen_at", Double, nullable=False),  # first
)

# Who did what is done once for all processes, now and then.
turns = Table(
    "turns",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("taken_at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),  # key_…, the public part
    _tenant(),
    Column("name", Text, nullable=False),
    Column("scopes", Document, nullable=False),
    Column("digest", String(64), nullable=False),  # HMAC-SHA256 of the key, hex
    Column("pepper", String(16), nullable=False),  # which secret that HMAC was made with
    Column("created_at", Double, nullable=False),
    Column("requests_per_minute", Integer),  # null: the setting's
    Column("last_used_at", Double),  # to the minute
    Column("revoked_at", Double),  # the row stays, so that the id is never another key's
)

idempotency = Table(
    "idempotency",
    metadata,
    _tenant(primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer),  # null while the first request is being answered
    Column("headers", Document),
    Column("body", LargeBinary),
    Column("created_at", Double, nullable=False, index=True),
)
