import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from service.store import Store
from service.store.notices import ALIASES, RUNS, Listener
from service.store.records import Task
from tests.integration.store.values import BACKBONE, TENANT, new_run
from tests.stores import on_a_cluster

LONG_S, SOON_S = 120.0, 30.0  # a busy machine is slow; what isn't heard takes longer
NEVER = threading.Event()


@pytest.fixture
def listener(store: Store) -> Iterator[Listener]:
    """One that listens already."""
    listener = Listener(store.database, RUNS)
    listener.wait(0.01, NEVER)
    yield listener
    listener.close()


def waited_s(listener: Listener, seconds: float) -> float:
    began = time.monotonic()
    listener.wait(seconds, NEVER)
    return time.monotonic() - began


@on_a_cluster
def test_a_run_that_is_queued_ends_the_wait(store: Store, task: Task, listener: Listener) -> None:
    queueing = threading.Timer(0.2, lambda: store.runs.create(TENANT, new_run(task), now=1.0))
    queueing.start()
    assert waited_s(listener, LONG_S) < SOON_S
    queueing.join()
    assert store.runs.claim(60, 3) is not None


@on_a_cluster
def test_a_run_that_was_queued_or_given_back_before_the_wait_ends_it(
    store: Store, task: Task, listener: Listener
) -> None:
    store.runs.create(TENANT, new_run(task), now=1.0)
    assert waited_s(listener, LONG_S) < SOON_S
    run = store.runs.claim(60, 3)
    assert run is not None
    store.runs.release(run.id, run.attempt)
    assert waited_s(listener, LONG_S) < SOON_S


def test_without_a_notice_the_wait_ends_in_time(listener: Listener) -> None:
    assert 0.15 < waited_s(listener, 0.2) < SOON_S


def test_a_stop_ends_the_wait(listener: Listener) -> None:
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    listener.wait(0.3, stop)
    assert time.monotonic() - began < SOON_S


@on_a_cluster
def test_a_connection_that_was_cut_is_only_a_wait_without_notices(
    store: Store, task: Task, listener: Listener
) -> None:
    others = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    with store.database.read() as connection:
        assert connection.execute(others).scalars().all() == [True]
    listener.wait(0.01, NEVER)
    listener.wait(0.01, NEVER)
    store.runs.create(TENANT, new_run(task), now=1.0)
    assert waited_s(listener, LONG_S) < SOON_S


@on_a_cluster
def test_every_change_of_what_is_served_is_told_with_its_task(
    store: Store, task: Task, publish: Callable[..., int]
) -> None:
    """What the stamp of the aliases counts, and no more."""
    other = store.tasks.create(TENANT, "birds", "multiclass", now=1.0)
    aliases = Listener(store.database, ALIASES)
    aliases.wait(0.01, NEVER)

    def put(version: int) -> None:
        store.aliases.put(task, "canary", version, backbone_digest=BACKBONE, now=1.0)

    def heard(*changes: Callable[[], object]) -> list[list[str]]:
        """After each change what was told; a change that tells nothing is seen by the next one's."""
        found = []
        for change in changes:
            change()
            found.append(aliases.wait(LONG_S, NEVER))
        return found

    publish(task, move=False)
    assert heard(
        lambda: publish(task),
        lambda: publish(other),
        lambda: put(1),
        lambda: put(2),
        lambda: (put(2), store.aliases.delete(task, "canary", BACKBONE)),
        lambda: store.tasks.delete(TENANT, task.name),
    ) == [[id_] for id_ in (task.id, other.id, *[task.id] * 4)]
    with store.database.read() as connection:  # the last on its server, so that all before it have come
        connection.execute(sa.text(f"SELECT pg_notify('{ALIASES}', 'end')"))
    assert aliases.wait(LONG_S, NEVER) == ["end"]
    aliases.close()
