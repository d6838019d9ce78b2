"""Strategy lora over HTTP, on a backbone whose tail has a pointwise layer."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load

from models.head import answers
from models.preprocess import decode_image
from models.tail import split_at
from service.errors import InvalidField
from service.web.options import check_installed
from tests import networks
from tests.integration.routes.backbones import open_on
from tests.integration.routes.photos import files, photo

pytest.importorskip("peft")

OPTIONS = {"strategy": "lora", "rank": 2, "epochs": 2, "monitor": "none"}  # or the factors may be nothing


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory):
    """A service on `tests.networks:pointwise`, with a task of two classes."""
    with open_on("tests.networks:pointwise", tmp_path_factory.mktemp("pointwise"), each=25) as service:
        yield service


def test_factors_are_trained_merged_and_served_as_they_are_exported(pointwise):
    client = pointwise.client
    plan = client.post("/v1/tasks/colours/runs", json=OPTIONS | {"dry_run": True}).json()
    assert client.post("/v1/tasks/colours/runs", json=OPTIONS).status_code == 202
    run = pointwise.work()
    assert run.state == "succeeded", run.error
    version = client.get("/v1/tasks/colours/versions/1").json()
    assert plan["trainable_parameters"] == version["trainable_parameters"] == 2 * 32 + 2 * 17
    assert (version["strategy"], version["backbone_output"]) == ("lora", "stem")
    trained = version["decision"]["parameters"]["by_name"]
    assert all(".lora_" in name or name.startswith("head.") for name in trained)
    data = [photo(label, 90) for label in ("red", "blue")]
    served = client.post("/v1/tasks/colours/predict", files=files(*data)).json()["predictions"]
    assert [each["label"] for each in served] == ["red", "blue"]
    model = onnxruntime.InferenceSession(client.get("/v1/tasks/colours/versions/1/model.onnx").content)
    preprocessing = pointwise.prepared.identity.preprocessing
    pixels = np.stack([decode_image(each, preprocessing, max_pixels=10**6).pixels for each in data])
    (scores,) = model.run(["probabilities"], {"pixels": pixels})
    assert np.abs(scores.max(axis=1) - [each["score"] for each in served]).max() <= 1e-4


def test_downloaded_factors_merged_into_a_fresh_tail_give_the_served_answers(pointwise, tmp_path):
    client = pointwise.client
    if not client.get("/v1/tasks/colours/versions").json()["data"]:
        client.post("/v1/tasks/colours/runs", json=OPTIONS)
        assert pointwise.work().state == "succeeded"
    version = client.get("/v1/tasks/colours/versions/1").json()
    answer = client.get(version["links"]["factors"])
    assert answer.status_code == 200
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert len(answer.content) == version["sizes"]["factors_bytes"] < version["sizes"]["head_bytes"]
    file = tmp_path / "factors.safetensors"
    file.write_bytes(answer.content)
    with safe_open(file, framework="np") as opened:
        said = opened.metadata()
    tensors = load(answer.content)
    assert (said["rank"], said["alpha"], said["stage"]) == ("2", "8", "stem")
    assert said["backbone_digest"] == pointwise.prepared.identity.digest
    tail = split_at(networks.pointwise(), 1).tail
    for name in json.loads(said["targets"]):
        low, high = (tensors.pop(f"{name}.lora_{letter}.default.weight")[..., 0, 0] for letter in "AB")
        update = float(said["alpha"]) / int(said["rank"]) * (high @ low)
        with torch.no_grad():
            tail.get_submodule(name).weight += torch.from_numpy(update)[..., None, None]
    data = [photo(label, 95) for label in ("red", "blue")]
    preprocessing = pointwise.prepared.identity.preprocessing
    pixels = np.stack([decode_image(each, preprocessing, max_pixels=10**6).pixels for each in data])
    maps = pointwise.engine._runtime.run(pixels, ("stem",))["stem"]
    with torch.no_grad():
        embeddings = tail(torch.from_numpy(maps)).numpy()
    scores = answers("multiclass", embeddings @ tensors.pop("head.weight").T + tensors.pop("head.bias"))
    assert not tensors
    served = client.post("/v1/tasks/colours/predict", files=files(*data), params={"version": 1}).json()[
        "predictions"
    ]
    best = [(json.loads(said["labels"])[row.argmax()], row.max()) for row in scores]
    assert [label for label, _ in best] == [each["label"] for each in served]
    np.testing.assert_allclose([score for _, score in best], [each["score"] for each in served], atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [({"rank": 50}, "/rank", "at most"), ({"rank": 0}, "/rank", "greater"), ({"blocks": 9}, "/blocks", "1")],
)
def test_bad_options_are_refused_before_anything_is_queued(pointwise, fields, pointer, words):
    before = pointwise.client.get("/v1/tasks/colours/runs").json()["data"]
    answer = pointwise.client.post("/v1/tasks/colours/runs", json=OPTIONS | fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert words in answer.json()["detail"]
    assert pointwise.client.get("/v1/tasks/colours/runs").json()["data"] == before


def test_a_tail_without_a_layer_to_adapt_says_so(client, taught):
    answer = client.post(f"/v1/tasks/{taught}/runs", json={"strategy": "lora"})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_tail")
    assert "no linear or pointwise layer" in answer.json()["detail"]


def test_a_server_without_peft_says_how_to_install_it():
    with pytest.raises(InvalidField, match=r"pip install 'polyhead\[lora\]'"):
        check_installed("lora", find=lambda _: None)
    check_installed("head", find=lambda _: None)
