"""The coarse blocks of a network, earliest first: what is thawed together, and at which rate. Imports torch.

timm's networks are grouped as timm groups them. Any other by the stages that it declares, in the order in
which its submodules run. What runs before the first block is the stem, what runs after the last one (a last
convolution, a final norm) belongs to the last: every parameter is in exactly one block.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn
from torchvision.models import ResNet

from models.backbone import Backbone
from models.calls import record_calls

STEM = "stem"
HEAD = "head"
TORCHVISION_RESNET = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    name: str  # "stem", "layer4", "blocks.6"
    parameters: tuple[str, ...]  # dotted names in the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """Which parameters train, by name."""

    parameters: dict[str, int]  # elements of each that trains
    trainable: int
    total: int

    def to_json(self) -> dict[str, Any]:
        return {"trainable": self.trainable, "total": self.total, "by_name": dict(self.parameters)}


def coarse_blocks(backbone: Backbone) -> tuple[Block, ...]:
    """Every parameter in exactly one block.

    Raises: BackboneError: the network can't be run on its declared input.
    Source: timm `group_matcher(coarse=True)`; a ResNet-50's are stem, layer1 … layer4.
    """
    if hasattr(backbone.module, "group_matcher"):
        return _timm_blocks(backbone.module)
    stages = backbone.stages
    if not stages and isinstance(backbone.module, ResNet):
        stages = TORCHVISION_RESNET
    return _declared_blocks(backbone, stages)


def rates(count: int, base: float, decay: float) -> tuple[float, ...]:
    """Learning rates of `count` groups, earliest first: each is `decay` times that of the one after it."""
    return tuple(base * decay ** (count - 1 - number) for number in range(count))


def parameter_groups(
    blocks: Sequence[Block], network: nn.Module, head: nn.Module, base_lr: float, decay: float
) -> list[dict[str, Any]]:
    """An optimiser's groups, discriminative: each block at `decay` of the rate of the one after it.

    Six groups of a ResNet-50 with base 1e-3 and decay 0.3: 2.43e-06, 8.10e-06, 2.70e-05, 9.00e-05, 3.00e-04,
    1.00e-03.

    Returns: {"name", "params", "lr"} for each block, earliest first, then the head.
    """
    known = dict(network.named_parameters())
    members = [[known[name] for name in block.parameters] for block in blocks]
    members.append(list(head.parameters()))
    names = [*(block.name for block in blocks), HEAD]
    return [
        {"name": name, "params": params, "lr": rate}
        for name, params, rate in zip(names, members, rates(len(names), base_lr, decay), strict=True)
    ]


def count_parameters(network: nn.Module, head: nn.Module) -> Trainable:
    """Those that require a gradient, by name, the head's below "head."."""
    named = [
        *network.named_parameters(),
        *((f"{HEAD}.{name}", parameter) for name, parameter in head.named_parameters()),
    ]
    training = {name: parameter.numel() for name, parameter in named if parameter.requires_grad}
    return Trainable(
        parameters=training,
        trainable=sum(training.values()),
        total=sum(parameter.numel() for _, parameter in named),
    )


def _timm_blocks(network: Any) -> tuple[Block, ...]:
    matcher = network.group_matcher(coarse=True)
    grouped = [tuple(names) for _, names in sorted(group_parameters(network, matcher).items())]
    numbered = _numbered(matcher)
    blocks: list[Block] = []
    for names in grouped:
        found = next((match.group(0) for match in _matches(numbered, names)), None)
        if found is None and blocks and (numbered or len(grouped) == len(blocks) + 1):
            # timm leaves what it has no pattern for, a final norm as a rule, in a group after the last
            last = blocks.pop()
            blocks.append(Block(name=last.name, parameters=last.parameters + names))
        else:
            blocks.append(Block(name=found or (f"block{len(blocks)}" if blocks else STEM), parameters=names))
    return tuple(blocks)


def _numbered(matcher: Any) -> list[str]:
    """The patterns of timm's matcher that number blocks."""
    said = matcher.get("blocks", ()) if isinstance(matcher, dict) else ()
    patterns = [said] if isinstance(said, str) else [pattern for pattern, _ in said]
    return [pattern for pattern in patterns if r"(\d+)" in pattern]


def _matches(patterns: Sequence[str], names: Sequence[str]) -> Iterator[re.Match[str]]:
    for pattern in patterns:
        yield from filter(None, (re.match(pattern, name) for name in names))


def _declared_blocks(backbone: Backbone, stages: Sequence[str]) -> tuple[Block, ...]:
    names = [name for name, _ in backbone.module.named_parameters()]
    if not stages:
        return (Block(name="network", parameters=tuple(names)),) if names else ()
    calls = record_calls(backbone)
    members: list[list[str]] = [[] for _ in range(len(stages) + 1)]  # the stem, then one a stage
    for name in names:
        inside = [number for number, stage in enumerate(stages) if name.startswith(f"{stage}.")]
        start = calls.start_of(name)
        ended = sum(calls.ends.get(stage, 0) < start for stage in stages if stage in calls.ends)
        between = 0 if ended == 0 else min(ended + 1, len(stages))  # it goes with the stage that it feeds
        members[inside[0] + 1 if inside else between].append(name)
    named = zip((STEM, *stages), members, strict=True)
    return tuple(Block(name=name, parameters=tuple(group)) for name, group in named if group)
