"""The backbone on torch: for CUDA, where OpenVINO doesn't run; on a CPU for comparison."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from models.arrays import FloatArray, UInt8Array
from models.backbone import build_backbone
from models.errors import BackboneError
from models.graph import PixelGraph, identify
from models.identity import EMBEDDING, POOLED
from models.prepared import Deferred, PreparedBackbone, check_outputs


class TorchRuntime:
    """The same graph as in backbone.onnx, run from the weights.

    Raises: BackboneError: the weights are no longer those that were prepared.
    """

    def __init__(self, prepared: PreparedBackbone, device: str | None = None) -> None:
        self.identity = prepared.identity
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.name = f"torch {self._device.type}"
        if prepared.config.threads is not None:
            torch.set_num_threads(prepared.config.threads)
        # CUDA's convolutions take tf32 unless told otherwise
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
        backbone = build_backbone(prepared.config)
        if identify(backbone, prepared.identity.precision).digest != prepared.identity.digest:
            raise BackboneError(
                f"backbone {prepared.identity.name}: its weights changed after it was prepared"
            )
        self._graph = PixelGraph(backbone).eval().to(self._device)

    def begin(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> Deferred:
        return Deferred(partial(self.run, pixels, tuple(outputs)))

    def run(self, pixels: UInt8Array, outputs: Sequence[str] = (EMBEDDING,)) -> dict[str, FloatArray]:
        check_outputs(self.identity, outputs)
        self._graph.pooling = POOLED in outputs
        names = (EMBEDDING, *(stage.name for stage in self.identity.stages))
        half = self.identity.precision == "bf16"
        images = torch.from_numpy(np.require(pixels, requirements="W"))  # torch warns of read-only memory
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                results = self._graph(images.to(self._device))
            by_name = dict(zip(names, results, strict=False))  # `pooled` is the last
            return {name: by_name[name].float().cpu().numpy() for name in outputs}
        except RuntimeError as error:  # out of memory among them
            reason = str(error).splitlines()[0]
            raise BackboneError(f"backbone {self.identity.name}: {reason}") from error
