"""The database's schema: bring it up to date, or say that it isn't."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy.engine import Connection, Engine

from service.errors import NotReady
from service.store.database import Database, open_engine, sqlite_path, translated

MIGRATIONS = Path(__file__).parent / "migrations"
ADVISORY_LOCK = 0x706F6C79  # any number that nothing else in the database uses


def migrate(database_url: str, revision: str = "head") -> None:
    """Upgrade (or, for an older revision, downgrade) in one transaction; safe by many at once.

    Raises: StoreUnavailable, StoreFull; NotReady for a schema that this code doesn't know.
    """
    # Foreign keys off: SQLite changes a table by copying it, and dropping the old one would cascade.
    engine = open_engine(database_url, foreign_keys=False)
    try:
        with translated(), _alone(engine, database_url), engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                _run(connection, revision)
                _check_references(connection)
    finally:
        engine.dispose()


def check_schema(database: Database, *, exactly: bool = False) -> None:
    """Refuse a schema that is neither this code's own nor the next release's, which only adds to it.

    Args:   exactly: refuse the next one, too, of which this code doesn't know the whole.
    Raises: NotReady.
    """
    expected = newest()
    with database.read() as connection:
        found = revision_of(connection)
    if found == expected or (found == _next(expected) and not exactly):
        return
    if found is not None and found not in known_revisions():
        raise NotReady(
            f"the database's schema {found} is of a newer version: run that, for this one needs {expected}"
        )
    raise NotReady(
        f"the database's schema is {found or 'empty'} and this version needs {expected}: "
        "run `polyhead migrate`"
    )


def newest() -> str:
    """The revision of the schema that this code was written for."""
    return known_revisions()[0]


def known_revisions() -> list[str]:
    """Newest first."""
    return [step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()]


def revision_of(connection: Connection) -> str | None:
    """The schema that a database has; None: it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def _next(revision: str) -> str:
    """Revisions are numbers in four digits, and a release adds one at most."""
    return f"{int(revision) + 1:04d}"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _run(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    current = revision_of(connection)
    known = known_revisions()
    if current == _next(known[0]) and revision == "head":
        return  # the next release has been here, and this one can work with that
    if current is not None and current not in known:
        raise NotReady(
            f"the database's schema {current} is of a newer version: run that, or restore a backup"
        )
    target = known[0] if revision == "head" else revision
    if target == "base" or (current in known and target in known[known.index(current) + 1 :]):
        command.downgrade(config, target)
    else:
        command.upgrade(config, target)


@contextmanager
def _alone(engine: Engine, database_url: str) -> Iterator[None]:
    """One migration at a time; the others wait and find nothing left to do."""
    if engine.dialect.name == "sqlite":
        path = sqlite_path(database_url)
        with FileLock(path.with_name(path.name + ".migrating")), engine.connect() as connection:
            # Stays with the file. Not inside a transaction, nor while another connection is opened.
            connection.connection.driver_connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
            connection.rollback()
            yield
        return
    with engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(ADVISORY_LOCK)))
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(ADVISORY_LOCK)))


def _check_references(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise RuntimeError(f"the migration breaks references: {broken[:3]}")
