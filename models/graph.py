"""The backbone as one graph: uint8 pixels in, embedding and stages out. Imports torch.

`PixelGraph` is what torch runs and what is exported, so that every runtime computes the same.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from models.arrays import FloatArray, UInt8Array
from models.backbone import Backbone, weights_digest
from models.errors import BackboneError, ExportError
from models.identity import POOLED, BackboneIdentity, Precision, Preprocessing, Stage
from models.pooling import pool

OPSET = 20  # onnx's own defaults are newer than what onnxruntime reads
IR_VERSION = 10
EMBEDDING = "embedding"


class PixelGraph(nn.Module):
    """Normalise, embed, and tap the stages."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = True  # which costs a tenth of a pass: false leaves `pooled` out
        self.module = backbone.module  # registered, so that `.to(device)` moves it
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (backbone.mean, backbone.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(N, H, W, C) uint8 → the embedding (N, D) float32, then what `taps` names, in that order."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        embedding, tapped = self.backbone.run(images)
        for name in self.backbone.stages:
            if name not in tapped:
                raise BackboneError(
                    f"backbone {self.backbone.name}: stage {name} takes no part in the embedding"
                )
        maps = [tapped[name] for name in self.backbone.stages]
        if not (maps and self.pooling):
            return embedding, *maps
        # a stage that gives no tensor is refused by `identify`, in words
        return embedding, *maps, pool(embedding, [each for each in maps if isinstance(each, Tensor)])


def taps(backbone: Backbone) -> tuple[str, ...]:
    """The outputs beside the embedding: each stage, and all of them pooled where there are any."""
    return (*backbone.stages, POOLED) if backbone.stages else ()


def preprocessing_of(backbone: Backbone) -> Preprocessing:
    return Preprocessing(
        input_size=backbone.input_size,
        channels=backbone.channels,
        mean=backbone.mean,
        std=backbone.std,
        interpolation=backbone.interpolation,
        crop_pct=backbone.crop_pct,
        crop_mode=backbone.crop_mode,
    )


def identify(backbone: Backbone, precision: Precision) -> BackboneIdentity:
    """Run the network once, to learn the sizes of what it gives.

    Raises: BackboneError: it can't be run on its declared input, or gives something else than declared.
    """
    embedding, *stages = _tried(backbone)
    return BackboneIdentity(
        name=backbone.name,
        weights_digest=weights_digest(backbone.module),
        preprocessing=preprocessing_of(backbone),
        embedding_dim=embedding.shape[1],
        features=backbone.features,
        stages=tuple(
            Stage(name=name, shape=tuple(output.shape[1:]))
            for name, output in zip(taps(backbone), stages, strict=True)
        ),
        precision=precision,
        total_parameters=sum(parameter.numel() for parameter in backbone.module.parameters()),
        licence=backbone.licence,
    )


def embed(backbone: Backbone, pixels: UInt8Array) -> FloatArray:
    """(N, H, W, C) uint8 → (N, D) float32, by torch at fp32 on the CPU: what runtimes are held against."""
    with torch.inference_mode():
        embedding = PixelGraph(backbone)(torch.from_numpy(pixels))[0]
    result: FloatArray = embedding.float().numpy()
    return result


def export_onnx(backbone: Backbone, identity: BackboneIdentity, path: Path) -> None:
    """Write the graph: input `pixels`, outputs `embedding` and what `taps` names; any batch size.

    Raises: BackboneError: an operation of the network has no ONNX form.
    """
    graph = PixelGraph(backbone).eval()
    try:
        model = traced(graph, _blank(backbone), "pixels", (EMBEDDING, *taps(backbone)))
    except ExportError as error:
        raise BackboneError(f"backbone {backbone.name}: it can't be exported to ONNX: {error}") from error
    onnx.helper.set_model_props(
        model, {"backbone_digest": identity.digest, "polyhead_backbone": identity.to_json()}
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def traced(module: nn.Module, example: Tensor, input_name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """A module as a graph, for any batch size, without metadata.

    Args:   example: two rows: the exporter would take a batch of one for a constant.
    Raises: ExportError: an operation has no ONNX form; one line.
    """
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=list(outputs),
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter has no common error; its first line names the operation
        raise ExportError(
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        ) from error
    model.ir_version = IR_VERSION
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("") != OPSET:
        raise ExportError(f"the exporter wrote opset {versions}, not {OPSET}")
    del model.metadata_props[:]
    for node in model.graph.node:  # the exporter's stack traces, with this machine's paths
        del node.metadata_props[:]
    return model


def _blank(backbone: Backbone) -> Tensor:
    # two images: the exporter would take a batch of one for a constant
    return torch.zeros(2, backbone.input_size, backbone.input_size, backbone.channels, dtype=torch.uint8)


def _tried(backbone: Backbone) -> Sequence[Tensor]:
    """The outputs for two blank images, checked."""
    size = f"{backbone.input_size} px and {backbone.channels} channels"
    try:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = PixelGraph(backbone)(_blank(backbone))
    except BackboneError:
        raise
    except Exception as error:  # a network may fail in any way on an input that it wasn't made for
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(f"backbone {backbone.name}: it can't be run on {size}: {reason}") from error
    for name, output in zip((EMBEDDING, *taps(backbone)), outputs, strict=True):
        if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[0] != 2:
            raise BackboneError(
                f"backbone {backbone.name}: its {name} is no tensor with a row for each image"
            )
    embedding = outputs[0]
    if embedding.ndim != 2 or not embedding.is_floating_point() or not embedding.isfinite().all():
        shape = tuple(embedding.shape)
        raise BackboneError(
            f"backbone {backbone.name}: its embeddings must be finite, of shape (images, size), not {shape}"
        )
    return outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress notes and its warnings about itself off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels: list[Any] = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.|onnxscript|onnx_ir|copyreg|timm\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
