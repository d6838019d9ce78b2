"""Strategy `head` by gradient: linear and MLP, on every kind of task."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from models.errors import UntrainableData
from models.export import head_onnx
from models.strategies.adam_head import fit_adam_head
from models.strategies.head import fit_head
from models.strategies.options import AdamHeadOptions, HeadOptions
from models.tuned_export import expected
from tests.unit.datasets import digit_properties, digits, ink, make_dataset
from tests.unit.ladder import Ticking

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONE = 3_000_000
KINDS = pytest.mark.parametrize(
    "dataset", [digits(400), digit_properties(300), ink(200)], ids=["multiclass", "multilabel", "regression"]
)


def fit(dataset, *, report=lambda _: None, clock=None, **options):
    given = AdamHeadOptions(**{"epochs": 15, "lr": 1e-2} | options)
    return fit_adam_head(dataset, given, total_backbone_parameters=BACKBONE, report=report, clock=clock)


def bits(trained):
    hidden = trained.hidden.weight.tobytes() if trained.hidden else b""
    return trained.fit.head.weight.tobytes() + trained.fit.head.bias.tobytes() + hidden


@KINDS
@pytest.mark.parametrize("hidden", [None, 24])
def test_every_kind_of_task_is_learned(dataset, hidden):
    trained = fit(dataset, hidden=hidden, lr=0.05)
    metrics = trained.fit.metrics
    assert metrics["primary"]["value"] == pytest.approx(
        fit_head(dataset, HeadOptions(), total_backbone_parameters=BACKBONE, report=lambda _: None).metrics[
            "primary"
        ]["value"],
        rel=0.35,
    )
    json.dumps([metrics, trained.fit.decision, trained.fit.history], allow_nan=False)


@KINDS
def test_the_file_answers_as_torch_does(dataset):
    trained = fit(dataset, hidden=24)
    head = trained.fit.head
    session = onnxruntime.InferenceSession(
        head_onnx(head, metadata={"kind": dataset.kind}, hidden=trained.hidden)
    )
    (answered,) = session.run([session.get_outputs()[-1].name], {"embedding": dataset.embeddings})
    wanted = expected(trained.network, head, torch.from_numpy(dataset.embeddings))
    assert answered == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert head.predict(trained.hidden.features(dataset.embeddings)) == pytest.approx(
        wanted, rel=1e-4, abs=1e-4
    )


def test_a_run_says_which_parameters_train():
    dataset = digits(400)
    linear, mlp = fit(dataset).fit, fit(dataset, hidden=24).fit
    assert linear.decision["parameters"]["by_name"] == {"head.weight": 640, "head.bias": 10}
    assert linear.decision["parameters"]["total"] == linear.total_parameters
    assert (linear.trainable_parameters, linear.total_parameters) == (650, BACKBONE + 650)
    assert mlp.decision["parameters"]["by_name"] == {
        "linear.weight": 24 * 64,
        "linear.bias": 24,
        "head.weight": 240,
        "head.bias": 10,
    }
    assert mlp.trainable_parameters == 24 * 65 + 250
    assert mlp.total_parameters == BACKBONE + mlp.trainable_parameters
    assert mlp.decision["options"] == mlp.decision["options"] | {"solver": "adam", "hidden": 24, "lr": 1e-2}


def test_a_hidden_layer_tells_apart_what_no_line_can():
    """A disc and the ring around it."""
    rng = np.random.default_rng(0)
    angles, inner = rng.uniform(0, 2 * np.pi, 400), np.arange(400) % 2
    radii = np.where(inner, rng.uniform(0, 1, 400), rng.uniform(1.5, 2.5, 400))
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    dataset = make_dataset("multiclass", ("ring", "disc"), points, inner)
    options = {"lr": 0.05, "epochs": 40, "weight_decay": 0.0}
    assert fit(dataset, **options).fit.metrics["accuracy"] < 0.8
    assert fit(dataset, hidden=16, **options).fit.metrics["accuracy"] > 0.95


@pytest.mark.parametrize("hidden", [None, 8])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(hidden):
    dataset = digits(200)
    assert bits(fit(dataset, hidden=hidden, epochs=3)) == bits(fit(dataset, hidden=hidden, epochs=3))
    assert bits(fit(dataset, hidden=hidden, epochs=3)) != bits(fit(dataset, hidden=hidden, epochs=3, seed=1))


@pytest.mark.parametrize("hidden", [None, 8])
def test_test_examples_choose_nothing(hidden):
    """With every test label wrong, and every test embedding too, not a bit of the head differs."""
    dataset = digits(400)
    first = fit(dataset, hidden=hidden, epochs=4)
    test = np.array([split == "test" for split in first.fit.splits])
    targets, embeddings = dataset.targets.copy(), dataset.embeddings.copy()
    targets[test] = (targets[test] + 1) % 10
    embeddings[test] = embeddings[test][:, ::-1] * 3
    spoilt = replace(dataset, splits=first.fit.splits, targets=targets, embeddings=embeddings)
    assert bits(fit(spoilt, hidden=hidden, epochs=4)) == bits(first)


def test_few_examples_are_evaluated_out_of_fold():
    trained = fit(digits(80), epochs=5, hidden=8)
    assert (trained.fit.evaluation, trained.fit.fitted_on) == ("out_of_fold", "all")
    assert len(trained.fit.evaluated_ids) == 80


def test_a_budget_that_ends_keeps_the_best_so_far():
    trained = fit(digits(400), epochs=1000, patience=1000, max_seconds=200, clock=Ticking(), hidden=8)
    assert trained.fit.decision["epochs"]["ended_by"] == ["max_seconds"]
    assert 0 < trained.fit.decision["epochs"]["served"] < 1000
    assert np.isfinite(trained.fit.head.weight).all()


def test_progress_names_the_epoch():
    said = []
    fit(digits(400), epochs=3, report=said.append)
    epochs = [each for each in said if "epoch" in each and each["phase"] == "training"]
    assert [each["epoch"] for each in epochs] == [1, 2, 3]
    assert {"train_loss", "validation_loss", "score", "seconds_left"} <= set(epochs[0])


def test_what_cant_be_learned_is_refused():
    with pytest.raises(UntrainableData, match="needs two"):
        fit(digits(60, classes=1))
