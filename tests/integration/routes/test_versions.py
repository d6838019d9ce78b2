"""Versions: their evidence, their mistakes, their files."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest

from models.preprocess import decode_image
from tests.integration.routes.photos import files, photo


def session(data):
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_a_version_shows_its_evidence(client, trained):
    version = client.get(f"/v1/tasks/{trained}/versions/1").json()
    assert (version["version"], version["task"], version["strategy"]) == (1, trained, "head")
    assert version["labels"] == ["red", "blue"]
    assert version["evaluation"] == "out_of_fold"
    assert version["trainable_parameters"] == 2 * 16 + 2
    assert version["total_parameters"] > version["trainable_parameters"]
    assert version["metrics"]["primary"]["value"] <= 1
    assert version["shares_backbone"] is True
    assert version["sizes"]["head_bytes"] == len(client.get(version["links"]["head"]).content)
    assert client.get(version["links"]["run"]).json()["version"] == 1
    assert client.get(f"/v1/tasks/{trained}/versions").json()["data"] == [version]


@pytest.mark.parametrize("path", ["", "/head.onnx", "/model.onnx", "/mistakes"])
def test_an_unknown_version_is_404(client, trained, path):
    answer = client.get(f"/v1/tasks/{trained}/versions/9{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_version")


@pytest.mark.parametrize("number", ["0", "-1", "one", str(2**31), "9" * 40])
def test_what_is_no_version_number_is_refused(client, trained, number):
    assert client.get(f"/v1/tasks/{trained}/versions/{number}").status_code == 422


def test_versions_are_paged(client, trained, train):
    train(trained, seed=1)
    page = client.get(f"/v1/tasks/{trained}/versions", params={"limit": 1}).json()
    assert [version["version"] for version in page["data"]] == [2]
    after = {"limit": 1, "after": page["next"]}
    assert [
        v["version"] for v in client.get(f"/v1/tasks/{trained}/versions", params=after).json()["data"]
    ] == [1]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks", "/v1/tasks/{}/examples", "/v1/tasks/{}/runs", "/v1/runs", "/v1/tasks/{}/versions",
        "/v1/tasks/{}/versions/1/mistakes",
    ],
)  # fmt: skip
def test_a_made_up_cursor_is_refused(client, trained, path):
    answer = client.get(path.format(trained), params={"after": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")


def test_the_head_is_the_file_that_is_served(client, service, trained):
    """The downloaded head answers on the downloaded embeddings as predict does."""
    image = photo("red", 80)
    answer = client.get(f"/v1/tasks/{trained}/versions/1/head.onnx")
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{trained}-1-head.onnx"'
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    embedding = client.post("/v1/embeddings", files=files(image)).json()["data"][0]["embedding"]
    head = session(answer.content)
    (probabilities,) = head.run(["probabilities"], {"embedding": np.array([embedding], np.float32)})
    served = client.post(f"/v1/tasks/{trained}/predict", files=files(image)).json()["predictions"][0]
    metadata = head.get_modelmeta().custom_metadata_map
    scores = dict(zip(json.loads(metadata["labels"]), probabilities[0], strict=True))
    assert scores == pytest.approx({each["label"]: each["score"] for each in served["scores"]}, abs=1e-4)
    assert metadata["backbone_digest"] == service.prepared.identity.digest


def test_the_model_answers_from_pixels_as_the_service_does(client, service, trained):
    image = photo("blue", 81)
    answer = client.get(f"/v1/tasks/{trained}/versions/1/model.onnx")
    assert answer.status_code == 200
    decoded = decode_image(image, service.prepared.identity.preprocessing, max_pixels=10**6)
    (probabilities,) = session(answer.content).run(["probabilities"], {"pixels": decoded.pixels[None]})
    served = client.post(f"/v1/tasks/{trained}/predict", files=files(image)).json()["predictions"][0]
    assert probabilities.max() == pytest.approx(served["score"], abs=1e-4)


@pytest.fixture
def mistaken(client, taught, train):
    """A task with two examples whose labels are wrong: no head can get them right."""
    for number in (90, 91):
        answer = client.post(
            f"/v1/tasks/{taught}/examples", files=files(photo("red", number)), data={"label": "blue"}
        )
        assert answer.status_code == 201
    train(taught)
    return taught


def test_mistakes_come_worst_first_with_their_images(client, mistaken):
    page = client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes").json()
    losses = [mistake["loss"] for mistake in page["data"]]
    assert losses == sorted(losses, reverse=True)
    for mistake in page["data"]:
        assert mistake["label"] != mistake["prediction"]
        assert 0.5 <= mistake["score"] <= 1
        assert client.get(mistake["image"]).headers["Content-Type"] == "image/jpeg"


def test_mistakes_are_paged(client, mistaken):
    everything = client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes").json()["data"]
    first = client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes", params={"limit": 1}).json()
    assert first["data"] == everything[:1]
    assert first["has_more"] is True
    rest = {"after": first["next"]}
    assert (
        client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes", params=rest).json()["data"] == everything[1:]
    )


def test_a_mistake_whose_example_was_deleted_says_so(client, mistaken):
    worst = client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes").json()["data"][0]
    client.delete(f"/v1/tasks/{mistaken}/examples/{worst['example']}")
    again = client.get(f"/v1/tasks/{mistaken}/versions/1/mistakes").json()["data"][0]
    assert again == worst | {"deleted": True, "image": None}


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_kinds_are_trained_and_show_mistakes(client, new_task, train, kind):
    task = new_task(kind)
    for number in range(6):
        for place, label in enumerate(("red", "green", "blue")):
            said = {"label": [str(place)] if kind == "regression" else [label, "plain"][: 1 + number % 2]}
            client.post(f"/v1/tasks/{task}/examples", files=files(photo(label, number)), data=said)
    train(task)
    page = client.get(f"/v1/tasks/{task}/versions/1/mistakes").json()
    if kind == "regression":
        assert len(page["data"]) == 18
        assert page["data"][0]["score"] is None
    prediction = client.post(f"/v1/tasks/{task}/predict", files=files(photo("blue", 50))).json()[
        "predictions"
    ][0]
    if kind == "regression":
        assert set(prediction) == {"index", "value"}
        assert prediction["value"] == pytest.approx(2, abs=1)
    else:
        assert set(prediction) == {"index", "labels", "scores"}
        assert prediction["scores"][0]["label"] == "blue"
