"""ONNX out: a head alone, or backbone and head in one file, each checked against what was trained.

IR 10 and opset 20 throughout: onnx' own defaults are newer than onnxruntime reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, compose, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state

from models.arrays import FloatArray, UInt8Array
from models.errors import ExportError, InvalidHead
from models.head import HiddenLayer, Kind, LinearHead
from models.identity import AS_IT_IS, LARGEST, PIXELS, BackboneIdentity

IR_VERSION = 10
OPSET = 20
FORMAT = "1"  # of the metadata; a reader refuses others
EMBEDDING = "embedding"  # the backbone's output that a linear head consumes
TOLERANCE = 1e-4
RUNTIME_ERRORS = (  # onnxruntime's have no base class of their own
    onnxruntime_pybind11_state.Fail,
    onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime_pybind11_state.NotImplemented,
    onnxruntime_pybind11_state.RuntimeException,
)


def head_metadata(
    *,
    task: str,
    version: int,
    kind: Kind,
    labels: tuple[str, ...],
    identity: BackboneIdentity,
    output: str = EMBEDDING,
    views: Sequence[str] = (AS_IT_IS,),
    input_size: int | None = None,
) -> dict[str, str]:
    """What a file says of itself in `metadata_props`.

    Args: output: of the backbone, that it consumes; PIXELS: it is a network of its own. views: whose mean
          logits are the answer; `passes` is how many of them this very file runs. input_size: pixels, where
          it isn't the backbone's.
    """
    preprocessing = identity.preprocessing
    if input_size is not None:
        preprocessing = replace(preprocessing, input_size=input_size)
    return {
        "polyhead_format": FORMAT,
        "task": task,
        "version": str(version),
        "kind": kind,
        "labels": json.dumps(labels, ensure_ascii=False),
        "backbone": identity.name,
        "backbone_digest": identity.digest,
        "backbone_output": output,
        "preprocessing": json.dumps(asdict(preprocessing), sort_keys=True),
        "views": ", ".join(views),
        "passes": str(len(views) if output == PIXELS else 1),
    }


def output_names(kind: Kind) -> tuple[str, ...]:
    return ("value",) if kind == "regression" else ("logits", "probabilities")


def head_onnx(head: LinearHead, *, metadata: Mapping[str, str], hidden: HiddenLayer | None = None) -> bytes:
    """The head as a file: `embedding` float (N, D) -> `logits` and `probabilities` (N, C), or `value` (N, 1).

    Args:   hidden: of an MLP, what lies below the head.
    Raises: ExportError: onnx' checker refuses it.
    """
    classes, width = head.weight.shape
    linear = "value" if head.kind == "regression" else "logits"
    tensors = {"weight": head.weight, "bias": head.bias}
    below, features = list[Any](), EMBEDDING
    if hidden is not None:
        width, features = hidden.weight.shape[1], "hidden"
        tensors |= {"hidden_weight": hidden.weight, "hidden_bias": hidden.bias}
        below = [
            helper.make_node("Gemm", [EMBEDDING, "hidden_weight", "hidden_bias"], ["sums"], transB=1),
            helper.make_node("Relu", ["sums"], [features]),
        ]
    nodes = [helper.make_node("Gemm", [features, "weight", "bias"], [linear], transB=1)]
    if head.kind == "multiclass":
        nodes.append(helper.make_node("Softmax", [linear], ["probabilities"], axis=1))
    elif head.kind == "multilabel":
        nodes.append(helper.make_node("Sigmoid", [linear], ["probabilities"]))
    graph = helper.make_graph(
        [*below, *nodes],
        "head",
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["N", classes]) for node in nodes],
        [
            numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
            for name, array in tensors.items()
        ],
    )
    model = helper.make_model(
        graph, producer_name="polyhead", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    return checked(model, metadata)


def read_linear_head(data: bytes) -> LinearHead:
    """The inverse of `head_onnx`. Raises: InvalidHead: damaged, or not one linear map."""
    try:
        model = onnx.load_from_string(data)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        linear = model.graph.node[0]
        if linear.op_type != "Gemm" or list(linear.input) != [EMBEDDING, "weight", "bias"]:
            raise InvalidHead("it is not one linear map of an embedding")
        kind: Any = metadata["kind"]
        labels = tuple(json.loads(metadata["labels"]))
        return LinearHead(kind=kind, labels=labels, weight=tensors["weight"], bias=tensors["bias"])
    except (DecodeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidHead("it is no file of a head") from error


def model_onnx(backbone: bytes | Path, head: bytes) -> bytes:
    """Backbone and head in one file: `pixels` uint8 (N, H, W, C) -> the head's outputs and metadata.

    The backbone's other outputs, and what only they need, are left out.

    Raises: ExportError: the two don't fit together, or onnx' checker refuses the result.
    """
    data = backbone if isinstance(backbone, bytes) else backbone.read_bytes()
    if len(data) + len(head) > LARGEST:
        raise ExportError("backbone and head are above 2 GB together: use backbone.onnx and head.onnx")
    lower, upper = onnx.load_from_string(data), onnx.load_from_string(head)
    metadata = {entry.key: entry.value for entry in upper.metadata_props}
    for model in (lower, upper):
        del model.metadata_props[:]  # two values for one key would clash; the head's are written again
        model.ir_version = IR_VERSION
    output = metadata.get("backbone_output", EMBEDDING)  # of a tail, a stage
    keep_output(lower.graph, output)
    # without the prefixes, names such as "weight" clash
    lower = compose.add_prefix(lower, "backbone/", rename_inputs=False)
    upper = compose.add_prefix(upper, "head/", rename_outputs=False)
    try:
        merged = compose.merge_models(
            lower, upper, io_map=[(f"backbone/{output}", upper.graph.input[0].name)]
        )
    except ValueError as error:
        raise ExportError(f"backbone and head don't fit together: {error}") from error
    return checked(merged, metadata)


def keep_output(graph: Any, name: str) -> None:
    """Remove every output but one, and the nodes and tensors that it doesn't need."""
    kept = [output for output in graph.output if output.name == name]
    if not kept:
        raise ExportError(f"the backbone has no output {name!r}")
    needed = {name}
    nodes = []
    for node in reversed(graph.node):  # ONNX nodes are in topological order
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(_captured(node))
            nodes.append(node)
    known = needed.union(*(node.output for node in nodes))
    graph.CopyFrom(
        helper.make_graph(
            nodes[::-1],
            graph.name,
            graph.input,
            kept,
            [tensor for tensor in graph.initializer if tensor.name in needed],
            value_info=[info for info in graph.value_info if info.name in known],
        )
    )


def _captured(node: Any) -> set[str]:
    """Names that the subgraphs of a node (If, Loop, Scan) may take from around it."""
    graphs = [
        graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node
    ]
    return {name for graph in graphs for inner in graph.node for name in (*inner.input, *_captured(inner))}


def checked(model: Any, metadata: Mapping[str, str]) -> bytes:
    """The file of a model, with what it says of itself. Raises: ExportError: onnx' checker refuses it."""
    model.producer_name = "polyhead"
    opsets = {opset.domain: opset.version for opset in model.opset_import}  # of merged files, both were kept
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*opset) for opset in opsets.items())
    helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported file is not valid: {error}") from error
    return bytes(model.SerializeToString())


def stamped(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same graph with other words about itself. Raises: ExportError."""
    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    return checked(model, metadata)


def check_parity(
    data: bytes,
    inputs: FloatArray | UInt8Array,
    expected: FloatArray,
    *,
    scale: float = 1.0,
    tolerance: float = TOLERANCE,
) -> float:
    """Hold an exported file against the answers that it must give.

    Args:    data: of `head_onnx` or `model_onnx`; inputs: (N, D) embeddings or (N, H, W, C) pixels;
             expected: (N, C) probabilities or (N, 1) values; scale: 1, or of a regression the standard
             deviation of the targets; tolerance: infinite where a difference is only to be known.
    Returns: the largest difference, in units of `scale`.
    Raises:  ExportError: it is above the tolerance, or onnxruntime can't run the file.
    """
    answered = run_file(data, inputs)[-1]
    if answered.shape != expected.shape:
        raise ExportError(f"the exported file answers {answered.shape} instead of {expected.shape}")
    difference = float(np.abs(answered - expected).max(initial=0.0)) / (scale or 1.0)
    if not difference <= tolerance:  # NaN fails too
        raise ExportError(
            f"the exported file's answers are off by {difference:.2e}, more than {tolerance:.0e}"
        )
    return difference


def run_file(data: bytes, inputs: FloatArray | UInt8Array) -> list[FloatArray]:
    """All outputs of a file for one batch, the answers last.

    Raises: ExportError: onnxruntime can't run it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found: list[FloatArray] = session.run(None, {session.get_inputs()[0].name: inputs})
    except RUNTIME_ERRORS as error:
        raise ExportError(f"onnxruntime can't run the exported file: {error}") from error
    return found
