"""A network cut at a served stage: the shared trunk stays in backbone.onnx, the tail is a task's own.

The trunk's feature map is the stage's output as `models.runtime` gives it. The tail is a copy of the network
in which all that ran before is replaced by nothing; whether it then still computes the embedding is measured,
since a network's own code may add to a feature map in ways that no hook sees.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import PRE_LOGITS, Backbone
from models.blocks import Block, coarse_blocks
from models.calls import Calls, blank_images, record_calls
from models.errors import InvalidOption, NoTail
from models.identity import POOLED
from models.tails import Tails, TailShape

TOLERANCE = 1e-4  # of the embedding, and of its largest element where that is above 1


class Skipped(nn.Module):
    """What ran before the split: gives its first input back."""

    def forward(self, feature_map: Tensor, *_: Any, **__: Any) -> Tensor:
        return feature_map


class Tail(nn.Module):
    """(N, *stage shape) float32 -> (N, D) float32 embedding; parameters keep their names in the network."""

    def __init__(self, network: nn.Module, features: str) -> None:
        super().__init__()
        self.network = network
        self.features = features

    def forward(self, feature_map: Tensor) -> Tensor:
        network: Any = self.network
        if self.features == PRE_LOGITS:
            embedding: Tensor = network.forward_head(network.forward_features(feature_map), pre_logits=True)
        else:
            embedding = network(feature_map)
        return embedding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    stage: str  # name of the backbone's output that the tail consumes
    tail: nn.Module
    blocks: tuple[Block, ...]  # those of the tail, earliest first
    shape: tuple[int, ...]  # of one image's feature map


def most_blocks(backbone: Backbone) -> int:
    """How many of the last blocks a tail may have: before the first of them, a stage must be served."""
    blocks = coarse_blocks(backbone)
    calls = record_calls(backbone)
    return max(
        (len(blocks) - at for at in range(1, len(blocks)) if _boundary(backbone, blocks, at, calls)),
        default=0,
    )


def split_at(backbone: Backbone, blocks: int) -> Split:
    """Cut the network so that its last `blocks` coarse blocks are in the tail.

    Args:    blocks: 1 … `most_blocks`.
    Raises:  InvalidOption: more blocks than that, or fewer than 1.
             NoTail: no stage can be cut at, or the tail doesn't recompute the embedding.
    """
    coarse = coarse_blocks(backbone)
    calls = record_calls(backbone)
    most = most_blocks(backbone)
    if most == 0:
        reason = (
            "no output of a stage is served" if not backbone.stages else "no stage ends where a block begins"
        )
        raise NoTail(name=backbone.name, reason=reason)
    if not 1 <= blocks <= most:
        raise InvalidOption("blocks", f"must be between 1 and {most} for backbone {backbone.name}")
    first = len(coarse) - blocks
    stage = _boundary(backbone, coarse, first, calls)
    if stage is None:
        raise NoTail(name=backbone.name, reason=f"no stage is served before its block {coarse[first].name}")
    kept = {name for block in coarse[first:] for name in block.parameters}
    tail = Tail(_cut(backbone.module, calls, calls.ends[stage], kept), backbone.features)
    shape = _verify(backbone, stage, tail)
    return Split(stage=stage, tail=tail.requires_grad_(False).eval(), blocks=coarse[first:], shape=shape)


def stages_of(width: int) -> Split:
    """The cut after everything: all stages pooled, and nothing left to run. Args: width: of them."""
    return Split(stage=POOLED, tail=nn.Identity(), blocks=(), shape=(width,))


def targets(tail: nn.Module) -> dict[str, int]:
    """The layers that take low-rank factors, by dotted name, with the parameters that each rank costs."""
    found = {}
    for name, module in tail.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module.in_features + module.out_features
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            found[name] = module.in_channels + module.out_channels
    return found


def describe_tails(backbone: Backbone) -> Tails:
    """Try every split, so that a request can be refused before it is queued. Raises: BackboneError."""
    offered, why_not, reason = list[TailShape](), dict[int, str](), ""
    for blocks in range(1, max(1, most_blocks(backbone)) + 1):
        try:
            split = split_at(backbone, blocks)
        except NoTail as error:
            reason = error.reason
            why_not[blocks] = reason
            continue
        offered.append(
            TailShape(
                blocks=blocks,
                names=tuple(block.name for block in split.blocks),
                stage=split.stage,
                shape=split.shape,
                parameters=sum(each.numel() for each in split.tail.parameters()),
                rank_parameters=sum(targets(split.tail).values()),
            )
        )
    if not offered:
        why_not = {}
    return Tails(backbone=backbone.name, offered=tuple(offered), why_not=why_not, reason=reason)


def _boundary(backbone: Backbone, blocks: tuple[Block, ...], first: int, calls: Calls) -> str | None:
    """The last stage that ends before any parameter of `blocks[first:]` is used and after all others are."""
    later = min((calls.start_of(name) for block in blocks[first:] for name in block.parameters), default=0)
    earlier = max((calls.start_of(name) for block in blocks[:first] for name in block.parameters), default=0)
    fitting = [stage for stage in backbone.stages if earlier < calls.ends.get(stage, 0) < later]
    return max(fitting, key=lambda stage: calls.ends[stage], default=None)


def _cut(module: nn.Module, calls: Calls, tick: int, kept: set[str]) -> nn.Module:
    """A copy without what had ended by `tick`, and without parameters that no block of the tail has."""
    over = {name for name, end in calls.ends.items() if end <= tick}
    highest = [name for name in over if name.rpartition(".")[0] not in over]
    # the trunk's weights aren't copied: a tail of a large network is small
    memo: dict[int, Any] = {id(module.get_submodule(name)): Skipped() for name in highest}
    network: Any = copy.deepcopy(module, memo)
    if hasattr(network, "_pos_embed"):  # timm's transformers add tokens and positions in a method
        network._pos_embed = _unchanged  # noqa: SLF001
    for name, _ in list(network.named_parameters()):
        if name not in kept:
            owner, _, own = name.rpartition(".")
            network.get_submodule(owner).register_parameter(own, None)
    cut: nn.Module = network
    return cut


def _unchanged(feature_map: Tensor) -> Tensor:
    return feature_map


def _verify(backbone: Backbone, stage: str, tail: Tail) -> tuple[int, ...]:
    """Hold tail(trunk(x)) against the embedding. Returns: the feature map's shape."""
    tail.eval()
    with torch.no_grad():
        embedding, tapped = backbone.run(blank_images(backbone))
        feature_map = tapped[stage]
        if not isinstance(feature_map, Tensor):
            raise NoTail(name=backbone.name, reason=f"stage {stage} gives no tensor")
        try:
            again = tail(feature_map.clone())
        except Exception as error:  # the network's own code, on an input that it wasn't written for
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NoTail(
                name=backbone.name, reason=f"it can't go on from stage {stage} ({reason})"
            ) from error
    allowed = TOLERANCE * max(1.0, float(embedding.abs().max()))
    if again.shape != embedding.shape or not float((again - embedding).abs().max()) <= allowed:
        raise NoTail(
            name=backbone.name, reason=f"what follows stage {stage} needs more than that stage's output"
        )
    return tuple(feature_map.shape[1:])
