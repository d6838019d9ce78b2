"""A batch's way through a CUDA device: one in software everywhere, and a real one where there is one."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import cuda
from models.cuda import MOST_CAPTURED, CudaPasses, buckets
from models.devices import cuda_devices
from models.errors import BackboneError, DeviceLost
from models.openvino_runtime import OpenVinoRuntime
from models.prepare import REQUIRED_COSINE, least_cosine
from models.torch_runtime import TorchRuntime
from tests.unit import cuda_in_software

SOFTWARE = "in software"
REAL = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(cuda_devices() == 0, reason="no CUDA device")],
)
WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4)


@pytest.fixture(params=[SOFTWARE, REAL])
def device(request, monkeypatch) -> torch.device:
    if request.param == SOFTWARE:
        cuda_in_software.install(monkeypatch)
        return torch.device("cpu")
    return torch.device("cuda", 0)


class Network:
    """Mean colour, projected; it counts how often Python ran it."""

    def __init__(self, device: torch.device) -> None:
        self.weight = WEIGHT.to(device)
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    def __call__(self, pixels: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        self.calls.append((len(pixels), tuple(outputs)))
        means = pixels.to(torch.float32).mean(dim=(1, 2))
        made = {"embedding": means @ self.weight, "stage": means}
        return {name: made[name] for name in outputs}


def expected(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels.mean(axis=(1, 2), dtype=np.float32) @ WEIGHT.numpy())


@pytest.fixture
def network(device) -> Network:
    return Network(device)


@pytest.fixture
def passes(device, network) -> CudaPasses:
    return CudaPasses("mean", device, network)


@pytest.fixture
def photos() -> Callable[[int], np.ndarray]:
    random = np.random.default_rng(7)
    return lambda rows: random.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)


def embedded(passes: CudaPasses, pixels: np.ndarray) -> np.ndarray:
    return passes.begin(pixels, ["embedding"]).outputs()["embedding"]


def test_buckets_are_powers_of_two_until_one_takes_all():
    assert buckets(1) == [1]
    assert buckets(8) == [1, 2, 4, 8]
    assert buckets(9) == [1, 2, 4, 8, 16]
    assert buckets(1000)[-1] == MOST_CAPTURED


def test_any_number_of_rows_is_answered_with_as_many(passes, photos):
    for rows in (3, 1, 8, 5, 2, MOST_CAPTURED, MOST_CAPTURED + 1, 3):
        pixels = photos(rows)
        assert np.allclose(embedded(passes, pixels), expected(pixels), atol=1e-3), rows


def test_a_bucket_is_captured_once_and_then_runs_without_python(passes, network, photos):
    embedded(passes, photos(5))
    calls = len(network.calls)
    for rows in (5, 6, 8, 7):
        embedded(passes, photos(rows))
    assert len(network.calls) == calls
    assert {rows for rows, _ in network.calls} == {8}


def test_a_pass_that_began_before_the_last_one_ended_changes_nothing_of_it(passes, photos):
    batches = [photos(rows) for rows in (4, 3, 4)]
    begun = []
    for pixels in batches:
        begun.append(passes.begin(pixels, ["embedding"]))
        begun[-1].wait_for_room()
    for pixels, each in zip(batches, begun, strict=True):
        assert np.allclose(each.outputs()["embedding"], expected(pixels), atol=1e-3)


def test_answers_are_the_callers_to_keep(passes, photos):
    pixels = photos(4)
    first = embedded(passes, pixels)
    embedded(passes, photos(4))
    assert np.allclose(first, expected(pixels), atol=1e-3)
    assert first.flags.owndata


def test_stages_run_without_a_graph_beside_those_with_one(passes, network, photos):
    pixels = photos(3)
    embedded(passes, pixels)
    made = passes.begin(pixels, ["stage", "embedding"]).outputs()
    assert list(made) == ["stage", "embedding"]
    assert np.allclose(made["embedding"], expected(pixels), atol=1e-3)
    assert network.calls[-1] == (3, ("stage", "embedding"))


def test_read_only_pixels_are_taken(passes, photos):
    pixels = photos(4)[::2]
    pixels.flags.writeable = False
    assert np.allclose(embedded(passes, pixels), expected(pixels), atol=1e-3)


def test_what_cannot_be_captured_runs_as_it_is_and_is_said_once(passes, photos, monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda.torch.cuda, "graph", refuse)
    for _ in range(2):
        pixels = photos(3)
        assert np.allclose(embedded(passes, pixels), expected(pixels), atol=1e-3)
    assert [record.getMessage() for record in caplog.records] == [
        "mean: 4 rows run without a graph: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize(
    ("thrown", "means"),
    [
        (torch.OutOfMemoryError, BackboneError),
        (RuntimeError, BackboneError),
        (torch.AcceleratorError, DeviceLost),
    ],
)
def test_an_error_of_the_device_is_one_of_ours_and_says_whether_it_is_lost(device, thrown, means, photos):
    def fail(pixels: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        error: RuntimeError = thrown.__new__(thrown, "CUDA error: it\nmore")
        error.args = ("CUDA error: it\nmore",)
        raise error

    with pytest.raises(BackboneError, match=r"^backbone mean: CUDA error: it$") as caught:
        CudaPasses("mean", device, fail).begin(photos(2), ["embedding"])
    assert type(caught.value) is means


def test_the_device_in_software_is_asked_as_torch_is():
    for name in ("Event", "Stream", "graph", "stream"):
        assert parameters(getattr(cuda_in_software, name)) <= parameters(getattr(torch.cuda, name)), name


def parameters(callable_: Any) -> set[str]:
    made_by = (callable_.__new__, callable_.__init__) if isinstance(callable_, type) else (callable_,)
    names = {name for each in made_by for name in inspect.signature(each).parameters}
    return names - {"self", "cls", "args", "kwargs"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_backbone_on_the_device_agrees_with_openvino(device, tiny, precision):
    runtime = TorchRuntime(replace(tiny, identity=replace(tiny.identity, precision=precision)), str(device))
    passes = CudaPasses("tiny", device, runtime._forward)
    reference = OpenVinoRuntime(tiny)
    for rows in (5, 8, 5):
        pixels = np.random.default_rng(rows).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        wanted = reference.run(pixels)["embedding"]
        assert least_cosine(embedded(passes, pixels), wanted) > REQUIRED_COSINE[precision]
