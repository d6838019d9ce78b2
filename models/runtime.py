"""What runs the exported graphs: the backbone on OpenVINO (CPU) or torch (CUDA), heads on ONNX Runtime.

A runtime serves one caller at a time. Importing this loads no torch.
"""

import ctypes
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import openvino
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, BackboneMismatch, InvalidHead
from models.identity import EMBEDDING
from models.prepared import PreparedBackbone, Runtime, check_outputs

__all__ = [
    "EMBEDDING", "HeadSession", "OpenVinoRuntime", "PreparedBackbone", "Runtime", "check_outputs",
    "cuda_devices", "open_runtime",
]  # fmt: skip

FEATURE_MAP = "feature_map"  # what a tail calls its input, whatever stage it is of
MOST_COMPILED = 8  # sets of outputs that a graph is compiled for; beyond them it computes all
_OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16"}


def open_runtime(prepared: PreparedBackbone) -> Runtime:
    """Open the runtime that the config names; auto is torch where there is CUDA, else OpenVINO.

    Raises: BackboneError: it can't run the backbone at the precision of its identity.
    """
    wanted = prepared.config.runtime
    if wanted == "torch" or (wanted == "auto" and cuda_devices() > 0):
        from models.torch_runtime import TorchRuntime  # noqa: PLC0415 - torch costs seconds and 0.9 GB

        return TorchRuntime(prepared)
    return OpenVinoRuntime(prepared)


def cuda_devices() -> int:
    """How many CUDA devices the driver sees, asked without loading torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class OpenVinoRuntime:
    """The graph on the CPU; what isn't asked for isn't computed."""

    name = "openvino cpu"

    def __init__(self, prepared: PreparedBackbone) -> None:
        self.identity = prepared.identity
        self._threads = prepared.config.threads
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(str(prepared.onnx_path))
        except RuntimeError as error:
            raise BackboneError(f"backbone {self.identity.name}: {_first_line(error)}") from error
        self._requests: dict[tuple[str, ...], Any] = {}  # by outputs: compiled when first asked for
        self._request((EMBEDDING,))

    def run(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> dict[str, FloatArray]:
        request = self._request(outputs)
        try:
            results = request.infer({0: pixels}, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise BackboneError(f"backbone {self.identity.name}: {_first_line(error)}") from error
        # copies: the next run overwrites the request's own memory
        return {name: np.array(results[name], dtype=np.float32) for name in outputs}

    def _request(self, outputs: Sequence[str]) -> Any:
        wanted = tuple(sorted(set(outputs)))
        if wanted not in self._requests:
            check_outputs(self.identity, wanted)
            if len(self._requests) >= MOST_COMPILED:
                wanted = tuple(sorted(self.identity.outputs))
        if wanted not in self._requests:
            self._requests[wanted] = self._compiled(wanted).create_infer_request()
        return self._requests[wanted]

    def _compiled(self, outputs: tuple[str, ...]) -> Any:
        wanted = _OPENVINO_PRECISION[self.identity.precision]
        model = openvino.Model(
            [self._model.output(name) for name in outputs], self._model.get_parameters(), self.identity.name
        )
        # said and read back: left alone, OpenVINO takes bf16 wherever the CPU has it
        config = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": "LATENCY"}
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(self._threads)
        try:
            compiled = self._core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise BackboneError(f"backbone {self.identity.name}: {_first_line(error)}") from error
        got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != wanted:
            raise BackboneError(
                f"backbone {self.identity.name}: {self.identity.precision} was asked for "
                f"and this CPU runs {got}; choose the other precision"
            )
        return compiled


class HeadSession:
    """One head, or a tail with its head, on ONNX Runtime. A head: 164 KB, about 20 µs a run.

    Args:   data: the bytes of head.onnx.
            backbone_digest: of the backbone whose outputs it will get.
            output: which of them: the embedding, or the stage where a tail begins.
    Raises: BackboneMismatch: fitted on another backbone's. InvalidHead: damaged, no head of ours, or of
            another output.
    """

    def __init__(self, data: bytes, backbone_digest: str, output: str = EMBEDDING) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # a thousand heads, each with an arena, would hold gigabytes
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise InvalidHead("it is no ONNX model that can be run") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        fitted_on = metadata.get("backbone_digest")
        outputs = {output.name for output in self._session.get_outputs()}
        inputs = self._session.get_inputs()
        scores = outputs & {"probabilities", "value"}
        consumes = metadata.get("backbone_output", EMBEDDING)
        self._input = EMBEDDING if consumes == EMBEDDING else FEATURE_MAP
        if fitted_on is None or [each.name for each in inputs] != [self._input] or len(scores) != 1:
            raise InvalidHead("it has not the inputs, outputs and metadata of a head")
        if fitted_on != backbone_digest:
            raise BackboneMismatch(fitted_on=fitted_on, serving=backbone_digest)
        if consumes != output:
            raise InvalidHead(f"it takes {consumes!r} of the backbone, and its version says {output!r}")
        self._output = scores.pop()
        self.labels: tuple[str, ...] = tuple(json.loads(metadata.get("labels", "[]")))

    def run(self, features: FloatArray) -> FloatArray:
        """(N, D) or (N, *stage shape) float32 → (N, C) probabilities, or (N, 1) values.

        Raises: InvalidHead: they have another shape than it was fitted on.
        """
        try:
            (scores,) = self._session.run([self._output], {self._input: features})
        except _ORT_ERRORS as error:
            what = "embeddings" if self._input == EMBEDDING else "feature maps"
            raise InvalidHead(f"it refuses {what} of shape {features.shape}") from error
        return np.asarray(scores, dtype=np.float32)


_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
