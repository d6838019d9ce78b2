"""A store that takes connections and then says nothing, as a frozen machine: no call waits for long."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from service.errors import StoreUnavailable
from service.store import Store, open_store
from service.store.database import Database
from service.store.notices import RUNS, Listener
from tests.integration.store.values import TENANT
from tests.proxies import Proxy, before_database, before_objects
from tests.stores import Cluster

GIVEN_UP_S = 25.0  # below the 30 s that a request may take
SOON_S = 8.0  # where the test says itself how long to wait
SLOW_S = 3.0


@pytest.fixture
def silenced(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Proxy, Proxy]]:
    """A store of PostgreSQL and S3, each behind a proxy."""
    with (
        cluster.database() as url,
        before_database(url) as (database, through),
        before_objects(cluster.environment["AWS_ENDPOINT_URL"]) as (objects, endpoint),
    ):
        for name, value in (cluster.environment | {"AWS_ENDPOINT_URL": endpoint}).items():
            monkeypatch.setenv(name, value)
        store = open_store(through, cluster.blobs())
        yield store, database, objects
        database.mend()
        objects.mend()
        store.close()


def given_up_s(call: Callable[[], object]) -> float:
    """Seconds until the call had said that the store can't be reached."""
    began = time.monotonic()
    ended: list[object] = []

    def ask() -> None:
        try:
            ended.append(call())
        except StoreUnavailable as error:
            ended.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # a call that hangs must not hold up the tests
    thread.start()
    thread.join(60)
    assert [type(each) for each in ended] == [StoreUnavailable]
    return time.monotonic() - began


def test_a_database_that_freezes_is_given_up_on_and_used_again_once_it_thaws(silenced) -> None:
    store, database, _ = silenced
    store.tasks.create(TENANT, "pets", "multiclass", now=1.0)
    database.freeze()
    assert given_up_s(lambda: store.tasks.get(TENANT, "pets")) < GIVEN_UP_S
    database.mend()
    assert store.tasks.get(TENANT, "pets").name == "pets"


@pytest.fixture
def impatient(cluster: Cluster) -> Iterator[tuple[Database, Proxy]]:
    """A database that is given up on sooner than by default, behind a proxy."""
    with cluster.database() as url, before_database(url) as (proxy, through):
        database = Database(f"{through}?connect_timeout=2", silence_s=0.5)
        database.ping()
        yield database, proxy
        proxy.mend()
        database.close()


def test_a_database_that_freezes_in_mid_transaction_is_given_up_on(impatient) -> None:
    database, proxy = impatient

    def write() -> None:
        with database.write() as connection:
            connection.execute(sa.text("SELECT 1"))
            proxy.freeze()
            connection.execute(sa.text("SELECT 2"))

    assert given_up_s(write) < SOON_S


def test_a_database_that_ends_its_connections_is_used_again_at_once(impatient) -> None:
    database, proxy = impatient
    proxy.refuse()
    assert given_up_s(database.ping) < SOON_S
    proxy.mend()
    database.ping()


def test_while_a_database_is_silent_many_callers_wait_no_longer_than_one(impatient) -> None:
    """Else each would keep a thread of the server for as long as it waits, and the last for minutes."""
    database, proxy = impatient
    proxy.freeze()
    given_up_s(database.ping)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(given_up_s, [database.ping] * 40)) < 4 * SOON_S
    proxy.mend()
    database.ping()


def test_a_statement_may_take_its_time_where_the_server_answers_others(cluster: Cluster) -> None:
    with cluster.database() as url:
        database = Database(url, silence_s=SLOW_S / 3)
        with database.read() as connection:
            connection.execute(sa.text(f"SELECT pg_sleep({SLOW_S})"))
        database.close()


def test_a_trainer_that_waits_for_work_outlives_the_silence(impatient) -> None:
    database, proxy = impatient
    queue, stop = Listener(database, RUNS), threading.Event()
    queue.wait(0.1, stop)
    proxy.freeze()
    began = time.monotonic()
    queue.wait(0.1, stop)
    queue.close()
    queue.wait(0.1, stop)  # connects anew, in vain
    assert time.monotonic() - began < SOON_S


def test_an_object_store_that_freezes_is_given_up_on(silenced) -> None:
    store, _, objects = silenced
    store.blobs.put_new("one/photo", b"bytes")
    objects.freeze()
    calls = [
        lambda: store.blobs.put_new("one/other", b"bytes"),
        lambda: store.blobs.get("one/photo"),
        store.blobs.ping,
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        assert max(pool.map(given_up_s, calls)) < GIVEN_UP_S
    objects.mend()
    assert store.blobs.get("one/photo") == b"bytes"
