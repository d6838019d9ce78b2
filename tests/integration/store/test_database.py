import socket
import threading
import time

import pytest
import sqlalchemy as sa

from service.errors import InvalidField, StoreFull, StoreUnavailable
from service.store import Store
from service.store.database import Database, database_clock
from service.store.records import Task
from service.store.tables import classes, tasks
from tests.integration.store.values import BACKBONE, TENANT, new_example
from tests.stores import on_a_cluster, on_one_machine


def test_the_clock_is_the_time_and_goes_on_inside_a_transaction(store: Store) -> None:
    with store.database.read() as connection:
        first = connection.execute(sa.select(database_clock())).scalar_one()
        time.sleep(0.01)
        second = connection.execute(sa.select(database_clock())).scalar_one()
    assert first == pytest.approx(time.time(), abs=5)
    assert 0 < second - first < 5


def test_a_failed_block_is_undone(store: Store, task: Task) -> None:
    def fail() -> None:
        with store.database.write() as connection:
            connection.execute(sa.delete(tasks))
            raise KeyError("a mistake in the block")

    with pytest.raises(KeyError):
        fail()
    assert store.tasks.get(TENANT, task.name) == task


def test_a_reader_sees_one_state_while_another_writes(store: Store, task: Task) -> None:
    with store.database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tasks)
        before = connection.execute(count).scalar_one()
        store.tasks.create(TENANT, "meanwhile", "multiclass", now=2.0)
        assert connection.execute(count).scalar_one() == before
    assert len(store.tasks.list(TENANT, limit=9).data) == before + 1


def test_a_write_that_reads_first_never_fails_for_another_writer(store: Store, task: Task) -> None:
    """The trap of a deferred transaction: it reads, another writes, and then it may not."""

    def increment() -> None:
        for _ in range(10):
            with store.database.write() as connection:
                known = sa.select(tasks.c.revision).where(tasks.c.id == task.id).with_for_update()
                revision = connection.execute(known).scalar_one()
                connection.execute(sa.update(tasks).values(revision=revision + 1))

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.tasks.get(TENANT, task.name).revision == task.revision + 40


def test_a_reference_to_nothing_is_refused(store: Store) -> None:
    row = {"tenant": TENANT, "task_id": "task_none", "name": "a", "position": 0}
    with store.database.write() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.insert(classes).values(row))


@pytest.mark.parametrize("text", ["\ud800", "\0"], ids=["surrogate", "nul"])
def test_text_that_no_database_holds_is_an_invalid_field(store: Store, text: str) -> None:
    with pytest.raises(InvalidField):
        store.tasks.create(TENANT, "task", "multiclass", description=text, now=1.0)


def test_a_number_that_no_column_holds_is_an_invalid_field(store: Store, task: Task) -> None:
    with pytest.raises(InvalidField):
        store.examples.add(task, [new_example("1", "cat", size=2**80)], backbone_digest=BACKBONE, now=1.0)


@on_a_cluster
def test_a_connection_that_the_server_ends_is_unavailable_and_the_next_is_new(
    store: Store, task: Task
) -> None:
    """As when PostgreSQL restarts: what was being written is undone."""

    def write_and_be_cut() -> None:
        with store.database.write() as connection:
            connection.execute(sa.update(tasks).values(revision=99))
            own = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with store.database.write() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(own)))
            connection.execute(sa.update(tasks).values(revision=100))

    with pytest.raises(StoreUnavailable):
        write_and_be_cut()
    assert store.tasks.get(TENANT, task.name) == task


def test_a_server_that_takes_connections_and_says_nothing_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/none")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            database.ping()
        assert time.monotonic() - began < 60
        database.close()


def test_what_the_url_says_of_patience_counts() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:9/none?connect_timeout=7&sslmode=disable")
    query = dict(database.engine.url.query)
    assert (query["connect_timeout"], query["sslmode"]) == ("7", "disable")
    assert int(query["tcp_user_timeout"]) > 0
    database.close()


@on_one_machine
def test_an_acknowledged_write_is_flushed(store: Store) -> None:
    """In WAL mode anything below FULL may lose the last commits with the power."""
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@on_one_machine
def test_a_full_disk_is_said_and_changes_nothing(store: Store, task: Task) -> None:
    """SQLite refuses a page beyond the largest, with the same error as for a full disk."""
    store.examples.add(task, [new_example("before", "cat")], backbone_digest=BACKBONE, now=1.0)

    @sa.event.listens_for(store.database.engine, "checkout")
    def no_more_pages(connection, _record, _proxy) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # the least is what is there

    with pytest.raises(StoreFull):
        store.examples.add(
            task,
            [new_example(str(number), "dog", embedding=bytes(5120)) for number in range(100)],
            backbone_digest=BACKBONE,
            now=2.0,
        )
    sa.event.remove(store.database.engine, "checkout", no_more_pages)
    with store.database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    assert [example.filename for example in store.examples.for_training(task)] == ["before.png"]
    assert store.tasks.get(TENANT, task.name).classes == ("cat",)


@pytest.mark.parametrize(
    "url",
    ["sqlite:///{}/folder.db", "postgresql+psycopg://nobody@127.0.0.1:9/none"],
    ids=["sqlite", "postgresql"],
)
def test_a_database_out_of_reach_is_unavailable(tmp_path, url: str) -> None:
    (tmp_path / "folder.db").mkdir()
    database = Database(url.format(tmp_path))
    with pytest.raises(StoreUnavailable):
        database.ping()
    database.close()


def test_a_ping_answers(store: Store) -> None:
    store.ping()
