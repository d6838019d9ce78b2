"""The solvers of strategy head, through the trainer's real child."""

from dataclasses import asdict

import numpy as np
import onnxruntime
import pytest

from models.head_session import HeadSession
from models.strategies.options import AdamHeadOptions, HeadOptions
from service.trainer.gathering import dataset_of, embeddings_of, take_snapshot
from tests.integration.trainer.tasks import add, coloured, colours, new_task, picture, queue_training

EPOCHS = {"epochs": 30, "lr": 0.02}


@pytest.fixture
def task(bench):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    return task


def queue(bench, task, options):
    return queue_training(bench, task, options=asdict(options))


def embeddings(bench, task):
    """(N, D) of all labelled examples; they were computed by a run before."""
    snapshot = take_snapshot(bench.store, task.id)
    stored = embeddings_of(snapshot, bench, report=lambda _: None, lease=None)
    return dataset_of(snapshot, stored).embeddings


def test_an_mlp_becomes_a_version_that_is_served_as_any_head(bench, work, task):
    queue(bench, task, AdamHeadOptions(hidden=12, **EPOCHS))
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    width = bench.identity.embedding_dim
    assert (version.strategy, version.backbone_output, version.shares_backbone) == ("head", "embedding", True)
    assert version.trainable_parameters == 12 * (width + 1) + 3 * 13
    assert version.total_parameters == bench.identity.total_parameters + version.trainable_parameters
    assert version.metrics["accuracy"] > 0.9
    assert set(version.decision["parity"]) == {"head", "model"}
    assert max(version.decision["parity"].values()) <= 1e-4
    data = bench.store.blobs.get(version.head_key)
    session = onnxruntime.InferenceSession(data)
    given = embeddings(bench, task)
    logits, probabilities = session.run(["logits", "probabilities"], {"embedding": given})
    assert logits.shape == (75, 3)
    served = HeadSession(data, bench.identity.digest).run(given)
    assert np.abs(served - probabilities).max() == 0


def test_a_linear_head_by_adam_is_a_file_like_the_exact_ones(bench, work, task):
    for options in (HeadOptions(), AdamHeadOptions(**EPOCHS)):
        queue(bench, task, options)
        run = work()
        assert run.state == "succeeded", run.error
    exact, adam = (bench.store.versions.get(task, number) for number in (1, 2))
    assert adam.metrics["accuracy"] > 0.9
    assert adam.trainable_parameters == exact.trainable_parameters
    assert adam.decision["options"]["solver"] == "adam"
    assert [entry["phase"] for entry in adam.history][:2] == ["start", "training"]
    names = [
        [each.name for each in onnxruntime.InferenceSession(bench.store.blobs.get(key)).get_outputs()]
        for key in (exact.head_key, adam.head_key)
    ]
    assert names[0] == names[1] == ["logits", "probabilities"]


def retrain(bench, work, task, seed):
    """With one more example. Returns: the version."""
    add(bench, task, [(coloured("red", 9000 + seed), {"labels": ("red",)})])
    queue(bench, task, HeadOptions())
    run = work()
    assert run.state == "succeeded", run.error
    return bench.store.versions.get(task, run.version)


def test_a_refit_starts_from_the_newest_linear_head_of_the_same_labels(bench, work, task):
    assert retrain(bench, work, task, 1).decision["start"] == "nothing"
    second = retrain(bench, work, task, 2)
    assert (second.decision["start"], second.decision["start_version"]) == ("previous head", 1)
    queue(bench, task, AdamHeadOptions(hidden=4, epochs=1))
    assert work().version == 3
    assert retrain(bench, work, task, 3).decision["start_version"] == 2
    add(bench, task, [(coloured("yellow", number), {"labels": ("yellow",)}) for number in range(25)])
    assert retrain(bench, work, bench.store.tasks.get_by_id(task.id), 4).decision["start"] == "nothing"


@pytest.mark.parametrize("damage", ["missing", "other-bytes"])
def test_a_previous_file_that_is_lost_or_damaged_fails_no_run(bench, work, task, damage):
    first = retrain(bench, work, task, 1)
    bench.store.blobs.delete(first.head_key)
    if damage == "other-bytes":
        bench.store.blobs.put_new(first.head_key, b"no head")
    second = retrain(bench, work, task, 2)
    assert second.decision["start"] == "nothing"
    assert "start_version" not in second.decision


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_an_mlp_answers_the_other_kinds_too(bench, work, kind):
    said = {"classes": ("bright", "red")} if kind == "multilabel" else {}
    task = new_task(bench.store, kind, **said)
    images = []
    for seed in range(60):
        labels = [("bright",), ("red",), ("bright", "red"), ()][seed % 4]
        brightness = 0.9 if "bright" in labels else 0.4
        told = {"labels": labels} if kind == "multilabel" else {"value": 100 * brightness + seed % 7}
        images.append((picture(0.0 if "red" in labels else 0.5, seed, brightness=brightness), told))
    add(bench, task, images)
    queue(bench, task, AdamHeadOptions(hidden=12, **EPOCHS))
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    primary = version.metrics["primary"]["value"]
    assert primary > 0.9 if kind == "multilabel" else primary < 25
    assert max(version.decision["parity"].values()) <= 1e-4
