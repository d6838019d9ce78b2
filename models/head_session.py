"""What a task has of its own, as its file is served: on ONNX Runtime. Importing this loads no torch."""

import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.arrays import FloatArray, UInt8Array
from models.devices import CPU
from models.errors import BackboneMismatch, InvalidHead
from models.head import SMALL, Kind
from models.identity import EMBEDDING, PIXELS, POOLED

FEATURE_MAP = "feature_map"  # what a tail calls its input, whatever stage it is of
CLASSIFIERS: tuple[Kind, ...] = ("multiclass", "multilabel")
MOST_ROWS = 4  # of a network in one run: more are no faster, and hold more memory
MOST_THREADS = 4  # of one network: every one that is held has its own, which wait without spinning
TRIES = 3  # of a run, where two places are compared: the first one chooses and allocates


class HeadSession:
    """What a task has of its own, on ONNX Runtime: a head, a tail with its head, or a whole network.

    A ten-class head: 91 KB, and 0.2 ms to open; about 20 µs a run. A network (the default backbone's, a file
    of 12.9 MB): 14 MB, and 61 MB more while it runs. OpenVINO holds 110 MB of each and is no faster: 107-114
    images for a core's second at any batch size, against 115-117 here at 4 rows or fewer (and 85 at 8),
    measured in turns on one core.

    Args:   data: the bytes of head.onnx.
            backbone_digest: of the backbone whose outputs, or whose preprocessing, it will get.
            output: which of them: the embedding, the stage where a tail begins, or PIXELS.
            threads: of a network, MOST_THREADS at most; default: as many as cores. Heads and tails have one.
            device: where the backbone runs. On CUDA a network or a tail is tried there and on the CPU, copies
            included, and runs where it was faster; a head, on the CPU: it takes less than the copies.
    Raises: BackboneMismatch: fitted on another backbone's. InvalidHead: damaged, no head of ours, or of
            another output.
    """

    def __init__(
        self,
        data: bytes,
        backbone_digest: str,
        output: str = EMBEDDING,
        *,
        threads: int | None = None,
        device: str = CPU,
    ) -> None:
        wanted = min(threads or os.cpu_count() or 1, MOST_THREADS)
        light = output in {EMBEDDING, POOLED} and len(data) < SMALL
        self._session = open_session(data, wanted if output == PIXELS else 1, light=light)
        metadata = self._session.get_modelmeta().custom_metadata_map
        fitted_on = metadata.get("backbone_digest")
        outputs = {output.name for output in self._session.get_outputs()}
        inputs = self._session.get_inputs()
        scores = outputs & {"probabilities", "value"}
        consumes = metadata.get("backbone_output", EMBEDDING)
        self._input = consumes if consumes in {EMBEDDING, PIXELS} else FEATURE_MAP
        if fitted_on is None or [each.name for each in inputs] != [self._input] or len(scores) != 1:
            raise InvalidHead("it has not the inputs, outputs and metadata of a head")
        if fitted_on != backbone_digest:
            raise BackboneMismatch(fitted_on=fitted_on, serving=backbone_digest)
        if consumes != output:
            raise InvalidHead(f"it takes {consumes!r} of the backbone, and its version says {output!r}")
        if device != CPU and output not in {EMBEDDING, POOLED}:
            self._session = _faster(self._session, open_session(data, 1, device=device))
        self._outputs = outputs
        self._output = scores.pop()
        self._rows = _rows_at_once(metadata) if output == PIXELS else None
        said = metadata.get("kind")
        self.kind: Kind | None = (
            "regression"
            if self._output == "value"
            else next((known for known in CLASSIFIERS if known == said), None)
        )
        self.labels: tuple[str, ...] = tuple(json.loads(metadata.get("labels", "[]")))
        self.size = len(data)  # bytes; what a network holds is 1.1 times as much

    def run(self, inputs: FloatArray | UInt8Array) -> FloatArray:
        """Answer each row.

        Args:    inputs: (N, D) or (N, *stage shape) float32; of a network (N, H, W, C) uint8.
        Returns: (N, C) probabilities or (N, 1) values, float32.
        Raises:  InvalidHead: they have another shape than it was fitted on.
        """
        return self._infer(self._output, inputs)

    def logits(self, inputs: FloatArray | UInt8Array) -> FloatArray:
        """As `run`, before softmax or sigmoid: what can be averaged over views; a value is as it is.

        Raises: InvalidHead: also of a file that has them not.
        """
        if self._output == "value":
            return self.run(inputs)
        if "logits" not in self._outputs or self.kind is None:
            raise InvalidHead("it gives no logits of a known kind, which a mean over views is taken of")
        return self._infer("logits", inputs)

    def _infer(self, output: str, inputs: FloatArray | UInt8Array) -> FloatArray:
        step = self._rows or max(1, len(inputs))
        try:
            parts = [
                self._session.run([output], {self._input: inputs[start : start + step]})[0]
                for start in range(0, max(1, len(inputs)), step)
            ]
        except _ORT_ERRORS as error:
            what = {EMBEDDING: "embeddings", PIXELS: "pixels"}.get(self._input, "feature maps")
            raise InvalidHead(f"it refuses {what} of shape {inputs.shape}") from error
        return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float32)


def open_session(data: bytes, threads: int, *, light: bool = False, device: str = CPU) -> Any:
    """Args: light: hold little, rather than run many rows fast. Raises: InvalidHead."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # a thousand heads, each with an arena, would hold gigabytes
    options.log_severity_level = 4
    if light:  # of ten classes 91 instead of 161 KB, opened in 0.2 instead of 0.5 ms, and as fast for a row
        options.enable_mem_pattern = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    # threads that wait for work by spinning would take the backbone's cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=_providers(device))
    except _ORT_ERRORS as error:
        raise InvalidHead("it is no ONNX model that can be run") from error


def _providers(device: str) -> list[Any]:
    """Those of ONNX Runtime, in its order; a provider whose libraries aren't there is left out by it."""
    if device == CPU:
        return [_CPU]
    options = {
        "device_id": device.rpartition(":")[2],
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",  # doubling would hold memory that others need
    }
    return [(_CUDA, options), _CPU]


def _faster(here: Any, there: Any) -> Any:
    """Args: there: a session of the same file on a device, if it could be opened there."""
    if _CUDA not in there.get_providers():
        return here
    return min((here, there), key=_seconds)


def _seconds(session: Any) -> float:
    """What a run of a few rows takes at best; infinite where it fails."""
    (asked,) = session.get_inputs()
    dtype = np.uint8 if asked.type == "tensor(uint8)" else np.float32
    shape = [size if isinstance(size, int) else MOST_ROWS for size in asked.shape]
    took = []
    for _ in range(TRIES):
        started = time.perf_counter()
        try:
            session.run(None, {asked.name: np.zeros(shape, dtype)})
        except _ORT_ERRORS:
            return math.inf
        took.append(time.perf_counter() - started)
    return min(took)


def _rows_at_once(metadata: Mapping[str, str]) -> int:
    """Of a network's run, which makes `passes` over each row where it averages over flips."""
    passes = metadata.get("passes", "1")
    return max(1, MOST_ROWS // int(passes)) if passes.isdecimal() and int(passes) else 1


_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
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
