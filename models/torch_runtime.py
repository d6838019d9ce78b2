"""The backbone on torch: for CUDA, where OpenVINO doesn't run; on a CPU for fp16, and for comparison."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from models.arrays import FloatArray, UInt8Array
from models.backbone import build_backbone
from models.cuda import CudaPasses, failure
from models.errors import BackboneError
from models.graph import PixelGraph, identify
from models.identity import EMBEDDING, POOLED, Precision
from models.prepared import Deferred, Pass, PreparedBackbone, check_outputs

# What convolutions and products are computed in; the rest stays in fp32 (torch's autocast).
_LOW: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """The same graph as in backbone.onnx, run from the weights, with channels last: as the pixels come.

    Args:   device: as torch names it; default: CUDA's first, or the CPU.
    Raises: BackboneError: the weights are no longer those that were prepared.
    """

    def __init__(self, prepared: PreparedBackbone, device: str | None = None) -> None:
        self.identity = prepared.identity
        self._device = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        self.name = f"torch {self._device.type}"
        if prepared.config.threads is not None:
            torch.set_num_threads(prepared.config.threads)
        # CUDA's convolutions take tf32 unless told otherwise. (After `fp32_precision`, the newer name of it,
        # torch can't export any more: it reads these.)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        backbone = build_backbone(prepared.config)
        if identify(backbone, prepared.identity.precision).digest != prepared.identity.digest:
            raise BackboneError(
                f"backbone {prepared.identity.name}: its weights changed after it was prepared"
            )
        try:
            self._graph = PixelGraph(backbone).eval().to(memory_format=torch.channels_last).to(self._device)
            self._cuda = (
                CudaPasses(self.identity.name, self._device, self._forward)
                if self._device.type == "cuda"
                else None
            )
        except RuntimeError as error:
            raise failure(self.identity.name, error) from error

    def begin(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> Pass:
        check_outputs(self.identity, outputs)
        if self._cuda is not None:
            return self._cuda.begin(pixels, outputs)
        return Deferred(partial(self._run_here, pixels, tuple(outputs)))

    def run(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> dict[str, FloatArray]:
        return self.begin(pixels, outputs).outputs()

    def _run_here(self, pixels: UInt8Array, outputs: Sequence[str]) -> dict[str, FloatArray]:
        images = torch.from_numpy(np.require(pixels, requirements="W"))  # torch warns of read-only memory
        try:
            with torch.inference_mode():
                made = self._forward(images, outputs)
            return {name: output.numpy() for name, output in made.items()}
        except RuntimeError as error:  # out of memory among them
            raise failure(self.identity.name, error) from error

    def _forward(self, images: Tensor, outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """(N, H, W, C) uint8 -> the outputs asked for, float32, all on the device."""
        low = _LOW.get(self.identity.precision)
        self._graph.pooling = POOLED in outputs
        names = (EMBEDDING, *(stage.name for stage in self.identity.stages))
        # no cache: its casts of weights would be freed under a graph that was captured with them
        with torch.autocast(self._device.type, low, enabled=low is not None, cache_enabled=False):
            results = self._graph(images)
        by_name = dict(zip(names, results, strict=False))  # `pooled` is the last
        return {name: by_name[name].float() for name in outputs}
