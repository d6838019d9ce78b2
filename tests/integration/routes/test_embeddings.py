"""Embeddings in OpenAI's shape, and the backbone that makes them."""

import base64

import numpy as np
import onnxruntime
import pytest

from models.preprocess import decode_image
from tests.integration.routes.photos import data_uri, files, photo


def test_embeddings_have_openais_shape(client, service):
    images = [data_uri(photo("red", 1)), data_uri(photo("blue", 1))]
    body = client.post("/v1/embeddings", json={"input": images, "user": "u"}).json()
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert body["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert [(each["object"], each["index"]) for each in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert [len(each["embedding"]) for each in body["data"]] == [16, 16]


def test_base64_is_the_same_as_floats(client):
    body = {"input": data_uri(photo("red", 1))}
    floats = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    text = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"][0][
        "embedding"
    ]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == pytest.approx(floats)


@pytest.mark.parametrize("send", ["json", "form", "bytes"])
def test_every_shape_can_be_normalized(client, send):
    image = photo("red", 1)
    if send == "json":
        answer = client.post("/v1/embeddings", json={"input": data_uri(image), "normalize": True})
    elif send == "form":
        answer = client.post("/v1/embeddings?normalize=true", files=files(image))
    else:
        headers = {"Content-Type": "image/jpeg"}
        answer = client.post("/v1/embeddings?normalize=true", content=image, headers=headers)
    assert np.linalg.norm(answer.json()["data"][0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_the_model_and_the_full_size_may_be_named(client, service):
    for model in ("tiny", service.prepared.identity.digest):
        body = {"input": data_uri(photo("red", 1)), "model": model, "dimensions": 16}
        assert client.post("/v1/embeddings", json=body).status_code == 200


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"model": "clip"}, "/model"),
        ({"dimensions": 8}, "/dimensions"),
        ({"encoding_format": "hex"}, "/encoding_format"),
        ({"normalize": "yes"}, "/normalize"),
        ({"colour": 1}, "/colour"),
        ({"input": []}, "/input"),
        ({"input": None}, "/input/0"),
        ({"input": [7]}, "/input/0"),
    ],
)
def test_a_bad_field_is_refused(client, said, pointer):
    answer = client.post("/v1/embeddings", json={"input": data_uri(photo("red", 1))} | said)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_it_is_all_or_nothing_and_the_index_is_named(client):
    images = [data_uri(photo("red", 1)), data_uri(photo("red", 1)[:200]), "QUJD"]
    answer = client.post("/v1/embeddings", json={"input": images})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/input/1", "/input/2"]
    assert "/input/1" in answer.json()["detail"]


def test_the_backbone_is_described(client, service):
    body = client.get("/v1/backbone").json()
    assert (body["name"], body["digest"]) == ("tiny", service.prepared.identity.digest)
    assert (body["embedding_dim"], body["input_size"], body["channels"]) == (16, 32, 3)
    assert body["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert [stage["name"] for stage in body["stages"]] == ["stem", "body", "pooled"]
    assert (body["precision"], body["runtime"], body["licence"]) == ("fp32", "openvino", "Apache-2.0")


def test_the_backbones_file_embeds_as_the_service_does(client, service):
    answer = client.get(client.get("/v1/backbone").json()["file"])
    assert answer.headers["ETag"] == f'"{service.prepared.identity.digest}"'
    image = photo("green", 3)
    decoded = decode_image(image, service.prepared.identity.preprocessing, max_pixels=10**6)
    session = onnxruntime.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"pixels": decoded.pixels[None]})
    served = client.post("/v1/embeddings", files=files(image)).json()["data"][0]["embedding"]
    assert embedding[0] == pytest.approx(served, abs=1e-4)
