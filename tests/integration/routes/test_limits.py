"""Bodies and batches over the limits: refused, and nothing changes."""

import io
import os
import zipfile

import pytest

from tests.integration.routes.photos import data_uri, files, photo


@pytest.fixture(scope="module")
def small(open_service, tmp_path_factory):
    limits = {
        "max_request_bytes": 20_000,
        "max_archive_bytes": 50_000,
        "max_images_per_request": 3,
        "max_image_pixels": 10_000,
    }
    with open_service(tmp_path_factory.mktemp("small"), **limits) as service:
        service.client.post("/v1/tasks", json={"name": "t", "kind": "multiclass"})
        yield service


@pytest.fixture
def client(small):
    """Whatever the test does, nothing is added."""
    before = small.client.get("/v1/tasks/t").json()
    yield small.client
    assert small.client.get("/v1/tasks/t").json() == before


def in_chunks(data):
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/predict", "/v1/embeddings", "/v1/tasks/t/examples"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_json_body_over_the_limit_is_413(client, path, chunked):
    body = b'{"input": "' + b"A" * 20_000 + b'"}'
    content = in_chunks(body) if chunked else body
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("chunked", [False, True])
def test_bare_bytes_over_the_limit_are_413(client, chunked):
    body = os.urandom(20_001)
    content = in_chunks(body) if chunked else body
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": "image/jpeg"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_files_over_the_limit_are_413_although_an_archive_could_be_larger(client):
    answer = client.post("/v1/tasks/t/examples", files=files(os.urandom(15_000), os.urandom(6_000)))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "20000" in answer.json()["detail"]


def test_an_archive_over_the_limit_is_413(client, small):
    answer = client.post("/v1/tasks/t/examples", files={"archive": ("a.zip", os.urandom(50_001))})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_an_archive_may_be_larger_than_a_request(small):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        writer.writestr("red/a.jpg", os.urandom(40_000))
    answer = small.client.post("/v1/tasks/t/examples", files={"archive": ("a.zip", buffer.getvalue())})
    assert answer.status_code == 202
    small.client.post(f"/v1/runs/{answer.json()['id']}/cancel")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/tasks/t/examples"])
def test_more_files_than_allowed_are_413(client, path):
    answer = client.post(path, files=files(*(photo("red", number) for number in range(4))))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["QUJD"] * 4}),
        ("/v1/tasks/t/examples", {"examples": [{"image": "QUJD"}] * 4}),
    ],
)
def test_more_images_in_json_than_allowed_are_413(client, path, body):
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


def test_more_pixels_than_allowed_are_413(client):
    answer = client.post("/v1/embeddings", json={"input": data_uri(photo("red", 0, size=101))})
    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")


def test_a_repeated_key_with_a_body_over_the_limit_is_413(client):
    headers = {"Idempotency-Key": "large", "Content-Type": "application/json"}
    assert client.post("/v1/embeddings", content=b"{}", headers=headers).status_code == 422
    answer = client.post("/v1/embeddings", content=in_chunks(b"A" * 30_000), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
