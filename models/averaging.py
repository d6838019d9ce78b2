"""A file from pixels that answers with the mean over flips of its input. Loads no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from models.errors import ExportError
from models.export import IR_VERSION, OPSET, checked, keep_output, output_names
from models.head import Kind
from models.identity import PIXELS
from models.views import AXES

REVERSED = np.iinfo(np.int64).min  # the end of a slice that runs backwards to the first element


def averaged(model: bytes, views: Sequence[str]) -> bytes:
    """A file from pixels that runs every view of `models.views` and answers with the mean of their logits.

    Args:   model: of `model_onnx` or `network_onnx`.
    Raises: ExportError: it takes no pixels, or onnx' checker refuses the result.
    """
    inner = onnx.load_from_string(model)
    metadata = {entry.key: entry.value for entry in inner.metadata_props}
    del inner.metadata_props[:]
    if [each.name for each in inner.graph.input] != [PIXELS]:
        raise ExportError("only a file that takes pixels can answer with a mean over flips")
    kind: Any = metadata["kind"]
    names = output_names(kind)
    size = [each.dim_value for each in inner.graph.input[0].type.tensor_type.shape.dim[1:]]
    classes = next(each for each in inner.graph.output if each.name == names[0])
    width = classes.type.tensor_type.shape.dim[1].dim_value
    keep_output(inner.graph, names[0])
    inner = compose.add_prefix(inner, "network/")
    before, after = _flips(size, views), _mean(kind, len(views), width)
    try:
        half = compose.merge_models(before, inner, io_map=[("views", f"network/{PIXELS}")])
        whole = compose.merge_models(half, after, io_map=[(f"network/{names[0]}", "each")])
    except ValueError as error:
        raise ExportError(f"the views don't fit the network: {error}") from error
    return checked(whole, {**metadata, "passes": str(len(views)), "views": ", ".join(views)})


def _flips(size: Sequence[int], views: Sequence[str]) -> Any:
    """`pixels` (N, H, W, C) -> `views` (V * N, H, W, C), the first view of all images first."""
    nodes, tensors = [], []
    for number, view in enumerate(views):
        axes = np.array(AXES[view], dtype=np.int64)
        if not len(axes):
            nodes.append(helper.make_node("Identity", [PIXELS], [f"view{number}"]))
            continue
        said = {"starts": -1, "ends": REVERSED, "steps": -1}
        given = {name: np.full(len(axes), value, dtype=np.int64) for name, value in said.items()}
        given = {"starts": given["starts"], "ends": given["ends"], "axes": axes, "steps": given["steps"]}
        tensors += [numpy_helper.from_array(array, f"{name}{number}") for name, array in given.items()]
        slices = [PIXELS, *(f"{name}{number}" for name in given)]
        nodes.append(helper.make_node("Slice", slices, [f"view{number}"]))
    parts = [f"view{number}" for number in range(len(views))]
    nodes.append(helper.make_node("Concat", parts, ["views"], axis=0))
    return _model(
        nodes,
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", *size])],
        [helper.make_tensor_value_info("views", TensorProto.UINT8, ["M", *size])],
        tensors,
    )


def _mean(kind: Kind, passes: int, width: int) -> Any:
    """`each` (V * N, C) -> what a head answers, of the mean over the views."""
    names = output_names(kind)
    nodes = [
        helper.make_node("Reshape", ["each", "by_view"], ["apart"]),
        helper.make_node("ReduceMean", ["apart", "first"], [names[0]], keepdims=0),
    ]
    if kind == "multiclass":
        nodes.append(helper.make_node("Softmax", [names[0]], [names[1]], axis=1))
    elif kind == "multilabel":
        nodes.append(helper.make_node("Sigmoid", [names[0]], [names[1]]))
    tensors = {"by_view": np.array([passes, -1, width], dtype=np.int64), "first": np.zeros(1, dtype=np.int64)}
    return _model(
        nodes,
        [helper.make_tensor_value_info("each", TensorProto.FLOAT, ["M", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in names],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )


def _model(nodes: Any, inputs: Any, outputs: Any, tensors: Any) -> Any:
    graph = helper.make_graph(nodes, "views", inputs, outputs, tensors)
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
