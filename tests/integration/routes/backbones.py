"""A service on another backbone than the tests' own, with a task of two classes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.prepare import prepare_backbone
from models.runtime import open_runtime
from service.settings import Settings
from service.store import migrate, open_store
from tests.integration.routes.local import Local, LocalEngine
from tests.integration.routes.photos import files, photo


@contextmanager
def open_on(backbone: str, folder: Path, *, each: int) -> Iterator[Local]:
    """Args: each: photos of either class of its task, colours."""
    settings = Settings(data_dir=folder, cache_dir=folder / "cache", backbone=backbone)
    prepared = prepare_backbone(settings.backbone_config, settings.cache_dir)
    migrate(settings.resolved_database_url)
    store = open_store(settings.resolved_database_url, settings.resolved_blob_url)
    service = Local(
        settings, store, LocalEngine(open_runtime(prepared), prepared.identity, store, settings), prepared
    )
    with service.client as client:
        client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
        for label in ("red", "blue"):
            images = files(*(photo(label, number) for number in range(each)))
            client.post("/v1/tasks/colours/examples", files=images, data={"label": label})
        yield service
    store.close()
