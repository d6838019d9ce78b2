"""A name → one frozen network: its stages, its digest, its preprocessing. Imports torch."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from models.identity import Interpolation

PRE_LOGITS = "pre-logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A network and how to feed it; what a factory of your own (`package.module:factory`) returns.

    The module maps (N, channels, input_size, input_size) float32, normalised with `mean` and `std`, to (N, D)
    float32 embeddings. It is put into eval mode, and nothing here changes its weights.
    """

    module: nn.Module
    input_size: int  # pixels; inputs are square
    channels: Literal[1, 3]  # 3: RGB, 1: grey
    mean: tuple[float, ...]  # one a channel, of values scaled to 0-1
    std: tuple[float, ...]
    interpolation: Interpolation
    stages: tuple[str, ...]  # dotted names of submodules whose outputs are served too, earliest first
    features: str  # names what the embedding is, and is part of the digest: change it when module's code
    # starts to compute something else with the same weights. "pre-logits" is special: the embedding is then
    # `module.forward_head(module.forward_features(x), pre_logits=True)`, as timm's networks have it; for
    # any other name it is `module(x)`.
    crop_pct: float = 1.0  # 0-1: the central share of the resized shorter side that is kept
    name: str = ""  # shown to users; default: the factory's dotted name
    licence: str = "unknown"  # SPDX id of the weights
