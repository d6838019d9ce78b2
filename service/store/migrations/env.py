"""Alembic's side of `service.store.schema`, which opens the connection and holds the lock."""

from alembic import context

from service.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can't alter a table in place
    transactional_ddl=True,  # SQLite can, in the transaction that the caller began
)
with context.begin_transaction():
    context.run_migrations()
