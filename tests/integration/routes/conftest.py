"""One service for all route tests, and others for tests that need settings or failures of their own."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from starlette.testclient import TestClient

from models.prepare import PreparedBackbone, prepare_backbone
from models.runtime import Runtime, open_runtime
from service.settings import Settings
from service.store import Quotas, migrate, open_store
from tests.integration.routes.local import Local, LocalEngine
from tests.integration.routes.photos import files, photo
from tests.servers import TINY


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="session")
def prepared(cache_dir: Path) -> PreparedBackbone:
    return prepare_backbone(Settings(backbone=TINY).backbone_config, cache_dir)


@pytest.fixture(scope="session")
def runtime(prepared: PreparedBackbone) -> Runtime:
    return open_runtime(prepared)


@pytest.fixture(scope="session")
def open_service(prepared: PreparedBackbone, runtime: Runtime, cache_dir: Path) -> Callable[..., object]:
    """Open a service on a folder, with any settings."""

    @contextmanager
    def open_service(folder: Path, **settings: object) -> Iterator[Local]:
        known = Settings(data_dir=folder, cache_dir=cache_dir, backbone=TINY, **settings)
        migrate(known.resolved_database_url)
        store = open_store(known.resolved_database_url, known.resolved_blob_url, Quotas.of(known))
        local = Local(known, store, LocalEngine(runtime, prepared.identity, store, known), prepared)
        with local.client:
            yield local
        store.close()

    return open_service


@pytest.fixture(scope="session")
def service(open_service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with open_service(tmp_path_factory.mktemp("service"), resolve_cache_s=0) as service:
        yield service


@pytest.fixture
def client(service: Local) -> TestClient:
    return service.client


_numbers = itertools.count()


@pytest.fixture
def new_task(client: TestClient) -> Callable[..., str]:
    """Register a task of a name that no other test has."""

    def new_task(kind: str = "multiclass", **fields: object) -> str:
        name = f"task-{next(_numbers)}"
        answer = client.post("/v1/tasks", json={"name": name, "kind": kind, **fields})
        assert answer.status_code == 201, answer.text
        return name

    return new_task


@pytest.fixture
def task(new_task: Callable[..., str]) -> str:
    return new_task()


@pytest.fixture
def taught(client: TestClient, new_task: Callable[..., str]) -> str:
    """A task with four examples of each of two classes."""
    name = new_task()
    for label in ("red", "blue"):
        images = files(*(photo(label, number) for number in range(4)))
        answer = client.post(f"/v1/tasks/{name}/examples", files=images, data={"label": label})
        assert answer.status_code == 201, answer.text
    return name


@pytest.fixture
def train(service: Local, client: TestClient) -> Callable[..., dict]:
    """Train a task to the end; returns the run."""

    def train(task: str, **options: object) -> dict:
        answer = client.post(f"/v1/tasks/{task}/runs", json=options)
        assert answer.status_code == 202, answer.text
        service.work()
        run = client.get(answer.headers["Location"]).json()
        assert run["state"] == "succeeded", run
        return run

    return train


@pytest.fixture
def trained(taught: str, train: Callable[..., dict]) -> str:
    """A task whose version 1 is in production."""
    train(taught)
    return taught


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., list[dict]]]:
    """What a logger was told since the last look, as `configure_logging` hands it on, before it is JSON."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    def logged(name: str) -> list[dict]:
        found = [record.msg for record in caplog.records if record.name == name]
        caplog.clear()
        return found

    with caplog.at_level("INFO"):
        yield logged
    structlog.reset_defaults()
