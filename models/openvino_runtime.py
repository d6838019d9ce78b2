"""The backbone on OpenVINO: for CPUs, of any make."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import openvino

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError
from models.identity import EMBEDDING, Precision
from models.prepared import PreparedBackbone, check_outputs

MOST_COMPILED = 8  # sets of outputs that a graph is compiled for; beyond them it computes all
MOST_STREAMS = 4  # images that pass the graph side by side
_PRECISION: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoRuntime:
    """The graph on the CPU; what isn't asked for isn't computed.

    The graph is compiled for one image, which takes 4-8% less time for each than one for any number. Those of
    a batch pass it side by side, each with threads of its own (OpenVINO's streams): threads that share an
    image wait for each other after every layer, all of them for one that had to leave its core to a decoder.
    Fewer than there are streams are computed one by one by all threads together, since somebody waits for
    each of them. The answers are the same bit for bit.
    A second compilation costs 0.1 s, and memory in a worker under load.
    """

    name = "openvino cpu"

    def __init__(self, prepared: PreparedBackbone) -> None:
        self.identity = prepared.identity
        self._threads = prepared.config.threads
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(str(prepared.onnx_path))
            self._model.reshape([1, *list(self._model.input(0).partial_shape)[1:]])
        except RuntimeError as error:
            raise BackboneError(f"backbone {self.identity.name}: {_first_line(error)}") from error
        # By outputs and number of streams: compiled when first asked for, but for what everybody needs.
        self._idle: dict[tuple[tuple[str, ...], int], Idle] = {}
        threads = self._idle_for((EMBEDDING,), 1).compiled.get_property("INFERENCE_NUM_THREADS")
        self._streams = max(count for count in range(1, MOST_STREAMS + 1) if threads % count == 0)
        self._idle_for((EMBEDDING,), self._streams)

    def run(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> dict[str, FloatArray]:
        return self.begin(pixels, outputs).outputs()

    def begin(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> "OpenVinoPass":
        streams = self._streams if len(pixels) >= self._streams else 1
        begun = OpenVinoPass(self.identity.name, outputs, streams, self._idle_for(outputs, streams))
        begun.begin(pixels)
        return begun

    def _idle_for(self, outputs: Sequence[str], streams: int) -> "Idle":
        wanted = tuple(sorted(set(outputs)))
        if (wanted, streams) not in self._idle:
            check_outputs(self.identity, wanted)
            known = {each for each, _ in self._idle}
            if wanted not in known and len(known) >= MOST_COMPILED:
                wanted = tuple(sorted(self.identity.outputs))
        if (wanted, streams) not in self._idle:
            self._idle[wanted, streams] = Idle(self._compiled(wanted, streams))
        return self._idle[wanted, streams]

    def _compiled(self, outputs: tuple[str, ...], streams: int) -> Any:
        wanted = _PRECISION[self.identity.precision]
        model = openvino.Model(
            [self._model.output(name) for name in outputs], self._model.get_parameters(), self.identity.name
        )
        # said and read back: left alone, OpenVINO takes bf16 wherever the CPU has it
        config = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": "LATENCY"}
        config["ENABLE_CPU_PINNING"] = "NO"  # a pinned thread waits for its core while another is free
        if streams > 1:
            config["NUM_STREAMS"] = str(streams)
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
                f"and OpenVINO runs {got} on this CPU; choose another precision"
            )
        return compiled


class Idle:
    """The requests of one compiled graph that nobody uses."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._requests: list[Any] = []

    def take(self) -> Any:
        return self._requests.pop() if self._requests else self.compiled.create_infer_request()

    def put(self, requests: Sequence[Any]) -> None:
        self._requests += requests


class OpenVinoPass:
    """The images of a batch, on as many streams; what has none yet waits for one that is free."""

    def __init__(self, backbone: str, outputs: Sequence[str], streams: int, idle: Idle) -> None:
        self._backbone = backbone
        self._outputs = outputs
        self._streams = streams
        self._idle = idle
        self._begun: list[tuple[Any, UInt8Array]] = []  # requests, and what they read

    def begin(self, pixels: UInt8Array) -> None:
        """Raises: BackboneError, when nothing of it is running any more."""
        try:
            for image in pixels:
                request, row = self._idle.take(), image[None]  # (1, H, W, C)
                request.start_async({0: row}, share_inputs=True)
                self._begun.append((request, row))
        except RuntimeError as error:
            with suppress(BackboneError):
                self._wait_for_all()
            raise self._failure(error) from error

    def wait_for_room(self) -> None:
        """Until a stream is free. Failures are for `outputs` to tell."""
        for request, _ in self._begun[: max(0, len(self._begun) - self._streams + 1)]:
            with suppress(RuntimeError):
                request.wait()

    def outputs(self) -> dict[str, FloatArray]:
        self._wait_for_all()
        requests = [request for request, _ in self._begun]
        # copies: the next run overwrites the requests' own memory
        made = {
            name: np.concatenate([request.get_tensor(name).data for request in requests], dtype=np.float32)
            for name in self._outputs
        }
        self._idle.put(requests)
        return made

    def _wait_for_all(self) -> None:
        """Raises: BackboneError, when nothing of it is running any more."""
        try:
            with ExitStack() as waits:  # left when all are done, also where one fails
                for request, _ in reversed(self._begun):
                    waits.callback(request.wait)
        except RuntimeError as error:
            raise self._failure(error) from error

    def _failure(self, error: RuntimeError) -> BackboneError:
        return BackboneError(f"backbone {self._backbone}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
