"""A store with a real database file and a real folder of blobs for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.store import Store, open_store
from service.store.records import Task
from tests.integration.store.values import BACKBONE, TENANT, fresh_database, new_run, new_version


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    with fresh_database(tmp_path) as url:
        yield url


@pytest.fixture
def blob_url(tmp_path: Path) -> str:
    return (tmp_path / "blobs").as_uri()


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
