"""Strategy finetune, whose network is its task's own, over HTTP: asked for, trained and downloaded."""

import hashlib
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from models.preprocess import decode_image
from service.errors import InvalidField
from service.web.options import Bounds, check_network
from tests.integration.routes.photos import files, photo

BACKBONE = 3 * 8 * 16 + 8 + 8 * 16 * 4 + 16  # parameters of the tiny backbone
OPTIONS = {"strategy": "finetune", "epochs": 2, "input_size": 48, "batch_size": 4}


def test_a_dry_run_says_that_all_would_train(client, taught):
    plan = client.post(f"/v1/tasks/{taught}/runs", json=OPTIONS | {"dry_run": True}).json()
    assert plan["trainable_parameters"] == BACKBONE + 2 * 17
    assert {"unfreeze_every", "single_lr", "pretrained", "input_size"} <= plan["options"].keys()
    assert plan["options"]["input_size"] == 48


@pytest.fixture
def tuned(taught, train):
    train(taught, **OPTIONS, average_flips=True)
    return taught


def test_its_file_is_served_whole(client, service, tuned):
    path = f"/v1/tasks/{tuned}/versions/1"
    version = client.get(path).json()
    assert (version["strategy"], version["shares_backbone"]) == ("finetune", False)
    assert (version["backbone_output"], version["input_size"]) == ("pixels", 48)
    assert (version["views"], version["passes"]) == (["as it is", "left-right"], 2)
    assert version["trainable_parameters"] == version["total_parameters"] == BACKBONE + 2 * 17
    assert (version["links"]["head"], version["links"]["factors"]) == (None, None)
    assert version["decision"]["parity"]["model"] <= 1e-4
    file = client.get(f"{path}/model.onnx")
    assert hashlib.sha256(file.content).hexdigest() == version["head_sha256"]
    assert len(file.content) == int(file.headers["Content-Length"]) == version["sizes"]["head_bytes"]
    assert file.headers["Content-Disposition"] == f'attachment; filename="{tuned}-1-model.onnx"'
    session = onnxruntime.InferenceSession(file.content)
    assert session.get_modelmeta().custom_metadata_map["passes"] == "2"
    preprocessing = replace(service.prepared.identity.preprocessing, input_size=48)
    data = [photo(label, number) for label in ("red", "blue") for number in (70, 71)]
    pixels = np.stack([decode_image(each, preprocessing, max_pixels=10**6).pixels for each in data])
    (scores,) = session.run(["probabilities"], {"pixels": pixels})
    labels = [version["labels"][row] for row in scores.argmax(axis=1)]
    assert labels == ["red", "red", "blue", "blue"]


@pytest.mark.parametrize(
    ("file", "status", "code"),
    [("head.onnx", 409, "owns_network"), ("factors.safetensors", 404, "no_factors")],
)
def test_what_it_does_not_have_is_refused(client, tuned, file, status, code):
    answer = client.get(f"/v1/tasks/{tuned}/versions/1/{file}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_pixels_beyond_the_scratch_are_refused_before_anything_is_queued(open_service, tmp_path):
    with open_service(tmp_path, scratch_bytes=6 * 32 * 32 * 3) as service:
        client = service.client
        client.post("/v1/tasks", json={"name": "red-blue", "kind": "multiclass"})
        for label in ("red", "blue"):
            images = files(*(photo(label, number) for number in range(3)))
            client.post("/v1/tasks/red-blue/examples", files=images, data={"label": label})
        answer = client.post("/v1/tasks/red-blue/runs", json=OPTIONS)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_option")
        assert answer.json()["errors"][0]["pointer"] == "/input_size"
        assert "POLYHEAD_SCRATCH_BYTES" in answer.json()["detail"]
        assert client.get("/v1/tasks/red-blue/runs").json()["data"] == []
        fitting = client.post("/v1/tasks/red-blue/runs", json=OPTIONS | {"input_size": 32})
        assert fitting.status_code == 202


def test_a_network_too_large_for_one_file_is_refused(service):
    huge = replace(service.prepared.identity, total_parameters=600_000_000)
    bounds = Bounds(identity=huge, scratch_bytes=10**9)
    with pytest.raises(InvalidField, match="above 2 GB"):
        check_network({"input_size": None}, labelled=1, bounds=bounds)
