import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from models.averaging import averaged
from models.errors import ExportError
from models.export import check_parity, head_metadata, head_onnx, model_onnx
from models.graph import PixelGraph, export_onnx, identify
from models.head import LinearHead, answers
from models.tail import Tail, split_at
from models.tuned_export import expected, expected_of_network, network_onnx, tail_onnx
from models.views import flipped, views_of
from tests.unit.ladder import family
from tests.unit.test_last_block import normed

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("multiclass", "multilabel", "regression")


def head_of(kind, width, outputs=3):
    rng = np.random.default_rng(0)
    outputs = 1 if kind == "regression" else outputs
    return LinearHead(
        kind=kind,
        labels=tuple("abc"[:outputs]) if kind != "regression" else (),
        weight=rng.normal(size=(outputs, width)).astype(np.float32),
        bias=rng.normal(size=outputs).astype(np.float32),
    )


def images(backbone, count=5):
    shape = (count, backbone.input_size, backbone.input_size, backbone.channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


class Exported:
    def __init__(self, folder, kind, backbone=None):
        self.backbone = backbone or normed()
        self.identity = identify(self.backbone, "fp32")
        self.path = folder / "backbone.onnx"
        export_onnx(self.backbone, self.identity, self.path)
        self.split = split_at(self.backbone, 1)
        self.head = head_of(kind, self.identity.embedding_dim)
        self.metadata = head_metadata(
            task="scans",
            version=1,
            kind=kind,
            labels=self.head.labels,
            identity=self.identity,
            output=self.split.stage,
        )
        self.tail = tail_onnx(self.split.tail, self.head, self.split.shape, metadata=self.metadata)

    def logits(self, pixels):
        with torch.inference_mode():
            embedding = PixelGraph(self.backbone).eval()(torch.from_numpy(pixels))[0]
        return self.head.logits(embedding.numpy())


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("tail"), request.param)


def test_a_tails_file_answers_as_torch_does_for_any_number_of_rows(case):
    model = onnx.load_from_string(case.tail)
    assert [each.name for each in model.graph.input] == ["feature_map"]
    assert {entry.key: entry.value for entry in model.metadata_props}["backbone_output"] == "stem"
    for count in (1, 2, 7):
        maps = torch.rand(count, *case.split.shape, generator=torch.Generator().manual_seed(count))
        assert check_parity(case.tail, maps.numpy(), expected(case.split.tail, case.head, maps)) < 1e-4


def test_backbone_and_tail_in_one_file_answer_from_pixels(case):
    whole = model_onnx(case.path, case.tail)
    pixels = images(case.backbone)

    assert [each.name for each in onnx.load_from_string(whole).graph.input] == ["pixels"]
    assert check_parity(whole, pixels, answers(case.head.kind, case.logits(pixels))) < 1e-4


def test_a_file_may_answer_with_the_mean_over_flips(case):
    views = views_of("heavy")
    whole = averaged(model_onnx(case.path, case.tail), views)
    pixels = images(case.backbone)
    mean = np.mean([case.logits(flipped(pixels, view)) for view in views], axis=0)

    assert check_parity(whole, pixels, answers(case.head.kind, mean)) < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(whole).metadata_props}
    assert (metadata["passes"], metadata["task"]) == ("4", "scans")


def test_a_linear_heads_file_may_answer_with_the_mean_over_flips_too(case):
    metadata = case.metadata | {"backbone_output": "embedding"}
    whole = averaged(
        model_onnx(case.path, head_onnx(case.head, metadata=metadata)), ("as it is", "left-right")
    )
    pixels = images(case.backbone)
    mean = (case.logits(pixels) + case.logits(flipped(pixels, "left-right"))) / 2

    assert check_parity(whole, pixels, answers(case.head.kind, mean)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_its_own_is_one_file_from_pixels(kind):
    backbone = normed()
    identity = identify(backbone, "fp32")
    head = head_of(kind, identity.embedding_dim)
    metadata = head_metadata(task="scans", version=1, kind=kind, labels=head.labels, identity=identity)
    data = network_onnx(backbone, Tail(backbone.module, backbone.features), head, metadata=metadata)
    pixels = images(backbone)
    with torch.inference_mode():
        embedding = PixelGraph(backbone)(torch.from_numpy(pixels))[0].numpy()

    assert check_parity(data, pixels, head.predict(embedding)) < 1e-4


@pytest.mark.parametrize("name", ["efficientnet", "vit", "swin"])
def test_a_tail_of_every_kind_of_network_is_exported(name):
    backbone = family(name)
    split = split_at(backbone, 1)
    identity = identify(backbone, "fp32")
    head = head_of("multiclass", identity.embedding_dim)
    metadata = head_metadata(
        task="t", version=1, kind="multiclass", labels=head.labels, identity=identity, output=split.stage
    )
    data = tail_onnx(split.tail, head, split.shape, metadata=metadata)
    maps = torch.randn(3, *split.shape, generator=torch.Generator().manual_seed(0))

    assert check_parity(data, maps.numpy(), expected(split.tail, head, maps)) < 1e-4


def test_a_tail_alone_has_no_pixels_to_flip(case):
    with pytest.raises(ExportError, match="takes pixels"):
        averaged(case.tail, views_of("light"))


def test_a_network_of_its_own_may_answer_with_the_mean_over_flips():
    backbone = normed()
    identity = identify(backbone, "fp32")
    head = head_of("multiclass", identity.embedding_dim)
    network, views = Tail(backbone.module, backbone.features), views_of("heavy")
    metadata = head_metadata(
        task="t", version=1, kind="multiclass", labels=head.labels, identity=identity, output="pixels"
    )
    alone = network_onnx(backbone, network, head, metadata=metadata)
    pixels = images(backbone)
    mean = expected_of_network(backbone, network, head, pixels, views)

    assert check_parity(averaged(alone, views), pixels, mean) < 1e-4
    assert np.abs(mean - expected_of_network(backbone, network, head, pixels)).max() > 1e-3


def test_averaging_loads_no_torch():
    """The HTTP process composes model.onnx with it."""
    code = "import models.averaging, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
