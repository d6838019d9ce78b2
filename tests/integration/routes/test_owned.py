"""Versions that own a network, of any input size, and tails that answer for several views."""

import hashlib
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from prometheus_client import REGISTRY

from models.averaging import averaged
from models.backbone import build_backbone
from models.export import head_metadata, model_onnx
from models.head import LinearHead
from models.identity import PIXELS
from models.preprocess import decode_image
from models.tail import Tail, split_at
from models.tuned_export import network_onnx, tail_onnx
from models.views import VIEWS
from tests.integration.routes.photos import data_uri, photo
from tests.integration.store.values import new_run, new_version

LABELS = ("blue", "green", "red")
LARGE = 48  # pixels; the tiny backbone's are 32


def head_of(number):
    rng = np.random.default_rng(number)
    weight = rng.normal(size=(3, 16)).astype(np.float32)
    return LinearHead(kind="multiclass", labels=LABELS, weight=weight, bias=np.zeros(3, np.float32))


@pytest.fixture(scope="module")
def make(prepared):
    """Files of a kind, each of another head: what is served, and the whole from pixels."""
    backbone, identity = build_backbone(prepared.config), prepared.identity

    def make(kind, number, size=32, views=VIEWS["none"]):
        said = {"task": "t", "version": 1, "kind": "multiclass", "labels": LABELS, "identity": identity}
        if kind == "network":
            network, metadata = Tail(backbone.module, backbone.features), head_metadata(**said, output=PIXELS)
            sized = replace(backbone, input_size=size)
            data = network_onnx(sized, network, head_of(number), metadata=metadata)
            data = averaged(data, views) if len(views) > 1 else data
            return data, data
        split = split_at(backbone, 1)
        data = tail_onnx(
            split.tail, head_of(number), split.shape, metadata=head_metadata(**said, output=split.stage)
        )
        return data, averaged(model_onnx(prepared.onnx_path, data), views)

    return make


def publish(service, name, data, **version):
    """Store a file and make it the task's production, as a trainer does."""
    task = service.store.tasks.get("default", name)
    digest = hashlib.sha256(data).hexdigest()
    key = f"tenants/default/tasks/{task.id}/heads/{digest}.onnx"
    service.store.blobs.put_new(key, data)
    backbone = service.prepared.identity.digest
    said = {"head_digest": digest, "head_key": key, "head_bytes": len(data), "labels": LABELS}
    made = new_version(**said | {"backbone_digest": backbone} | version)
    service.store.runs.create("default", new_run(task, backbone_digest=backbone), now=time.time())
    run = service.store.runs.claim(60, 3)
    service.store.runs.publish(run.id, run.attempt, made, publish=True, reason="told to")


@pytest.fixture(scope="module")
def tasks(service, make):
    """Three networks, two of which average over flips, and a tail of four views; the whole files by name."""
    client, whole = service.client, {}
    for number, (kind, size, views) in enumerate(
        [
            ("network", 32, "none"),
            ("network", LARGE, "light"),
            ("network", LARGE, "heavy"),
            ("tail", 32, "heavy"),
        ]
    ):
        name = f"{kind}-{size}-{views}"
        assert client.post("/v1/tasks", json={"name": name, "kind": "multiclass"}).status_code == 201
        data, whole[name] = make(kind, number, size, VIEWS[views])
        how = {"backbone_output": PIXELS, "shares_backbone": False, "input_size": size}
        tail = {"backbone_output": "stem"}
        publish(service, name, data, views=VIEWS[views], **(how if kind == "network" else tail))
    return whole


def expected(service, whole, name, photos):
    """(N, 3): what the file from pixels answers, labels in order."""
    size = LARGE if str(LARGE) in name else 32
    declared = replace(service.prepared.identity.preprocessing, input_size=size)
    pixels = np.stack([decode_image(data, declared, max_pixels=10**6).pixels for data in photos])
    return onnxruntime.InferenceSession(whole[name]).run(["probabilities"], {PIXELS: pixels})[0]


def scores_of(predictions):
    rows = [{each["label"]: each["score"] for each in prediction["scores"]} for prediction in predictions]
    return np.array([[row[label] for label in LABELS] for row in rows])


PHOTOS = [photo(label, number, size=60) for label in ("red", "blue") for number in range(6)]


@pytest.mark.parametrize(
    ("name", "passes"),
    [("network-32-none", 0), ("network-48-light", 0), ("network-48-heavy", 0), ("tail-32-heavy", 4)],
)
def test_what_is_served_is_what_is_exported(client, service, tasks, name, passes):
    before = service.engine.images
    answer = client.post(f"/v1/tasks/{name}/predict", json={"input": [data_uri(each) for each in PHOTOS]})
    assert answer.status_code == 200, answer.text
    wanted = expected(service, tasks, name, PHOTOS)
    assert np.abs(scores_of(answer.json()["predictions"]) - wanted).max() < 1e-4
    assert np.ptp(wanted, axis=0).max() > 1e-3  # photos that all look alike would hide a mistake
    assert service.engine.images - before == passes * len(PHOTOS)


def test_a_fan_out_mixes_sizes_and_the_shared_backbone_is_passed_once(client, service, tasks, trained):
    before, images = service.engine.images, PHOTOS[:2]
    names = ["network-48-heavy", trained, "network-32-none", "nobody", "network-48-light"]
    body = {"tasks": names, "input": [data_uri(images[0]), "QUJD", data_uri(images[1])]}
    answer = client.post("/v1/predict", json=body)
    results = answer.json()["results"]
    assert answer.status_code == 207
    assert [result["task"] for result in results] == names
    assert results[3]["error"]["code"] == "unknown_task"
    for result in results[:3] + results[4:]:
        assert result["predictions"][1]["error"]["code"] == "unsupported_image"
    for place in (0, 2, 4):
        good = [results[place]["predictions"][row] for row in (0, 2)]
        assert np.abs(scores_of(good) - expected(service, tasks, names[place], images)).max() < 1e-4
    assert [results[1]["predictions"][row]["label"] for row in (0, 2)] == ["red", "red"]
    assert service.engine.images - before == 2


def test_images_are_decoded_once_a_size_whatever_the_number_of_tasks(client, service, tasks, trained):
    sizes = []
    decoder = client.app.state.parts.decoder

    class Counting(type(decoder)):
        def __init__(self):
            super().__init__(
                service.prepared.identity.preprocessing, threads=1, max_pixels=10**6, max_pending=9
            )

        def decode(self, data, input_size=None):
            sizes.append(input_size)
            return super().decode(data, input_size)

    counting = Counting()
    client.app.state.parts = replace(client.app.state.parts, decoder=counting)
    try:
        body = {"tasks": [*tasks, trained], "input": [data_uri(PHOTOS[0])]}
        assert client.post("/v1/predict", json=body).status_code == 200
    finally:
        client.app.state.parts = replace(client.app.state.parts, decoder=decoder)
        counting.close()
    assert sizes == [32, LARGE]


def test_an_image_that_is_bad_is_told_even_if_no_task_is_known(client):
    answer = client.post("/v1/predict", json={"tasks": ["nobody"], "input": ["QUJD"]})
    assert answer.status_code == 415


def test_a_damaged_network_fails_alone(client, service, tasks, new_task, make):
    name = new_task()
    data, _ = make("network", 9)
    how = {"backbone_output": PIXELS, "shares_backbone": False, "input_size": 32}
    publish(service, name, data[:2000], **how)
    answer = client.post(
        "/v1/predict", json={"tasks": [name, "network-32-none"], "input": data_uri(PHOTOS[0])}
    )
    bad, good = answer.json()["results"]
    assert answer.status_code == 207
    assert bad["error"]["code"] == "invalid_head"
    wanted = expected(service, tasks, "network-32-none", PHOTOS[:1])
    assert np.abs(scores_of(good["predictions"]) - wanted).max() < 1e-4


def misses():
    return REGISTRY.get_sample_value("polyhead_head_cache_total", {"outcome": "miss"}) or 0.0


def test_what_an_alias_pins_stays_in_memory_until_it_lets_go(open_service, make, tmp_path):
    with open_service(tmp_path, head_cache_entries=1, resolve_cache_s=0) as service:
        client = service.client
        for number, name in enumerate(("kept", "other", "third")):
            client.post("/v1/tasks", json={"name": name, "kind": "multiclass"})
            how = {"backbone_output": PIXELS, "shares_backbone": False, "input_size": 32}
            publish(service, name, make("network", number)[0], **how)

        def missed(*names):
            before = misses()
            for name in names:
                answer = client.post(f"/v1/tasks/{name}/predict", json={"input": data_uri(PHOTOS[0])})
                assert answer.status_code == 200, answer.text
            return misses() - before

        def pin(pinned):
            path = "/v1/tasks/kept/aliases/production"
            assert client.put(path, json={"version": 1, "pinned": pinned}).status_code == 200

        assert missed("kept", "other", "kept") == 3
        pin(pinned=True)
        assert missed("kept", "other", "third", "kept", "kept") == 2
        pin(pinned=False)
        assert missed("kept", "other", "kept") == 2
