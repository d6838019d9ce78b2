import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import ExportError, InvalidHead
from models.export import check_parity, head_metadata, head_onnx, model_onnx, read_linear_head
from models.head import HiddenLayer, LinearHead
from models.identity import BackboneIdentity, Preprocessing

IDENTITY = BackboneIdentity(
    name="mean-colour",
    weights_digest="0" * 64,
    preprocessing=Preprocessing(
        input_size=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0
    ),
    embedding_dim=3,
    features="mean",
    stages=(),
    precision="fp32",
    total_parameters=9,
    licence="Apache-2.0",
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
KINDS = pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])


def head_of(kind, width=3):
    classes = 1 if kind == "regression" else 4
    return LinearHead(
        kind=kind,
        labels=() if kind == "regression" else ("Stuhl", "table", "椅子", "a, b"),
        weight=(RNG.normal(size=(classes, width)) / np.sqrt(width)).astype(np.float32),
        bias=RNG.normal(size=classes).astype(np.float32),
    )


def metadata_of(head):
    return head_metadata(task="seats", version=3, kind=head.kind, labels=head.labels, identity=IDENTITY)


def exported(head):
    return head_onnx(head, metadata=metadata_of(head))


@KINDS
def test_a_head_is_read_back_as_it_was_written(kind):
    head = head_of(kind)
    read = read_linear_head(exported(head))
    assert (read.kind, read.labels) == (head.kind, head.labels)
    assert (read.weight.tobytes(), read.bias.tobytes()) == (head.weight.tobytes(), head.bias.tobytes())


def test_what_is_no_linear_head_is_not_read():
    head = head_of("multiclass")
    whole = exported(head)
    hidden = HiddenLayer(weight=np.ones((3, 5), np.float32), bias=np.zeros(3, np.float32))
    mlp = head_onnx(head, metadata=metadata_of(head), hidden=hidden)
    for data in (b"", b"no head", whole[: len(whole) // 2], mlp, head_onnx(head, metadata={"kind": "?"})):
        with pytest.raises(InvalidHead):
            read_linear_head(data)


def mean_colour():
    """A small backbone: mixed channels, averaged over the image; its tensors' names clash with a head's."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["values", "bias"], ["logits"]),
        helper.make_node("MatMul", ["logits", "weight"], ["stage1"]),
        helper.make_node("ReduceMean", ["stage1", "axes"], ["embedding"], keepdims=0),
        helper.make_node("MatMul", ["stage1", "unused"], ["stage2"]),
    ]
    tensors = {
        "bias": np.float32(255),
        "weight": np.array([[1, 0, 0.5], [0, 2, 0], [1, 1, 1]], dtype=np.float32),
        "unused": np.ones((3, 3), dtype=np.float32),
        "axes": np.array([1, 2], dtype=np.int64),
    }
    images = ["batch", 8, 8, 3]
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, images)],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("stage1", TensorProto.FLOAT, images),
            helper.make_tensor_value_info("stage2", TensorProto.FLOAT, images),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {"backbone_digest": "of the backbone", "task": "none"})
    return model.SerializeToString()


def embed(pixels):
    (embeddings,) = ort.InferenceSession(mean_colour()).run(["embedding"], {"pixels": pixels})
    return embeddings


def outputs_of(data):
    return [output.name for output in onnx.load_from_string(data).graph.output]


@KINDS
@pytest.mark.parametrize("count", [1, 7])
def test_an_exported_head_answers_as_the_trained_one(kind, count):
    head = head_of(kind, width=1280)
    embeddings = RNG.normal(size=(count, 1280)).astype(np.float32)
    data = exported(head)
    assert check_parity(data, embeddings, head.predict(embeddings)) < 1e-5
    session = ort.InferenceSession(data)
    first = session.run(None, {"embedding": embeddings})[0]
    assert first == pytest.approx(head.logits(embeddings), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("multiclass", ["logits", "probabilities"]),
        ("multilabel", ["logits", "probabilities"]),
        ("regression", ["value"]),
    ],
)
def test_outputs_are_named_by_the_contract(kind, outputs):
    head = head_of(kind)
    assert outputs_of(exported(head)) == outputs
    assert outputs_of(model_onnx(mean_colour(), exported(head))) == outputs


def test_files_are_of_a_version_that_runtimes_read():
    for data in (exported(head_of("multiclass")), model_onnx(mean_colour(), exported(head_of("multiclass")))):
        model = onnx.load_from_string(data)
        assert model.ir_version == 10
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        onnx.checker.check_model(model, full_check=True)


@KINDS
def test_the_whole_model_answers_as_backbone_and_head(kind):
    head = head_of(kind)
    data = model_onnx(mean_colour(), exported(head))
    check_parity(data, PIXELS, head.predict(embed(PIXELS)))
    (pixels,) = ort.InferenceSession(data).get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [8, 8, 3])


def test_the_backbone_may_be_a_file(tmp_path):
    (tmp_path / "backbone.onnx").write_bytes(mean_colour())
    head = exported(head_of("multiclass"))
    assert model_onnx(tmp_path / "backbone.onnx", head) == model_onnx(mean_colour(), head)


def test_stages_that_the_head_doesnt_need_are_left_out():
    model = onnx.load_from_string(model_onnx(mean_colour(), exported(head_of("multiclass"))))
    assert not any("unused" in tensor.name for tensor in model.graph.initializer)
    assert [node.op_type for node in model.graph.node] == [
        "Cast",
        "Div",
        "MatMul",
        "ReduceMean",
        "Gemm",
        "Softmax",
    ]


def test_both_files_say_what_they_are():
    head = head_of("multiclass")
    for data in (exported(head), model_onnx(mean_colour(), exported(head))):
        said = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
        assert said["task"] == "seats"
        assert said["version"] == "3"
        assert json.loads(said["labels"]) == ["Stuhl", "table", "椅子", "a, b"]
        assert said["backbone_digest"] == IDENTITY.digest
        assert said["backbone_output"] == "embedding"
        assert json.loads(said["preprocessing"])["input_size"] == 8


def test_equal_heads_are_equal_bytes():
    head = head_of("multiclass")
    assert exported(head) == exported(head)


def test_a_file_that_answers_otherwise_is_refused():
    head = head_of("multiclass")
    embeddings = embed(PIXELS)
    with pytest.raises(ExportError, match="off by"):
        check_parity(exported(head), embeddings, head.predict(embeddings) + np.float32(2e-4))
    with pytest.raises(ExportError, match="instead of"):
        check_parity(exported(head), embeddings, head.predict(embeddings)[:2])


def test_an_answer_that_is_no_number_is_refused():
    head = head_of("multiclass")
    spoilt = LinearHead(
        kind=head.kind, labels=head.labels, weight=head.weight, bias=np.full(4, np.nan, np.float32)
    )
    with pytest.raises(ExportError, match="off by nan"):
        check_parity(exported(spoilt), embed(PIXELS), head.predict(embed(PIXELS)))


def test_a_regression_is_held_to_its_targets_spread():
    head = head_of("regression")
    embeddings = embed(PIXELS)
    off = head.predict(embeddings) + np.float32(0.01)
    assert check_parity(exported(head), embeddings, off, scale=1000.0) == pytest.approx(1e-5, rel=0.01)
    with pytest.raises(ExportError):
        check_parity(exported(head), embeddings, off, scale=1.0)


def test_a_head_of_another_width_doesnt_fit_the_backbone():
    with pytest.raises(ExportError):
        model_onnx(mean_colour(), exported(head_of("multiclass", width=4)))


def test_a_backbone_without_an_embedding_is_refused():
    model = onnx.load_from_string(mean_colour())
    model.graph.output[0].name = "pooled"
    model.graph.node[3].output[0] = "pooled"
    with pytest.raises(ExportError, match="no output 'embedding'"):
        model_onnx(model.SerializeToString(), exported(head_of("multiclass")))


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(ExportError, match="can't run"):
        check_parity(b"not a model", embed(PIXELS), head_of("multiclass").predict(embed(PIXELS)))
