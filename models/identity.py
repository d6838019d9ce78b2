"""What a backbone is: its name, what it computes, and the digest that embeddings and heads are keyed by."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

EMBEDDING = "embedding"  # the backbone's own output; the others are named as their stages
POOLED = "pooled"  # all stages as one vector (models/pooling.py)
PIXELS = "pixels"  # what a network of a task's own consumes: no output of the backbone
AS_IT_IS = "as it is"  # the view of an image that is no flip of it

LARGEST = 2**31 - 2**20  # bytes of one ONNX file, which is one protobuf message, less some for a head

Precision = Literal["fp32", "bf16", "fp16"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]
CropMode = Literal["center", "squash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input, as the weights' own config declares it."""

    input_size: int  # pixels; inputs are square
    channels: int  # 3: RGB, 1: grey
    mean: tuple[float, ...]  # one a channel, of values scaled to 0-1
    std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float  # 0-1: the central share of the resized shorter side that is kept
    crop_mode: CropMode = "center"  # squash: both sides are resized, so the aspect is lost and no border

    @property
    def pixel_bytes(self) -> int:
        """Of one decoded image."""
        return self.input_size**2 * self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Which backbone is asked for, and how it is to be run."""

    name: str  # a timm name, or package.module:factory
    weights: Path | None = None  # a local file; default: the package, or the hub
    precision: Precision = "fp32"
    input_size: int | None = None  # pixels; default: the weights' own
    crop_pct: float | None = None  # as of Preprocessing; default: the weights' own
    runtime: Literal["auto", "openvino", "torch"] = "auto"  # auto: torch where there is CUDA, else OpenVINO
    device: str | None = None  # as torch names it: cpu, cuda:1; default: the first with CUDA, or the CPU
    threads: int | None = None  # default: all cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One named intermediate output of the backbone."""

    name: str
    shape: tuple[int, ...]  # of one image, without the batch: (C, H, W) or (tokens, C)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneIdentity:
    """The frozen network that a deployment serves. Equal digests mean interchangeable embeddings."""

    name: str
    weights_digest: str  # sha256 of every tensor: name, dtype, shape, bytes
    preprocessing: Preprocessing
    embedding_dim: int
    features: str  # the feature definition, e.g. "pre-logits"
    stages: tuple[Stage, ...]  # earliest first, and all of them pooled
    precision: Precision
    total_parameters: int  # without its own classifier
    licence: str  # SPDX id, or "unknown"

    @property
    def outputs(self) -> frozenset[str]:
        """What a runtime can be asked for."""
        return frozenset({EMBEDDING, *(stage.name for stage in self.stages)})

    @property
    def pooled(self) -> int:
        """Features of all stages together; 0: no stage is served."""
        return next((stage.shape[0] for stage in self.stages if stage.name == POOLED), 0)

    @property
    def digest(self) -> str:
        """sha256 (64 hex digits) over all that changes an embedding."""
        said = {
            "weights": self.weights_digest,
            "preprocessing": asdict(self.preprocessing),
            "features": self.features,
            "embedding_dim": self.embedding_dim,
            "precision": self.precision,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "BackboneIdentity":
        said: dict[str, Any] = json.loads(text)
        preprocessing = said.pop("preprocessing")
        stages = said.pop("stages")
        return cls(
            preprocessing=Preprocessing(
                **preprocessing | {"mean": tuple(preprocessing["mean"]), "std": tuple(preprocessing["std"])}
            ),
            stages=tuple(Stage(name=stage["name"], shape=tuple(stage["shape"])) for stage in stages),
            **said,
        )
