"""A real store, the trainer's real child, and a tiny backbone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.identity import BackboneIdentity
from service.settings import Settings
from service.store import Store, migrate, open_store
from service.store.records import Run
from service.trainer.child import Child
from service.trainer.jobs import IDENTIFY, WARM, BackboneJob
from service.trainer.workbench import Workbench
from service.trainer.worker import work_on
from tests.servers import TINY


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of exported backbones: an export takes seconds."""
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="session")
def child(backbone: BackboneJob) -> Iterator[Child]:
    """One for all tests, as one serves all runs: warming it up takes seconds."""
    child = Child(WARM, backbone)
    yield child
    child.close()


@pytest.fixture(scope="session")
def backbone(cache_dir: Path) -> BackboneJob:
    return BackboneJob(config=Settings(backbone=TINY).backbone_config, cache_dir=cache_dir)


@pytest.fixture(scope="session")
def identity(child: Child, backbone: BackboneJob) -> BackboneIdentity:
    return child.call(IDENTIFY, backbone, report=lambda _: None, check=lambda: None)


@pytest.fixture
def settings(tmp_path: Path, cache_dir: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", cache_dir=cache_dir, backbone=TINY, poll_s=0.05)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    migrate(settings.resolved_database_url)
    store = open_store(settings.resolved_database_url, settings.resolved_blob_url)
    yield store
    store.close()


@pytest.fixture
def bench(
    settings: Settings, store: Store, child: Child, backbone: BackboneJob, identity: BackboneIdentity
) -> Workbench:
    return Workbench(settings=settings, store=store, child=child, backbone=backbone, identity=identity)


@pytest.fixture
def work(bench: Workbench) -> Callable[[], Run]:
    """Claim the next run, carry it out, and return it as it ended."""

    def work() -> Run:
        run = bench.store.runs.claim(bench.settings.lease_s, bench.settings.max_attempts)
        assert run is not None
        work_on(run, bench, threading.Event())
        return bench.store.runs.get(run.tenant, run.id)

    return work
