"""Strategy finetune, whose network is its task's own, through the trainer's real child."""

from dataclasses import asdict, replace

import numpy as np
import onnxruntime
import pytest
import timm
from safetensors.torch import save_file

from models.errors import InvalidOption
from models.graph import identify
from models.identity import BackboneConfig
from models.preprocess import decode_image
from models.strategies.options import FinetuneOptions
from service.trainer.jobs import BackboneJob, NetworkJob
from service.trainer.networks import _open, check_network
from tests.integration.trainer.tasks import (
    add,
    add_slow,
    cancelled_when,
    coloured,
    colours,
    new_task,
    queue_training,
)
from tests.networks import tiny

BACKBONE = 3 * 8 * 16 + 8 + 8 * 16 * 4 + 16  # parameters of the tiny backbone


@pytest.fixture
def task(bench):
    task = new_task(bench.store)
    add(bench, task, colours(25))
    return task


def queue(bench, task, **options):
    given = {"epochs": 2, "batch_size": 16, "lr": 5e-3} | options
    return queue_training(bench, task, strategy="finetune", options=asdict(FinetuneOptions(**given)))


def left_over(bench):
    folder = bench.settings.resolved_scratch_dir
    return list(folder.iterdir()) if folder.exists() else []


def session_of(bench, version):
    session = onnxruntime.InferenceSession(bench.store.blobs.get(version.head_key))
    return session, session.get_modelmeta().custom_metadata_map


def test_a_network_of_its_own_becomes_a_version_in_production(bench, work, task):
    queue(bench, task, input_size=48)
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    assert (version.strategy, version.shares_backbone) == ("finetune", False)
    assert (version.backbone_output, version.input_size, version.views) == ("pixels", 48, ("as it is",))
    assert version.trainable_parameters == version.total_parameters == BACKBONE + 3 * 17
    assert version.decision["parameters"]["by_name"]["network.stem.0.weight"] == 384
    assert version.decision["pixels"] == {"input_size": 48, "bytes": 75 * 48 * 48 * 3}
    assert version.decision["start_embeddings"].startswith("computed once more, at 48 pixels")
    assert version.decision["parity"]["model"] <= 1e-4
    assert set(version.decision["seconds"]) == {
        "loading", "embedding", "decoding", "fitting", "exporting", "publishing"
    }  # fmt: skip
    assert left_over(bench) == []
    session, metadata = session_of(bench, version)
    assert (metadata["backbone_output"], metadata["passes"]) == ("pixels", "1")
    preprocessing = replace(bench.identity.preprocessing, input_size=48)
    names = [label for label in ("red", "green", "blue") for _ in range(5)]
    images = [coloured(label, 9000 + number) for number, label in enumerate(names)]
    pixels = np.stack([decode_image(data, preprocessing, max_pixels=10**6).pixels for data in images])
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    assert [version.labels[row] for row in probabilities.argmax(axis=1)] == names
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_it_starts_where_the_exact_head_ends_at_another_input_size_too(bench, work, task):
    queue(bench, task, input_size=64, epochs=0, warmup_epochs=0)
    version = bench.store.versions.get(task, work().version)
    assert version.decision["start"] == "exact head"
    assert version.history[0]["score"] > 0.95


def test_at_the_backbones_own_size_the_cached_embeddings_do(bench, work, task):
    queue(bench, task, epochs=1)
    version = bench.store.versions.get(task, work().version)
    assert version.input_size == 32
    assert version.decision["start_embeddings"] == "those of the backbone"


def test_its_answers_may_be_averaged_over_flips(bench, work, task):
    queue(bench, task, augmentation="heavy", average_flips=True, epochs=1)
    version = bench.store.versions.get(task, work().version)
    assert version.views == ("as it is", "left-right", "top-bottom", "both")
    assert version.decision["parity"]["model"] <= 1e-4
    session, metadata = session_of(bench, version)
    assert (metadata["passes"], metadata["views"]) == ("4", "as it is, left-right, top-bottom, both")
    data = coloured("red", 7)
    pixels = decode_image(data, bench.identity.preprocessing, max_pixels=10**6).pixels[None]
    (one,), (other,) = (session.run(["logits"], {"pixels": np.ascontiguousarray(each)})
                        for each in (pixels, pixels[:, ::-1, ::-1]))  # fmt: skip
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_budget_that_ends_in_mid_epoch_keeps_the_best_so_far(bench, work, task):
    queue(bench, task, epochs=1000, patience=1000, max_seconds=1.0)
    run = work()
    assert run.state == "succeeded", run.error
    version = bench.store.versions.get(task, run.version)
    assert version.decision["epochs"]["ended_by"] == ["max_seconds"]
    assert len(version.history) < 1001
    scores = [entry["score"] for entry in version.history]
    assert version.decision["validation"]["value"] == max(scores)


def test_frozen_layers_have_not_moved_by_a_bit_during_the_warm_up(bench, work, task):
    queue(bench, task, epochs=0, warmup_epochs=3)
    version = bench.store.versions.get(task, work().version)
    file = bench.store.blobs.get(version.head_key)
    for name, tensor in tiny().module.state_dict().items():
        assert tensor.numpy().tobytes() in file, name


def test_a_run_is_cancelled_in_mid_epoch_and_leaves_nothing(bench, task):
    queued = queue(bench, task, epochs=1000, patience=1000, warmup_epochs=0)
    seen, took = cancelled_when(bench, queued, lambda progress: "epoch" in progress)
    assert {"phase", "epoch", "epochs", "train_loss", "score", "seconds_left"} <= set(seen)
    assert took < 2
    assert left_over(bench) == []
    assert bench.store.versions.list(task, 10).data == []


def test_a_run_is_cancelled_while_images_are_decoded_and_leaves_nothing(bench, work):
    task = new_task(bench.store, name="slow")
    add_slow(bench, task, 20)
    queue_training(bench, task)
    assert work().state == "succeeded"  # the embeddings are there
    queued = queue(bench, task, input_size=512)
    _, took = cancelled_when(bench, queued, lambda progress: progress.get("phase") == "decoding")
    assert took < 2
    assert left_over(bench) == []


def test_a_network_of_one_size_is_refused_at_another(tmp_path):
    backbone = BackboneJob(config=BackboneConfig(name="tests.networks:rigid"), cache_dir=tmp_path)
    check_network(NetworkJob(backbone=backbone, input_size=32), lambda _: None)
    with pytest.raises(InvalidOption, match="option input_size of 48 can't be used") as caught:
        check_network(NetworkJob(backbone=backbone, input_size=48), lambda _: None)
    assert caught.value.field == "input_size"


def test_a_transformer_is_built_for_the_size_with_its_positions_interpolated(tmp_path):
    weights = tmp_path / "vit.safetensors"
    name = "vit_tiny_patch16_224"
    save_file(timm.create_model(name, img_size=32, num_classes=0).state_dict(), weights)
    config = BackboneConfig(name=name, weights=weights, input_size=32)
    backbone = _open(NetworkJob(backbone=BackboneJob(config=config, cache_dir=tmp_path), input_size=64))
    assert identify(backbone, "fp32").preprocessing.input_size == 64
    assert backbone.module.pos_embed.shape == (1, 4 * 4 + 1, 192)
