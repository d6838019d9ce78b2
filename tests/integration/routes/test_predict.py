"""Predictions of one task and of many."""

import base64

import pytest

from service.errors import DeadlineExceeded, Overloaded, WorkerFailed
from tests.integration.routes.photos import data_uri, files, photo


def test_photos_are_classified_in_order(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/predict", files=files(photo("red", 99), photo("blue", 99)))
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("pred_")
    assert (body["task"], body["version"], answer.headers["X-Head-Version"]) == (trained, 1, "1")
    assert [(each["index"], each["label"]) for each in body["predictions"]] == [(0, "red"), (1, "blue")]
    first = body["predictions"][0]
    assert set(first) == {"index", "label", "score", "scores"}
    assert first["score"] == first["scores"][0]["score"] > 0.5
    assert sum(each["score"] for each in first["scores"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/webp", "Image/JPEG; x=y"])
def test_bare_bytes_are_one_image(client, trained, media_type):
    answer = client.post(
        f"/v1/tasks/{trained}/predict", content=photo("red", 5), headers={"Content-Type": media_type}
    )
    assert answer.json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize(
    "shape",
    [
        data_uri,
        lambda data: [data_uri(data)],
        lambda data: base64.b64encode(data).decode(),
        lambda data: {"image": data_uri(data)},
        lambda data: [{"image": {"type": "image_url", "image_url": {"url": data_uri(data)}}}],
        lambda data: {"type": "image_url", "image_url": {"url": data_uri(data), "detail": "auto"}},
    ],
)
def test_json_takes_every_shape_of_an_image(client, trained, shape):
    answer = client.post(f"/v1/tasks/{trained}/predict", json={"input": shape(photo("red", 5))})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"] == "red"


def test_a_bad_image_fails_alone(client, trained):
    images = [data_uri(photo("red", 1)), "QUJD", "%%%", data_uri(photo("blue", 1))]
    answer = client.post(f"/v1/tasks/{trained}/predict", json={"input": images})
    assert answer.status_code == 207
    predictions = answer.json()["predictions"]
    assert [each["index"] for each in predictions] == [0, 1, 2, 3]
    assert [each.get("label") for each in predictions] == ["red", None, None, "blue"]
    assert set(predictions[1]) == {"index", "error"}
    assert predictions[1]["error"]["code"] == "unsupported_image"
    assert predictions[2]["error"]["code"] == "invalid_image"
    assert predictions[2]["error"]["errors"][0]["pointer"] == "/input/2"


def test_a_lone_bad_image_is_the_answer(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/predict", files=files(b"GIF89a..."))
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_image")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_top_k_cuts_the_scores(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/predict?top_k=1", files=files(photo("red", 1)))
    assert len(answer.json()["predictions"][0]["scores"]) == 1


def test_below_the_threshold_the_label_is_null(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/predict?threshold=1", files=files(photo("red", 1)))
    prediction = answer.json()["predictions"][0]
    assert prediction["label"] is None
    assert prediction["scores"][0]["label"] == "red"


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=x", "threshold=2", "threshold=nan", "version=0", "version=1&alias=production"]
)
def test_a_bad_query_is_refused(client, trained, query):
    answer = client.post(f"/v1/tasks/{trained}/predict?{query}", files=files(photo("red", 1)))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("version=9", "unknown_version"), ("alias=nobody", "unknown_alias"), ("alias=a%00", "unknown_alias"),
        ("alias=", "unknown_alias"),  # somebody's variable was empty: `production` isn't what they asked for
    ],
)  # fmt: skip
def test_an_unknown_version_or_alias_is_404(client, trained, query, code):
    answer = client.post(f"/v1/tasks/{trained}/predict?{query}", files=files(photo("red", 1)))
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_task_without_a_version_says_so(client, taught):
    answer = client.post(f"/v1/tasks/{taught}/predict", files=files(photo("red", 1)))
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_published")


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded(retry_after_s=3), 429, "3"),
        (WorkerFailed(), 503, "1"),
        (DeadlineExceeded(seconds=1), 504, None),
    ],
    ids=["overloaded", "worker failed", "too late"],
)
def test_what_the_engine_meets_is_answered(client, service, trained, error, status, retry_after):
    service.engine.fails_with = error
    try:
        answer = client.post(f"/v1/tasks/{trained}/predict", files=files(photo("red", 1)))
    finally:
        service.engine.fails_with = None
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)


@pytest.mark.parametrize("path", ["/v1/tasks/{}/predict", "/v1/predict", "/v1/embeddings"])
def test_where_no_image_more_would_be_taken_none_is_read(client, service, trained, path):
    read = []

    def body():
        read.append(path)
        yield photo("red", 1)

    service.engine.is_full = True
    try:
        answer = client.post(
            path.format(trained), content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
    finally:
        service.engine.is_full = False
    assert (answer.status_code, answer.json()["code"], read) == (429, "overloaded", [])
    assert answer.headers["Retry-After"]


class TestFanOut:
    @pytest.fixture
    def other(self, client, new_task, train):
        task = new_task("regression")
        for number, label in enumerate(["red", "green", "blue"] * 2):
            client.post(
                f"/v1/tasks/{task}/examples",
                files=files(photo(label, number)),
                data={"label": str(number % 3)},
            )
        train(task)
        return task

    def test_many_tasks_share_one_pass(self, client, service, trained, other):
        before = service.engine.images
        tasks = [trained, f"{trained}@production", f"{other}@1", trained]
        answer = client.post("/v1/predict", json={"tasks": tasks, "input": data_uri(photo("red", 1))})
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["task"] for result in results] == tasks[:3]
        assert [result["version"] for result in results] == [1, 1, 1]
        assert results[0]["predictions"] == results[1]["predictions"]
        assert set(results[2]["predictions"][0]) == {"index", "value"}
        assert service.engine.images == before + 1

    def test_an_unknown_task_fails_alone(self, client, trained, taught):
        tasks = ["nobody", trained, f"{trained}@9", f"{trained}@nobody", "", "@", "A@B@C"]
        answer = client.post("/v1/predict", json={"tasks": tasks, "input": [data_uri(photo("red", 1))]})
        assert answer.status_code == 207
        results = answer.json()["results"]
        codes = [result["error"]["code"] if "error" in result else None for result in results]
        assert codes[:4] == ["unknown_task", None, "unknown_version", "unknown_alias"]
        assert set(codes[4:]) == {"unknown_task"}
        assert results[0]["error"]["errors"][0]["pointer"] == "/tasks/0"

    def test_a_bad_image_fails_alone_in_every_task(self, client, trained, other):
        images = [data_uri(photo("red", 1)), "QUJD"]
        answer = client.post("/v1/predict", json={"tasks": [trained, other], "input": images})
        assert answer.status_code == 207
        for result in answer.json()["results"]:
            assert set(result["predictions"][1]) == {"index", "error"}

    def test_when_every_task_fails_the_answer_is_the_error(self, client):
        answer = client.post("/v1/predict", json={"tasks": ["a1", "a2"], "input": data_uri(photo("red", 1))})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/tasks/0", "/tasks/1"]

    def test_a_task_is_named_in_a_bounded_number_of_characters(self, client):
        """Its name comes back in the answer, and again in the error about it."""
        answer = client.post("/v1/predict", files=files(photo("red", 1)), data={"tasks": ["a" * 128]})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
        assert len(answer.content) < 1000

    def test_a_form_names_tasks_too(self, client, trained, other):
        answer = client.post(
            "/v1/predict", files=files(photo("red", 1), photo("blue", 1)), data={"tasks": [trained, other]}
        )
        assert answer.status_code == 200
        assert [len(result["predictions"]) for result in answer.json()["results"]] == [2, 2]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"input": "QUJD"}, "/tasks"),
            ({"tasks": [], "input": "QUJD"}, "/tasks"),
            ({"tasks": ["a"] * 257, "input": "QUJD"}, "/tasks"),
            ({"tasks": "a", "input": "QUJD"}, "/tasks"),
            ({"tasks": ["a" * 128], "input": "QUJD"}, "/tasks/0"),
            ({"tasks": ["a"]}, "/input"),
        ],
    )
    def test_a_bad_body_is_refused(self, client, body, pointer):
        answer = client.post("/v1/predict", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer

    def test_a_form_without_tasks_is_refused(self, client):
        assert client.post("/v1/predict", files=files(photo("red", 1))).status_code == 422
