from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.errors import NotReady
from service.store import check_schema, migrate
from service.store.database import Database
from service.store.tables import metadata
from tests.integration.store.values import empty_database, sqlite_only


@pytest.fixture
def empty_url(tmp_path: Path):
    with empty_database(tmp_path) as url:
        yield url


@pytest.fixture
def empty(empty_url: str):
    database = Database(empty_url)
    yield database
    database.close()


def test_the_migrations_make_the_tables_of_the_code(empty_url: str, empty: Database) -> None:
    migrate(empty_url)
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_constraints_have_the_names_of_the_code(empty_url: str, empty: Database) -> None:
    """Alembic doesn't compare checks; a later migration finds them by name."""
    migrate(empty_url)
    with empty.read() as connection:
        inspector = sa.inspect(connection)
        for table in metadata.tables.values():
            checks = {check["name"] for check in inspector.get_check_constraints(table.name)}
            declared = {
                constraint.name
                for constraint in table.constraints
                if isinstance(constraint, sa.CheckConstraint)
            }
            assert checks == {
                name if str(name).startswith("ck_") else f"ck_{table.name}_{name}" for name in declared
            }


def test_migrating_again_changes_nothing(empty_url: str, empty: Database) -> None:
    migrate(empty_url)
    migrate(empty_url)
    check_schema(empty)


def test_many_migrations_at_once_are_one(empty_url: str, empty: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, [empty_url] * 4))
    check_schema(empty)


def test_a_downgrade_leaves_nothing_and_can_be_undone(empty_url: str, empty: Database) -> None:
    migrate(empty_url)
    migrate(empty_url, "base")
    with empty.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    migrate(empty_url)
    check_schema(empty)


def test_a_database_without_its_schema_says_what_to_do(empty: Database) -> None:
    with pytest.raises(NotReady, match="polyhead migrate"):
        check_schema(empty)


def test_a_schema_of_a_newer_version_is_left_alone(empty_url: str, empty: Database) -> None:
    migrate(empty_url)
    with empty.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NotReady, match="9999"):
        migrate(empty_url)
    with pytest.raises(NotReady, match="9999"):
        check_schema(empty)


@sqlite_only
def test_a_folder_is_made_for_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/100% new/polyhead.db"
    migrate(url)
    database = Database(url)
    check_schema(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


@sqlite_only
@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="in memory"):
        Database(url)
