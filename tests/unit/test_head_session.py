"""Heads and networks of tasks, from the files that are served."""

import json
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import head_session
from models.averaging import averaged
from models.backbone import build_backbone
from models.devices import cuda_devices
from models.errors import BackboneMismatch, InvalidHead
from models.export import head_metadata, head_onnx
from models.graph import embed
from models.head import LinearHead, answers
from models.head_session import HeadSession
from models.tail import Tail
from models.tuned_export import network_onnx
from models.views import flipped

DIGEST = "d" * 64


def head(*, backbone_digest=DIGEST, output="probabilities", metadata=True):
    """Two classes on embeddings of three numbers, written by hand."""
    weight = numpy_helper.from_array(np.array([[1, 0], [0, 1], [0, 0]], np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["embedding", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [output], axis=1),
        ],
        "head",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if metadata:
        said = {"backbone_digest": backbone_digest, "labels": json.dumps(["cat", "dög"])}
        helper.set_model_props(model, said)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_head_answers_each_row():
    session = HeadSession(head(), DIGEST)

    scores = session.run(np.array([[0, 0, 9], [np.log(3), 0, 0]], np.float32))

    assert scores.dtype == np.float32
    assert np.allclose(scores, [[0.5, 0.5], [0.75, 0.25]])
    assert session.labels == ("cat", "dög")


def test_a_head_of_another_backbone_is_refused_with_what_to_do():
    with pytest.raises(BackboneMismatch, match="train the task again") as caught:
        HeadSession(head(backbone_digest="e" * 64), DIGEST)

    assert (caught.value.fitted_on, caught.value.serving) == ("e" * 64, DIGEST)


@pytest.mark.parametrize(
    "data",
    [b"", b"no model", head()[:60], head(output="classes"), head(metadata=False)],
    ids=["empty", "text", "truncated", "other-output", "no-metadata"],
)
def test_a_file_that_is_no_head_is_refused(data):
    with pytest.raises(InvalidHead):
        HeadSession(data, DIGEST)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (0, 2)])
def test_embeddings_of_another_size_are_refused(shape):
    with pytest.raises(InvalidHead, match="refuses embeddings"):
        HeadSession(head(), DIGEST).run(np.zeros(shape, np.float32))


def test_a_head_is_refused_where_a_tail_was_published():
    with pytest.raises(InvalidHead, match="its version says 'layer3'"):
        HeadSession(head(), DIGEST, "layer3")


@pytest.fixture(scope="module")
def own(tiny):
    """A network from pixels with a head of three classes, as a file, and what torch gives of it."""
    backbone = build_backbone(tiny.config)
    rng = np.random.default_rng(0)
    linear = LinearHead(
        kind="multiclass",
        labels=("a", "b", "c"),
        weight=rng.normal(size=(3, 16)).astype(np.float32),
        bias=rng.normal(size=3).astype(np.float32),
    )
    said = {
        "task": "t",
        "version": 1,
        "kind": linear.kind,
        "labels": linear.labels,
        "identity": tiny.identity,
    }
    network = Tail(backbone.module, backbone.features)
    data = network_onnx(backbone, network, linear, metadata=head_metadata(**said, output="pixels"))
    return data, lambda pixels: linear.logits(embed(backbone, pixels))


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 4, 11])
def test_a_network_of_a_tasks_own_answers_pixels_in_any_number(own, tiny, count):
    data, logits = own
    session = HeadSession(data, tiny.identity.digest, "pixels", threads=1)
    pixels = images(count)
    queued = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)  # read-only

    assert np.allclose(session.run(queued), answers("multiclass", logits(pixels)), atol=1e-5)
    assert np.allclose(session.logits(queued), logits(pixels), atol=1e-5)
    assert session.size == len(data)


def test_a_networks_file_averages_over_flips_itself(own, tiny):
    data, logits = own
    views = ("as it is", "left-right", "top-bottom", "both")
    session = HeadSession(averaged(data, views), tiny.identity.digest, "pixels")
    pixels = images(5)
    mean = np.mean([logits(flipped(pixels, view)) for view in views], axis=0)

    assert np.allclose(session.run(pixels), answers("multiclass", mean), atol=1e-5)


def test_a_network_is_held_against_its_version_as_a_head_is(own, tiny):
    data, _ = own
    with pytest.raises(InvalidHead, match="its version says 'embedding'"):
        HeadSession(data, tiny.identity.digest)
    with pytest.raises(InvalidHead, match="its version says 'pixels'"):
        HeadSession(head(), DIGEST, "pixels")
    with pytest.raises(BackboneMismatch):
        HeadSession(data, DIGEST, "pixels")
    with pytest.raises(InvalidHead):
        HeadSession(data[:1000], tiny.identity.digest, "pixels")


def test_pixels_of_another_size_than_the_networks_are_refused(own, tiny):
    session = HeadSession(own[0], tiny.identity.digest, "pixels")
    with pytest.raises(InvalidHead, match="refuses pixels"):
        session.run(np.zeros((2, 31, 32, 3), np.uint8))


def test_a_file_without_logits_of_a_known_kind_has_no_mean_over_views():
    with pytest.raises(InvalidHead, match="no logits"):
        HeadSession(head(), DIGEST).logits(np.zeros((2, 3), np.float32))


def test_the_logits_of_a_value_are_the_value():
    linear = LinearHead(
        kind="regression", labels=(), weight=np.ones((1, 3), np.float32), bias=np.ones(1, np.float32)
    )
    session = HeadSession(head_onnx(linear, metadata={"backbone_digest": DIGEST}), DIGEST)
    assert session.kind == "regression"
    assert session.logits(np.full((2, 3), 2, np.float32)).tolist() == [[7.0], [7.0]]


class Session:
    """Of ONNX Runtime, as far as a choice between two goes."""

    def __init__(self, took_s, providers=("CUDAExecutionProvider", "CPUExecutionProvider"), fails=False):
        self.took_s, self.providers, self.fails = took_s, providers, fails
        self.given = []

    def get_providers(self):
        return list(self.providers)

    def get_inputs(self):
        return [SimpleNamespace(name="pixels", type="tensor(uint8)", shape=["batch", 8, 8, 3])]

    def run(self, outputs, given):
        if self.fails:
            raise RuntimeError("out of memory")
        self.given.append(given["pixels"])
        time.sleep(self.took_s)


def test_a_network_runs_where_it_is_faster():
    slow, fast = Session(0.02), Session(0.0)
    assert head_session._faster(slow, fast) is fast
    assert head_session._faster(fast, slow) is fast
    assert {(each.shape, each.dtype) for each in fast.given} == {((4, 8, 8, 3), np.dtype(np.uint8))}


def test_a_device_that_fails_or_is_not_there_leaves_a_network_on_the_cpu():
    here = Session(0.01, ["CPUExecutionProvider"])
    assert head_session._faster(here, Session(0.0, fails=True)) is here
    assert head_session._faster(here, Session(0.0, ["CPUExecutionProvider"])) is here


@pytest.mark.skipif(cuda_devices() > 0, reason="there is a CUDA device")
def test_a_network_is_served_also_where_no_provider_of_the_device_can_be_loaded(own, tiny):
    data, _ = own
    sessions = [HeadSession(data, tiny.identity.digest, "pixels", device=each) for each in ("cpu", "cuda:0")]
    one, other = (each.run(images(3)) for each in sessions)
    assert (one == other).all()


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="no CUDA device")
def test_on_a_device_a_network_answers_as_on_the_cpu(own, tiny):
    data, _ = own
    there = head_session.open_session(data, 1, device="cuda:0")
    assert "CUDAExecutionProvider" in there.get_providers()
    here = HeadSession(data, tiny.identity.digest, "pixels")
    (made,) = there.run([here._output], {"pixels": images(3)})
    assert np.allclose(made, here.run(images(3)), atol=1e-3)
