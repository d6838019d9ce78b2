"""How often what is served has changed, and which blobs nothing names

The counts are kept by triggers, so that changes which the release before makes count too, while its servers
run beside this one's. A count is a row that is locked until its change is committed: sixteen of them, by
task, so that publishing on PostgreSQL hardly ever waits for another task's. SQLite has one writer anyway.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SHARDS = 16
# A task's own deletion, too: a version may be served by its number, without an alias.
WATCHED = {"aliases": ("INSERT", "UPDATE", "DELETE"), "tasks": ("DELETE",)}
TASK_ID = {"aliases": "task_id", "tasks": "id"}


def upgrade() -> None:
    changes = op.create_table(
        "alias_changes",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_alias_changes"),
    )
    op.bulk_insert(changes, [{"shard": shard, "count": 0} for shard in range(SHARDS)])
    op.create_table(
        "orphans",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_orphans"),
    )
    op.create_table(
        "turns",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_turns"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _watch_on_postgresql()
    else:
        _watch_on_sqlite()


def downgrade() -> None:
    for table, changes in WATCHED.items():
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f"DROP TRIGGER count_changes ON {table}")
            op.execute(f"DROP FUNCTION count_changes_of_{table}()")
        else:
            for change in changes:
                op.execute(f"DROP TRIGGER {_name(table, change)}")
    for table in ("turns", "orphans", "alias_changes"):
        op.drop_table(table)


def _watch_on_postgresql() -> None:
    for table, changes in WATCHED.items():
        task = f"coalesce(NEW.{TASK_ID[table]}, OLD.{TASK_ID[table]})"
        op.execute(
            f"CREATE FUNCTION count_changes_of_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE alias_changes SET count = count + 1 "
            f"WHERE shard = hashtextextended({task}, 0) & {SHARDS - 1}; RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER count_changes AFTER {' OR '.join(changes)} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION count_changes_of_{table}()"
        )


def _watch_on_sqlite() -> None:
    for table, changes in WATCHED.items():
        for change in changes:
            op.execute(
                f"CREATE TRIGGER {_name(table, change)} AFTER {change} ON {table} BEGIN "
                "UPDATE alias_changes SET count = count + 1 WHERE shard = 0; END"
            )


def _name(table: str, change: str) -> str:
    return f"count_{change.lower()}_{table}"
