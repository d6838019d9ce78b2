"""A tail from upload to answer, through the processes of a real server."""

import numpy as np
import onnxruntime
import pytest

from models.graph import preprocessing_of
from models.preprocess import decode_image
from tests.integration.routes.photos import files, photo
from tests.networks import tiny
from tests.servers import serving

LABELS = ("red", "green")


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path, cache_dir=str(tmp_path / "cache")) as server:
        yield server


TASKS = {
    "head": {},
    "tail": {"strategy": "last_block", "epochs": 2},
    "stages": {"strategy": "stages", "augmentation": "heavy", "average_flips": True},
}


def test_tails_and_stages_are_trained_and_served_beside_a_head(server):
    with server.client() as client:
        for task in TASKS:
            client.post("/v1/tasks", json={"name": task, "kind": "multiclass"})
            for label in LABELS:
                images = files(*(photo(label, number) for number in range(25)))
                client.post(f"/v1/tasks/{task}/examples", files=images, data={"label": label})
        for task, body in TASKS.items():
            answer = client.post(f"/v1/tasks/{task}/runs", json=body, headers={"Prefer": "wait=60"})
            assert answer.json()["state"] == "succeeded", answer.text
        data = [photo(label, 70 + number) for label in LABELS for number in range(3)]
        answer = client.post("/v1/predict", files=files(*data), data={"tasks": list(TASKS)})
        results = answer.json()["results"]
        models = {
            task: client.get(f"/v1/tasks/{task}/versions/1/model.onnx").content for task in ("tail", "stages")
        }
        preprocessing = client.get("/v1/backbone").json()["preprocessing"]
        for one in results[1:]:
            assert [each["label"] for each in one["predictions"]] == ["red"] * 3 + ["green"] * 3
        assert not list((server.data_dir / "scratch").iterdir())
    pixels = np.stack([decode_image(each, declared(preprocessing), max_pixels=10**6).pixels for each in data])
    for result in results[1:]:
        session = onnxruntime.InferenceSession(models[result["task"]])
        (scores,) = session.run(["probabilities"], {"pixels": pixels})
        served = [{each["label"]: each["score"] for each in one["scores"]} for one in result["predictions"]]
        assert np.abs(scores - [[one[label] for label in LABELS] for one in served]).max() <= 1e-4


def declared(said):
    found = preprocessing_of(tiny())
    assert list(found.mean) == said["mean"]
    return found
