"""The options of strategy head: asked for, refused, trained and served."""

import numpy as np
import onnxruntime
import pytest

from tests.integration.routes.photos import files, photo

MLP = {"hidden": 8, "epochs": 20, "lr": 0.02}


def post(client, task, **body):
    return client.post(f"/v1/tasks/{task}/runs", json=body)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"lr": 0.1}, "/lr"),
        ({"epochs": 3}, "/epochs"),
        ({"max_seconds": 10}, "/max_seconds"),
        ({"solver": "exact", "weight_decay": 0.1}, "/weight_decay"),
        ({"solver": "exact", "hidden": 8}, "/hidden"),
        ({"solver": "newton"}, "/solver"),
        ({"solver": "adam", "l2": 1.0}, "/l2"),
        ({"solver": "adam", "augmentation": "none"}, "/augmentation"),
        ({"solver": "adam", "lr": 0}, "/lr"),
        ({"solver": "adam", "epochs": -1}, "/epochs"),
        ({"solver": "adam", "max_seconds": 0.5}, "/max_seconds"),
        ({"hidden": 0}, "/hidden"),
        ({"hidden": 8, "l2": 1.0}, "/l2"),
        ({"l2": 0}, "/l2"),
        ({"l2": -1}, "/l2"),
        ({"class_weight": "even"}, "/class_weight"),
        ({"strategy": "last_block", "l2": 1.0}, "/l2"),
        ({"strategy": "last_block", "solver": "adam"}, "/solver"),
    ],
)
def test_bad_options_are_refused_before_anything_is_queued(client, taught, fields, pointer):
    answer = post(client, taught, **fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(f"/v1/tasks/{taught}/runs").json()["data"] == []


def test_the_solver_that_has_the_option_is_named(client, taught):
    assert "strategy head with solver exact has no option lr" in post(client, taught, lr=0.1).json()["detail"]


@pytest.mark.parametrize(
    ("short", "spelt_out"),
    [
        ({}, {"strategy": "head", "solver": "exact", "l2": None, "class_weight": "auto", "seed": 0}),
        ({"hidden": 8}, {"solver": "adam", "hidden": 8, "epochs": 100, "patience": 10}),
        ({"l2": 1}, {"l2": 1.0}),
    ],
)
def test_equal_requests_have_equal_options(client, taught, short, spelt_out):
    plans = [post(client, taught, dry_run=True, **body).json() for body in (short, spelt_out)]
    assert plans[0]["options"] == plans[1]["options"]


def test_a_dry_run_counts_the_parameters_of_an_mlp(client, taught):
    plan = post(client, taught, dry_run=True, hidden=8).json()
    assert plan["trainable_parameters"] == 8 * (16 + 1) + 2 * (8 + 1)


def test_an_mlp_is_served_as_it_is_exported(client, service, taught):
    answer = post(client, taught, **MLP)
    assert answer.status_code == 202, answer.text
    run = service.work()
    assert run.state == "succeeded", run.error
    assert post(client, taught, solver="adam", **MLP).json()["reused"]
    version = client.get(f"/v1/tasks/{taught}/versions/1").json()
    assert version["trainable_parameters"] == 8 * 17 + 2 * 9
    assert version["shares_backbone"] is True
    data = [photo(label, 90 + number) for label in ("red", "blue") for number in range(3)]
    predicted = client.post(f"/v1/tasks/{taught}/predict", files=files(*data)).json()
    rows = [{each["label"]: each["score"] for each in item["scores"]} for item in predicted["predictions"]]
    said = client.post("/v1/embeddings", files=files(*data)).json()["data"]
    given = np.array([each["embedding"] for each in said], dtype=np.float32)
    head = client.get(f"/v1/tasks/{taught}/versions/1/head.onnx").content
    (scores,) = onnxruntime.InferenceSession(head).run(["probabilities"], {"embedding": given})
    labels = version["labels"]
    assert np.array([[row[label] for label in labels] for row in rows]) == pytest.approx(scores, abs=1e-4)
