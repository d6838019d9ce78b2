from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.errors import NotReady
from service.store import Store, check_schema, migrate
from service.store.database import Database
from service.store.records import Task
from service.store.schema import MIGRATIONS, known_revisions, newest
from service.store.tables import metadata
from tests.integration.store.values import TENANT
from tests.stores import Pair


@pytest.fixture
def empty_url(pair: Pair):
    with pair.database(migrated=False) as url:
        yield url


@pytest.fixture
def empty(empty_url: str):
    database = Database(empty_url)
    yield database
    database.close()


def differences(database: Database) -> list[object]:
    """What `alembic check` would find."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def test_the_migrations_make_the_tables_of_the_code(empty_url: str, empty: Database) -> None:
    migrate(empty_url)
    assert differences(empty) == []


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
    assert differences(empty) == []


def test_each_step_down_can_be_undone_and_keeps_what_is_stored(
    store: Store, database_url: str, task: Task, publish: Callable[..., int]
) -> None:
    """As a deployment is taken back release by release, with something in the tables."""
    version = store.versions.get(task, publish(task))
    steps = [step.revision for step in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    for revision in steps[1:]:  # the newest is where it is
        migrate(database_url, revision)
    migrate(database_url)
    assert differences(store.database) == []
    assert store.tasks.get(TENANT, task.name) == task
    assert store.versions.get(task, version.number) == version


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


def test_the_next_release_s_schema_will_do_and_the_one_after_it_not(empty_url: str, empty: Database) -> None:
    """A release only adds to the schema, and takes away one release later: so the two run side by side."""
    migrate(empty_url)
    for ahead, fits in ((1, True), (2, False)):
        revision = f"{int(newest()) + ahead:04d}"
        with empty.write() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        for use in (lambda: check_schema(empty), lambda: migrate(empty_url)):
            with nullcontext() if fits else pytest.raises(NotReady, match="newer version"):
                use()
        with pytest.raises(NotReady, match=f"{revision} is of a newer version"):
            check_schema(empty, exactly=True)


def test_the_last_release_s_schema_is_refused_until_it_is_migrated(empty_url: str, empty: Database) -> None:
    migrate(empty_url, known_revisions()[1])
    with pytest.raises(NotReady, match="polyhead migrate"):
        check_schema(empty)


def test_revisions_are_numbers_in_a_row() -> None:
    """How a server knows the next release's schema, which it has never seen."""
    known = known_revisions()
    assert known == [f"{number:04d}" for number in range(len(known), 0, -1)]


def test_a_folder_is_made_for_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/100% new/polyhead.db"
    migrate(url)
    database = Database(url)
    check_schema(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="in memory"):
        Database(url)
