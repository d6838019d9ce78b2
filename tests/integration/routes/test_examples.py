"""Examples: uploaded in every shape, listed, relabelled, deleted."""

import base64
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.errors import Overloaded, StoreUnavailable
from service.store.examples import Examples
from service.store.sweeping import sweep
from tests.integration.routes.local import Local
from tests.integration.routes.photos import data_uri, encoded, files, photo


def upload(client, task, *images, **fields):
    return client.post(f"/v1/tasks/{task}/examples", files=files(*images), data=fields)


def summary(client, task):
    return client.get(f"/v1/tasks/{task}").json()


def test_files_with_a_label_become_examples(client, task):
    answer = upload(client, task, photo("red", 0), photo("red", 1), label="red", group="g", split="test")
    assert answer.status_code == 201
    body = answer.json()
    assert body["summary"] == {"created": 2, "duplicate": 0, "conflict": 0, "failed": 0}
    assert [(item["index"], item["filename"], item["status"]) for item in body["data"]] == [
        (0, "0.jpg", "created"),
        (1, "1.jpg", "created"),
    ]
    example = client.get(f"/v1/tasks/{task}/examples/{body['data'][0]['id']}").json()
    assert (example["label"], example["group"], example["split"]) == ("red", "g", "test")
    assert (example["width"], example["height"], example["media_type"]) == (40, 40, "image/jpeg")


def test_an_example_in_json_may_have_a_filename_which_is_only_shown(client, service, task):
    names = ["a.jpg", "../../etc/passwd", 'b"\r\n\x1b[2J.jpg', None]
    examples = [
        {"image": data_uri(photo("red", number)), "filename": name} for number, name in enumerate(names)
    ]
    answer = client.post(f"/v1/tasks/{task}/examples", json={"examples": examples})
    assert answer.status_code == 201
    added = answer.json()["data"]
    assert [item["filename"] for item in added] == names
    shown = [client.get(f"/v1/tasks/{task}/examples/{item['id']}") for item in added]
    assert [each.json()["filename"] for each in shown] == names
    for item in added:
        image = client.get(f"/v1/tasks/{task}/examples/{item['id']}/image")
        assert image.status_code == 200
        assert "passwd" not in str(image.headers)
    long = {"examples": [examples[0] | {"filename": "a" * 1025}]}
    assert client.post(f"/v1/tasks/{task}/examples", json=long).status_code == 422


def test_the_same_bytes_again_are_duplicates(client, task):
    upload(client, task, photo("red", 0), label="red")
    before = summary(client, task)
    answer = upload(client, task, photo("red", 0), label="red")
    assert answer.status_code == 200
    assert answer.json()["summary"]["duplicate"] == 1
    assert summary(client, task) == before


def test_the_same_bytes_with_another_label_conflict_and_the_old_label_stays(client, task):
    upload(client, task, photo("red", 0), label="red")
    before = summary(client, task)
    alone = upload(client, task, photo("red", 0), label="blue")
    assert (alone.status_code, alone.json()["code"]) == (409, "label_conflict")
    assert alone.json()["example"].startswith("ex_")
    among = upload(client, task, photo("red", 0), photo("blue", 1), label="blue")
    assert among.status_code == 207
    assert [item["status"] for item in among.json()["data"]] == ["conflict", "created"]
    assert among.json()["data"][0]["error"]["status"] == 409
    assert before["per_class"] == {"red": 1}
    assert summary(client, task)["per_class"] == {"red": 1, "blue": 1}


def test_a_bad_file_fails_alone(client, task):
    answer = upload(client, task, photo("red", 0), b"no image", label="red")
    assert answer.status_code == 207
    good, bad = answer.json()["data"]
    assert good["status"] == "created"
    assert (bad["status"], bad["id"], bad["error"]["code"]) == (None, None, "unsupported_image")
    assert bad["error"]["errors"][0]["pointer"] == "/file/1"


def test_when_all_fail_the_answer_is_the_error(client, task):
    answer = upload(client, task, b"", b"no image", label="red")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/file/0", "/file/1"]


def test_unlabelled_images_are_kept_and_embedded(client, service, task):
    assert upload(client, task, photo("red", 0)).status_code == 201
    assert (summary(client, task)["examples"], summary(client, task)["labelled"]) == (1, 0)
    known = service.store.tasks.get("default", task)
    missing = service.store.embeddings.missing(
        known, service.prepared.identity.digest, labelled_only=False, limit=10
    )
    assert missing == []


def test_a_label_comes_later(client, task):
    upload(client, task, photo("red", 0))
    answer = upload(client, task, photo("red", 0), label="red")
    assert answer.json()["summary"]["duplicate"] == 1
    assert summary(client, task)["per_class"] == {"red": 1}


def test_an_image_is_embedded_once(client, service, new_task):
    first, second = new_task(), new_task()
    upload(client, first, photo("green", 7), photo("green", 7))
    before = service.engine.images
    upload(client, second, photo("green", 7))
    assert service.engine.images == before


def test_a_busy_engine_leaves_the_embedding_to_the_trainer(client, service, taught, train):
    service.engine.fails_with = Overloaded()
    try:
        answer = upload(client, taught, photo("red", 50), label="red")
    finally:
        service.engine.fails_with = None
    assert answer.status_code == 201
    assert train(taught)["version"] == 1


def test_an_upload_that_gives_way_to_predictions_ends_all_the_same(open_service, tmp_path):
    """What isn't embedded within the deadline of a request is left to the training."""
    with open_service(tmp_path, request_deadline_s=0.1) as service:
        service.client.post("/v1/tasks", json={"name": "late", "kind": "multiclass"})
        with service.client.app.state.parts.precedence.predicting():
            answer = upload(service.client, "late", *(photo("red", number) for number in range(30)))
        assert answer.status_code == 201
        left = service.store.embeddings.missing(
            service.store.tasks.get("default", "late"),
            service.prepared.identity.digest,
            labelled_only=False,
            limit=30,
        )
        assert 0 < len(left) < 30


def test_labels_repeat_for_a_multilabel_task(client, new_task):
    task = new_task("multilabel")
    answer = upload(client, task, photo("red", 0), label=["warm", "plain"])
    example = client.get(f"/v1/tasks/{task}/examples/{answer.json()['data'][0]['id']}").json()
    assert sorted(example["labels"]) == ["plain", "warm"]
    assert example["label"] is None


def test_a_regression_label_is_a_number(client, new_task):
    task = new_task("regression")
    answer = upload(client, task, photo("red", 0), label="3.5")
    example = client.get(f"/v1/tasks/{task}/examples/{answer.json()['data'][0]['id']}").json()
    assert (example["value"], example["labels"]) == (3.5, None)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "much", ""])
def test_a_regression_takes_finite_numbers_only(client, new_task, value):
    task = new_task("regression")
    answer = upload(client, task, photo("red", 0), label=value)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert summary(client, task)["examples"] == 0


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"3"', "1e999"])
def test_json_values_are_finite_numbers_too(client, new_task, value):
    task = new_task("regression")
    body = f'{{"examples": [{{"image": "{data_uri(photo("red", 0))}", "value": {value}}}]}}'
    answer = client.post(
        f"/v1/tasks/{task}/examples", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/examples/0/value"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("multiclass", {"label": "red", "labels": ["red"]}),
        ("multiclass", {"labels": ["red", "blue"]}),
        ("multiclass", {"labels": []}),
        ("multiclass", {"value": 1.0}),
        ("multiclass", {"label": " "}),
        ("multiclass", {"label": "x" * 129}),
        ("multiclass", {"label": "a\0b"}),
        ("multilabel", {"labels": ["a", "a"]}),
        ("regression", {"label": "red"}),
    ],
)
def test_what_does_not_fit_the_kind_fails_alone(client, new_task, kind, said):
    task = new_task(kind)
    images = [{"image": data_uri(photo("red", 0)), **said}, {"image": data_uri(photo("red", 1))}]
    answer = client.post(f"/v1/tasks/{task}/examples", json={"examples": images})
    assert answer.status_code == 207
    assert [item["status"] for item in answer.json()["data"]] == [None, "created"]
    error = answer.json()["data"][0]["error"]
    assert error["status"] == 422
    assert error["errors"][0]["pointer"].startswith("/examples/0/")


def test_json_takes_every_shape_of_an_image(client, task):
    shapes = [
        data_uri(photo("red", 0)),
        base64.b64encode(photo("red", 1)).decode(),
        base64.urlsafe_b64encode(photo("red", 2)).decode().rstrip("="),
        base64.encodebytes(photo("red", 3)).decode(),
        {"type": "image_url", "image_url": {"url": data_uri(photo("red", 4))}},
    ]
    body = {"examples": [{"image": shape, "label": "red", "group": "g"} for shape in shapes]}
    answer = client.post(f"/v1/tasks/{task}/examples", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["summary"]["created"] == 5


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/examples"),
        ([], ""),
        ({"examples": {}}, "/examples"),
        ({"examples": []}, "/examples"),
        ({"examples": [{}]}, "/examples/0/image"),
        ({"examples": [{"image": 7}]}, "/examples/0/image"),
        ({"examples": [{"image": ""}]}, "/examples/0/image"),
        ({"examples": [{"image": "QUJD", "label": 7}]}, "/examples/0/label"),
        ({"examples": [{"image": "QUJD", "split": "holdout"}]}, "/examples/0/split"),
        ({"examples": [{"image": "QUJD", "colour": 7}]}, "/examples/0/colour"),
        ({"examples": [], "label": "x"}, "/label"),
    ],
)
def test_json_of_the_wrong_shape_is_refused_with_a_pointer(client, task, body, pointer):
    answer = client.post(f"/v1/tasks/{task}/examples", json=body)
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert summary(client, task)["examples"] == 0


def test_an_unknown_label_of_closed_classes_fails_alone(client, new_task):
    task = new_task(classes=["red", "blue"])
    images = [{"image": data_uri(photo("red", n)), "label": label} for n, label in enumerate(["red", "pink"])]
    answer = client.post(f"/v1/tasks/{task}/examples", json={"examples": images})
    assert answer.status_code == 207
    assert answer.json()["data"][1]["error"]["code"] == "unknown_label"
    assert summary(client, task)["classes"] == ["red", "blue"]


def test_a_file_with_an_unknown_label_is_refused(client, new_task):
    task = new_task(classes=["red", "blue"])
    answer = upload(client, task, photo("red", 0), label="pink")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_label")


def test_filters_add_up(client, task):
    upload(client, task, photo("red", 0), label="red", split="test", group="g")
    upload(client, task, photo("red", 1), label="red")
    upload(client, task, photo("blue", 0), label="blue")
    upload(client, task, photo("green", 0))

    def found(**filters):
        return len(client.get(f"/v1/tasks/{task}/examples", params=filters).json()["data"])

    assert found() == 4
    assert found(label="red") == 2
    assert found(label="red", split="test") == 1
    assert found(labelled=False) == 1
    assert found(group="g") == 1
    assert found(label="pink") == 0


def test_examples_are_paged(client, taught):
    seen, after = [], None
    while True:
        params = {"limit": 3} | ({"after": after} if after else {})
        page = client.get(f"/v1/tasks/{taught}/examples", params=params).json()
        seen += [example["id"] for example in page["data"]]
        after = page["next"]
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 8
    assert seen == sorted(seen, reverse=True)


def test_the_stored_bytes_come_back(client, task):
    data = photo("red", 0, format="PNG")
    id_ = upload(client, task, data).json()["data"][0]["id"]
    answer = client.get(f"/v1/tasks/{task}/examples/{id_}/image")
    assert answer.content == data
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_example_is_relabelled(client, task):
    id_ = upload(client, task, photo("red", 0), label="red", group="g").json()["data"][0]["id"]
    where = f"/v1/tasks/{task}/examples/{id_}"
    changed = client.patch(where, json={"label": "blue"}).json()
    assert (changed["label"], changed["group"]) == ("blue", "g")
    cleared = client.patch(where, json={"labels": None, "group": None, "split": "train"}).json()
    assert (cleared["labelled"], cleared["group"], cleared["split"]) == (False, None, "train")
    assert client.get(where).json() == cleared


@pytest.mark.parametrize(
    "body", [{"value": 1.0}, {"label": ""}, {"label": "a", "labels": ["b"]}, {"id": "x"}]
)
def test_a_bad_relabelling_changes_nothing(client, task, body):
    id_ = upload(client, task, photo("red", 0), label="red").json()["data"][0]["id"]
    before = client.get(f"/v1/tasks/{task}/examples/{id_}").json()
    assert client.patch(f"/v1/tasks/{task}/examples/{id_}", json=body).status_code == 422
    assert client.get(f"/v1/tasks/{task}/examples/{id_}").json() == before


def test_a_deleted_example_is_gone_and_its_bytes_after_the_grace_time(client, service, task):
    id_ = upload(client, task, photo("red", 0), label="red").json()["data"][0]["id"]
    known = service.store.examples.get(service.store.tasks.get("default", task), id_)
    assert client.delete(f"/v1/tasks/{task}/examples/{id_}").status_code == 204
    assert client.get(f"/v1/tasks/{task}/examples/{id_}").status_code == 404
    assert upload(client, task, photo("red", 0), label="blue").status_code == 201
    assert (service.settings.data_dir / "blobs" / known.blob_key).exists()
    for days in (2, 4):
        sweep(service.store.database, service.store.blobs, grace_s=86_400, now=time.time() + days * 86_400)
    gone = service.settings.data_dir / "blobs" / known.blob_key
    assert not gone.exists()
    assert len(list(gone.parent.iterdir())) == 1, "the same image under another label"


def test_no_blob_is_left_by_what_was_not_created(client, service, task):
    upload(client, task, photo("red", 0), label="red")
    upload(client, task, photo("red", 0), label="red")
    upload(client, task, photo("red", 0), label="blue")
    upload(client, task, photo("red", 0), b"no image", label="red")
    folder = service.settings.data_dir / "blobs" / "tenants/default/tasks"
    folder = folder / service.store.tasks.get("default", task).id / "images"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("id_", ["ex_nothing", "a%00b", "a" * 65])
def test_an_unknown_example_is_refused(client, task, id_):
    assert client.get(f"/v1/tasks/{task}/examples/{id_}").status_code in {404, 422}


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "P", "L", "LA", "RGBA"])
def test_unusual_modes_are_accepted(client, task, mode):
    pixels = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.new("RGB", (40, 40), "red").convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert upload(client, task, data, label=mode).status_code == 201


class Unheard(Examples):
    """Adds, and the word of it is lost on the way: as a connection that breaks at its commit."""

    def add(self, *args, **options):
        super().add(*args, **options)
        raise StoreUnavailable


def test_bytes_stay_where_it_is_not_known_whether_their_rows_are_there(client, service, task):
    """The same upload again finds duplicates: they must have their bytes."""
    lossy = replace(service.store, examples=Unheard(service.store.database))
    with Local(service.settings, lossy, service.engine, service.prepared).client as unheard:
        said = upload(unheard, task, photo("red", 0), label="red")
    assert (said.status_code, said.json()["code"]) == (503, "store_unavailable")
    again = upload(client, task, photo("red", 0), label="red").json()["data"][0]
    assert again["status"] == "duplicate"
    assert client.get(f"/v1/tasks/{task}/examples/{again['id']}/image").content == photo("red", 0)
