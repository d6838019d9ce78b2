"""A store of its own for each test, on either pair of real places."""

from collections.abc import Callable, Iterator

import pytest

from service.store import Store, open_store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, TENANT, new_run, new_version
from tests.stores import Pair


@pytest.fixture
def database_url(pair: Pair) -> Iterator[str]:
    with pair.database() as url:
        yield url


@pytest.fixture
def blob_url(pair: Pair) -> str:
    return pair.blobs()


@pytest.fixture
def store(database_url: str, blob_url: str) -> Iterator[Store]:
    store = open_store(database_url, blob_url)
    yield store
    store.close()


@pytest.fixture
def task(store: Store) -> Task:
    return store.tasks.create(TENANT, "pets", "multiclass", now=1.0)


@pytest.fixture
def publish(store: Store) -> Callable[..., int]:
    """Train a version of a task, as a trainer would, without the training."""

    def publish(task: Task, *, move: bool = True, **version: object) -> int:
        backbone = version.get("backbone_digest", BACKBONE)
        store.runs.create(TENANT, new_run(task, backbone_digest=backbone), now=1.0)
        run = store.runs.claim(60, 3)
        assert run is not None
        return store.runs.publish(run.id, run.attempt, new_version(**version), publish=move, reason="told to")

    return publish
