"""service/trainer/training.py on a real store and a real child: rows in, a published version out."""

import io
import json
import threading
import time

import numpy as np
import onnx
import onnxruntime
import pytest

from models.export import model_onnx
from models.head_session import HeadSession
from models.prepare import prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime
from service.errors import UnknownTask
from service.store.keys import task_prefix
from service.store.records import DEFAULT_TENANT, PRODUCTION
from service.store.sweeping import sweep
from service.trainer.lease import Lease
from service.trainer.training import train
from service.trainer.worker import work_on
from tests.integration.trainer.tasks import (
    add,
    coloured,
    colours,
    new_task,
    picture,
    queue_training,
)

TENANT = DEFAULT_TENANT


def version_of(bench, task, run):
    assert run.error is None
    return bench.store.versions.get(task, run.version)


def weights_of(bench, version):
    model = onnx.load_from_string(bench.store.blobs.get(version.head_key))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_multiclass_task_becomes_a_version_in_production(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(30))
    task = bench.store.tasks.get(TENANT, task.name)
    queue_training(bench, task)
    run = work()
    assert (run.state, run.version, run.published) == ("succeeded", 1, True)
    assert run.published_reason == "nothing was in production before"
    version = version_of(bench, task, run)
    assert version.labels == ("red", "green", "blue")
    assert version.evaluation == "test"
    assert version.metrics["accuracy"] > 0.9
    assert version.data_revision == task.data_revision
    assert version.trainable_parameters == 3 * (bench.identity.embedding_dim + 1)
    assert version.total_parameters == version.trainable_parameters + bench.identity.total_parameters
    assert set(version.decision["seconds"]) == {"loading", "embedding", "fitting", "exporting", "publishing"}
    assert bench.store.aliases.get(task, PRODUCTION, bench.identity.digest).version == 1


def test_a_multilabel_task_is_trained(bench, work):
    task = new_task(bench.store, "multilabel", classes=("bright", "red"))
    images = []
    for seed in range(60):
        labels = [("bright",), ("red",), ("bright", "red"), ()][seed % 4]
        hue, brightness = (0.0 if "red" in labels else 0.5), (0.9 if "bright" in labels else 0.4)
        images.append((picture(hue, seed, brightness=brightness), {"labels": labels}))
    add(bench, task, images)
    queue_training(bench, task)
    version = version_of(bench, task, work())
    assert version.metrics["mean_average_precision"] > 0.9
    assert version.threshold == 0.5


def test_a_regression_is_trained(bench, work):
    task = new_task(bench.store, "regression")
    rng = np.random.default_rng(0)
    brightness = rng.uniform(0.2, 0.9, 60)
    add(
        bench,
        task,
        [(picture(0.3, seed, brightness=b), {"value": float(b)}) for seed, b in enumerate(brightness)],
    )
    queue_training(bench, task)
    version = version_of(bench, task, work())
    assert version.labels == ()
    assert version.metrics["r2"] > 0.8


def test_the_exported_files_answer_as_the_server_does(bench, work, settings):
    """pixels → model.onnx, and pixels → backbone → head.onnx, agree and are right."""
    task = new_task(bench.store)
    add(bench, task, colours(8))
    queue_training(bench, task)
    version = version_of(bench, task, work())
    head = bench.store.blobs.get(version.head_key)
    prepared = prepare_backbone(settings.backbone_config, settings.cache_dir)
    pixels = np.stack(
        [
            decode_image(coloured(label, 9), bench.identity.preprocessing, max_pixels=10**6).pixels
            for label in version.labels
        ]
    )
    served = HeadSession(head, bench.identity.digest).run(open_runtime(prepared).run(pixels)["embedding"])
    session = onnxruntime.InferenceSession(model_onnx(prepared.onnx_path, head))
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    assert np.abs(probabilities - served).max() <= 1e-4
    assert served.argmax(axis=1).tolist() == [0, 1, 2]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["red", "green", "blue"]
    assert (metadata["task"], metadata["version"]) == (task.name, "1")
    assert version.decision["parity"].keys() == {"head", "model"}


def test_predictions_are_kept_for_the_evaluated_examples(bench, work):
    task = new_task(bench.store)
    added = add(bench, task, colours(8))
    queue_training(bench, task)
    version = version_of(bench, task, work())
    assert version.evaluation == "out_of_fold"
    with np.load(io.BytesIO(bench.store.blobs.get(version.predictions_key)), allow_pickle=False) as kept:
        assert set(kept["ids"].tolist()) == {each.example_id for each in added}
        assert (kept["scores"].dtype, kept["scores"].shape) == (np.float32, (24, 3))
        assert (kept["targets"].dtype, kept["losses"].dtype) == (np.int64, np.float64)


def test_splits_are_assigned_once_and_stay(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    queue_training(bench, task)
    work()
    first = {each.id: each.split for each in bench.store.examples.for_training(task)}
    assert set(first.values()) == {"train", "validation", "test"}
    add(bench, task, [(coloured("red", 77), {"labels": ("red",)})])
    queue_training(bench, task, options={"seed": 5})
    assert work().state == "succeeded"
    second = {each.id: each.split for each in bench.store.examples.for_training(task)}
    assert {id_: second[id_] for id_ in first} == first


def test_two_trainings_of_the_same_give_the_same_weights(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    heads = []
    for _ in range(2):
        queue_training(bench, task, publish="never")
        heads.append(weights_of(bench, version_of(bench, task, work())))
    assert heads[0].keys() == {"weight", "bias"}
    for name in heads[0]:
        np.testing.assert_array_equal(heads[0][name], heads[1][name])


@pytest.mark.parametrize(
    ("policy", "published", "reason"),
    [
        ("first", False, "version 1 is in production already"),
        ("always", True, "publish: always"),
        ("never", False, "publish: never"),
        ("if_better", False, "accuracy on"),
    ],
)
def test_the_policy_decides_whether_a_second_version_is_published(bench, work, policy, published, reason):
    task = new_task(bench.store)
    add(bench, task, colours(8))
    queue_training(bench, task)
    work()
    queue_training(bench, task, publish=policy, options={"seed": 1})
    run = work()
    assert (run.version, run.published) == (2, published)
    assert reason in run.published_reason
    alias = bench.store.aliases.get(task, PRODUCTION, bench.identity.digest)
    assert alias.version == (2 if published else 1)


def test_a_better_version_is_published_on_the_examples_that_both_have_answered(bench, work):
    """Wrong labels make version 1 bad; put right, they make version 2 better by the labels of now."""
    task = new_task(bench.store)
    added = add(bench, task, colours(12, ("red", "green")))
    for number, each in enumerate(added):
        bench.store.examples.update(task, each.example_id, labels=(("red", "green")[number % 2],), now=3.0)
    queue_training(bench, task)
    work()
    for number, each in enumerate(added):
        bench.store.examples.update(task, each.example_id, labels=(("red", "green")[number // 12],), now=3.0)
    queue_training(bench, task, publish="if_better")
    run = work()
    assert run.published, run.published_reason
    assert "on 24 shared examples" in run.published_reason


def test_versions_without_a_shared_example_are_not_compared(bench, work):
    task = new_task(bench.store)
    first = add(bench, task, colours(6, ("red", "green")))
    queue_training(bench, task)
    work()
    add(
        bench,
        task,
        [(coloured(label, 500 + n), {"labels": (label,)}) for label in ("red", "green") for n in range(6)],
    )
    for each in first:
        bench.store.examples.delete(task, each.example_id)
    queue_training(bench, task, publish="if_better")
    run = work()
    assert run.published is False
    assert "shares no evaluated example" in run.published_reason


def test_missing_embeddings_are_made_and_kept(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(5))
    missing = bench.store.embeddings.missing(task, bench.identity.digest, labelled_only=True, limit=100)
    assert len(missing) == 15
    queue_training(bench, task)
    assert work().state == "succeeded"
    assert not bench.store.embeddings.missing(task, bench.identity.digest, labelled_only=True, limit=100)


def test_a_lost_image_fails_the_run_and_names_the_example(bench, work):
    task = new_task(bench.store)
    added = add(bench, task, colours(5))
    lost = bench.store.examples.get(task, added[3].example_id)
    bench.store.blobs.delete(lost.blob_key)
    queue_training(bench, task)
    run = work()
    assert (run.state, run.error["code"]) == ("failed", "run_failed")
    assert lost.id in run.error["detail"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "no labelled examples"),
        (colours(5, ("red",)), "1 class"),
        ([*colours(5, ("red",)), *colours(1, ("green",))], "'green' has 1"),
    ],
    ids=["no-examples", "one-class", "one-example-of-a-class"],
)
def test_what_can_not_be_learned_from_fails_with_what_to_add(bench, work, images, said):
    task = new_task(bench.store)
    add(bench, task, images)
    queue_training(bench, task)
    run = work()
    assert (run.state, run.error["code"]) == ("failed", "untrainable_data")
    assert said in run.error["detail"]


def test_a_run_for_another_backbone_fails_with_what_to_do(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(5))
    queue_training(bench, task, backbone_digest="f" * 64)
    run = work()
    assert (run.state, run.error["code"]) == ("failed", "backbone_mismatch")


def test_options_that_nobody_foresaw_fail_without_a_stack_trace(bench, work):
    task = new_task(bench.store)
    add(bench, task, colours(5))
    queue_training(bench, task, options={"seeed": 0})
    run = work()
    assert (run.state, run.error["code"]) == ("failed", "internal_error")
    assert "Traceback" not in run.error["detail"]
    assert "seeed" not in run.error["detail"]


def test_a_task_deleted_while_it_is_trained_leaves_nothing(bench, settings):
    task = new_task(bench.store)
    add(bench, task, colours(5))
    queue_training(bench, task)
    run = bench.store.runs.claim(15, 3)
    bench.store.tasks.delete(TENANT, task.name)
    work_on(run, bench, threading.Event())
    with pytest.raises(UnknownTask):
        bench.store.tasks.get(TENANT, task.name)
    folder = settings.data_dir / "blobs" / task_prefix(TENANT, task.id)
    for days in (0, 2):
        sweep(bench.store.database, bench.store.blobs, grace_s=86_400, now=time.time() + days * 86_400)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_lease_that_ran_out_can_not_publish(bench):
    """A second trainer has claimed the run while the first was stopped: what the first makes is dropped."""
    task = new_task(bench.store)
    add(bench, task, colours(5))
    queue_training(bench, task)
    mine = bench.store.runs.claim(0.0, 3)
    theirs = bench.store.runs.claim(15, 3)
    assert (mine.id, theirs.attempt) == (theirs.id, 2)
    work_on(mine, bench, threading.Event())
    assert bench.store.versions.list(task, limit=10).data == []
    with Lease(bench.store, theirs, lease_s=15, stop=threading.Event()) as lease:
        train(theirs, bench, lease)
    assert [version.number for version in bench.store.versions.list(task, limit=10).data] == [1]
