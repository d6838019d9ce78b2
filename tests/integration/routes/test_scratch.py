"""A trunk whose feature maps are more than the scratch holds, while the pixels are not."""

import pytest

from tests.integration.routes.backbones import open_on

MAP = 64 * 8 * 8 * 2  # bytes of a view of an image, float16
PIXELS = 32 * 32 * 3  # bytes
EXAMPLES = 50
OPTIONS = {"strategy": "last_block", "epochs": 2, "batch_size": 16, "augmentation": "heavy"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    with open_on("tests.networks:wide", tmp_path_factory.mktemp("wide"), each=EXAMPLES // 2) as service:
        yield service


def trained(service, scratch_bytes, **options):
    answer = service.client.post("/v1/tasks/colours/runs", json=OPTIONS | {"force": True} | options)
    assert answer.status_code == 202, answer.text
    before = service.settings
    service.settings = before.model_copy(update={"scratch_bytes": scratch_bytes})
    run = service.work()
    service.settings = before
    assert run.state == "succeeded", run.error
    return service.client.get(f"/v1/tasks/colours/versions/{run.version}").json()


def served(service, version):
    answer = service.client.get(f"/v1/tasks/colours/versions/{version['version']}/mistakes")
    assert answer.status_code == 200
    return answer.json()["data"]


def test_recomputed_maps_train_what_cached_ones_do(wide):
    """To the last bit: the same maps, read from the disk or computed whenever they are."""
    cached = trained(wide, EXAMPLES * MAP * 4)
    recomputed = trained(wide, EXAMPLES * PIXELS)
    maps = recomputed["decision"]["feature_maps"]
    assert maps["recomputed"]
    assert (maps["views"], maps["left_out"]) == (cached["decision"]["feature_maps"]["views"], [])
    assert maps["bytes"] == EXAMPLES * PIXELS
    assert not cached["decision"]["feature_maps"]["recomputed"]
    assert recomputed["history"] == cached["history"]
    assert recomputed["metrics"] == cached["metrics"]
    assert {"decoding", "mapping"} & recomputed["decision"]["seconds"].keys() == {"decoding"}
    assert recomputed["decision"]["parity"].keys() == {"head", "model"}


def test_one_view_that_fits_is_cached(wide):
    maps = trained(wide, EXAMPLES * MAP)["decision"]["feature_maps"]
    assert (maps["recomputed"], maps["views"]) == (False, ["as it is"])
    assert maps["left_out"] == ["left-right", "top-bottom", "both"]


def test_answers_are_averaged_over_the_views_that_fitted(wide):
    version = trained(wide, EXAMPLES * MAP * 2, average_flips=True)
    assert (version["views"], version["passes"]) == (["as it is", "left-right"], 2)
    assert version["decision"]["parity"]["model"] <= 1e-4


def test_a_trainer_with_less_scratch_than_the_server_ends_the_run_with_a_reason(wide):
    wide.client.post("/v1/tasks/colours/runs", json=OPTIONS | {"force": True})
    before = wide.settings
    wide.settings = before.model_copy(update={"scratch_bytes": EXAMPLES * PIXELS - 1})
    run = wide.work()
    wide.settings = before
    assert (run.state, run.error["code"]) == ("failed", "invalid_option")
    assert "POLYHEAD_SCRATCH_BYTES" in run.error["detail"]
