"""Strategies with a tail of their own, through the trainer's real child."""

import threading
import time
from dataclasses import asdict, replace

import pytest

from models.strategies.options import LastBlockOptions, StagesOptions
from service.trainer.child import Child
from service.trainer.jobs import WARM
from service.trainer.worker import work_on
from tests.integration.trainer.tasks import add, colours, new_task, queue_training


@pytest.fixture
def task(bench):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    return task


def queue(bench, task, **options):
    return queue_training(bench, task, strategy="last_block", options=asdict(LastBlockOptions(**options)))


def left_over(bench):
    folder = bench.settings.resolved_scratch_dir
    return list(folder.iterdir()) if folder.exists() else []


def test_a_tail_becomes_a_version_in_production(bench, work, task):
    one_view = 75 * 8 * 8 * 8 * 2  # bytes
    small = bench.settings.model_copy(update={"scratch_bytes": one_view + 1})
    object.__setattr__(bench, "settings", small)
    queue(bench, task, epochs=2)
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    assert (version.strategy, version.backbone_output) == ("last_block", "stem")
    maps = version.decision["feature_maps"]
    assert (maps["views"], maps["left_out"], maps["bytes"]) == (["as it is"], ["left-right"], one_view)
    assert set(version.decision["seconds"]) == {
        "loading", "embedding", "mapping", "fitting", "exporting", "publishing"
    }  # fmt: skip
    assert left_over(bench) == []


def test_a_tail_is_fitted_and_exported_beside_a_backbone_on_torch(bench, work, task):
    """As on CUDA: one process runs the backbone on torch, and then exports for the first time."""
    on_torch = replace(bench.backbone, config=replace(bench.backbone.config, runtime="torch"))
    child = Child(WARM, on_torch)
    for name, value in (("backbone", on_torch), ("child", child)):
        object.__setattr__(bench, name, value)
    try:
        queue(bench, task, epochs=1)
        run = work()
        assert run.state == "succeeded", run.error
    finally:
        child.close()


def test_a_head_on_all_stages_becomes_a_version_in_production(bench, work, task):
    options = asdict(StagesOptions(augmentation="heavy", average_flips=True))
    queue_training(bench, task, strategy="stages", options=options)
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    assert (version.strategy, version.backbone_output, version.shares_backbone) == ("stages", "pooled", True)
    assert len(version.views) == 4
    assert version.trainable_parameters == 3 * (48 + 1)
    assert version.head_bytes < 4096
    assert version.decision["feature_maps"]["bytes"] == 75 * 4 * 48 * 2
    assert left_over(bench) == []


def test_a_run_is_cancelled_in_mid_epoch_and_leaves_nothing(bench, task):
    queued = queue(bench, task, epochs=1000, warmup_epochs=0, patience=1000)
    run = bench.store.runs.claim(15, 3)
    worker = threading.Thread(target=work_on, args=(run, bench, threading.Event()))
    worker.start()
    seen, end = {}, time.monotonic() + 60
    while "epoch" not in seen and time.monotonic() < end:
        seen = bench.store.runs.get(run.tenant, run.id).progress
        time.sleep(0.05)
    assert {"phase", "epoch", "epochs", "train_loss", "score", "seconds_left"} <= set(seen)
    asked = time.monotonic()
    bench.store.runs.cancel(run.tenant, queued.id)
    worker.join(10)
    took = time.monotonic() - asked
    assert bench.store.runs.get(run.tenant, run.id).state == "cancelled"
    assert took < 2
    assert left_over(bench) == []
    assert bench.store.versions.list(task, 10).data == []
