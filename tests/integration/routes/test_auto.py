"""Strategy auto: what it would begin with, said before anything is trained."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from models.domain import FILE as CLASSIFIER
from models.domain import Classifier
from models.strategies.rule import means_of
from service.web.advising import domain_of
from tests.integration.routes.photos import files, photo

DIM = 16  # of tiny's embeddings
CLASSES = 100


@pytest.fixture
def many(client, new_task):
    """A task with twelve examples of each of two classes."""
    name = new_task()
    for label in ("red", "blue"):
        images = files(*(photo(label, number) for number in range(100, 112)))
        assert (
            client.post(f"/v1/tasks/{name}/examples", files=images, data={"label": label}).status_code == 201
        )
    return name


@pytest.fixture
def plan(client):
    """A dry run's answer."""

    def plan(task, **fields):
        answer = client.post(f"/v1/tasks/{task}/runs", json={"strategy": "auto", "dry_run": True} | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return plan


@pytest.fixture
def with_classifier(client, tmp_path):
    """The parts of a server whose backbone has a pretraining classifier: given, what each class weighs."""

    def with_classifier(weight):
        bias = np.zeros(len(weight), np.float32)
        Classifier(weight=weight.astype(np.float32), bias=bias).write(tmp_path / CLASSIFIER)
        parts = client.app.state.parts
        known = replace(parts.identity, name="efficientnet_lite0")  # its classifier's doubts are calibrated
        return replace(parts, backbone_file=tmp_path / "backbone.onnx", identity=known)

    return with_classifier


def test_a_dry_run_says_where_it_would_start_and_trains_nothing(client, many, plan):
    said = plan(many, domain="distant", max_seconds=60)
    assert (said["strategy"], said["options"]) == (
        "auto",
        {"seed": 0, "domain": "distant", "max_seconds": 60.0},
    )
    auto = said["auto"]
    assert (auto["rule"], auto["size"], auto["rung"]) == ("small_distant", "small", "last_block")
    assert (auto["augmentation"], auto["batch_norm"], auto["blocks"]) == ("heavy", "eval", 1)
    assert auto["order"] == ["head", "stages", "last_block", "lora"]
    assert set(auto["not_tried"]) == {"finetune"}
    assert "thaw the later blocks" in auto["because"]
    assert client.get(f"/v1/tasks/{many}/runs").json()["data"] == []


def test_a_domain_that_is_given_is_not_measured(many, plan):
    assert plan(many, domain="similar")["auto"]["domain"] == {
        "domain": "similar",
        "measure": "given",
        "value": None,
        "threshold": None,
        "images": 0,
        "given": True,
        "because": "the request says that the domain is similar",
    }


def test_without_a_pretraining_classifier_the_domain_is_unknown_and_treated_as_similar(many, plan):
    auto = plan(many)["auto"]
    assert (auto["rule"], auto["rung"]) == ("small_similar", "head")
    assert (auto["domain"]["measure"], auto["domain"]["given"]) == ("none", False)
    assert "unknown, treated as similar" in auto["domain"]["because"]


def test_the_parameters_are_those_of_the_rung_to_start_from(client, many, plan):
    def of(**fields):
        body = {"dry_run": True} | fields
        return client.post(f"/v1/tasks/{many}/runs", json=body).json()["trainable_parameters"]

    assert plan(many, domain="similar")["trainable_parameters"] == of(strategy="head")
    assert plan(many, domain="distant")["trainable_parameters"] == of(strategy="last_block", blocks=1)


def test_another_strategy_has_no_auto(client, many):
    said = client.post(f"/v1/tasks/{many}/runs", json={"dry_run": True}).json()
    assert said["auto"] is None


def measured(service, parts, task, seed=0):
    options = {"seed": seed, "domain": "auto", "max_seconds": 600.0}
    return domain_of(parts, service.store.tasks.get("default", task), options)


def test_the_domain_is_measured_from_stored_embeddings(service, many, with_classifier):
    unsure = measured(service, with_classifier(np.zeros((CLASSES, DIM))), many)
    assert (unsure.domain, unsure.measure, unsure.images) == ("distant", "classifier_entropy", 24)
    assert unsure.value == pytest.approx(1)

    one_class = np.zeros((CLASSES, DIM))
    one_class[0] = 1e6  # embeddings come out of a ReLU
    sure = measured(service, with_classifier(one_class), many)
    assert (sure.domain, sure.images) == ("similar", 24)
    assert sure.value == pytest.approx(0, abs=1e-3)


def test_test_examples_have_no_part_in_it(service, client, many, with_classifier):
    images = files(*(photo("red", number) for number in range(200, 205)))
    client.post(f"/v1/tasks/{many}/examples", files=images, data={"label": "red", "split": "test"})
    assert measured(service, with_classifier(np.zeros((CLASSES, DIM))), many).images == 24


def test_examples_without_a_label_have_no_part_in_it(service, client, many, with_classifier):
    client.post(f"/v1/tasks/{many}/examples", files=files(photo("green", 300)))
    assert measured(service, with_classifier(np.zeros((CLASSES, DIM))), many).images == 24


def test_too_few_embeddings_leave_it_unknown(service, taught, with_classifier):
    domain = measured(service, with_classifier(np.zeros((CLASSES, DIM))), taught)
    assert (domain.domain, domain.measure, domain.images) == ("similar", "none", 8)
    assert "8 images are there to measure, and 10 are needed" in domain.because


def test_embeddings_that_are_not_there_yet_are_not_waited_for(service, many, with_classifier):
    parts = with_classifier(np.zeros((CLASSES, DIM)))
    other = replace(parts, identity=replace(parts.identity, features="not embedded by"))
    domain = measured(service, other, many)
    assert (domain.measure, domain.images) == ("none", 0)


def test_a_sample_goes_round_and_depends_on_where_it_starts(service, many):
    task, digest = service.store.tasks.get("default", many), service.prepared.identity.digest

    def sample(start, limit):
        return service.store.embeddings.sample(task, digest, start=start, limit=limit)

    everything = sample("0" * 64, 100)
    assert len(everything) == 24
    late = hashlib.sha256(b"0").hexdigest()
    assert sorted(sample(late, 100)) == sorted(everything)
    assert sample(late, 5) != sample("0" * 64, 5)
    assert sample("f" * 64, 5) == everything[:5]


def test_without_peft_lora_will_not_be_tried(client):
    means = means_of(client.app.state.parts.tails, client.app.state.parts.identity, find=lambda _: None)
    assert not means.lora


@pytest.mark.parametrize(
    ("fields", "pointer", "named"),
    [
        ({"max_seconds": 9}, "/max_seconds", "at least 10"),
        ({"max_seconds": 0}, "/max_seconds", "greater than or equal to 1"),
        ({"max_seconds": -5}, "/max_seconds", "greater than or equal to 1"),
        ({"max_seconds": "soon"}, "/max_seconds", "valid number"),
        ({"domain": "near"}, "/domain", "'similar'"),
        ({"lr": 0.1}, "/lr", "strategy auto has no option lr"),
        ({"blocks": 2}, "/blocks", "strategy auto has no option blocks"),
        ({"strategy": "last_block", "domain": "similar"}, "/domain", "has no option domain"),
        ({"strategy": "head", "domain": "similar"}, "/domain", "has no option domain"),
    ],
)
def test_bad_options_are_refused_by_name(client, many, fields, pointer, named):
    body = {"strategy": "auto", "dry_run": True} | fields
    answer = client.post(f"/v1/tasks/{many}/runs", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert named in error["detail"]


def test_a_budget_that_is_no_number_is_refused(client, many):
    body = '{"strategy": "auto", "dry_run": true, "max_seconds": NaN}'
    answer = client.post(f"/v1/tasks/{many}/runs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def test_advising_needs_no_torch():
    code = "import service.web.planning, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
