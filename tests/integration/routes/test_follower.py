"""Replicas hear of what the others publish; where they don't, what they know is only so old."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from service.store import Store
from tests.integration.routes.local import Local
from tests.integration.routes.photos import files, photo
from tests.stores import Pair, on_a_cluster

AGES_S, SOON_S = 60.0, 30.0  # what is served anew before AGES_S was heard of
LISTENING = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"

OpenReplicas = Callable[..., tuple[Local, Local]]


@pytest.fixture
def open_replicas(open_service, pair: Pair, tmp_path) -> Iterator[OpenReplicas]:
    """Two services on one store, where a task has versions 1 and 2, and 1 in production."""
    with ExitStack() as stack:
        shared = {"database_url": stack.enter_context(pair.database()), "blob_url": pair.blobs()}

        def open_replicas(**settings: object) -> tuple[Local, Local]:
            one, other = (
                stack.enter_context(open_service(tmp_path / name, **shared, **settings))
                for name in ("one", "other")
            )
            assert one.client.post("/v1/tasks", json={"name": "pets", "kind": "multiclass"}).is_success
            for label in ("red", "blue"):
                images = files(*(photo(label, number) for number in range(4)))
                answer = one.client.post("/v1/tasks/pets/examples", files=images, data={"label": label})
                assert answer.is_success, answer.text
            for seed, publish in enumerate(("always", "never")):
                train(one, seed=seed, publish=publish)
            assert predicted(other) == 1
            return one, other

        yield open_replicas


def train(service: Local, **options: object) -> None:
    assert service.client.post("/v1/tasks/pets/runs", json=options).status_code == 202
    assert service.work().state == "succeeded"


def predicted(service: Local) -> int | str:
    """The version that answers, or the code of the problem."""
    answer = service.client.post("/v1/tasks/pets/predict", files=files(photo("red", 9))).json()
    return answer["version"] if "version" in answer else answer["code"]


def move(service: Local, version: int) -> None:
    answer = service.client.put("/v1/tasks/pets/aliases/production", json={"version": version})
    assert answer.is_success, answer.text


def seen(service: Local, expected: int | str) -> None:
    until(lambda: predicted(service), expected)


def until(ask: Callable[[], object], expected: object) -> None:
    deadline = time.monotonic() + SOON_S
    while (said := ask()) != expected:
        assert time.monotonic() < deadline, f"still {said}, not {expected}"
        time.sleep(0.02)


def listening(store: Store) -> int:
    """Connections that follow the aliases."""
    with store.database.read() as connection:
        return connection.execute(sa.text(f"SELECT count(*) {LISTENING}")).scalar_one()


def cut(store: Store) -> None:
    """End these connections."""
    with store.database.read() as connection:
        assert all(connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {LISTENING}")).scalars())


@on_a_cluster
def test_a_publish_a_rollback_and_a_deletion_on_one_replica_are_heard_by_the_other(
    open_replicas: OpenReplicas,
) -> None:
    one, other = open_replicas(resolve_cache_s=AGES_S)
    until(lambda: listening(one.store), 2)
    for version in (2, 1):
        move(one, version)
        seen(other, version)
    train(one, seed=2, publish="always")  # by a trainer, which tells neither
    for each in (one, other):
        seen(each, 3)
    assert one.client.delete("/v1/tasks/pets/aliases/production").is_success
    seen(other, "nothing_published")
    move(one, 1)
    seen(other, 1)
    assert one.client.delete("/v1/tasks/pets").is_success
    seen(other, "unknown_task")


@on_a_cluster
def test_a_replica_whose_connection_was_cut_listens_again_and_makes_no_noise(
    open_replicas: OpenReplicas, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = open_replicas(resolve_cache_s=AGES_S)
    until(lambda: listening(one.store), 2)
    caplog.clear()
    cut(one.store)
    until(lambda: listening(one.store), 2)
    assert [record for record in caplog.records if record.name.split(".")[0] in ("service", "psycopg")] == []
    move(one, 2)
    seen(other, 2)


def test_a_replica_that_hears_nothing_asks_again_in_time(open_replicas: OpenReplicas) -> None:
    one, other = open_replicas(resolve_cache_s=1.0)
    for each in (one, other):
        each.client.app.state.parts.follower.close()
    until(lambda: [each for each in threading.enumerate() if each.name == "follower"], [])
    if one.store.database.engine.dialect.name == "postgresql":
        until(lambda: listening(one.store), 0)
    for version in (2, 1):
        assert predicted(other) == 3 - version
        move(one, version)
        seen(other, version)
