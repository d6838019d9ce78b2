import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from models.domain import FILE as CLASSIFIER
from models.domain import read_classifier
from models.errors import BackboneError, ReferenceMismatch
from models.identity import BackboneIdentity
from models.prepare import BackboneConfig, check_reference, least_cosine, prepare_backbone
from models.reference import IMAGES, recorded_embeddings, reference_pixels
from models.runtime import open_runtime
from models.torch_runtime import TorchRuntime

LITE0 = BackboneConfig(name="efficientnet_lite0")
TINY = BackboneConfig(name="tests.networks:tiny")
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def lite0(backbone_cache):
    return prepare_backbone(LITE0, backbone_cache)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A local file for `test_resnet`, timm's smallest."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small(weights, backbone_cache):
    config = BackboneConfig(name="test_resnet", weights=weights)
    return prepare_backbone(config, backbone_cache)


@pytest.fixture
def copied(small, backbone_cache, tmp_path):
    """A cache of its own that holds `small`, to be damaged."""
    return shutil.copytree(backbone_cache, tmp_path / "cache")


def test_the_graph_takes_pixels_and_gives_the_embedding_and_every_stage(lite0):
    model = onnx.load(lite0.onnx_path)
    sizes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }

    onnx.checker.check_model(model, full_check=True)
    assert sizes.pop("pixels") == ["batch", 224, 224, 3]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert sizes.pop("embedding") == ["batch", 1280]
    assert sizes == {stage.name: ["batch", *stage.shape] for stage in lite0.identity.stages}


def test_the_graph_is_readable_by_onnxruntime_and_says_whose_it_is(lite0):
    model = onnx.load(lite0.onnx_path)
    said = {prop.key: prop.value for prop in model.metadata_props}

    assert model.ir_version == 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert said["backbone_digest"] == lite0.identity.digest
    assert BackboneIdentity.from_json(said["polyhead_backbone"]) == lite0.identity


def test_the_graph_does_not_tell_of_the_machine_that_made_it(lite0):
    """It is downloaded by users."""
    assert b"site-packages" not in lite0.onnx_path.read_bytes()


def test_the_graph_lies_in_a_folder_named_by_the_digest(lite0, backbone_cache):
    assert lite0.onnx_path == backbone_cache / lite0.identity.digest / "backbone.onnx"


def test_the_default_backbone_agrees_with_its_packaged_reference(lite0):
    runtime = open_runtime(lite0)

    check_reference(runtime, lite0)

    embeddings = runtime.run(reference_pixels(lite0.identity.preprocessing))["embedding"]
    assert least_cosine(embeddings, recorded_embeddings("efficientnet_lite0")) > 0.99999


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_bf16_has_a_digest_and_a_tolerance_of_its_own(lite0, backbone_cache):
    half = prepare_backbone(replace(LITE0, precision="bf16"), backbone_cache)

    check_reference(open_runtime(half), half)

    assert half.identity.precision == "bf16"
    assert half.identity.digest != lite0.identity.digest


class Swapped:
    """A runtime that takes BGR for RGB: the most common silent mistake."""

    def __init__(self, runtime):
        self.identity, self.name, self._runtime = runtime.identity, "swapped", runtime

    def run(self, pixels, outputs=("embedding",)):
        return self._runtime.run(np.ascontiguousarray(pixels[..., ::-1]), outputs)


def test_a_runtime_that_computes_something_else_is_refused(lite0):
    with pytest.raises(ReferenceMismatch, match="backbone efficientnet_lite0: a reference image's embedding"):
        check_reference(Swapped(open_runtime(lite0)), lite0)


def test_other_weights_under_the_default_name_are_held_against_their_own_reference(backbone_cache, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "mine.safetensors")
    mine = prepare_backbone(replace(LITE0, weights=tmp_path / "mine.safetensors"), backbone_cache)

    check_reference(open_runtime(mine), mine)

    assert mine.identity.name == "efficientnet_lite0"
    assert mine.identity.licence == "unknown"
    with pytest.raises(ReferenceMismatch):
        check_reference(open_runtime(mine), replace(mine, config=LITE0))


def logits_of(network, pixels, preprocessing):
    """What timm's own network answers, its classifier included."""
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(images)).numpy()


def test_the_pretraining_classifier_is_kept_beside_the_graph(small, weights):
    """It is the network's own: on embeddings it gives the network's logits."""
    pixels = reference_pixels(small.identity.preprocessing)
    classifier = read_classifier(small.onnx_path)
    embeddings = open_runtime(small).run(pixels)["embedding"]
    network = timm.create_model("test_resnet")
    network.load_state_dict(load_file(weights))

    expected = logits_of(network, pixels, small.identity.preprocessing)

    assert classifier.weight.dtype == classifier.bias.dtype == np.float32
    assert embeddings @ classifier.weight.T + classifier.bias == pytest.approx(expected, abs=1e-4)


def test_the_packaged_weights_have_their_classifier(lite0):
    classifier = read_classifier(lite0.onnx_path)
    assert (classifier.weight.shape, classifier.bias.shape) == ((1000, 1280), (1000,))


def test_a_network_of_ones_own_has_none(backbone_cache):
    prepared = prepare_backbone(TINY, backbone_cache)
    assert read_classifier(prepared.onnx_path) is None


def test_weights_without_their_classifier_are_served_all_the_same(weights, tmp_path):
    """And those with it add it later: it is no part of the digest."""
    tensors = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("fc.")}
    save_file(tensors, tmp_path / "features.safetensors")
    features = BackboneConfig(name="test_resnet", weights=tmp_path / "features.safetensors")
    without = prepare_backbone(features, tmp_path / "cache")
    assert read_classifier(without.onnx_path) is None

    whole = prepare_backbone(replace(features, weights=weights), tmp_path / "cache")

    assert whole.identity.digest == without.identity.digest
    assert read_classifier(whole.onnx_path) is not None


def test_a_classifier_of_few_classes_says_nothing_of_the_pretraining(tmp_path):
    """As of weights that were fine-tuned to ten classes before."""
    network = timm.create_model("test_resnet", num_classes=10)
    save_file(network.state_dict(), tmp_path / "ten.safetensors")
    config = BackboneConfig(name="test_resnet", weights=tmp_path / "ten.safetensors")

    assert read_classifier(prepare_backbone(config, tmp_path / "cache").onnx_path) is None


def test_a_cache_from_before_classifiers_were_kept_is_upgraded_silently(small, copied):
    folder = copied / small.identity.digest
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][CLASSIFIER]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / CLASSIFIER).unlink()

    again = prepare_backbone(small.config, copied)

    assert again.identity == small.identity
    assert read_classifier(again.onnx_path) is not None


@pytest.mark.parametrize("name", ["tests.networks:tiny", "tests.unit.networks:grey"])
def test_a_network_of_ones_own_is_prepared_and_checked(name, backbone_cache):
    prepared = prepare_backbone(BackboneConfig(name=name), backbone_cache)

    check_reference(open_runtime(prepared), prepared)
    check_reference(TorchRuntime(prepared, device="cpu"), prepared)


def test_the_reference_of_a_local_file_is_what_torch_gave(small):
    runtime = open_runtime(small)
    check_reference(runtime, small)

    stored = small.onnx_path.with_name("reference.npy")
    altered = np.load(stored)[::-1]
    np.save(stored, altered)

    with pytest.raises(ReferenceMismatch):
        check_reference(runtime, small)
    np.save(stored, altered[::-1])


@pytest.mark.parametrize(
    ("embeddings", "cosine"),
    [
        ([[2, 0], [0, 3]], 1.0),
        ([[0, 1], [0, 1]], 0.0),
        ([[1, 0], [0, 0]], 0.0),
        ([[1, 0]], -1.0),
        ([[1, 0], [0, np.nan]], -1.0),
    ],
    ids=["longer", "turned", "zeros", "other-shape", "nan"],
)
def test_the_least_cosine_counts(embeddings, cosine):
    expected = np.array([[1, 0], [0, 1]], np.float32)

    assert least_cosine(np.array(embeddings, np.float32), expected) == pytest.approx(cosine)


def test_images_embedded_as_zeros_agree_with_zeros():
    assert least_cosine(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)) == 1


def test_a_warm_start_does_not_import_torch(lite0, small, backbone_cache):
    program = (
        "import sys; from pathlib import Path\n"
        "from models.prepare import BackboneConfig, check_reference, prepare_backbone\n"
        "from models.runtime import open_runtime\n"
        "cache, file = map(Path, sys.argv[1:])\n"
        "for config in (BackboneConfig(name='tf_efficientnet_lite0', runtime='openvino'),\n"
        "               BackboneConfig(name='test_resnet', weights=file, runtime='openvino')):\n"
        "    prepared = prepare_backbone(config, cache)\n"
        "    check_reference(open_runtime(prepared), prepared)\n"
        "    print(prepared.identity.digest, 'torch' in sys.modules)\n"
    )
    weights = small.config.weights

    done = subprocess.run(
        [sys.executable, "-c", program, backbone_cache, weights], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == [f"{lite0.identity.digest} False", f"{small.identity.digest} False"]
    assert done.stderr == ""


def test_a_cold_start_is_quiet(tmp_path):
    """The exporter's progress notes and its warnings about itself are nobody's business."""
    program = (
        "import sys; from pathlib import Path\n"
        "from models.prepare import BackboneConfig, prepare_backbone\n"
        "prepare_backbone(BackboneConfig(name='tests.networks:tiny'), Path(sys.argv[1]))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [("backbone.onnx", "cut"), ("reference.npy", "gone"), ("manifest.json", "cut"), (CLASSIFIER, "cut")],
)
def test_a_damaged_entry_is_made_again(damaged, damage, small, copied):
    path = copied / small.identity.digest / damaged
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2]) if damage == "cut" else path.unlink()

    again = prepare_backbone(small.config, copied)

    assert again.identity == small.identity
    assert len(path.read_bytes()) == len(whole)
    check_reference(open_runtime(again), again)


def test_a_damaged_request_is_answered_again(small, copied):
    for request in (copied / "requests").iterdir():
        request.write_text("{}")

    assert prepare_backbone(small.config, copied).identity == small.identity


def test_what_a_killed_export_left_is_swept_away(small, copied):
    left = copied / "building-killed"
    left.mkdir()
    (left / "backbone.onnx").write_bytes(b"half")
    (copied / small.identity.digest / "manifest.json").unlink()

    prepare_backbone(small.config, copied)

    assert not left.exists()
    assert not list(copied.glob("building-*"))


def test_changed_bytes_of_a_file_are_seen_under_the_same_path(weights, backbone_cache, tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.copy(weights, path)
    config = BackboneConfig(name="test_resnet", weights=path)
    before = prepare_backbone(config, backbone_cache).identity

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        save_file(timm.create_model("test_resnet").state_dict(), path)

    assert prepare_backbone(config, backbone_cache).identity.digest != before.digest


def test_processes_that_prepare_the_same_at_once_agree(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from models.prepare import BackboneConfig, check_reference, prepare_backbone\n"
        "from models.runtime import open_runtime\n"
        "prepared = prepare_backbone(BackboneConfig(name='tests.networks:tiny'), Path(sys.argv[1]))\n"
        "check_reference(open_runtime(prepared), prepared)\n"
        "print(prepared.identity.digest)\n"
    )

    racing = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = {process.communicate()[0].strip() for process in racing}

    assert [process.returncode for process in racing] == [0, 0]
    assert len(digests) == 1
    assert (tmp_path / digests.pop() / "manifest.json").exists()


def test_code_that_changed_under_the_same_weights_is_refused_until_it_says_so(backbone_cache):
    """Equal digests mean interchangeable embeddings, and the weights alone don't tell."""
    before = prepare_backbone(TINY, backbone_cache).identity

    with pytest.raises(BackboneError, match="give its `features` another name"):
        prepare_backbone(BackboneConfig(name="tests.unit.networks:rewritten"), backbone_cache)

    said = prepare_backbone(BackboneConfig(name="tests.unit.networks:rewritten_and_said"), backbone_cache)
    assert said.identity.weights_digest == before.weights_digest
    assert said.identity.digest != before.digest


def test_a_cache_folder_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(BackboneError, match=r"the cache folder .* can't be used: Not a directory"):
        prepare_backbone(LITE0, tmp_path / "file" / "cache")


def test_reference_images_take_every_path_of_the_decoder():
    """Types, and an upright size that differs from the stored one."""
    assert {name.rpartition(".")[2] for name in IMAGES} == {"jpg", "png", "webp"}
    assert recorded_embeddings("efficientnet_lite0").shape == (len(IMAGES), 1280)
