"""Batches on their way through a CUDA device. Imports torch.

Pixels go through page-locked memory and a stream of their own, so that those of the next batch are copied
while the last one is computed. A pass of few rows is captured as a CUDA graph, which the device then runs
without being told each kernel. Source: torch's "CUDA semantics" (streams, page-locked buffers, graphs).

Nothing of it has run on a device yet: none was at hand.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, DeviceLost
from models.identity import EMBEDDING

MOST_CAPTURED = 64  # rows; larger passes keep a device busy without a graph
WARM_UPS = 2  # before a capture: libraries choose and allocate in their first runs

log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]


def buckets(most: int) -> list[int]:
    """Numbers of rows that graphs are captured for, until one takes `most`: 1, 2, 4 …"""
    sizes = [1]
    while sizes[-1] < min(most, MOST_CAPTURED):
        sizes.append(2 * sizes[-1])
    return sizes


class CudaPasses:
    """Begins the passes of one network on one device; they are run in their order."""

    def __init__(self, name: str, device: torch.device, forward: Forward) -> None:
        """Args: name: of the backbone, for errors.
        forward: (N, H, W, C) uint8 and names -> those outputs, float32, on the device.
        """
        self._name = name
        self._device = device
        self._forward = forward
        torch.cuda.set_device(device)
        self._copying, self._computing = _stream(device), _stream(device)
        self._pool = torch.cuda.graph_pool_handle()  # of all graphs, since one runs at a time
        self._captured: dict[tuple[int, ...], Captured | None] = {}  # by shape; None: it can't be

    def begin(self, pixels: UInt8Array, outputs: Sequence[str]) -> "CudaPass":
        """Raises: BackboneError; DeviceLost."""
        try:
            with torch.inference_mode():
                return self._begin(pixels, outputs)
        except RuntimeError as error:
            raise failure(self._name, error) from error

    def _begin(self, pixels: UInt8Array, outputs: Sequence[str]) -> "CudaPass":
        given = page_locked(pixels.shape, torch.uint8)
        given.numpy()[...] = pixels
        with torch.cuda.stream(self._copying):
            came = given.to(self._device, non_blocking=True)
            arrived = self._copying.record_event(_event())
        with torch.cuda.stream(self._computing):
            self._computing.wait_event(arrived)
            made = {
                name: page_locked(output.shape, torch.float32).copy_(output, non_blocking=True)
                for name, output in self._run(came, outputs).items()
            }
            done = self._computing.record_event(_event())
        return CudaPass(self._name, (given, came), made, arrived, done)

    def _run(self, came: Tensor, outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """What a graph gives is overwritten by the next pass, which waits for its turn on the stream."""
        captured = self._captured_for(came.shape) if tuple(outputs) == (EMBEDDING,) else None
        if captured is None:
            return self._forward(came, outputs)
        captured.pixels[: len(came)].copy_(came)
        captured.graph.replay()
        return {name: output[: len(came)] for name, output in captured.outputs.items()}

    def _captured_for(self, shape: Sequence[int]) -> "Captured | None":
        """For as many rows or more: what the others hold is nobody's."""
        if shape[0] > MOST_CAPTURED:
            return None
        wanted = (buckets(shape[0])[-1], *shape[1:])
        if wanted not in self._captured:
            try:
                self._captured[wanted] = self._capture(wanted)
            # An operation asks the host, or memory is short. If it was the device, the pass itself says so.
            except RuntimeError as error:
                log.warning("%s: %d rows run without a graph: %s", self._name, wanted[0], error)
                self._captured[wanted] = None
        return self._captured[wanted]

    def _capture(self, shape: tuple[int, ...]) -> "Captured":
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        for _ in range(WARM_UPS):
            self._forward(pixels, (EMBEDDING,))
        graph = torch.cuda.CUDAGraph()
        # thread_local: heads are loaded meanwhile, by threads that may ask for memory
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._computing, capture_error_mode="thread_local"
        ):
            outputs = self._forward(pixels, (EMBEDDING,))
        return Captured(pixels, graph, outputs)


@dataclass(frozen=True, slots=True)
class Captured:
    """A pass that can be run again, on what lies in `pixels`."""

    pixels: Tensor  # (bucket, H, W, C) uint8
    graph: torch.cuda.CUDAGraph
    outputs: Mapping[str, Tensor]  # each with as many rows


class CudaPass:
    """A batch that a device has been given."""

    def __init__(
        self,
        name: str,
        held: Sequence[Tensor],
        made: Mapping[str, Tensor],
        arrived: torch.cuda.Event,
        done: torch.cuda.Event,
    ) -> None:
        """Args: held: what the device still reads; made: page-locked, whole when `done`."""
        self._name = name
        self._held = held
        self._made = made
        self._arrived = arrived
        self._done = done

    def wait_for_room(self) -> None:
        """Until its pixels are there: those of the next batch can be copied then."""
        try:
            self._arrived.synchronize()
        except RuntimeError:
            return  # `outputs` tells it

    def outputs(self) -> dict[str, FloatArray]:
        """Raises: BackboneError; DeviceLost."""
        try:
            self._done.synchronize()
        except RuntimeError as error:
            raise failure(self._name, error) from error
        self._held = ()
        return {name: np.array(output.numpy()) for name, output in self._made.items()}


def page_locked(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Host memory that a device reads and writes by itself; torch keeps what is freed for the next one."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # whoever waits leaves its core


def failure(name: str, error: RuntimeError) -> BackboneError:
    """What an error of torch's means to others."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kind = DeviceLost if isinstance(error, torch.AcceleratorError) else BackboneError
    return kind(f"backbone {name}: {lines[0]}")
