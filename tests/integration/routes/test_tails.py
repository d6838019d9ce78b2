"""A task with a tail of its own, beside tasks with heads: asked for, trained, served and downloaded."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from models.errors import NoTail
from models.head import answers
from models.preprocess import decode_image
from models.tails import Tails
from models.views import flipped
from service.schemas.runs import CreateRun
from service.web.planning import plan
from tests.integration.routes.photos import encoded, files, photo

OPTIONS = {"strategy": "last_block", "epochs": 3, "warmup_epochs": 1, "lr": 5e-3, "batch_size": 16}
TAIL = 8 * 16 * 2 * 2 + 16  # parameters of the tiny backbone's body


def striped(label, number):
    """Noise that brightens along one axis: by its colours alone, either is as likely."""
    rng = np.random.default_rng([number, *label.encode()])
    ramp = np.kron([60.0, 180.0] * 5, np.ones(4))
    pixels = (ramp[:, None] if label == "lying" else ramp[None, :])[..., None] + rng.normal(
        0, 30, (40, 40, 3)
    )
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "PNG")


@pytest.fixture(scope="module")
def stripes(service):
    """Version 1 is a head, version 2, in production, a tail."""
    client = service.client
    client.post("/v1/tasks", json={"name": "stripes", "kind": "multiclass"})
    for label in ("lying", "standing"):
        images = files(*(striped(label, number) for number in range(30)))
        answer = client.post("/v1/tasks/stripes/examples", files=images, data={"label": label})
        assert answer.status_code == 201, answer.text
    for body in ({}, OPTIONS | {"publish": "always"}):
        answer = client.post("/v1/tasks/stripes/runs", json=body)
        assert answer.status_code == 202, answer.text
        run = service.work()
        assert run.state == "succeeded", run.error
    return "stripes"


def version_of(client, number):
    return client.get(f"/v1/tasks/stripes/versions/{number}").json()


def pixels_of(service, data):
    preprocessing = service.prepared.identity.preprocessing
    return np.stack([decode_image(each, preprocessing, max_pixels=10**6).pixels for each in data])


def session_of(client, file, number=2):
    answer = client.get(f"/v1/tasks/stripes/versions/{number}/{file}.onnx")
    assert answer.status_code == 200, answer.text
    return onnxruntime.InferenceSession(answer.content)


def served(client, data, path="/v1/tasks/stripes/predict"):
    answer = client.post(path, files=files(*data))
    assert answer.status_code == 200, answer.text
    return answer.json()


def scores_of(predictions):
    """(N, 2): lying, standing."""
    rows = [{each["label"]: each["score"] for each in prediction["scores"]} for prediction in predictions]
    return np.array([[row["lying"], row["standing"]] for row in rows])


def test_a_version_says_what_it_consumes_and_what_was_trained(client, service, stripes):
    head, tail = version_of(client, 1), version_of(client, 2)
    assert (head["backbone_output"], tail["backbone_output"]) == ("embedding", "stem")
    assert (tail["strategy"], tail["shares_backbone"]) == ("last_block", True)
    assert tail["trainable_parameters"] == TAIL + 2 * 17
    assert tail["decision"]["parameters"]["by_name"]["network.body.0.weight"] == 512
    assert tail["decision"]["feature_maps"]["views"] == ["as it is", "left-right"]
    assert set(tail["decision"]["parity"]) == {"head", "model"}
    assert max(tail["decision"]["parity"].values()) <= 1e-4
    assert not list(service.settings.resolved_scratch_dir.iterdir())


def test_what_is_served_is_what_is_exported(client, service, stripes):
    data = [striped(label, 100 + number) for label in ("lying", "standing") for number in range(3)]
    pixels = pixels_of(service, data)
    expected = scores_of(served(client, data)["predictions"])
    (whole,) = session_of(client, "model").run(["probabilities"], {"pixels": pixels})
    maps = service.engine._runtime.run(pixels, ("stem",))["stem"]
    (alone,) = session_of(client, "head").run(["probabilities"], {"feature_map": maps})
    assert np.abs(whole - expected).max() <= 1e-4
    assert np.abs(alone - expected).max() <= 1e-4


def test_a_mean_over_flips_is_in_the_file_that_begins_at_the_pixels(client, service, stripes):
    options = OPTIONS | {"average_flips": True, "augmentation": "heavy", "epochs": 1, "publish": "never"}
    client.post("/v1/tasks/stripes/runs", json=options)
    run = service.work()
    assert run.state == "succeeded", run.error
    version = version_of(client, run.version)
    views = ["as it is", "left-right", "top-bottom", "both"]
    assert (version["views"], version["passes"]) == (views, 4)
    assert version["decision"]["parity"]["model"] <= 1e-4
    pixels = pixels_of(service, [striped("lying", 400), striped("standing", 401)])
    head, whole = (session_of(client, file, run.version) for file in ("head", "model"))
    said = [each.get_modelmeta().custom_metadata_map for each in (head, whole)]
    assert [each["passes"] for each in said] == ["1", "4"]
    assert {each["views"] for each in said} == {", ".join(views)}
    logits = []
    for view in views:
        maps = service.engine._runtime.run(flipped(pixels, view), ("stem",))["stem"]
        logits.append(head.run(["logits"], {"feature_map": maps})[0])
    mean, scores = whole.run(["logits", "probabilities"], {"pixels": pixels})
    np.testing.assert_allclose(mean, np.mean(logits, axis=0), atol=1e-4)
    np.testing.assert_allclose(scores, answers("multiclass", np.mean(logits, axis=0)), atol=1e-4)
    assert np.abs(mean - logits[0]).max() > 0.1


def test_heads_and_tails_share_one_pass(client, service, stripes, trained):
    data = [striped("lying", 200)]
    before, passes = service.engine.images, len(service.engine.asked)
    answer = client.post("/v1/predict", files=files(*data), data={"tasks": [stripes, trained]})
    assert [each["version"] for each in answer.json()["results"]] == [2, 1]
    assert service.engine.images == before + 1
    assert service.engine.asked[passes:] == [("embedding", "stem")]
    served(client, data)
    assert service.engine.asked[-1] == ("stem",)


def test_mistakes_reuse_and_rollback_are_as_with_heads(client, service, stripes):
    assert client.get("/v1/tasks/stripes/versions/2/mistakes").status_code == 200
    # spelt out or left to its default, an option is the same
    again = client.post("/v1/tasks/stripes/runs", json=OPTIONS | {"blocks": 1, "average_flips": False}).json()
    assert (again["reused"], again["version"]) == (True, 2)
    data = [striped("lying", 300)]
    tail = served(client, data)
    client.put("/v1/tasks/stripes/aliases/production", json={"version": 1})
    assert served(client, data)["version"] == 1
    client.put("/v1/tasks/stripes/aliases/production", json={"version": 2})
    assert served(client, data)["predictions"] == tail["predictions"]


def test_if_better_holds_a_tail_against_the_head(client, service, stripes):
    client.post("/v1/tasks/stripes/runs", json=OPTIONS | {"seed": 1, "epochs": 0, "publish": "if_better"})
    run = service.work()
    assert run.state == "succeeded", run.error
    assert "shared examples" in run.published_reason


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"blocks": 2}, "/blocks"),
        ({"blocks": 0}, "/blocks"),
        ({"epochs": -1}, "/epochs"),
        ({"epochs": None}, "/epochs"),
        ({"lr": 0}, "/lr"),
        ({"lr": "fast"}, "/lr"),
        ({"max_seconds": 0.5}, "/max_seconds"),
        ({"augmentation": "wild"}, "/augmentation"),
        ({"average_flips": "often"}, "/average_flips"),
        ({"unfreeze_every": 2}, "/unfreeze_every"),
        ({"input_size": 64}, "/input_size"),
        ({"strategy": "finetune", "input_size": 15}, "/input_size"),
        ({"strategy": "finetune", "input_size": 4096}, "/input_size"),
        ({"strategy": "finetune", "unfreeze_every": 0}, "/unfreeze_every"),
        ({"strategy": "finetune", "pretrained": "no idea"}, "/pretrained"),
        ({"strategy": "finetune", "blocks": 1}, "/blocks"),
        ({"strategy": "head", "lr": 0.1}, "/lr"),
    ],
)
def test_bad_options_are_refused_before_anything_is_queued(client, taught, fields, pointer):
    answer = client.post(f"/v1/tasks/{taught}/runs", json={"strategy": "last_block"} | fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(f"/v1/tasks/{taught}/runs").json()["data"] == []


def test_an_lr_that_is_no_number_is_refused(client, taught):
    body = '{"strategy": "last_block", "lr": NaN}'
    answer = client.post(
        f"/v1/tasks/{taught}/runs", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)


def test_a_backbone_without_a_tail_says_why(service, client, taught):
    none = Tails(backbone="tiny", offered=(), why_not={}, reason="no output of a stage is served")
    parts = replace(client.app.state.parts, tails=none)
    with pytest.raises(NoTail, match="no output of a stage"):
        plan(parts, service.store.tasks.get("default", taught), CreateRun(strategy="last_block"))


def test_feature_maps_beyond_the_scratch_are_refused(open_service, tmp_path):
    with open_service(tmp_path, scratch_bytes=1000) as service:
        client = service.client
        client.post("/v1/tasks", json={"name": "red-blue", "kind": "multiclass"})
        for label in ("red", "blue"):
            images = files(*(photo(label, number) for number in range(3)))
            client.post("/v1/tasks/red-blue/examples", files=images, data={"label": label})
        answer = client.post("/v1/tasks/red-blue/runs", json={"strategy": "last_block"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_option")
    assert "POLYHEAD_SCRATCH_BYTES" in answer.json()["detail"]


def test_a_dry_run_says_what_would_train(client, taught):
    plan = client.post(f"/v1/tasks/{taught}/runs", json={"strategy": "last_block", "dry_run": True}).json()
    assert plan["trainable_parameters"] == TAIL + 2 * 17
    assert plan["options"]["blocks"] == 1
    assert plan["options"]["augmentation"] == "light"
    head = client.post(f"/v1/tasks/{taught}/runs", json={"dry_run": True}).json()
    assert head["trainable_parameters"] == 2 * 17
