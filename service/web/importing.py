"""Handing an uploaded archive to the trainer: its bytes first, then the run that will read them."""

import time

from models.errors import PolyheadError
from service.errors import StoreUnavailable
from service.store.ids import new_id
from service.store.keys import import_key
from service.store.records import NewRun, Run, Task
from service.web.parts import Parts
from service.web.uploads import ArchivePart


def queue_import(parts: Parts, task: Task, archive: ArchivePart) -> Run:
    """Store an archive and queue the run that imports it; blocks while the bytes are copied.

    Raises: RunActive, UnknownTask, StoreFull: nothing is left behind.
            StoreUnavailable: perhaps a run that nobody was told of, with its archive.
    """
    run_id = new_id("run")
    key = import_key(task, run_id)
    run = NewRun(
        id=run_id,
        task_id=task.id,
        kind="import",
        strategy=None,
        options={"archive": key, "filename": archive.filename},
        publish="never",
        backbone_digest=parts.identity.digest,
    )
    try:
        parts.store.blobs.put_new(key, archive.path)
        return parts.store.runs.create(task.tenant, run, time.time())
    except StoreUnavailable:
        raise
    except PolyheadError:
        parts.store.blobs.delete(key)
        raise
