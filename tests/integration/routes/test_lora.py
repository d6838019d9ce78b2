"""Strategy lora over HTTP, on a backbone whose tail has a pointwise layer."""

import numpy as np
import onnxruntime
import pytest

from models.prepare import prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime
from service.errors import InvalidField
from service.settings import Settings
from service.store import migrate, open_store
from service.web.options import check_installed
from tests.integration.routes.local import Local, LocalEngine
from tests.integration.routes.photos import files, photo

pytest.importorskip("peft")

OPTIONS = {"strategy": "lora", "rank": 2, "epochs": 2}


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory):
    """A service on `tests.networks:pointwise`, with a task of two classes."""
    folder = tmp_path_factory.mktemp("pointwise")
    settings = Settings(data_dir=folder, cache_dir=folder / "cache", backbone="tests.networks:pointwise")
    prepared = prepare_backbone(settings.backbone_config, settings.cache_dir)
    migrate(settings.resolved_database_url)
    store = open_store(settings.resolved_database_url, settings.resolved_blob_url)
    service = Local(settings, store, LocalEngine(open_runtime(prepared), prepared.identity, store), prepared)
    with service.client as client:
        client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
        for label in ("red", "blue"):
            images = files(*(photo(label, number) for number in range(25)))
            client.post("/v1/tasks/colours/examples", files=images, data={"label": label})
        yield service
    store.close()


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
