from dataclasses import replace
from io import BytesIO
from pathlib import Path

import elpv_dataset
import numpy as np
import openvino
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config

from models.devices import cuda_devices
from models.errors import BackboneError
from models.graph import traced
from models.openvino_runtime import OpenVinoRuntime
from models.prepare import BackboneConfig, least_cosine, prepare_backbone
from models.preprocess import decode_image
from models.runtime import open_runtime
from models.torch_runtime import TorchRuntime
from models.weights import find_weights, read_tensors, renamed_in_order

CELLS = Path(elpv_dataset.__file__).parent / "data" / "images"
TINY = "tests.networks:tiny"
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def jpeg(image):
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos():
    """JPEG files of solar cells, a palace and a flower, in odd sizes; libjpeg scales the large ones."""
    sizes = [(287, 263), (301, 399), (1203, 1101), (640, 481), (333, 501), (1601, 901)]
    cells = [Image.open(CELLS / f"cell{number:04}.png") for number in range(1, 2400, 200)]
    scenes = [Image.fromarray(image) for image in load_sample_images().images]
    images = [*cells, *(scene for scene in scenes for _ in range(3))]
    return [
        jpeg(image.resize(sizes[place % len(sizes)], Image.Resampling.BICUBIC))
        for place, image in enumerate(images)
    ]


def timm_network(name, folder):
    """timm's own network and, where there is no package, a file of its weights as initialised from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("tf_efficientnet_lite0" if name == "efficientnet_lite0" else name)
    if name == "efficientnet_lite0":
        path = None
        packaged = read_tensors(find_weights(name, None).path, name)
        network.load_state_dict(renamed_in_order(packaged, network.state_dict()))
    else:
        path = folder / f"{name}.safetensors"
        save_file(network.state_dict(), path)
    return network.eval(), path


def embedded_by_timm(network, photos):
    transform = create_transform(**resolve_data_config(model=network))
    images = torch.stack([transform(Image.open(BytesIO(data)).convert("RGB")) for data in photos])
    with torch.inference_mode():
        return network.forward_head(network.forward_features(images), pre_logits=True).numpy()


def decoded(photos, preprocessing):
    return np.stack([decode_image(data, preprocessing, max_pixels=10**7).pixels for data in photos])


def cosines(one, other):
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def lost(embeddings, expected):
    """1 minus the mean cosine of what is left without the mean embedding, which all images share.

    A network with random weights embeds every image nearly alike, so plain cosines would hide a mistake.
    """
    mean = expected.mean(axis=0)
    return 1 - cosines(embeddings - mean, expected - mean).mean()


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite0", "resnet18.tv_in1k", "test_resnet"],
    ids=["bicubic-0.875", "bilinear-imagenet-mean", "bilinear-0.95-160px"],
)
def test_embeddings_are_those_of_timms_transform_and_torch(name, photos, tmp_path, backbone_cache):
    """From file to embedding: lite0 with its real weights, the other two with seeded random ones."""
    network, weights = timm_network(name, tmp_path)
    prepared = prepare_backbone(BackboneConfig(name=name, weights=weights), backbone_cache)
    declared, runtime = prepared.identity.preprocessing, open_runtime(prepared)
    expected = embedded_by_timm(network, photos)

    pixels = decoded(photos, declared)
    embeddings = runtime.run(pixels)["embedding"]

    assert cosines(embeddings, expected).mean() >= 0.999
    assert cosines(embeddings, expected).min() >= 0.99

    # and by far nearer than with the slightest mistake, or the comparison couldn't fail
    other = {"bicubic": "bilinear", "bilinear": "bicubic"}[declared.interpolation]
    mistakes = {
        "crop": decoded(photos, replace(declared, crop_pct=1.0)),
        "interpolation": decoded(photos, replace(declared, interpolation=other)),
        "colours": pixels[..., ::-1],
    }
    for mistake, wrong in mistakes.items():
        off = lost(runtime.run(wrong)["embedding"], expected)
        assert lost(embeddings, expected) < off / 8, mistake


@pytest.fixture(scope="module")
def lite0(backbone_cache):
    return prepare_backbone(BackboneConfig(name="efficientnet_lite0"), backbone_cache)


@pytest.fixture(scope="module")
def pixels(lite0, photos):
    return decoded(photos[:5], lite0.identity.preprocessing)


def test_torch_gives_the_stages_pooled_where_they_are_asked_for(lite0, pixels):
    runtime, other = TorchRuntime(lite0, "cpu"), OpenVinoRuntime(lite0)
    assert list(runtime.run(pixels)) == ["embedding"]
    pooled = runtime.run(pixels, ("pooled",))["pooled"]
    np.testing.assert_allclose(pooled, other.run(pixels, ("pooled",))["pooled"], atol=1e-2)
    assert list(runtime.run(pixels)) == ["embedding"]


def test_a_cpu_runs_on_openvino_with_all_outputs_of_one_graph(lite0, pixels):
    runtime = open_runtime(lite0)
    names = ["embedding", *(stage.name for stage in lite0.identity.stages)]

    outputs = runtime.run(pixels, names)

    assert runtime.name == "openvino cpu"
    assert list(outputs) == names
    assert outputs["embedding"].shape == (5, 1280)
    assert all(outputs[stage.name].shape == (5, *stage.shape) for stage in lite0.identity.stages)
    assert all(output.dtype == np.float32 for output in outputs.values())
    assert (outputs["embedding"] == runtime.run(pixels)["embedding"]).all()


def test_an_embedding_does_not_depend_on_its_neighbours(lite0, pixels):
    """Bit for bit, at every batch size, so that a stored embedding and a served one are the same."""
    runtime = open_runtime(lite0)

    together = runtime.run(pixels)["embedding"]
    alone = np.concatenate([runtime.run(pixels[place : place + 1])["embedding"] for place in range(5)])

    assert (together == alone).all()


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_a_batch_that_threads_share_out_is_answered_in_order(threads, lite0, photos):
    """Whatever the number of threads and of rows, each part of a batch is what its rows alone give."""
    runtime = open_runtime(replace(lite0, config=replace(lite0.config, threads=threads)))
    pixels = decoded(photos[:9], lite0.identity.preprocessing)
    alone = np.concatenate([runtime.run(pixels[place : place + 1])["embedding"] for place in range(9)])

    for rows in range(1, 10):
        outputs = runtime.run(pixels[:rows], ("embedding", "blocks.5"))
        assert (outputs["embedding"] == alone[:rows]).all()
        assert len(outputs["blocks.5"]) == rows


@pytest.mark.parametrize(("first", "second"), [(8, 8), (8, 1), (1, 8), (3, 5), (1, 1)])
def test_passes_that_overlap_give_what_each_alone_does(first, second, tiny):
    """In whatever order they are asked about, and a failed one beside them changes nothing."""
    runtime = open_runtime(replace(tiny, config=replace(tiny.config, threads=2)))
    rng = np.random.default_rng(first + 10 * second)
    pixels = [rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8) for rows in (first, second, first)]
    alone = [runtime.run(each)["embedding"] for each in pixels]

    begun = [runtime.begin(each) for each in pixels]
    with pytest.raises(BackboneError):
        runtime.begin(np.zeros((second, 31, 32, 3), np.uint8)).outputs()
    for each in begun:
        each.wait_for_room()
    for place in (1, 0, 2):
        assert (begun[place].outputs()["embedding"] == alone[place]).all()


def test_pixels_that_are_refused_leave_it_as_it_was(tiny):
    runtime = open_runtime(replace(tiny, config=replace(tiny.config, threads=2)))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    before = runtime.run(pixels)["embedding"]

    for rows in (1, 8):
        with pytest.raises(BackboneError):
            runtime.run(np.zeros((rows, 31, 32, 3), np.uint8))

    assert (runtime.run(pixels)["embedding"] == before).all()


@pytest.mark.parametrize("rows", [1, 8])
def test_a_result_is_not_overwritten_by_the_next_run(rows, tiny):
    runtime = open_runtime(tiny)
    first = runtime.run(np.zeros((rows, 32, 32, 3), np.uint8))["embedding"]
    kept = first.copy()

    runtime.run(np.full((rows, 32, 32, 3), 255, np.uint8))

    assert (first == kept).all()


def test_read_only_and_strided_pixels_are_taken(tiny):
    """As they come out of a queue's memory, or of a slice."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    runtime, reference = open_runtime(tiny), TorchRuntime(tiny, device="cpu")
    frozen = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)

    assert (runtime.run(frozen)["embedding"] == runtime.run(pixels)["embedding"]).all()
    assert (runtime.run(pixels[::2])["embedding"] == runtime.run(pixels)["embedding"][::2]).all()
    assert np.allclose(reference.run(frozen)["embedding"], runtime.run(pixels)["embedding"], atol=1e-5)


@pytest.mark.parametrize("runtime", [OpenVinoRuntime, TorchRuntime])
def test_an_output_that_is_not_there_is_named(runtime, tiny):
    with pytest.raises(BackboneError, match="no output 'layer9', only embedding, stem, body"):
        runtime(tiny).run(np.zeros((1, 32, 32, 3), np.uint8), ["layer9"])


def test_pixels_of_another_size_are_an_error_of_ours(tiny):
    with pytest.raises(BackboneError):
        open_runtime(tiny).run(np.zeros((1, 31, 32, 3), np.uint8))


def test_a_damaged_graph_is_an_error_of_ours(tiny, tmp_path):
    path = tmp_path / "backbone.onnx"
    path.write_bytes(tiny.onnx_path.read_bytes()[:500])

    with pytest.raises(BackboneError):
        open_runtime(replace(tiny, onnx_path=path))


def test_torch_agrees_with_openvino(lite0, pixels):
    names = ["embedding", "blocks.5"]
    runtime = TorchRuntime(lite0, device="cpu")

    one, other = runtime.run(pixels, names), open_runtime(lite0).run(pixels, names)

    assert runtime.name == "torch cpu"
    assert list(one) == names
    assert all(np.allclose(one[name], other[name], atol=1e-4) for name in names)


def test_fp32_is_no_tf32_also_after_an_export(tiny):
    """Which sets what torch's exporter wants, and back."""
    TorchRuntime(tiny, device="cpu")
    traced(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(2, 3, 8, 8), "maps", ("made",))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_fp16_runs_on_torch_where_there_is_no_cuda_and_stays_close(lite0, pixels):
    half = replace(
        lite0,
        identity=replace(lite0.identity, precision="fp16"),
        config=replace(lite0.config, precision="fp16", device="cpu"),
    )

    runtime = open_runtime(half)

    assert runtime.name == "torch cpu"
    made, wanted = (each.run(pixels[:2])["embedding"] for each in (runtime, open_runtime(lite0)))
    assert 1e-5 < 1 - least_cosine(made, wanted) < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="no CUDA device")
def test_cuda_agrees_with_openvino(lite0, pixels):
    runtime = open_runtime(lite0)

    assert runtime.name == "torch cuda"
    assert np.allclose(
        runtime.run(pixels)["embedding"], OpenVinoRuntime(lite0).run(pixels)["embedding"], atol=1e-3
    )


def test_the_runtime_can_be_chosen(tiny):
    runtime = open_runtime(replace(tiny, config=replace(tiny.config, runtime="torch", threads=1)))

    assert runtime.name.startswith("torch")
    assert runtime.run(np.zeros((1, 32, 32, 3), np.uint8))["embedding"].shape == (1, 16)


def test_threads_are_limited_when_asked(tiny):
    runtime = open_runtime(replace(tiny, config=replace(tiny.config, threads=1)))

    assert runtime.run(np.zeros((3, 32, 32, 3), np.uint8))["embedding"].shape == (3, 16)


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_bf16_is_taken_when_asked_for_and_only_then(lite0, pixels):
    half = replace(lite0, identity=replace(lite0.identity, precision="bf16"))
    expected = TorchRuntime(lite0, device="cpu").run(pixels)["embedding"]

    full_apart, half_apart = (
        np.abs(open_runtime(prepared).run(pixels)["embedding"] - expected).max() for prepared in (lite0, half)
    )

    assert full_apart < 1e-4
    assert half_apart > 1e-2


@pytest.mark.skipif(HAS_BF16, reason="this CPU has bf16")
def test_bf16_is_refused_where_the_cpu_would_run_something_else(tiny):
    with pytest.raises(BackboneError, match="bf16 was asked for"):
        open_runtime(replace(tiny, identity=replace(tiny.identity, precision="bf16")))


def test_weights_that_changed_since_they_were_prepared_are_refused(tmp_path, backbone_cache):
    _, path = timm_network("test_resnet", tmp_path)
    prepared = prepare_backbone(BackboneConfig(name="test_resnet", weights=path), backbone_cache)
    save_file(timm.create_model("test_resnet").state_dict(), path)

    with pytest.raises(BackboneError, match="its weights changed"):
        TorchRuntime(prepared)
